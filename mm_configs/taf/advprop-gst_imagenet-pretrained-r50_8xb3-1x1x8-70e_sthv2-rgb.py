"""AdvProp from scratch (TAF, table 2a), GST-R50, Something-Something V2, 8 frames."""

_base_ = '../gst/gst_imagenet-pretrained-r50_8xb3-1x1x8-70e_sthv2-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
