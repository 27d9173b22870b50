"""Datasets of frame features: YouTube-8M's shards, and arrays of your own."""

from .collate import packed_collate
from .feature_dataset import FeatureDataset
from .yt8m import YT8MFrameDataset

__all__ = ['FeatureDataset', 'YT8MFrameDataset', 'packed_collate']
