"""Regularizers: penalties on the difference between the clean and the adversarial record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from .options import describe
from .record import Record, Recorded


class Regularizer(ABC):
    """A penalty on the pair of records; subclass it to write your own.

    Both records can be differentiated. The adversarial forward uses the same dropout masks as the
    clean one, so that the records differ only by the perturbation. With ``fraction`` < 1 the masks
    differ, because the batches do.
    """

    name: ClassVar[str]
    """Its log key: the value is logged as ``<name>``, the weighted value as ``loss_<name>``."""
    weight: float

    __repr__ = describe

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most fit every model)
        """Raise a ValueError if the regularizer does not fit the model."""

    def record(self, model: nn.Module) -> AbstractContextManager[Sequence[Recorded]]:
        """A context that captures data from a forward as ``record.recorded[self.name]``.

        Each of the step's two forwards runs inside such a context. By default nothing is captured.
        For attention maps write ``return capture_attention(model)``. Entries of another type need
        the two methods of :class:`adv_plugins.core.record.Recorded`, and have their tensors as
        attributes, or in lists or dicts there, where ``recompute`` finds them.
        """
        return nullcontext(())

    def verify(  # noqa: B027 (most need no check)
        self, base: Sequence[Recorded], changed: Sequence[Recorded], batch_size: int
    ) -> None:
        """Check at the first step what was captured; raise a ValueError if it is read wrongly.

        Args:
            base (Sequence[Recorded]): Captured in a forward of a batch, norms in eval mode.
            changed (Sequence[Recorded]): The same with another first sample, and nothing else
                changed.
            batch_size (int): Number of samples in the batch.
        """

    @abstractmethod
    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The unweighted penalty, a scalar."""


REGULARIZERS: dict[str, type[Regularizer]] = {}
"""The regularizers that a config can name."""

Kind = TypeVar('Kind', bound=type[Regularizer])


def register_regularizer(kind: Kind) -> Kind:
    """Register a regularizer under the name of its class."""
    REGULARIZERS[kind.__name__] = kind
    return kind
