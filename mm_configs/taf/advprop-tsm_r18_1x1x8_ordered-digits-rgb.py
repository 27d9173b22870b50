"""The AdvProp row of TAF's table 2a on OrderedDigits: from scratch, adversarial throughout.

One attack step (PGD-1 of the AdvProp paper) instead of five: 2.7 times a clean run, not 5.3.
"""

_base_ = '../baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'

custom_hooks = [dict(type='AdvPropHook', steps=1, step_size=4 / 255)]
