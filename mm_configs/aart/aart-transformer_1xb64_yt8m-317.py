"""A-ART on YouTube-8M: ART with the attention regularizer, β=0.001 (A-ART, table 1)."""

_base_ = 'transformer_1xb64_yt8m-317.py'

custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
