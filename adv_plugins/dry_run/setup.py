"""What a recipe set up on a model, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.optim import BaseOptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..core.adversary import Adversary
from ..core.cost import step_cost
from ..core.norm import auxiliary_parameters, dual_norms
from ..core.recipe import Recipe
from ..hooks import AdversarialHook
from .optimizers import all_wrappers

_FINE_TUNING = ('TAF', 'CEAugmentation')
"""Recipes that continue the training of a model without looking at its attention."""


def describe_norms(model: nn.Module, wrapper: BaseOptimWrapper) -> tuple[str, str]:
    """How many norms have an auxiliary twin, and what the optimizer fails to train; '' if nothing.

    Args:
        model (nn.Module): The model.
        wrapper (BaseOptimWrapper): The wrapper of its optimizers.
    """
    groups = (group for each in all_wrappers(wrapper) for group in each.optimizer.param_groups)
    trained = {id(value) for group in groups for value in group['params']}
    pairs = [pair for pair in auxiliary_parameters(model) if pair[1].requires_grad]
    count = sum(id(twin) in trained for _, twin in pairs)
    lost = sum(id(clean) in trained and id(twin) not in trained for clean, twin in pairs)
    text = (
        f'norms: {len(dual_norms(model))} doubled; {count} of {len(pairs)} auxiliary parameters '
        'are in the optimizer'
    )
    if not lost:
        return text, ''
    return text, f'{lost} auxiliary parameters are in no optimizer, although their clean twins are'


def describe_cost(runner: Runner, adversary: Adversary) -> str:
    """The cost of an adversarial step and of the run, in clean ones."""
    recipe, share = adversary.recipe, 1.0
    if recipe.begin or recipe.end is not None:
        by_epoch = all(h.by_epoch for h in runner.hooks if isinstance(h, AdversarialHook))
        total = runner.max_epochs if by_epoch else runner.max_iters
        end = total if recipe.end is None else min(recipe.end, total)
        share = max(0.0, end - recipe.begin) / total
    step = step_cost(recipe)
    run = 1 + share * (step - 1) / recipe.interval
    return (
        f'cost, in forwards and backwards: an adversarial step is {step:.2f} clean ones, the run '
        f'{run:.2f} clean runs'
    )


def lacks_start(recipe: Recipe, model: nn.Module, config: Any) -> bool:
    """Whether a recipe for trained models would start with weights that nothing names.

    Args:
        recipe (Recipe): The recipe.
        model (nn.Module): The model, of a run without ``load_from`` and ``resume``.
        config (Any): Its config.
    """
    fine_tunes = recipe.objective.needs_frames or recipe.name in _FINE_TUNING
    if not fine_tunes or recipe.begin > 0 or _names_weights(config):
        return False
    return not any(
        isinstance(getattr(module, 'pretrained', None), str)
        or _names_weights(getattr(module, 'init_cfg', None))
        for module in model.modules()
    )


def _names_weights(config: Any) -> bool:
    """Whether a config has ``pretrained=...`` or ``init_cfg=dict(type='Pretrained', ...)``."""
    if isinstance(config, Mapping):
        kind = config.get('type')
        if getattr(kind, '__name__', kind) in ('Pretrained', 'PretrainedInit'):
            return True
        return bool(config.get('pretrained')) or any(map(_names_weights, config.values()))
    return isinstance(config, (list, tuple)) and any(map(_names_weights, config))
