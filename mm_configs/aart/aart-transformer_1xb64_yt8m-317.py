"""A-ART on YouTube-8M: ART and attention maps that do not move, β=0.001 (a-art.txt table 1)."""

_base_ = 'transformer_1xb64_yt8m-317.py'

custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
