"""Datasets that need no download, YouTube-8M's, and features of one's own."""

from .arrow_of_time import ArrowOfTime
from .features import FeatureDataset, YT8MFrameDataset
from .label_space import LabelSpace, Node
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
