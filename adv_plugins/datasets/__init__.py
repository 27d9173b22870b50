"""Datasets: small ones without a download, YouTube-8M, own features, releases; corruptions.

More on some of them is in :mod:`adv_plugins.datasets.corruptions`,
:mod:`adv_plugins.datasets.yt8m` and :mod:`adv_plugins.datasets.yt8m_sample`.
"""

from ..compat import color_jitter as _color_jitter
from ..compat import mmaction_needed as _mmaction_needed
from ..compat import mmaction_problem as _mmaction_problem
from ..compat import naming_extra as _naming_extra

with _naming_extra(__name__, 'mmaction', 'mmengine', 'cv2'):
    from .arrow_of_time import ArrowOfTime
    from .features import FeatureDataset, YT8MFrameDataset
    from .label_nodes import Node
    from .label_space import LabelSpace
    from .ordered_digits import OrderedDigits
    from .yt8m_sample import YT8MSample

__all__ = [
    'ArrowOfTime',
    'FeatureDataset',
    'LabelSpace',
    'Node',
    'OrderedDigits',
    'YT8MFrameDataset',
    'YT8MSample',
]

_NEED_MMACTION = (
    'Diving48',
    'SomethingSomethingV1',
    'SomethingSomethingV2',
    'VideoCorruption',
    'corrupt',
)

if _mmaction_problem() is None:
    # Subclasses of MMAction2's datasets, and what needs mmcv and SciPy as it does.
    from .corruptions import VideoCorruption, corrupt  # noqa: F401
    from .diving48 import Diving48  # noqa: F401
    from .something_something import SomethingSomethingV1, SomethingSomethingV2  # noqa: F401

    __all__ += _NEED_MMACTION
    _color_jitter()


def __getattr__(name: str) -> object:
    if name in _NEED_MMACTION:
        raise _mmaction_needed(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
