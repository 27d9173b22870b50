"""Attention-map regularisation (A-ART, section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.batch import per_sample
from ..core.capture import find_module
from ..core.record import Record, Recorded
from ..core.regularizers import Regularizer, register_regularizer
from .capture import capture_attention
from .distances import attention_frobenius
from .maps import AttentionMap


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

    def verify(
        self, base: Sequence[Recorded], changed: Sequence[Recorded], batch_size: int
    ) -> None:
        """Check that rows sum to 1, and that a sample's maps depend on that sample only.

        Raises:
            ValueError: A module's maps are no probabilities, or the batch is not their outermost
                axis; the message names the module. Or the two forwards gave different numbers of
                maps.
        """
        maps, others = self._only_maps(base), self._only_maps(changed)
        if len(maps) != len(others):
            raise ValueError(
                f'AttentionFrobenius found {len(maps)} maps of one batch and {len(others)} of '
                'another of the same shape, so they cannot be compared; name the modules that '
                f'always run: {self.option}=[...]'
            )
        for before, after in zip(maps, others, strict=True):
            reason = _misread(before, after, batch_size)
            if reason:
                raise ValueError(
                    f'AttentionFrobenius cannot use the attention of {before.name!r}: {reason}; '
                    f'leave it out: write {self.option}=[...] with the names of the others, or '
                    'drop the regularizer'
                )

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
        maps = self._only_maps(record.recorded[self.name])
        if not maps:
            raise ValueError(
                'AttentionFrobenius found no attention maps in the model: it has no known kind of '
                'attention (nn.MultiheadAttention, scaled_dot_product_attention, a softmax over '
                'the last of four axes), or it did not run; name modules whose softmax has three '
                f'axes (N, Q, K) with {self.option}=[...], or drop the regularizer'
            )
        return maps

    @staticmethod
    def _only_maps(recorded: Sequence[Recorded]) -> list[AttentionMap]:
        return [entry for entry in recorded if isinstance(entry, AttentionMap)]


def _misread(before: AttentionMap, after: AttentionMap, count: int) -> str:
    """Why a map cannot be compared by sample; '' if it can.

    Args:
        before (AttentionMap): A map.
        after (AttentionMap): The same with another first sample.
        count (int): Number of samples.
    """
    shape = tuple(before.weights.shape)
    sums = before.weights.detach().float().sum(-1)
    # A query whose keys are all masked has zeros or NaN.
    if not ((sums - 1).abs().lt(1e-2) | sums.abs().lt(1e-2) | sums.isnan()).all():
        return f'rows of its map {shape} do not sum to 1'
    if shape[0] % count:
        return f'its {shape[0]} maps {shape[1:]} cannot be divided among {count} samples'
    if after.weights.shape != shape:
        return f'its map {shape} has another shape {tuple(after.weights.shape)} for other values'
    change = (after.weights - before.weights).detach().float().nan_to_num().abs()
    moved = per_sample(change, count).flatten(1).amax(1)
    # A map may follow its sample only weakly, and rounding moves the others a little.
    if moved[1:].gt(1e-3 * moved[0] + 1e-6).any():
        return (
            f'changing the first of {count} samples changes the maps of others: either the batch '
            f'is not the outermost axis of its map {shape}, as in (time batch), or the model mixes '
            'samples'
        )
    return ''
