"""Attention-map regularisation (A-ART, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.capture import find_module
from ..core.checks import check_names
from ..core.functional import attention_frobenius
from ..core.record import Record
from ..core.regularizers import Regularizer, register_regularizer
from .capture import AttentionMap, capture_attention


@register_regularizer
@dataclass(frozen=True, kw_only=True, repr=False)
class AttentionFrobenius(Regularizer):
    """Attention maps shall not move: ``mean_i ||A_i - A_i^adv||_F`` (A-ART, section 2.2).

    Summed over the attention modules (one a modality in the paper's model; the paper does not say
    how two are joined). A_i is averaged over the heads; only valid frames count; the gradient
    goes through both maps.

    Args:
        weight (float): β_Fr. Defaults to 0.001, which presumes a loss averaged over the classes.
        modules (Sequence[str], optional): Dotted names of the attention modules. Defaults to
            None: all that are found.
        option (str): What the user calls ``modules``, for errors. Defaults to ``'modules'``.

    Raises:
        ValueError: A weight that is negative or not finite, or one name in place of a list.

    Example:
        >>> custom_hooks = [
        ...     dict(type='TAFHook', regularizers=[dict(type='AttentionFrobenius', weight=0.001)])]
    """

    weight: float = 0.001
    modules: Sequence[str] | None = None
    option: str = field(default='modules', repr=False, compare=False)

    name: ClassVar[str] = 'attention_frobenius'

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f'weight={self.weight} must be finite and not negative')
        check_names(self.option, self.modules)

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError that names the nearest modules if one of ``modules`` is none."""
        for name in self.modules or ():
            find_module(model, name, self.option)

    def record(self, model: nn.Module) -> AbstractContextManager[list[AttentionMap]]:
        """Capture the attention maps of a forward."""
        return capture_attention(model, self.modules)

    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The sum over attention modules of the mean distance of the batch."""
        count = adversarial.batch_size
        total = adversarial.loss.new_zeros((), dtype=torch.float32)
        for before, after in zip(self._maps(clean), self._maps(adversarial), strict=True):
            a, mask = before.per_sample(count)
            b, _ = after.per_sample(count)
            total = total + attention_frobenius(a, b, mask).mean()
        return total

    def _maps(self, record: Record) -> list[AttentionMap]:
        maps = [entry for entry in record.recorded[self.name] if isinstance(entry, AttentionMap)]
        if not maps:
            raise ValueError(
                'AttentionFrobenius found no attention maps in the model: it has no attention '
                'that is known (nn.MultiheadAttention, scaled_dot_product_attention, a softmax '
                'with attention dropout), or it did not run; drop the regularizer'
            )
        return maps
