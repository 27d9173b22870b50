"""Further objectives of attacks, and penalties that compare predictions.

Those that the recipes of the first papers need are in :mod:`adv_plugins.core.objectives`.
"""

from ..core.objectives import register_objective
from .boosted import BoostedMargin
from .kl import KL, PredictionKL

__all__ = ['KL', 'BoostedMargin', 'PredictionKL', 'register_objective']
