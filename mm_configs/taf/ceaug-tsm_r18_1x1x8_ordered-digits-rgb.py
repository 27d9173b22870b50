"""The CE-based row of TAF's table 2a on OrderedDigits: TAF, ascending the cross-entropy."""

_base_ = './taf-tsm_r18_1x1x8_ordered-digits-rgb.py'

custom_hooks = [
    dict(
        type='AdversarialHook',
        recipe=dict(type='CEAugmentation', begin={{_base_.clean_epochs}}),
    )
]
