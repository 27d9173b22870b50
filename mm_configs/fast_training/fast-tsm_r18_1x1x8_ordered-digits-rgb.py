"""FastTraining on OrderedDigits in one run: the clean epochs of the baseline, then x' alone.

Overfitting to the single step is looked for twice an epoch.
"""

_base_ = '../baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'

custom_hooks = [
    dict(
        type='AdversarialHook',
        recipe=dict(type='FastTraining', check_interval=12, begin={{_base_.clean_epochs}}),
    )
]
