"""A-ART on Arts & Entertainment, the largest vertical of YouTube-8M (A-ART, table 2)."""

_base_ = 'transformer_1xb64_yt8m-arts.py'

custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
