"""TAF on 120 clips of OrderedDigits: the baseline's clean epochs, then TAF in its last ones."""

_base_ = '../baselines/slowonly_r8_1x1x8_ordered-digits-120-rgb.py'

custom_hooks = [dict(type='TAFHook', begin={{_base_.clean_epochs}})]
