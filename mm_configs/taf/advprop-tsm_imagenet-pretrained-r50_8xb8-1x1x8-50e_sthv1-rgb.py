"""AdvProp from scratch (TAF, table 2a), TSM-R50, Something-Something V1, 8 frames."""

_base_ = '../tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
