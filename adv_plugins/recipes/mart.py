"""MART (Wang et al., ICLR 2020, Improving Adversarial Robustness Requires Revisiting Misclassified
Examples)."""

from __future__ import annotations

from typing import Any

from ..core.recipe import Recipe, register_recipe
from ..objectives import BoostedMargin, PredictionKL
from .weights import as_weight


@register_recipe(derives=('objective', 'regularizers', 'clean_weight', 'adv_weight'))
def MART(
    *,
    beta: float = 5.0,
    eps: float = 8 / 255,
    step_size: float | None = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    dual_bn: bool = False,
    **options: Any,
) -> Recipe:
    """L(x') - log(1 - max_{k≠y} p_k(x')) + β · mean KL(p(x) ‖ p(x')) · (1 - p_y(x)) (MART).

    With the cross-entropy as L the first two terms are the boosted cross-entropy. The attack is PGD
    on L. Clean and perturbed inputs share all norms, and running statistics see each of them once a
    step, as in the authors' code. That attacks in eval mode, from 0.001 · N(0, 1), and adds 1e-4
    and 1e-12 to probabilities; here the attack sees the norms of training and starts at a random
    point of the ball, and the logarithms are exact.

    Args:
        beta (float): The weight of the divergence, λ of the paper; β of its code. Defaults to 5.0.
        eps (float): ε. Defaults to 8/255.
        step_size (float): Length of a step. Defaults to 2/255 (the paper: 0.007).
        steps (int): K. Defaults to 10.
        random_start (bool): Whether the attack starts at a random point. Defaults to True.
        dual_bn (bool): Whether the adversarial path has auxiliary batch norms. Defaults to False.
        **options: The other options of :class:`adv_plugins.Recipe`, except ``objective``,
            ``regularizers`` and the weights.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='MART', beta=5.0))]
    """
    weight = as_weight('beta', beta, 5)
    return Recipe(
        objective='TrainingLoss',
        regularizers=[BoostedMargin(), PredictionKL(weight=weight, misclassified=True)],
        clean_weight=0.0,
        eps=eps,
        step_size=step_size,
        steps=steps,
        random_start=random_start,
        dual_bn=dual_bn,
        **options,
    )
