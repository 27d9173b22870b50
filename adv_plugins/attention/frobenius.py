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
from ..core.functional import attention_frobenius
from ..core.record import Record
from ..core.regularizers import Regularizer, register_regularizer
from .capture import AttentionMap, capture_attention


@register_regularizer
@dataclass(frozen=True, kw_only=True, repr=False)
class AttentionFrobenius(Regularizer):
    """Penalise changes of attention maps: ``mean_i ||A_i - A_i^adv||_F`` (A-ART, section 2.2).

    The penalty is summed over the attention modules. The paper's model has one module per modality;
    the paper does not say how to combine two. A_i is averaged over the heads, only valid frames
    count, and the gradient flows through both maps.

    Args:
        weight (float): β_Fr. Defaults to 0.001, which assumes a loss averaged over the classes.
        modules (Sequence[str], optional): Dotted names of the attention modules. Defaults to
            None: all that are found.
        option (str): The option's name in error messages. Defaults to ``'modules'``.

    Raises:
        ValueError: The weight is negative or not finite, or ``modules`` is a single name instead
            of a list.

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
        if isinstance(self.modules, str):
            name = repr(self.modules)
            raise ValueError(
                f'{self.option}={name} must be a list of names; write {self.option}=[{name}]'
            )

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError with similar names if one of ``modules`` does not exist."""
        for name in self.modules or ():
            find_module(model, name, self.option)

    def record(self, model: nn.Module) -> AbstractContextManager[list[AttentionMap]]:
        """Capture the attention maps of a forward."""
        return capture_attention(model, self.modules)

    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The mean distance over the batch, summed over the attention modules."""
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
                'AttentionFrobenius found no attention maps in the model: it has no known kind of '
                'attention (nn.MultiheadAttention, scaled_dot_product_attention, a softmax '
                'with attention dropout), or it did not run; drop the regularizer'
            )
        return maps
