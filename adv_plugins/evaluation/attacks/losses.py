"""What an attack raises, by the name of its option ``loss``."""

from __future__ import annotations

from ...objectives.scores import log_odds, logits_ratio, margins

__all__ = ['LOSSES', 'log_odds', 'logits_ratio', 'margins']

LOSSES = {'ce': log_odds, 'dlr': logits_ratio}
