"""What attacks maximise, one file each, and penalties that compare predictions.

The training loss itself is in :mod:`adv_plugins.core.objectives`, and TAF's objective in
:mod:`adv_plugins.cam`.
"""

from ..core.objectives import register_objective
from .boosted import BoostedMargin
from .cross_entropy import CrossEntropy
from .feature_shift import FeatureShift
from .kl import KL, PredictionKL
from .margin import Margin
from .targeted import Targeted

__all__ = [
    'KL',
    'BoostedMargin',
    'CrossEntropy',
    'FeatureShift',
    'Margin',
    'PredictionKL',
    'Targeted',
    'register_objective',
]
