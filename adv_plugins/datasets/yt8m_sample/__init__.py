"""YT8MSample: a small multi-label dataset in YouTube-8M's own format, made on first use.

It lets the whole YouTube-8M pipeline run without YouTube-8M's shards. A video is a sequence of
OrderedDigits events, one frame a second, with a sound track synthesised from the same
trajectories. Every second becomes a visual and an audio vector, PCA reduces them to 1024 and 128
components as in YouTube-8M, and the quantised features are written to real shards. Nothing is
downloaded.
"""

from .classes import SAMPLE_CLASSES, VERTICALS, sample_label_space
from .dataset import YT8MSample
from .features import audio_features, visual_features
from .folder import SIZES, write_sample
from .projection import FeatureProjection, fit_projection
from .sound import SAMPLE_RATE, event_sound
from .video import SPLITS, SampleRenderer, SampleVideo

__all__ = [
    'SAMPLE_CLASSES',
    'SAMPLE_RATE',
    'SIZES',
    'SPLITS',
    'VERTICALS',
    'FeatureProjection',
    'SampleRenderer',
    'SampleVideo',
    'YT8MSample',
    'audio_features',
    'event_sound',
    'fit_projection',
    'sample_label_space',
    'visual_features',
    'write_sample',
]
