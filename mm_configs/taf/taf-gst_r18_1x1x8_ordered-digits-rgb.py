"""TAF with GST on OrderedDigits: the clean epochs of the baseline, then TAF in its last ones."""

_base_ = '../baselines/gst_r18_1x1x8_ordered-digits-rgb.py'

custom_hooks = [dict(type='TAFHook', begin={{_base_.clean_epochs}})]
