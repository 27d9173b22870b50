"""ε over time, or drawn for each sample: what ``eps=dict(type=...)`` may be.

A ramp is a curriculum: early attacks are weak. A distribution trains on perturbations of many
sizes, as adaptive adversarial training does for video (Kinfu & Vidal, 2022): they show that the
best step size is proportional to ε, which is how steps are scaled here.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.option_values import as_count, as_length
from ..core.radius import Radius, register_radius


@dataclass(frozen=True, kw_only=True, repr=False)
class Ramp(Radius):
    """ε from ``start`` to ``end``, counted from the recipe's ``begin``; ``end`` from then on.

    Args:
        start (float): The first ε, in the unit of ``eps``; also as text, such as ``'2/255'``.
        end (float): The last one.
        epochs (int, optional): After how many epochs it is reached, in a run that counts
            ``begin`` in epochs: under an mmengine hook. Defaults to None: see ``iterations``.
        iterations (int, optional): After how many iterations. Defaults to None: see ``epochs``.

    Raises:
        ValueError: An ε is negative, or not one of ``epochs`` and ``iterations`` is given.

    Example:
        >>> custom_hooks = [dict(
        ...     type='AdvPropHook', eps=dict(type='LinearEps', start=0, end=8 / 255, epochs=10))]
    """

    start: float
    end: float
    epochs: int | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        # The dataclass is frozen, so replace what was given by what it means via vars().
        vars(self).update({name: as_length(name, vars(self)[name]) for name in ('start', 'end')})
        given = {n: vars(self)[n] for n in ('epochs', 'iterations') if vars(self)[n] is not None}
        if len(given) != 1:
            raise ValueError(
                f'{type(self).__name__} has epochs={self.epochs} and iterations={self.iterations}; '
                'write one, e.g. epochs=10 under an mmengine hook, iterations=1000 elsewhere'
            )
        vars(self).update({name: as_count(name, value) for name, value in given.items()})

    @property
    def largest(self) -> float:
        """The larger end."""
        return max(self.start, self.end)

    def at(self, iteration: int, epoch: int | None, begin: int, count: int) -> float:
        """ε at the run's position.

        Raises:
            ValueError: The run does not count in the unit of the ramp.
        """
        if self.epochs is not None and epoch is None:
            raise ValueError(
                f'{self} counts epochs, but this run counts iterations; write iterations=1000, or '
                'how many you mean'
            )
        if self.iterations is not None and epoch is not None and begin:
            raise ValueError(
                f'{self} counts iterations, but begin={begin} epochs; write epochs=10, or how many '
                'you mean'
            )
        position = iteration if epoch is None or self.epochs is None else epoch
        share = min(max(position - begin, 0) / (self.epochs or self.iterations or 1), 1.0)
        return self.start + (self.end - self.start) * self._shape(share)

    @abstractmethod
    def _shape(self, share: float) -> float:
        """The part of the way at a share of the time."""


@register_radius
class LinearEps(Ramp):
    """A straight ramp; see :class:`Ramp` for the arguments."""

    def _shape(self, share: float) -> float:
        return share


@register_radius
class CosineEps(Ramp):
    """Half a cosine: slow, fast, slow; see :class:`Ramp` for the arguments."""

    def _shape(self, share: float) -> float:
        return (1 - math.cos(math.pi * share)) / 2


@register_radius
@dataclass(frozen=True, kw_only=True, repr=False)
class UniformEps(Radius):
    """A radius for each sample, drawn uniformly anew in every step.

    Args:
        low (float): The smallest ε, in the unit of ``eps``; also as text. Defaults to 0.
        high (float): The largest one.

    Raises:
        ValueError: One is negative, or ``low`` is larger than ``high``.

    Example:
        >>> model = make_adversarial(model, 'trades', eps=dict(type='UniformEps', high=8 / 255))
    """

    low: float = 0.0
    high: float

    per_sample: ClassVar[bool] = True

    def __post_init__(self) -> None:
        vars(self).update({name: as_length(name, vars(self)[name]) for name in ('low', 'high')})
        if self.low > self.high:
            raise ValueError(f'low={self.low} must not be larger than high={self.high}')

    @property
    def largest(self) -> float:
        """The upper end."""
        return self.high

    def at(self, iteration: int, epoch: int | None, begin: int, count: int) -> Tensor:
        """A radius for each sample, shape (count,)."""
        return self.low + (self.high - self.low) * torch.rand(count, device='cpu')
