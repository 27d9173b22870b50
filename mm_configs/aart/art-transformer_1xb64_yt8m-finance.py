"""ART on Finance, the smallest vertical of YouTube-8M (A-ART, table 3)."""

_base_ = 'transformer_1xb64_yt8m-finance.py'

custom_hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0)]
