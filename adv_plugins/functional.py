"""The papers' equations as pure tensor functions, for use without a model or a trainer."""

from .attention.distances import attention_frobenius, attention_mse
from .cam.equations import temporal_cam, temporal_cam_loss
from .core.functional import (
    ascent_direction,
    project,
    random_wrong_labels,
)

__all__ = [
    'ascent_direction',
    'attention_frobenius',
    'attention_mse',
    'project',
    'random_wrong_labels',
    'temporal_cam',
    'temporal_cam_loss',
]
