"""Auto-PGD against a literal one that takes one sample after another."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from attack_cases import PIXELS, smooth_net
from torch import Tensor

from adv_plugins.evaluation.attacks import (
    APGD,
    margins,
)
from adv_plugins.evaluation.attacks.apgd import Run, checkpoints


def literal_apgd(
    loss: Callable[[Tensor], Tensor], x: Tensor, eps: float, steps: int, norm: str
) -> tuple[Tensor, list[int]]:
    """Algorithm 1 of Auto-PGD for one sample in [0, 1], from the clean input."""

    def value_and_step(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_()
        value = loss(point)
        (grad,) = torch.autograd.grad(value, point)
        return value.item(), grad.sign() if norm == 'linf' else grad / grad.norm()

    def onto(point: Tensor) -> Tensor:
        delta = point - x
        if norm == 'linf':
            delta = delta.clamp(-eps, eps)
        elif delta.norm() > eps:
            delta = delta * eps / delta.norm()
        return (x + delta).clamp(0, 1)

    p, checks = [0.0, 0.22], []
    while p[-1] <= 1:
        checks.append(math.ceil(round(p[-1] * steps, 9)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    size, old = 2 * eps, x
    sizes, bests, halvings = [2 * eps], [], []
    f0, step = value_and_step(x)
    f, best = [f0], (f0, x, step)
    bests.append(f0)
    last, now = 0, x
    for k in range(1, steps + 1):
        z = onto(now + size * step)
        new = z if k == 1 else onto(now + 0.75 * (z - now) + 0.25 * (now - old))
        old, now = now, new
        value, step = value_and_step(now)
        f.append(value)
        if value > best[0]:
            best = (value, now, step)
        if k in checks and k > last:
            rises = sum(f[i + 1] > f[i] for i in range(last, k))
            first = rises < 0.75 * (k - last)
            second = (len(sizes) < 2 or sizes[-1] == sizes[-2]) and bests[-1] == best[0]
            if first or second:
                size /= 2
                f[-1], now, step = best
                halvings.append(k)
            sizes.append(size)
            bests.append(best[0])
            last = k
    return best[1], halvings


@pytest.mark.parametrize(('norm', 'eps'), [('linf', 0.1), ('l2', 1.0)])
@pytest.mark.parametrize('steps', [7, 40])
def test_apgd_equals_the_algorithm_of_the_paper(norm: str, eps: float, steps: int) -> None:
    net, x, labels = smooth_net(), torch.rand(12, 3, 6, 6).double(), torch.arange(12) % 4
    lead = 12 * F.one_hot(labels, 4)

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        return net(8 * x) + lead[index]

    result = APGD(eps=eps, norm=norm, steps=steps)(logits_fn, x, labels, PIXELS)
    assert (margins(logits_fn(result, torch.arange(12)), labels) > 0).all(), 'none may be fooled'
    halvings = set()
    for i in range(12):
        own = torch.tensor([i])

        def loss(point: Tensor, own: Tensor = own) -> Tensor:
            return F.cross_entropy(logits_fn(point, own), labels[own])

        expected, halved = literal_apgd(loss, x[own], eps, steps, norm)
        halvings |= set(halved)
        torch.testing.assert_close(result[own], expected, rtol=0, atol=1e-7)
    assert len(halvings) > 1, 'the step size was never halved'


@pytest.mark.parametrize(
    ('rises', 'progress', 'halved', 'due'),
    [
        (8, True, False, False),
        (6, True, False, False),  # 0.75 of 8 steps
        (5, True, False, True),
        (5, True, True, True),
        (8, False, False, True),
        (8, False, True, False),  # It had been halved at the last checkpoint.
    ],
)
def test_step_sizes_halve_by_either_condition(
    rises: int, progress: bool, halved: bool, due: bool
) -> None:
    now, best = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0]])
    run = Run.start(torch.tensor([0]), now, torch.tensor([3.0]), now, 0.5)
    run.best_delta, run.best_gradient, run.best_loss = best, best, torch.tensor([4.0])
    run.checked_loss = torch.tensor([3.5 if progress else 4.0])
    run.rises, run.halved = torch.tensor([rises]), torch.tensor([halved])
    run.check(8)
    assert run.halved.item() == due
    assert run.step_size.item() == (0.25 if due else 0.5)
    assert torch.equal(run.delta, best if due else now)
    assert torch.equal(run.gradient, best if due else now)
    assert run.loss.item() == (4 if due else 3)
    assert run.rises.item() == 0 and run.checked_loss.item() == 4


@pytest.mark.parametrize(
    ('steps', 'expected'),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (50, [11, 21, 29, 35, 40, 44, 47, 50]),
        (10, [3, 5, 6, 7, 8, 9, 10]),
        (1, [1]),
    ],
)
def test_checkpoints(steps: int, expected: list[int]) -> None:
    assert checkpoints(steps) == expected
