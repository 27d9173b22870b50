"""What an adversarial step costs, counted in forwards and backwards, and how to pay less.

The unit is one forward F. The gradient by the inputs and the one by the parameters cost about as
much each, so that a clean step is 3. These are counts, not times: they are the same on every
machine, and tests hold the step to them.
"""

from __future__ import annotations

import dataclasses
import math

from .recipe import Recipe

CLEAN_STEP = 3.0
"""Forward, gradient by the inputs of layers, gradient by parameters."""
_LONGEST = 1000


def step_cost(recipe: Recipe, fraction: float | None = None) -> float:
    """The cost of one adversarial step in clean steps.

    Args:
        recipe (Recipe): The recipe; its schedule does not matter.
        fraction (float, optional): In place of the recipe's. Defaults to None.

    Returns:
        float: 7/3 for TAF, 2 for the training loss as objective with K=1, and 2/3 more for every
        further attack step; less where only a fraction of the batch, or a smaller picture of it,
        is attacked, or where the clean losses have no weight.
    """
    part = recipe.fraction if fraction is None else fraction
    kept = any(regularizer.weight > 0 for regularizer in recipe.regularizers)
    step = 2 * part * recipe.attack_scale**2
    if not recipe.starts_at_clean:
        first = step
    elif recipe.objective.is_training_loss and recipe.clean_weight > 0 and not kept:
        # It comes out of the clean backward.
        first = 0.0
    else:
        # From the graph of the clean forward, which is that of the whole batch.
        first = 1.0
    attack = first + step * (recipe.steps - 1)
    # A clean loss without a weight has no backward.
    clean = CLEAN_STEP if recipe.clean_weight > 0 or kept else 1.0
    return (clean + attack + CLEAN_STEP * part) / CLEAN_STEP


def within_budget(recipe: Recipe, batch_size: int, share: float = 1.0) -> Recipe:
    """The recipe with the interval and the fraction that its budget pays for.

    Of all pairs within the budget, the one with the largest product of adversarial samples and
    adversarial steps: where both were tried, perturbing part of every batch preserved more of the
    gain than perturbing whole batches less often, while a part of next to nothing preserves none.
    The part is a whole number of samples, two at least.

    Args:
        recipe (Recipe): The recipe; without a ``budget`` it is returned as it is.
        batch_size (int): Samples of a batch.
        share (float): Part of the run in which the adversarial path is taken, between 0 and 1.
            Defaults to 1.0.

    Returns:
        Recipe: Without a budget, and with ``interval`` and ``fraction`` in its place.

    Raises:
        ValueError: The budget does not even pay for an attack at every 1000th iteration.
    """
    if recipe.budget is None:
        return recipe
    extra = (recipe.budget - 1) / max(share, 1e-9)
    best, interval, fraction = 0.0, 0, 0.0
    for candidate in range(1, _LONGEST + 1):
        part = _affordable(recipe, candidate * extra, batch_size)
        # Both are relative to a step with the whole batch at every iteration.
        samples, steps = part / candidate, 1 / candidate
        if samples * steps > best + 1e-9:
            best, interval, fraction = samples * steps, candidate, part
        if part == 1:
            # A longer interval only gives fewer.
            break
    if not interval:
        least = 1 + share * (step_cost(recipe, min(1.0, 2 / batch_size)) - 1) / _LONGEST
        raise ValueError(
            f'budget={recipe.budget} does not pay for an attack at every {_LONGEST}th iteration; '
            f'write at least {least:.6f}, such as budget=1.25'
        )
    return dataclasses.replace(recipe, budget=None, interval=interval, fraction=fraction)


def _affordable(recipe: Recipe, extra: float, batch_size: int) -> float:
    """The largest part of a batch whose step costs at most ``1 + extra``; 0 if none does."""
    fixed = step_cost(recipe, 0.0) - 1
    slope = step_cost(recipe, 1.0) - 1 - fixed
    samples = min(batch_size, math.floor((extra - fixed) / slope * batch_size + 1e-9))
    return samples / batch_size if samples >= min(2, batch_size) else 0.0
