"""The attack of a recipe, such as TAF's, as one that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.radius import Radius
from ...core.recipe import Recipe, build_recipe


def build_attack_recipe(recipe: Recipe | str | Mapping[str, Any]) -> Recipe:
    """A recipe whose attack is measured on samples one by one, at one radius.

    Args:
        recipe (Recipe | str | Mapping): As for :func:`adv_plugins.core.recipe.build_recipe`.

    Raises:
        ValueError: It is unknown, its ε changes in training, or its perturbation is one for
            several samples.
    """
    built = build_recipe(recipe)
    if isinstance(built.eps, Radius):
        raise ValueError(
            f'eps={built.eps} changes in training, but robustness is measured at one radius; '
            'write eps=8 / 255'
        )
    if {'b', 0} & {*built.shared}:
        raise ValueError(
            f'shared={built.shared} is one perturbation for a batch, and results would depend on '
            "what else is in it; write dict(type='Universal', file=...)"
        )
    return built
