"""CE-based augmentation (TAF, table 2a), GST-R50, Something-Something V1, 8 frames."""

_base_ = './taf-gst_gst-pre-r50_8xb3-1x1x8-15e_sthv1-rgb.py'

custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='CEAugmentation'))]
