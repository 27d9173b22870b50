"""TAF on real footage: the clean epochs of the baseline, then TAF in its last ones."""

_base_ = '../baselines/tsm_r18_1x1x8_arrow-of-time-rgb.py'

custom_hooks = [dict(type='TAFHook', begin={{_base_.clean_epochs}})]
