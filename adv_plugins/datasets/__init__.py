"""Datasets that need no download: registered in mmengine's root registry on import."""

from .arrow_of_time import ArrowOfTime
from .ordered_digits import OrderedDigits

__all__ = ['ArrowOfTime', 'OrderedDigits']
