"""ε that is no single number: one that changes over the run, or from sample to sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from torch import Tensor

from .options import describe


class Radius(ABC):
    """ε of every adversarial step; subclass it for one of your own.

    A recipe's ``step_size`` is meant for the largest ε, and is scaled along with it.
    """

    per_sample: ClassVar[bool] = False
    """Whether it differs within a batch."""

    __repr__ = describe

    @property
    @abstractmethod
    def largest(self) -> float:
        """The largest ε of all."""

    @abstractmethod
    def at(self, iteration: int, epoch: int | None, begin: int, count: int) -> float | Tensor:
        """ε now: for all of ``count`` samples, or one for each, shape (count,).

        Random ones are drawn from PyTorch's global stream, which is a private one in a step.

        Args:
            iteration (int): The current iteration.
            epoch (int, optional): The current epoch, if ``begin`` counts epochs.
            begin (int): The recipe's ``begin``.
            count (int): Number of samples.
        """


RADII: dict[str, type[Radius]] = {}
"""The kinds of ε that a config can name."""

Kind = TypeVar('Kind', bound=type[Radius])


def register_radius(kind: Kind) -> Kind:
    """Register a kind of ε under the name of its class."""
    RADII[kind.__name__] = kind
    return kind
