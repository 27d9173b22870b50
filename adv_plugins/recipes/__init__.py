"""The papers' recipes, one file a method: each a function that returns a :class:`Recipe`."""

from .advprop import AdvProp
from .art import AART, ART
from .taf import TAF, CEAugmentation

__all__ = ['AART', 'ART', 'TAF', 'AdvProp', 'CEAugmentation']
