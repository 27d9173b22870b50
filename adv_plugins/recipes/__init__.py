"""The recipes of the papers, one file per method. Each is a function returning a ``Recipe``."""

from .advprop import AdvProp
from .art import AART, ART
from .taf import TAF, CEAugmentation

__all__ = ['AART', 'ART', 'TAF', 'AdvProp', 'CEAugmentation']
