"""What ties the adversarial record to the clean one, beyond the two losses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .attention import AttentionMap
from .functional import attention_frobenius

if TYPE_CHECKING:
    from .adapter import Record


class Regularizer(ABC):
    """A penalty on the pair of records; subclass it for one of your own.

    Both records carry their graph, and the adversarial forward draws the same dropout as the
    clean one, so that what is compared is the perturbation alone (with ``fraction`` < 1 it
    cannot: the batches differ).
    """

    name: ClassVar[str]
    """What it is logged as: the value under this name, weighted as ``loss_<name>``."""
    needs_attention: ClassVar[bool] = False
    """Whether both forwards have to capture attention maps."""
    weight: float
    modules: Sequence[str] | None = None

    @abstractmethod
    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The penalty before its weight, a scalar."""


@dataclass(frozen=True, kw_only=True)
class AttentionFrobenius(Regularizer):
    """Attention maps shall not move: ``mean_i ||A_i - A_i^adv||_F`` (a-art.txt 2.2).

    Summed over the attention modules (one a modality in the paper's model; the paper does not say
    how two are joined). A_i is averaged over the heads; only valid frames count; the gradient
    goes through both maps.

    Args:
        weight (float): β_Fr. Defaults to 0.001, which presumes a loss averaged over the classes.
        modules (Sequence[str], optional): Dotted names of the attention modules. Defaults to
            None: all that are found.

    Example:
        >>> custom_hooks = [
        ...     dict(type='TAFHook', regularizers=[dict(type='AttentionFrobenius', weight=0.001)])]
    """

    weight: float = 0.001
    modules: Sequence[str] | None = None

    name: ClassVar[str] = 'attention_frobenius'
    needs_attention: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f'weight={self.weight} must be finite and not negative')
        check_names('modules', self.modules)

    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The sum over attention modules of the mean distance of the batch."""
        count = adversarial.batch_size
        total = adversarial.loss.new_zeros((), dtype=torch.float32)
        for before, after in zip(
            self._chosen(clean.attention), self._chosen(adversarial.attention), strict=True
        ):
            a, mask = before.per_sample(count)
            b, _ = after.per_sample(count)
            total = total + attention_frobenius(a, b, mask).mean()
        return total

    def _chosen(self, maps: Sequence[AttentionMap]) -> list[AttentionMap]:
        chosen = [m for m in maps if self.modules is None or m.name in self.modules]
        if not chosen:
            raise ValueError(
                'AttentionFrobenius found no attention maps in the model: it has no attention '
                'that is known (nn.MultiheadAttention, scaled_dot_product_attention, a softmax '
                'with attention dropout), or it did not run; drop the regularizer'
            )
        return chosen


REGULARIZERS: dict[str, type[Regularizer]] = {kind.__name__: kind for kind in (AttentionFrobenius,)}


def check_names(option: str, names: Sequence[str] | None) -> None:
    """Raise a ValueError that names the option if it is one name, not a list of some."""
    if isinstance(names, str):
        raise ValueError(f'{option}={names!r} must be a list of names; write {option}=[{names!r}]')
