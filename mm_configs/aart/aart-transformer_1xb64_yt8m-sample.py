"""A-ART on the embedded sample (section 2.2)."""

_base_ = 'transformer_1xb64_yt8m-sample.py'

custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
