"""FGSM and PGD: steps along the gradient. What ascends in runs, here and in Auto-PGD, is alike."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ...core.checks import check_choice
from ...core.option_values import as_count, as_length
from .base import Attack
from .losses import LOSSES, log_odds
from .search import Search


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One full step along the sign (``'l2'``: the direction) of the cross-entropy's gradient.

    Goodfellow et al., ICLR 2015. One forward and one backward; the model is not asked whether the
    step fools it.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.

    Example:
        >>> x_adv = FGSM(eps=4 / 255)(lambda x, index: model(x), x, labels, space)
    """

    @property
    def cost(self) -> int:
        """One forward and one backward."""
        return 3

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        return log_odds(logits, labels)

    def _run(self, search: Search) -> None:
        rows = search.active()
        _, gradient = search.evaluate_with_grad(rows, search.zeros(rows))
        rows, gradient = search.keep_active(rows, rows, gradient)
        search.best[rows] = search.at(
            rows, search.step(rows, search.zeros(rows), gradient, self.eps)
        )


@dataclass(frozen=True, kw_only=True)
class IterativeAttack(Attack):
    """Ascends in runs: the first from the clean input, the others from random points of the ball.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        steps (int): Steps of one run.
        restarts (int): Number of runs. Defaults to 1.
        loss (str): ``'ce'`` or ``'dlr'``. Defaults to ``'ce'``.
    """

    steps: int
    restarts: int = 1
    loss: str = 'ce'

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {name: as_count(name, getattr(self, name)) for name in ('steps', 'restarts')}
        vars(self).update(counts)
        check_choice('loss', self.loss, tuple(LOSSES))

    @property
    def least_classes(self) -> int:
        """The difference of logits ratio compares three."""
        return 3 if self.loss == 'dlr' else 2

    @property
    def cost(self) -> int:
        """Of each run a forward and a backward a step, and a last forward."""
        return self.restarts * (3 * self.steps + 1)

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        return LOSSES[self.loss](logits, labels)

    def _run(self, search: Search) -> None:
        for restart in range(self.restarts):
            rows = search.active()
            if len(rows) == 0:
                return
            self._ascend(search, rows, search.random(rows) if restart else search.zeros(rows))

    @abstractmethod
    def _ascend(self, search: Search, rows: Tensor, delta: Tensor) -> None:
        """One run for the samples at ``rows``, from a perturbation of each."""


@dataclass(frozen=True, kw_only=True)
class PGD(IterativeAttack):
    """Projected gradient ascent with steps of one size (Madry et al., ICLR 2018).

    At most ``restarts * (steps + 1)`` forwards and ``restarts * steps`` backwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        steps (int): Steps of one run. Defaults to 10.
        step_size (float, optional): Length of a step, in pixel units. Defaults to None:
            ``2.5 * eps / steps``.
        restarts (int): Runs, the first from the clean input, the others from random points.
            Defaults to 1.
        loss (str): ``'ce'`` (cross-entropy) or ``'dlr'`` (difference of logits ratio, which
            needs 3 classes). Defaults to ``'ce'``.
    """

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            vars(self).update(step_size=as_length('step_size', self.step_size))

    def _ascend(self, search: Search, rows: Tensor, delta: Tensor) -> None:
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        for _ in range(self.steps):
            _, gradient = search.evaluate_with_grad(rows, delta)
            rows, delta, gradient = search.keep_active(rows, rows, delta, gradient)
            if len(rows) == 0:
                return
            delta = search.restrict(rows, delta + search.step(rows, delta, gradient, size))
        search.evaluate(rows, delta)
