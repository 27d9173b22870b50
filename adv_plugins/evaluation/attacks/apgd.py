"""Auto-PGD (Croce & Hein, ICML 2020): gradient ascent that chooses its step size by itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.functional import expand_like
from .gradient import IterativeAttack
from .search import Search

# Of the paper's sections 3.2 and 3.3: the share of the new step beside the momentum, and the share
# of steps that must raise the loss for the step size to stay.
_ALPHA = 0.75
_RHO = 0.75


@dataclass(frozen=True, kw_only=True)
class APGD(IterativeAttack):
    """Auto-PGD: momentum, and a step size that halves when the loss stops rising.

    Croce & Hein, ICML 2020, algorithm 1. The paper starts at random; here the first run starts at
    the clean input: its first point is then that of :class:`FGSM`, so that the attack is never
    weaker. At most ``restarts * (steps + 1)`` forwards and ``restarts * steps`` backwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        steps (int): Steps of one run; AutoAttack makes 100. Defaults to 50.
        restarts (int): Runs, the first from the clean input, the others from random points.
            Defaults to 1.
        loss (str): ``'ce'`` (cross-entropy) or ``'dlr'`` (difference of logits ratio, which
            needs 3 classes). Defaults to ``'ce'``.
    """

    steps: int = 50

    def _ascend(self, search: Search, rows: Tensor, delta: Tensor) -> None:
        loss, gradient = search.evaluate_with_grad(rows, delta)
        run = Run.start(rows, delta, loss, gradient, 2 * self.eps)
        due, last_check = checkpoints(self.steps), 0
        for step in range(1, self.steps + 1):
            run = run.take(~search.fooled[run.rows])
            if len(run.rows) == 0:
                return
            run.move(search, momentum=step > 1)
            if step == self.steps:
                search.evaluate(run.rows, run.delta)
                return
            run.arrive(*search.evaluate_with_grad(run.rows, run.delta))
            if step in due:
                run.check(step - last_check)
                last_check = step


def checkpoints(steps: int) -> list[int]:
    """The steps after which a run looks at its progress (section 3.3 of the paper)."""
    # In hundredths: sums of floats would be rounded up to the next step.
    shares, gap = [22], 19
    while shares[-1] + gap <= 100:
        shares.append(shares[-1] + gap)
        gap = max(gap - 3, 6)
    return sorted({-(-share * steps // 100) for share in shares})


@dataclass
class Run:
    """The state of one run, each entry with one row a sample.

    Attributes:
        rows (Tensor): Positions in the batch.
        delta (Tensor): x^(k), as a perturbation.
        previous (Tensor): x^(k-1).
        gradient (Tensor): At ``delta``.
        loss (Tensor): At ``delta``.
        best_delta (Tensor): x_max.
        best_gradient (Tensor): At x_max.
        best_loss (Tensor): f_max.
        step_size (Tensor): η.
        rises (Tensor): How many steps since the last checkpoint raised the loss.
        checked_loss (Tensor): f_max at the last checkpoint.
        halved (Tensor): Whether the step size was halved there.
    """

    rows: Tensor
    delta: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best_delta: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step_size: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor

    @classmethod
    def start(
        cls, rows: Tensor, delta: Tensor, loss: Tensor, gradient: Tensor, step_size: float
    ) -> Run:
        """The state at the first point."""
        none = torch.zeros_like(rows)
        return cls(
            rows=rows,
            delta=delta,
            previous=delta,
            gradient=gradient,
            loss=loss,
            best_delta=delta,
            best_gradient=gradient,
            best_loss=loss,
            step_size=torch.full_like(loss, step_size),
            rises=none,
            checked_loss=loss,
            halved=none.bool(),
        )

    def take(self, keep: Tensor) -> Run:
        """The state of some of the samples."""
        return Run(*(getattr(self, field.name)[keep] for field in dataclasses.fields(self)))

    def move(self, search: Search, momentum: bool) -> None:
        """Make one step; the first one has no momentum yet."""
        step = search.step(self.rows, self.delta, self.gradient, self.step_size)
        target = search.restrict(self.rows, self.delta + step)
        if momentum:
            target = search.restrict(
                self.rows,
                self.delta
                + _ALPHA * (target - self.delta)
                + (1 - _ALPHA) * (self.delta - self.previous),
            )
        self.previous, self.delta = self.delta, target

    def arrive(self, loss: Tensor, gradient: Tensor) -> None:
        """Record loss and gradient at the new point."""
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        better = loss > self.best_loss
        wide = expand_like(better, self.delta)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best_delta = torch.where(wide, self.delta, self.best_delta)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)

    def check(self, steps: int) -> None:
        """At a checkpoint, halve the step size and return to the best point where that is due."""
        few_rises = self.rises < _RHO * steps
        no_progress = ~self.halved & (self.best_loss == self.checked_loss)
        self.halved = few_rises | no_progress
        wide = expand_like(self.halved, self.delta)
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self.delta = torch.where(wide, self.best_delta, self.delta)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.loss = torch.where(self.halved, self.best_loss, self.loss)
        self.checked_loss = self.best_loss
        self.rises = torch.zeros_like(self.rises)
