"""AdvProp from scratch (TAF, table 2a), GST-Large-R50, Something-Something V1, 8 frames."""

_base_ = '../gst/gst-large_imagenet-pretrained-r50_8xb3-1x1x8-70e_sthv1-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
