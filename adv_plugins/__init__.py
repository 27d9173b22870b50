"""Adversarial training for existing trainers: hooks for MMAction2, one call for PyTorch.

What most users need is on this page: :func:`make_adversarial` for a PyTorch model, a hook such as
:class:`TAFHook` for an MMAction2 config, and the recipes, whose options both take. The rooms:

- :mod:`adv_plugins.recipes`: the methods of the papers.
- :mod:`adv_plugins.objectives`: what else attacks maximise, and terms that compare predictions.
- :mod:`adv_plugins.hooks`: mmengine hooks, which train a recognizer with a recipe.
- :mod:`adv_plugins.integrations`: other trainers.
- :mod:`adv_plugins.models` and :mod:`adv_plugins.datasets`: what configs build.
- :mod:`adv_plugins.evaluation`: metrics, attacks, corruptions and whole evaluations.
- :mod:`adv_plugins.visualization`: pictures and reports.
- :mod:`adv_plugins.attention`: attention maps, and the term of A-ART that holds them still.
- :mod:`adv_plugins.dry_run`: what training would stumble over, before it starts.
- :mod:`adv_plugins.functional`: the papers' equations, on tensors.
- :mod:`adv_plugins.adapters`: how each family of models is called.
- :mod:`adv_plugins.core`: the adversarial step itself.
"""

from importlib import import_module as _import_module

from .compat import apply_patches as _apply_patches
from .compat import exists as _exists
from .compat import safe_globals as _safe_globals

_apply_patches()

# ruff: noqa: E402 (MMAction2 must be patched before anything imports it)
from . import adapters, functional
from .attention import AttentionFrobenius
from .cam import TemporalCAM
from .core.conversion import (
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from .core.objectives import Objective, TrainingLoss
from .core.recipe import Recipe
from .core.regularizers import Regularizer
from .objectives import (
    KL,
    BoostedMargin,
    CrossEntropy,
    FeatureShift,
    Margin,
    PredictionKL,
    Targeted,
)
from .recipes import (
    AART,
    ART,
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    OverfittingWatch,
    PGDTraining,
)
from .version import __version__

__all__ = [
    'AART',
    'ART',
    'KL',
    'MART',
    'TAF',
    'TRADES',
    'AdvProp',
    'AttentionFrobenius',
    'BoostedMargin',
    'CEAugmentation',
    'CrossEntropy',
    'FastTraining',
    'FeatureShift',
    'Margin',
    'Objective',
    'OverfittingWatch',
    'PGDTraining',
    'PredictionKL',
    'Recipe',
    'Regularizer',
    'Targeted',
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
