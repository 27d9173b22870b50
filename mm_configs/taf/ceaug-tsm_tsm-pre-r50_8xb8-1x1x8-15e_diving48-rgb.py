"""CE-based augmentation (TAF, table 2a), TSM-R50, Diving48, 8 frames."""

_base_ = './taf-tsm_tsm-pre-r50_8xb8-1x1x8-15e_diving48-rgb.py'

custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='CEAugmentation'))]
