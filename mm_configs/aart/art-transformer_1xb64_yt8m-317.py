"""ART on YouTube-8M: A-ART, eq. 2-4, with ε=0.5 and α=1 (table 1)."""

_base_ = 'transformer_1xb64_yt8m-317.py'

custom_hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0)]
