"""What an adversarial step costs, counted in forwards and backwards, and how to pay less.

The unit is one forward F. The gradient by the inputs and the one by the parameters cost about as
much each, so that a clean step is 3. These are counts, not times: they are the same on every
machine, and tests hold the step to them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

from .norm import CLEAN
from .recipe import Recipe

CLEAN_STEP = 3.0
"""Forward, gradient by the inputs of layers, gradient by parameters."""
_LONGEST = 1000

AnyRecipe = TypeVar('AnyRecipe', bound=Recipe)


def step_cost(recipe: Recipe, fraction: float | None = None) -> float:
    """The cost of one adversarial step in clean steps.

    Args:
        recipe (Recipe): The recipe; its schedule does not matter.
        fraction (float, optional): In place of the recipe's. Defaults to None.

    Returns:
        float: 7/3 for TAF, 2 for the training loss as objective with K=1, and 2/3 more for every
        further attack step; less where only a fraction of the batch, or a smaller picture of it,
        is attacked.
    """
    part = recipe.fraction if fraction is None else fraction
    kept = any(regularizer.weight > 0 for regularizer in recipe.regularizers)
    step = 2 * part * recipe.attack_scale**2
    starts_at_clean = recipe.attack_path == CLEAN and not recipe.random_start
    if not starts_at_clean or recipe.attack_scale < 1:
        first = step
    elif recipe.objective.is_training_loss and recipe.clean_weight > 0 and not kept:
        # It comes out of the clean backward.
        first = 0.0
    else:
        # From the graph of the clean forward, which is that of the whole batch.
        first = 1.0
    attack = first + step * (recipe.steps - 1)
    return (CLEAN_STEP + attack + CLEAN_STEP * part) / CLEAN_STEP


def within_budget(recipe: AnyRecipe, share: float = 1.0) -> AnyRecipe:
    """The recipe with the interval and the fraction that its budget pays for.

    Of all that are within it those with the most adversarial samples, and of these the one that
    takes the adversarial path most often: a part of every batch kept more than all of every fourth
    where both were tried.

    Args:
        recipe (Recipe): The recipe; without a ``budget`` it is returned as it is.
        share (float): Part of the run in which the adversarial path is taken, between 0 and 1.
            Defaults to 1.0.

    Returns:
        Recipe: Without a budget, and with ``interval`` and ``fraction`` in its place.
    """
    if recipe.budget is None:
        return recipe
    extra = (recipe.budget - 1) / max(share, 1e-9)
    best, part, interval = 0.0, 0.0, _LONGEST
    for candidate in range(1, _LONGEST + 1):
        affordable = _affordable(recipe, candidate * extra)
        if affordable / candidate > best + 1e-9:
            best, part, interval = affordable / candidate, affordable, candidate
        if affordable == 1:
            # A longer interval only gives fewer.
            break
    return dataclasses.replace(recipe, budget=None, interval=interval, fraction=part)


def _affordable(recipe: Recipe, extra: float) -> float:
    """The largest fraction whose step costs at most ``1 + extra``; 0 if none does."""
    fixed = step_cost(recipe, 0.0) - 1
    slope = step_cost(recipe, 1.0) - 1 - fixed
    # In hundredths, rounded down: a fraction that people can read in the log.
    return (
        min(1.0, math.floor(100 * (extra - fixed) / slope + 1e-9) / 100) if extra > fixed else 0.0
    )
