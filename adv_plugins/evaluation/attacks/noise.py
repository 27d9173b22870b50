"""Uniform noise: what any attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.option_values import as_count
from .base import Attack
from .search import Search


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Random points, drawn uniformly from the ball.

    At most ``restarts + 1`` forwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        restarts (int): How many points are tried. Defaults to 10.
    """

    restarts: int = 10

    black_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(restarts=as_count('restarts', self.restarts))

    @property
    def cost(self) -> int:
        """A forward for each point, and one for the clean sample."""
        return self.restarts + 1

    def _run(self, search: Search) -> None:
        rows = search.active()
        search.evaluate(rows, search.zeros(rows))
        for _ in range(self.restarts):
            rows = search.active()
            if len(rows) == 0:
                return
            search.evaluate(rows, search.random(rows))
