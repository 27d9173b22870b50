"""TRADES on OrderedDigits in one run: the clean epochs of the baseline, then TRADES.

ε rises over three of the nine epochs, as a model that was trained clean needs it. Five attack steps
instead of ten: such a step costs 5.3 clean ones, not 8.7.
"""

_base_ = '../baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'

custom_hooks = [
    dict(
        type='AdversarialHook',
        recipe=dict(
            type='TRADES',
            steps=5,
            eps=dict(type='LinearEps', start=0, end=8 / 255, epochs=3),
            begin={{_base_.clean_epochs}},
        ),
    )
]
