"""ART and A-ART (Choudhary, Goyal, Sahu, 2021, arXiv 2110.13950)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attention import AttentionFrobenius
from ..core.recipe import Recipe, register_recipe
from .weights import as_weight


@register_recipe(derives=('objective', 'clean_weight', 'adv_weight'))
def ART(
    *,
    alpha: float = 1.0,
    norm: str = 'l2',
    eps: float = 0.5,
    clamp: bool = False,
    dual_bn: bool = False,
    **options: Any,
) -> Recipe:
    """Adversarially robust training of a Transformer on features (A-ART, eq. 2-4).

    The attack is one ℓ2-normalised ascent step on the training loss. Clean and adversarial inputs
    share all weights.

    Args:
        alpha (float): α of eq. 2, the weight of the adversarial losses; the clean losses have
            weight 1. Defaults to 1.0.
        norm (str): ``'linf'`` or ``'l2'``. Defaults to ``'l2'``.
        eps (float): ε, in the units of the features, for each video (all of its valid frames)
            and each modality; see ``dims`` and ``joint``. Defaults to 0.5.
        clamp (bool): Whether adversarial inputs are clipped to valid pixels. Defaults to False.
        dual_bn (bool): Whether the adversarial path has auxiliary batch norms. Defaults to False.
        **options: The other options of :class:`adv_plugins.Recipe`, except ``objective`` and the
            weights.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0)]
    """
    return Recipe(
        objective='TrainingLoss',
        adv_weight=as_weight('alpha', alpha, 1),
        norm=norm,
        eps=eps,
        clamp=clamp,
        dual_bn=dual_bn,
        **options,
    )


@register_recipe(base=ART, derives=('regularizers',))
def AART(*, beta: float = 0.001, attention: Sequence[str] | None = None, **options: Any) -> Recipe:
    """ART with attention-map regularisation (A-ART, section 2.2).

    Args:
        beta (float): β_Fr, the weight of ``mean_i ||A_i - A_i^adv||_F`` for each attention
            module. Defaults to 0.001.
        attention (Sequence[str], optional): Dotted names of the attention modules. Defaults to
            None: all that are found.
        **options: The options of :func:`ART`, except ``regularizers``.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
    """
    weight = as_weight('beta', beta, 0.001)
    term = AttentionFrobenius(weight=weight, modules=attention, option='attention')
    return ART(regularizers=[term], **options)
