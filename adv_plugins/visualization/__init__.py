"""Where a model looks, what an attack changes, and how numbers compare: pictures and reports.

Functions that draw import matplotlib when they are called.
"""

from ..evaluation.cam import attention_entropy, frame_attention, gradcam
from .attention import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
)
from .charts import (
    plot_class_changes,
    plot_corruptions,
    plot_eps_curves,
    plot_sweep,
    plot_training_curves,
)
from .clip_pictures import contact_sheet, overlay, side_by_side
from .clips import Look, look, recipe_attack
from .mp4 import write_mp4
from .report import Section, write_report
from .robustness_bars import plot_robustness
from .token_attention import frame_attention_map, video_attention

__all__ = [
    'Look',
    'Section',
    'attention_entropy',
    'attention_profile',
    'contact_sheet',
    'frame_attention',
    'frame_attention_map',
    'gradcam',
    'look',
    'overlay',
    'plot_attention_maps',
    'plot_attention_profiles',
    'plot_class_changes',
    'plot_corruptions',
    'plot_eps_curves',
    'plot_robustness',
    'plot_sweep',
    'plot_training_curves',
    'recipe_attack',
    'side_by_side',
    'video_attention',
    'write_mp4',
    'write_report',
]
