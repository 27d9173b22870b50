"""What ties the adversarial record to the clean one, beyond the two losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from .options import describe
from .record import Record, Recorded


class Regularizer(ABC):
    """A penalty on the pair of records; subclass it for one of your own.

    Both records carry their graph, and the adversarial forward draws the same dropout as the
    clean one, so that what is compared is the perturbation alone (with ``fraction`` < 1 it
    cannot: the batches differ).
    """

    name: ClassVar[str]
    """What it is logged as: the value under this name, weighted as ``loss_<name>``."""
    weight: float

    __repr__ = describe

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most fit every model)
        """Raise a ValueError if the regularizer does not fit the model."""

    def record(self, model: nn.Module) -> AbstractContextManager[Sequence[Recorded]]:
        """Follow a forward of the model; what is yielded reaches ``record.recorded[self.name]``.

        Both forwards of a step run inside such a block. By default nothing is recorded.
        """
        return nullcontext(())

    @abstractmethod
    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The penalty before its weight, a scalar."""


REGULARIZERS: dict[str, type[Regularizer]] = {}
"""The regularizers that a config can name."""

Kind = TypeVar('Kind', bound=type[Regularizer])


def register_regularizer(kind: Kind) -> Kind:
    """Make a regularizer known under the name of its class."""
    REGULARIZERS[kind.__name__] = kind
    return kind
