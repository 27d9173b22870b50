"""Attacks towards one wrong class after the other, the most likely ones first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.functional import expand_like
from ...core.option_values import as_count, as_number
from ...objectives.scores import targeted_logits_ratio
from .apgd import APGD
from .base import Attack
from .losses import log_odds, margins
from .search import Search

Towards = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What is raised, shape (n,), of logits (n, C), labels (n,) and the classes to go to (n,)."""


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Score of the target minus that of the true class: 0 at the boundary between them.

    Args:
        logits (Tensor): Logits or log-probabilities, shape (B, C).
        labels (Tensor): True classes, integers of shape (B,).
        targets (Tensor): Classes to go to, integers of shape (B,).

    Returns:
        Tensor: Shape (B,).
    """
    own, target = (logits.gather(1, each[:, None]).squeeze(1) for each in (labels, targets))
    return target - own


def targeted_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR (Auto-PGD paper, eq. 7), which needs 4 classes; with fewer the plain margin.

    The arguments are those of :func:`targeted_margin`.
    """
    rule = targeted_margin if logits.shape[1] < 4 else targeted_logits_ratio
    return rule(logits, labels, targets)


def _targeted_ce(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    return -log_odds(logits, targets)


LOSSES: dict[str, Towards] = {'ce': _targeted_ce, 'dlr': targeted_ratio}


def towards(search: Search, count: int, loss: Towards) -> Iterator[Search]:
    """The search as it is with each of the most likely wrong classes as the target.

    Args:
        search (Search): The search; the classes are those of the clean inputs, for one forward.
        count (int): How many classes; there may be fewer.
        loss (Callable): What its evaluations return.

    Yields:
        Search: One view of it for each class.
    """

    def ranked(logits: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        others = logits.scatter(1, labels[:, None], -math.inf)
        return others.argsort(dim=1, descending=True, stable=True)[:, :-1]

    rows = search.active()
    classes = search.measuring(ranked).evaluate(rows, search.zeros(rows))[:, :count]
    for column in classes.T:
        targets = torch.zeros_like(search.fooled, dtype=torch.long)
        targets[rows] = column
        yield search.measuring(
            lambda logits, labels, rows, targets=targets: loss(logits, labels, targets[rows])
        )


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(APGD):
    """Auto-PGD towards each of the most likely wrong classes (Croce & Hein, ICML 2020).

    If no run fools the model, the input with the smallest margin is kept. At most ``targets *
    restarts * (steps + 1) + 1`` forwards and ``targets * restarts * steps`` backwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        steps (int): Steps of one run. Defaults to 100, as in AutoAttack.
        targets (int): How many classes, or all wrong ones if there are fewer. Defaults to 9.
        restarts (int): Runs for each class. Defaults to 1.
        loss (str): ``'dlr'``, the targeted difference of logits ratio; with fewer than 4 classes,
            for which there is none, the margin between target and true class. Or ``'ce'``.
            Defaults to ``'dlr'``.
    """

    steps: int = 100
    targets: int = 9
    loss: str = 'dlr'

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(targets=as_count('targets', self.targets))

    @property
    def least_classes(self) -> int:
        """With two, the ratio is the plain margin."""
        return 2

    @property
    def cost(self) -> int:
        """That of Auto-PGD for each class, and a forward for the choice of the classes."""
        return self.targets * super().cost + 1

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Losses towards several classes cannot be compared.
        return -margins(logits, labels)

    def _run(self, search: Search) -> None:
        for view in towards(search, self.targets, LOSSES[self.loss]):
            super()._run(view)


@dataclass(frozen=True, kw_only=True)
class DeepFoolTargeted(Attack):
    """DeepFool within the ball, towards each of the most likely wrong classes.

    Each step goes to where the linearised model has its boundary between the target and the true
    class (Moosavi-Dezfooli et al., CVPR 2016), and back into the ball. So the model itself sets the
    step size, in any norm. It is no FAB (Croce & Hein, ICML 2020), whose place it takes in
    :class:`StandardEnsemble`: FAB looks for the smallest perturbation of any size, and its path may
    leave the ball; here only the ball counts. An attack that does not stop at the boundary, as for
    a transfer, goes on by steps of ``2.5 * eps / steps``. At most ``targets * (steps + 1) + 1``
    forwards and ``targets * steps`` backwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        steps (int): Steps towards one class. Defaults to 50.
        targets (int): How many classes, or all wrong ones if there are fewer. Defaults to 9.
        overshoot (float): Each step is longer by this share of its length. Defaults to 0.05, as in
            FAB.
    """

    steps: int = 50
    targets: int = 9
    overshoot: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {name: as_count(name, getattr(self, name)) for name in ('steps', 'targets')}
        overshoot = as_number('overshoot', self.overshoot)
        if overshoot < 0:
            raise ValueError(f'overshoot={self.overshoot} must not be negative; FAB has 0.05')
        vars(self).update(**counts, overshoot=overshoot)

    @property
    def cost(self) -> int:
        """A forward and a backward a step and a last forward, for each class, and one to choose."""
        return self.targets * (3 * self.steps + 1) + 1

    def _run(self, search: Search) -> None:
        for view in towards(search, self.targets, targeted_margin):
            self._approach(view)

    def _approach(self, search: Search) -> None:
        rows = search.active()
        delta, size = search.zeros(rows), self.eps or 1.0
        for _ in range(self.steps):
            if len(rows) == 0:
                return
            margin, gradient = search.evaluate_with_grad(rows, delta)
            rows, delta, margin, gradient = search.keep_active(rows, rows, delta, margin, gradient)
            # A step through the whole ball: in l1, how far it goes decides which entries it fills.
            direction = search.step(rows, delta, gradient, size) / size
            # By how much a unit step raises the margin: the dual norm of the gradient.
            slope = (gradient * direction).flatten(1).sum(dim=1)
            # Beyond the boundary, where an attack to the end goes on, steps are those of PGD.
            ahead = torch.where(
                margin < 0, -(1 + self.overshoot) * margin / slope, 2.5 * self.eps / self.steps
            )
            length = torch.where(slope > 0, ahead, 0)
            delta = search.restrict(rows, delta + expand_like(length, delta) * direction)
        if len(rows) > 0:
            search.evaluate(rows, delta)
