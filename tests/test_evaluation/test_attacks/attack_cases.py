"""Small models and sets of attacks that the tests of attacks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adv_plugins.core.threat import InputSpace
from adv_plugins.evaluation.attacks import (
    APGD,
    FGSM,
    PGD,
    APGDTargeted,
    Attack,
    DeepFoolTargeted,
    Square,
    StandardEnsemble,
    UniformNoise,
    margins,
)

EPS = 8 / 255
PIXELS = InputSpace(1.0, 0.0, 1.0)


def of(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A model that does not ask which samples it is given."""
    return lambda x, index: model(x)


def every(eps: float, queries: int = 30, **options: Any) -> list[Attack]:
    """All attacks, each in the norms that it has, with few steps."""
    linf = [
        UniformNoise(eps=eps, restarts=4, **options),
        FGSM(eps=eps, **options),
        PGD(eps=eps, steps=4, restarts=2, **options),
        PGD(eps=eps, steps=4, loss='dlr', **options),
        APGD(eps=eps, steps=8, restarts=2, **options),
        APGD(eps=eps, steps=8, loss='dlr', **options),
        APGDTargeted(eps=eps, steps=4, targets=2, **options),
        DeepFoolTargeted(eps=eps, steps=3, targets=2, **options),
        StandardEnsemble(eps=eps, steps=3, targets=2, queries=9, **options),
    ]
    square = [] if options.get('norm') == 'l2' else [Square(eps=eps, queries=queries)]
    return [*linf, *square]


SQUARE_L2 = ('Square', 'l2')  # There is none.
BOTH_NORMS = [*every(0.05), *every(1.0, norm='l2')]


def name(attack: object) -> str:
    return repr(attack)


def by_attack(known: list[Attack]) -> Any:
    return pytest.mark.parametrize('attack', known, ids=name)


def changes(adversarial: Tensor, clean: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(
        (adversarial - clean).flatten(1), math.inf if norm == 'linf' else 2, dim=1
    )


class Planes(nn.Module):
    """Scores of a linear model over images, class 0 far ahead: nothing is fooled."""

    def __init__(self, classes: int = 2, shape: tuple[int, ...] = (3, 6, 6)) -> None:
        super().__init__()
        self.weight = torch.randn(classes, *shape, dtype=torch.float64)
        self.lead = 1000 * torch.eye(classes, dtype=torch.float64)[0]

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten(1).T + self.lead

    @property
    def slope(self) -> Tensor:
        """By what the margin of the first over the second class falls."""
        return self.weight[1] - self.weight[0]


def gain(model: nn.Module, adversarial: Tensor, clean: Tensor) -> Tensor:
    labels = torch.zeros(len(clean), dtype=torch.long)
    return margins(model(clean), labels) - margins(model(adversarial), labels)


GRADIENT = [FGSM, PGD, APGD]


def smooth_net(classes: int = 4, side: int = 6) -> nn.Module:
    width = 8 * (side - 2) ** 2
    return (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(width, classes))
        .double()
        .eval()
    )
