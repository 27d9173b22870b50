"""TRADES (Zhang et al., ICML 2019, arXiv 1901.08573)."""

from __future__ import annotations

from typing import Any

from ..core.recipe import Recipe, register_recipe
from ..objectives import KL, PredictionKL
from .weights import as_weight


@register_recipe(derives=('objective', 'regularizers', 'clean_weight', 'adv_weight'))
def TRADES(
    *,
    beta: float = 6.0,
    multilabel: bool = False,
    eps: float = 8 / 255,
    step_size: float | None = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    dual_bn: bool = False,
    **options: Any,
) -> Recipe:
    """L(x) + β · KL(p(x) ‖ p(x')), where the attack maximises that divergence (TRADES).

    The gradient flows through both predictions; the attack holds the clean one constant. Clean and
    perturbed inputs share all norms. The authors' code attacks in eval mode, from 0.001 · N(0, 1);
    here the attack sees the norms of training, and starts at a random point of the ball. Running
    statistics see the clean batch once and the perturbed one once at each step; that code runs the
    clean forward twice, and its statistics see the clean batch twice.

    Args:
        beta (float): β, the weight of the divergence (1/λ in the paper). Defaults to 6.0.
        multilabel (bool): Whether a sample may have several labels: p is then a sigmoid for each
            class, and the divergence the mean over the classes. Defaults to False.
        eps (float): ε. Defaults to 8/255.
        step_size (float): Length of a step. Defaults to 2/255 (the paper: 0.007).
        steps (int): K. Defaults to 10.
        random_start (bool): Must be True, as the divergence is flat at x. Defaults to True.
        dual_bn (bool): Whether the adversarial path has auxiliary batch norms. Defaults to False.
        **options: The other options of :class:`adv_plugins.Recipe`, except ``objective``,
            ``regularizers`` and the weights.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='TRADES', beta=6.0))]
    """
    weight = as_weight('beta', beta, 6)
    return Recipe(
        objective=KL(multilabel=multilabel),
        regularizers=[PredictionKL(weight=weight, multilabel=multilabel)],
        adv_weight=0.0,
        eps=eps,
        step_size=step_size,
        steps=steps,
        random_start=random_start,
        dual_bn=dual_bn,
        **options,
    )
