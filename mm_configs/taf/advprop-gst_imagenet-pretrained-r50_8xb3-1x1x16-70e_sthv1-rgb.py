"""AdvProp from scratch (TAF, table 2a), GST-R50, Something-Something V1, 16 frames."""

_base_ = '../gst/gst_imagenet-pretrained-r50_8xb3-1x1x16-70e_sthv1-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
