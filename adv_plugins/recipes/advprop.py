"""AdvProp (Xie et al., Adversarial Examples Improve Image Recognition, CVPR 2020)."""

from __future__ import annotations

from typing import Any

from ..core.recipe import Recipe, register_recipe


@register_recipe()
def AdvProp(
    *,
    objective: Any = 'TrainingLoss',
    eps: float = 4 / 255,
    step_size: float | None = 1 / 255,
    steps: int = 5,
    attack_path: str = 'adversarial',
    **options: Any,
) -> Recipe:
    """Adversarial propagation, for training from scratch (Xie et al., algorithm 1).

    The attack is PGD on the training loss through the auxiliary norms. The total is the clean plus
    the adversarial loss.

    Args:
        objective (Objective | str | dict): What the attack maximises. Defaults to the training
            loss.
        eps (float): ε. Defaults to 4/255.
        step_size (float): β. Defaults to 1/255.
        steps (int): K. Defaults to 5.
        attack_path (str): The norms that the attack uses. Defaults to ``'adversarial'``.
        **options: The other options of :class:`adv_plugins.Recipe`.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='AdvPropHook', eps=4 / 255, steps=5)]
    """
    return Recipe(
        objective=objective,
        eps=eps,
        step_size=step_size,
        steps=steps,
        attack_path=attack_path,
        **options,
    )
