"""AdvProp from scratch (TAF, table 2a), TPN (TSM-R50), Something-Something V1, 8 frames."""

_base_ = '../tpn/tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
