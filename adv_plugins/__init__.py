"""Adversarial training for existing trainers: hooks for MMAction2, one call for PyTorch."""

from importlib import import_module as _import_module

from .compat import apply_patches as _apply_patches
from .compat import exists as _exists
from .compat import safe_globals as _safe_globals

_apply_patches()

# ruff: noqa: E402 (MMAction2 must be patched before anything imports it)
from . import adapters, functional
from .attention import AttentionFrobenius
from .core.conversion import (
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from .core.objectives import CrossEntropy, Objective, TemporalCAM, TrainingLoss
from .core.recipe import Recipe
from .core.regularizers import Regularizer
from .recipes import AART, ART, TAF, AdvProp, CEAugmentation
from .version import __version__

__all__ = [
    'AART',
    'ART',
    'TAF',
    'AdvProp',
    'AttentionFrobenius',
    'CEAugmentation',
    'CrossEntropy',
    'Objective',
    'Recipe',
    'Regularizer',
    'TemporalCAM',
    'TrainingLoss',
    '__version__',
    'adapters',
    'adversarial_state_dict',
    'functional',
    'load_adversarial_state_dict',
    'make_adversarial',
    'remove_adversarial',
]

_HOOKS = ('AARTHook', 'ARTHook', 'AdvPropHook', 'AdversarialHook', 'TAFHook')
_ROOMS = ('datasets', 'dry_run', 'evaluation', 'hooks', 'models')

if _exists('mmengine'):
    # Importing them registers the classes that configs name. Not on demand: custom_imports does
    # nothing more for a package that is imported already, and only a hook into Python's imports
    # could tell when mmengine follows. examples/benchmarks/import_time.py has the cost.
    from . import datasets, dry_run, evaluation, hooks, models  # noqa: F401
    from .hooks import (  # noqa: F401
        AARTHook,
        AdversarialHook,
        AdvPropHook,
        ARTHook,
        TAFHook,
    )

    _safe_globals()
    __all__ += [*_HOOKS, *_ROOMS]


def __getattr__(name: str) -> object:
    # Without mmengine: a room works without it, or its own error names the extra.
    if name in _HOOKS:
        return getattr(_import_module('.hooks', __name__), name)
    if name in _ROOMS:
        return _import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
