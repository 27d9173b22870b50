"""AdvProp from scratch (TAF, table 2a), TSM-R50, Diving48, 8 frames."""

_base_ = '../tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_diving48-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
