"""The recipes of the papers, one file per method. Each is a function returning a ``Recipe``."""

from ..core.recipe import register_recipe
from .adversarial_training import FastTraining, PGDTraining
from .advprop import AdvProp
from .art import AART, ART
from .mart import MART
from .overfitting import OverfittingWatch
from .radii import CosineEps, LinearEps, UniformEps
from .taf import TAF, CEAugmentation
from .trades import TRADES

__all__ = [
    'AART',
    'ART',
    'MART',
    'TAF',
    'TRADES',
    'AdvProp',
    'CEAugmentation',
    'CosineEps',
    'FastTraining',
    'LinearEps',
    'OverfittingWatch',
    'PGDTraining',
    'UniformEps',
    'register_recipe',
]
