"""AdvProp from scratch (TAF, table 2a), TAM-R50, Something-Something V1, 8 frames."""

_base_ = '../tam/tam_imagenet-pretrained-r50_8xb9-1x1x8-50e_sthv1-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
