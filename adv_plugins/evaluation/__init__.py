"""Metrics of multi-label video classification, and how far a model is from being fooled."""

from importlib.util import find_spec as _find_spec

from .deepfool import DeepFoolResult, deepfool, robustness, robustness_summary
from .ranking import (
    RankingSummary,
    global_average_precision,
    hit_at_one,
    mean_average_precision,
    precision_at_equal_recall_rate,
)

__all__ = [
    'DeepFoolResult',
    'RankingSummary',
    'deepfool',
    'global_average_precision',
    'hit_at_one',
    'mean_average_precision',
    'precision_at_equal_recall_rate',
    'robustness',
    'robustness_summary',
]

if _find_spec('mmengine') is not None:
    from .loops import AdversarialTestLoop, AdversarialValLoop  # noqa: F401
    from .yt8m_metric import YT8MMetric  # noqa: F401 (registers what configs name)

    __all__ += ['AdversarialTestLoop', 'AdversarialValLoop', 'YT8MMetric']
