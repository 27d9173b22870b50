"""Adversarial training proper: the adversarial loss alone, with strong or with fast attacks."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..core.recipe import Recipe, register_recipe
from .overfitting import OverfittingWatch


@register_recipe(derives=('clean_weight', 'adv_weight'))
def PGDTraining(
    *,
    objective: Any = 'TrainingLoss',
    eps: float = 8 / 255,
    step_size: float | None = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    dual_bn: bool = False,
    **options: Any,
) -> Recipe:
    """Training on PGD's examples alone: L(x') (Madry et al., ICLR 2018, arXiv 1706.06083).

    No clean forward is run, so a step costs 2K + 3 forwards, and all statistics are those of the
    perturbed inputs, as in a plain step on x'.

    Args:
        objective (Objective | str | dict): What the attack maximises. One that is not the training
            loss takes its labels from a clean forward, one more. Defaults to the training loss.
        eps (float): ε. Defaults to 8/255.
        step_size (float): Length of a step. Defaults to 2/255.
        steps (int): K. Defaults to 10.
        random_start (bool): Whether the attack starts at a random point. Defaults to True.
        dual_bn (bool): Whether the adversarial path has auxiliary batch norms, whose clean twins
            nothing would train. Defaults to False.
        **options: The other options of :class:`adv_plugins.Recipe`, except the weights.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='PGDTraining', steps=7))]
    """
    return Recipe(
        objective=objective,
        clean_weight=0.0,
        eps=eps,
        step_size=step_size,
        steps=steps,
        random_start=random_start,
        dual_bn=dual_bn,
        **options,
    )


@register_recipe(base=PGDTraining, derives=('steps', 'watch'))
def FastTraining(
    *,
    eps: float = 8 / 255,
    step_size: float | None = None,
    check_interval: int | None = 100,
    **options: Any,
) -> Recipe:
    """FGSM with a random start (Wong et al., Fast is better than free, ICLR 2020).

    One step may end in catastrophic overfitting: the model resists that step and nothing else. So
    now and then PGD's accuracy is logged as ``adv_pgd_acc``, beside ``adv_fgsm_acc`` of the step
    itself, and a warning says when the first collapses and the other does not. They are those of
    the first batch of ``val_dataloader`` under an mmengine hook, which needs one clip a video
    there; elsewhere, of a batch that is about to be trained on. A check costs about 26 forwards.

    Args:
        eps (float): ε. Defaults to 8/255.
        step_size (float, optional): Length of the step. Defaults to None: 1.25 ε.
        check_interval (int, optional): A check is made at the first of every so many adversarial
            iterations. Defaults to 100; None leaves it out.
        **options: The other options of :func:`PGDTraining`, except ``steps``.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='AdversarialHook', recipe=dict(type='FastTraining'))]
    """
    watch = None if check_interval is None else OverfittingWatch(interval=check_interval)
    recipe = PGDTraining(eps=eps, step_size=step_size, steps=1, watch=watch, **options)
    if step_size is not None:
        return recipe
    return dataclasses.replace(recipe, step_size=1.25 * recipe.largest_eps)
