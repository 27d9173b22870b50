"""The recipes of the papers, one file per method. Each is a function returning a ``Recipe``."""

from ..core.recipe import register_recipe
from .advprop import AdvProp
from .art import AART, ART
from .radii import CosineEps, LinearEps, UniformEps
from .taf import TAF, CEAugmentation

__all__ = [
    'AART',
    'ART',
    'TAF',
    'AdvProp',
    'CEAugmentation',
    'CosineEps',
    'LinearEps',
    'UniformEps',
    'register_recipe',
]
