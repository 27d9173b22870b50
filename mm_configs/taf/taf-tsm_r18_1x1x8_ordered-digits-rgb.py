"""TAF on OrderedDigits in one run: the baseline's clean epochs, then TAF fine-tuning from there."""

_base_ = '../baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'

custom_hooks = [dict(type='TAFHook', begin={{_base_.max_epochs}})]
