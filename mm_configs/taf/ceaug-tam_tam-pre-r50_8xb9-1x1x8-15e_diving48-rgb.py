"""CE-based augmentation (TAF, table 2a), TAM-R50, Diving48, 8 frames."""

_base_ = './taf-tam_tam-pre-r50_8xb9-1x1x8-15e_diving48-rgb.py'

custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='CEAugmentation'))]
