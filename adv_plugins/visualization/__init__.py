"""Where a model looks: class activation maps over video, and attention before and after an attack.

What draws needs matplotlib, when it is called.
"""

from .attention import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
    plot_robustness,
)
from .cam import attention_entropy, frame_attention, gradcam

__all__ = [
    'attention_entropy',
    'attention_profile',
    'frame_attention',
    'gradcam',
    'plot_attention_maps',
    'plot_attention_profiles',
    'plot_robustness',
]
