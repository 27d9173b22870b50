"""The cost of an adversarial step, counted in forwards and backwards, and how to reduce it.

The unit is one forward, F. The gradient w.r.t. the inputs and the one w.r.t. the parameters each
cost about one F too, so a clean step costs 3. These are counts, not times: they are the same on
every machine, and tests check the step against them.
"""

from __future__ import annotations

import dataclasses
import math

from .recipe import Recipe

CLEAN_STEP = 3.0
"""Forward, gradient w.r.t. the layers' inputs, gradient w.r.t. the parameters."""
_LONGEST = 1000


def step_cost(recipe: Recipe, fraction: float | None = None) -> float:
    """The cost of one adversarial step in clean steps.

    Args:
        recipe (Recipe): The recipe; its schedule does not matter.
        fraction (float, optional): Replaces the recipe's fraction. Defaults to None.

    Returns:
        float: 7/3 for TAF, 2 for the training loss as objective with K=1, and 2/3 more for every
        further attack step. Less if only a fraction of the batch or a smaller resolution is
        attacked, or if the clean losses have weight 0, such as (2K + 3)/3 for PGDTraining; 1/3
        more with ``recompute``. What a ``watch`` costs now and then is not counted.
    """
    part = recipe.fraction if fraction is None else fraction
    step = 2 * part * recipe.attack_scale**2
    if not recipe.starts_at_clean:
        first = step
    elif recipe.objective.is_training_loss and recipe.clean_weight > 0 and not recipe.regularized:
        # The clean backward yields it for free.
        first = 0.0
    else:
        # A backward through the clean forward, which always covers the whole batch.
        first = 1.0
    attack = first + step * (recipe.steps - 1)
    # A clean loss of weight 0 needs no backward, and often no forward either.
    trained = recipe.clean_weight > 0 or recipe.regularized
    clean = CLEAN_STEP if trained else float(recipe.runs_clean)
    if recipe.recompute and recipe.regularized:
        clean += 1.0
    losses = clean + CLEAN_STEP * part
    # They are taken once more where the weights are perturbed.
    return (attack + losses * (2 if recipe.weight_eps else 1)) / CLEAN_STEP


def within_budget(recipe: Recipe, batch_size: int, share: float = 1.0) -> Recipe:
    """The recipe with the interval and the fraction that its budget pays for.

    Among all pairs within the budget, choose the one with the largest product of the numbers of
    adversarial samples and of adversarial steps. In our trials, perturbing part of every batch
    preserved more of the gain than perturbing whole batches less often, but a tiny part preserves
    none. The part is a whole number of samples, at least two.

    Args:
        recipe (Recipe): The recipe; without a ``budget`` it is returned unchanged.
        batch_size (int): Number of samples in a batch.
        share (float): Part of the run in which the adversarial path is taken, between 0 and 1.
            Defaults to 1.0.

    Returns:
        Recipe: The recipe with ``interval`` and ``fraction`` in place of the budget.

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
            # The whole batch is affordable; a longer interval would only mean fewer steps.
            break
    if not interval:
        least = 1 + share * (step_cost(recipe, min(1.0, 2 / batch_size)) - 1) / _LONGEST
        raise ValueError(
            f'budget={recipe.budget} does not pay for an attack at every {_LONGEST}th iteration; '
            f'write at least {least:.6f}, such as budget=1.25'
        )
    return dataclasses.replace(recipe, budget=None, interval=interval, fraction=fraction)


def _affordable(recipe: Recipe, extra: float, batch_size: int) -> float:
    """The largest part of a batch whose step costs at most ``1 + extra``; 0 if there is none."""
    fixed = step_cost(recipe, 0.0) - 1
    slope = step_cost(recipe, 1.0) - 1 - fixed
    samples = min(batch_size, math.floor((extra - fixed) / slope * batch_size + 1e-9))
    return samples / batch_size if samples >= min(2, batch_size) else 0.0
