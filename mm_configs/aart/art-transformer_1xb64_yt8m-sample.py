"""ART on the embedded sample (A-ART, eq. 2-4)."""

_base_ = 'transformer_1xb64_yt8m-sample.py'

custom_hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0)]
