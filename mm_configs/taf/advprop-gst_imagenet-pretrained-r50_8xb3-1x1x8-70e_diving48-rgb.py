"""AdvProp from scratch (TAF, table 2a), GST-R50, Diving48, 8 frames."""

_base_ = '../gst/gst_imagenet-pretrained-r50_8xb3-1x1x8-70e_diving48-rgb.py'

custom_hooks = [dict(type='AdvPropHook')]
