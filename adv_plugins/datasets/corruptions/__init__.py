"""Common corruptions of clips at five severities: eight of ImageNet-C, six made for video.

The eight keep the constants of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), which are meant
for frames of about 224 pixels and are not scaled with the size of the frames. :func:`corrupt`
takes an array; :class:`VideoCorruption` does the same as a step of an MMAction2 pipeline.
"""

from ...compat import naming_extra as _naming_extra

with _naming_extra(__name__, 'mmaction', 'mmcv', 'scipy'):
    from .apply import (
        CORRUPTION_GROUPS,
        CORRUPTIONS,
        PAPER_CORRUPTIONS,
        SEVERITIES,
        TEMPORAL,
        corrupt,
    )
    from .transform import VideoCorruption

__all__ = [
    'CORRUPTIONS',
    'CORRUPTION_GROUPS',
    'PAPER_CORRUPTIONS',
    'SEVERITIES',
    'TEMPORAL',
    'VideoCorruption',
    'corrupt',
]
