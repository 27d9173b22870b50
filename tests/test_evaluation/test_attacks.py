"""Attacks against optima in closed form, a literal Auto-PGD, and each other on a trained net."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet, assert_same, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from adv_plugins.core.attack import InputSpace
from adv_plugins.evaluation.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    PGD,
    UNIT,
    Attack,
    Square,
    UniformNoise,
    build_attack,
    margins,
)
from adv_plugins.evaluation.attacks.apgd import Run, checkpoints
from adv_plugins.evaluation.attacks.losses import LOSSES
from adv_plugins.evaluation.attacks.square import Frames, patch_share

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


# ---- optima in closed form

GRADIENT = [FGSM, PGD, APGD]


@pytest.mark.parametrize('kind', GRADIENT)
@pytest.mark.parametrize(('norm', 'dual'), [('linf', 1), ('l2', 2)])
@pytest.mark.parametrize('scale', [1.0, torch.tensor([2.0, 4.0, 7.0])[:, None, None]])
def test_gain_on_two_classes_is_the_dual_norm(
    kind: Any, norm: str, dual: int, scale: Tensor | float
) -> None:
    model, x = Planes(), torch.randn(4, 3, 6, 6).double()
    adversarial = kind(eps=EPS, norm=norm)(
        of(model), x, torch.zeros(4, dtype=torch.long), InputSpace(scale)
    )
    optimum = EPS * torch.linalg.vector_norm(model.slope * scale, dual)
    torch.testing.assert_close(gain(model, adversarial, x), optimum.expand(4))


@pytest.mark.parametrize('kind', GRADIENT)
def test_gain_in_a_box_is_what_each_pixel_has_room_for(kind: Any) -> None:
    model, x = Planes(), torch.rand(4, 3, 6, 6).double()
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([2.0, 3.0, 4.0])
    space = InputSpace.from_normalization(mean, std[:, None, None], (0.0, 1.0))
    clean = (x - mean) / std[:, None, None]
    adversarial = kind(eps=0.3)(of(model), clean, torch.zeros(4, dtype=torch.long), space)
    slope = model.slope / std[:, None, None]
    room = torch.where(slope > 0, 1 - x, x).clamp(max=0.3)
    optimum = (room * slope.abs()).flatten(1).sum(1)
    torch.testing.assert_close(gain(model, adversarial, clean), optimum)
    assert 0.1 < (room < 0.3).double().mean() < 0.9, 'the box must matter, and not alone'


def test_l2_in_a_box_lies_between_one_step_and_the_optimum() -> None:
    model, x = Planes(), torch.rand(4, 3, 6, 6).double()
    labels = torch.zeros(4, dtype=torch.long)
    # The best point of ball and box is clip(x + t w) with t such that it lies on the sphere.
    lower, upper = torch.zeros(4, 1, 1, 1).double(), torch.full((4, 1, 1, 1), 1e3).double()
    for _ in range(100):
        middle = (lower + upper) / 2
        inside = changes((x + middle * model.slope).clamp(0, 1), x, 'l2') < 3.0
        inside = inside[:, None, None, None]
        lower, upper = torch.where(inside, middle, lower), torch.where(inside, upper, middle)
    optimum = gain(model, (x + lower * model.slope).clamp(0, 1), x)
    fgm, pgd, apgd = (
        gain(model, kind(eps=3.0, norm='l2')(of(model), x, labels, PIXELS), x) for kind in GRADIENT
    )
    assert (fgm > 0).all() and (pgd > fgm).all() and (apgd > fgm).all()
    assert (pgd < optimum).all() and (apgd < optimum).all()


def test_square_comes_near_the_optimum_and_not_beyond() -> None:
    model, x = Planes(), torch.rand(4, 3, 6, 6).double()
    adversarial = Square(eps=EPS, queries=1000)(
        of(model), x, torch.zeros(4, dtype=torch.long), seed=torch.arange(4)
    )
    share = gain(model, adversarial, x) / (EPS * model.slope.abs().sum())
    assert (share > 0.9).all() and (share <= 1 + 1e-9).all()
    few = Square(eps=EPS, queries=10)(of(model), x, torch.zeros(4, dtype=torch.long))
    assert (gain(model, few, x) < gain(model, adversarial, x)).all()


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_noise_is_far_from_the_optimum(norm: str) -> None:
    model, x = Planes(), torch.rand(4, 3, 6, 6).double()
    labels = torch.zeros(4, dtype=torch.long)
    noise = gain(model, UniformNoise(eps=EPS, norm=norm)(of(model), x, labels), x)
    step = gain(model, FGSM(eps=EPS, norm=norm)(of(model), x, labels), x)
    assert (noise > 0).all() and (noise < 0.5 * step).all()


@pytest.mark.parametrize('kind', GRADIENT)
def test_confidence_does_not_hide_the_gradient(kind: Any) -> None:
    """The cross-entropy of a margin of 1000 has the gradient 0, in double precision too."""
    model, x = Planes(), torch.randn(2, 3, 6, 6).double()
    labels = torch.zeros(2, dtype=torch.long)
    probe = x.clone().requires_grad_()
    F.cross_entropy(model(probe), labels, reduction='sum').backward()
    assert (probe.grad == 0).all()
    adversarial = kind(eps=EPS)(of(model), x, labels)
    torch.testing.assert_close(
        gain(model, adversarial, x), (EPS * model.slope.abs().sum()).expand(2)
    )


@by_attack(BOTH_NORMS)
def test_scores_may_be_shifted(attack: Attack) -> None:
    """Log-probabilities are logits less a number."""
    net, x, labels = smooth_net(), torch.rand(6, 3, 6, 6).double(), torch.arange(6) % 4
    logits = attack(of(net), x, labels, PIXELS)
    torch.testing.assert_close(
        attack(of(lambda x: net(x).log_softmax(1)), x, labels, PIXELS), logits
    )


# ---- attacks against each other on a trained net


def smooth_net(classes: int = 4, side: int = 6) -> nn.Module:
    width = 8 * (side - 2) ** 2
    return (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(width, classes))
        .double()
        .eval()
    )


@pytest.fixture(scope='module')
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A net that tells four noisy patterns apart, with images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        patterns = torch.rand(4, 3, 6, 6).double()
        labels = torch.arange(400) % 4
        noise = 0.25 * torch.randn(400, 3, 6, 6).double()
        x = (0.5 + 0.2 * (patterns[labels] - 0.5) + noise).clamp(0, 1)
        net = smooth_net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()
    net.zero_grad()
    right = net(x).argmax(1) == labels
    assert right.double().mean() > 0.9
    return net, x[right], labels[right]


def accuracy(attack: Attack, trained: tuple[nn.Module, Tensor, Tensor], count: int = 100) -> float:
    net, x, labels = trained
    x, labels = x[:count], labels[:count]
    seed = torch.arange(count)
    adversarial = attack(of(net), x, labels, PIXELS, seed)
    return (net(adversarial).argmax(1) == labels).double().mean().item()


@pytest.mark.parametrize(('norm', 'eps'), [('linf', 0.05), ('l2', 0.45)])
def test_stronger_attacks_leave_less_accuracy(trained: Any, norm: str, eps: float) -> None:
    options = dict(eps=eps, norm=norm)
    noise = accuracy(UniformNoise(**options), trained)
    fgsm = accuracy(FGSM(**options), trained)
    pgd = accuracy(PGD(steps=20, **options), trained)
    apgd = accuracy(APGD(steps=20, **options), trained)
    assert 1 >= noise > fgsm >= pgd >= apgd > 0, (noise, fgsm, pgd, apgd)
    assert fgsm > apgd


def test_square_lies_between_noise_and_gradients(trained: Any) -> None:
    noise, square, apgd = (
        accuracy(attack, trained, 40)
        for attack in (UniformNoise(eps=0.05), Square(eps=0.05, queries=300), APGD(eps=0.05))
    )
    assert noise > square >= apgd, (noise, square, apgd)


@pytest.mark.parametrize(
    ('kind', 'norm'),
    [(kind, norm) for kind in ATTACKS for norm in ('linf', 'l2') if (kind, norm) != SQUARE_L2],
)
def test_accuracy_falls_with_eps(trained: Any, kind: str, norm: str) -> None:
    options = {'UniformNoise': {}, 'FGSM': {}, 'Square': {'queries': 100}}.get(kind, {'steps': 8})
    sizes = [0.0, 0.02, 0.05, 0.1, 0.3] if norm == 'linf' else [0.0, 0.2, 0.5, 1.0, 3.0]
    found = [
        accuracy(build_attack(kind, eps=eps, norm=norm, **options), trained, 40) for eps in sizes
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1 and found[-1] < (0.95 if kind == 'UniformNoise' else 0.1)


@pytest.mark.parametrize(
    ('weaker', 'stronger'),
    [
        (FGSM(eps=EPS), APGD(eps=EPS, steps=1)),
        (FGSM(eps=EPS), APGD(eps=EPS, steps=9)),
        (FGSM(eps=1, norm='l2'), APGD(eps=1, norm='l2', steps=9)),
        (PGD(eps=EPS, steps=3, step_size=0.01), PGD(eps=EPS, steps=9, step_size=0.01)),
        (PGD(eps=EPS, steps=3), PGD(eps=EPS, steps=3, restarts=3)),
        (APGD(eps=EPS, steps=3), APGD(eps=EPS, steps=3, restarts=3)),
        (UniformNoise(eps=EPS, restarts=3), UniformNoise(eps=EPS, restarts=9)),
    ],
    ids=name,
)
def test_more_work_is_never_worse(weaker: Attack, stronger: Attack) -> None:
    """Not on average but for each sample: the points of the one are among those of the other."""
    net, x, labels = smooth_net(), torch.rand(30, 3, 6, 6).double(), torch.arange(30) % 4
    lead = 4 * F.one_hot(labels, 4)  # The loss is not what matters once a sample is fooled.

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        return net(3 * x) + lead[index]

    def loss(attack: Attack) -> Tensor:
        adversarial = attack(logits_fn, x, labels, PIXELS, seed=torch.arange(30))
        return stronger._objective(net(3 * adversarial) + lead, labels)

    assert (margins(net(3 * x) + lead, labels) > 0).all()
    assert (loss(stronger) >= loss(weaker) - 1e-12).all()


def test_restarts_find_what_the_clean_start_cannot(trained: Any) -> None:
    """No gradient at the clean input: a plateau around it, as gradient masking makes them."""
    net, x, labels = trained[0], trained[1][:20], trained[2][:20]

    def logits_fn(points: Tensor, index: Tensor) -> Tensor:
        near = ((points - x[index]).abs() < 0.01).flatten(1).all(1)
        return torch.where(near[:, None], net(x[index]) + 0 * points.sum(), net(points))

    once, twice = (
        PGD(eps=0.1, restarts=restarts)(logits_fn, x, labels, PIXELS) for restarts in (1, 2)
    )
    assert torch.equal(once, x)
    assert (net(twice).argmax(1) != labels).double().mean() > 0.5


# ---- Auto-PGD as the paper has it, one sample after another


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


def test_dlr_equals_a_loop() -> None:
    logits, labels = torch.randn(50, 7).double(), torch.randint(7, (50,))
    expected = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(z, reverse=True)
        other = max(value for c, value in enumerate(z) if c != y)
        expected.append(-(z[y] - other) / (ranked[0] - ranked[2]))
    found = LOSSES['dlr'](logits, labels)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    torch.testing.assert_close(LOSSES['dlr'](5 * logits + 3, labels), found)
    assert (found > 0).any() and (found < 0).any()


def test_cross_entropy_rises_with_log_odds() -> None:
    logits, labels = torch.randn(50, 7).double(), torch.randint(7, (50,))
    probes = [logits.clone().requires_grad_() for _ in range(2)]
    odds = LOSSES['ce'](probes[0], labels)
    loss = F.cross_entropy(probes[1], labels, reduction='none')
    torch.testing.assert_close(F.softplus(odds), loss)
    for value in (odds, loss):
        value.sum().backward()
    torch.testing.assert_close(F.normalize(probes[0].grad), F.normalize(probes[1].grad))


def test_margins() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [[3.0, 1, 2], [3, 1, 2], [2, 2, 0], [nan, 0, 1], [0, inf, 1], [-inf, 0, 1]]
    )
    found = margins(logits, torch.tensor([0, 1, 1, 2, 0, 0]))
    torch.testing.assert_close(found, torch.tensor([1.0, -2, 0, nan, -inf, -inf]), equal_nan=True)
    assert (found < 0).tolist() == [False, True, False, False, True, True]


# ---- what is kept


@by_attack([attack for attack in BOTH_NORMS if not isinstance(attack, FGSM)])
def test_the_first_that_fools_or_else_the_highest_loss_is_kept(attack: Attack) -> None:
    net, x, labels = smooth_net(), torch.rand(40, 3, 6, 6).double(), torch.arange(40) % 4
    lead = 0.25 * F.one_hot(labels, 4)
    tried: list[list[tuple[Tensor, float, float]]] = [[] for _ in range(40)]

    def logits_fn(points: Tensor, index: Tensor) -> Tensor:
        logits = net(points) + lead[index]
        own = labels[index]
        loss = attack._objective(logits, own)
        for i, row in enumerate(index.tolist()):
            tried[row].append((points[i].detach(), margins(logits, own)[i].item(), loss[i].item()))
        return logits

    result = attack(logits_fn, x, labels, PIXELS)
    outcomes = set()
    for row, points in enumerate(tried):
        fooled = [i for i, (_, margin, _) in enumerate(points) if margin < 0]
        if fooled:
            assert fooled == [len(points) - 1], 'attacked after it was fooled'
            expected = points[-1][0]
        else:
            expected = max(points, key=lambda point: point[2])[0]
        assert torch.equal(result[row], expected)
        assert torch.equal(points[0][0], x[row]), 'the clean input comes first'
        outcomes.add((bool(fooled), len(points) == 1, bool((expected != x[row]).any())))
    assert {(True, True, False), (False, False, True)} < outcomes, 'one of the cases is missing'


@pytest.mark.parametrize('kind', [PGD, APGD])
def test_what_fools_is_kept_though_its_loss_is_lower(kind: Any) -> None:
    """Of three classes, the first gets more probable, and yet another one overtakes it."""
    clean, moved = torch.tensor([[0.36, 0.32, 0.32], [0.4, 0.59, 0.01]]).log()

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        scores = torch.where((x != 0).any(1, keepdim=True), moved, clean)
        return scores + 1e-3 * x.sum(1, keepdim=True) * torch.tensor([-1.0, 1, 1])

    x, labels = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    result = kind(eps=0.1, steps=3)(logits_fn, x, labels)
    assert (result > 0).all()


def test_a_tie_is_attacked_further() -> None:
    calls = []

    def tie(x: Tensor, index: Tensor) -> Tensor:
        calls.append(len(index))
        return 0 * x[:, :2]

    UniformNoise(eps=0.1, restarts=3)(tie, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    assert calls == [1, 1, 1, 1]


@by_attack(BOTH_NORMS)
def test_samples_wrong_already_are_returned_clean(attack: Attack) -> None:
    net, x = smooth_net(), torch.rand(8, 3, 6, 6).double()
    labels = net(x).argmax(1)
    labels[[2, 5]] = (labels[[2, 5]] + 1) % 4
    seen = []

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        seen.append(index.tolist())
        return net(x)

    result = attack(logits_fn, x, labels, PIXELS)
    assert torch.equal(result[[2, 5]], x[[2, 5]])
    # Noise may be worse than the clean input.
    moved = (result != x).flatten(1).any(1)
    assert moved.sum() == 6 or (isinstance(attack, UniformNoise) and moved.sum() > 0)
    assert seen[0] == list(range(8))
    assert not any({2, 5} & set(rows) for rows in seen[1:])


def test_a_large_step_does_not_lose_what_a_small_one_found() -> None:
    """The loss rises up to 0.05 from the clean input and falls after it."""

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        hill = -(x - 0.05).square().sum(dim=1)
        return torch.stack((hill * 0 + 10, hill), dim=1)

    x, labels = torch.zeros(1, 3).double(), torch.zeros(1, dtype=torch.long)
    result = PGD(eps=1.0, steps=8, step_size=0.04)(logits_fn, x, labels)
    torch.testing.assert_close(result, torch.full((1, 3), 0.04).double())
    assert torch.equal(PGD(eps=1.0, steps=1, step_size=1.0)(logits_fn, x, labels), x)


# ---- samples do not know of each other


@by_attack(BOTH_NORMS)
@pytest.mark.parametrize('seed', [7, torch.arange(10) + 40], ids=['one', 'each'])
def test_batch_composition_does_not_matter(attack: Attack, seed: Any) -> None:
    net, x, labels = smooth_net(), torch.rand(10, 3, 6, 6).double(), torch.arange(10) % 4
    lead = 0.5 * F.one_hot(labels, 4)
    scale = 0.5 + torch.rand(10, 3, 1, 1).double()
    space = InputSpace(scale, 0.0, 1.0, valid=torch.rand(10, 3, 6, 6) > 0.1)

    def run(rows: list[int]) -> Tensor:
        part = InputSpace(scale[rows], 0.0, 1.0, valid=space.valid[rows])
        own = seed if isinstance(seed, int) else seed[rows]
        return attack(lambda x, index: net(x) + lead[rows][index], x[rows], labels[rows], part, own)

    whole = run(list(range(10)))
    assert (whole != x).any()
    for rows in ([0], [7], [5, 2], [9, 3, 7, 0, 1]):
        torch.testing.assert_close(run(rows), whole[rows], rtol=0, atol=1e-9)


@by_attack([attack for attack in BOTH_NORMS if attack.black_box])
def test_seeds_make_the_difference(attack: Attack) -> None:
    model, x = Planes(), torch.rand(1, 3, 6, 6).double().expand(4, -1, -1, -1)
    labels = torch.zeros(4, dtype=torch.long)
    first, second, third, fourth = attack(of(model), x, labels, seed=torch.tensor([1, 2, 1, 3]))
    assert torch.equal(first, third)
    assert not torch.equal(first, second) and not torch.equal(first, fourth)
    alike = attack(of(model), x, labels, seed=1)
    assert (alike == first).all()


@pytest.mark.parametrize('kind', [PGD, APGD])
def test_restarts_start_at_different_points(kind: Any) -> None:
    points = []

    def logits_fn(x: Tensor, index: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return torch.stack((0 * x.sum(1) + 1, 0 * x.sum(1)), dim=1)  # Flat: nothing moves.

    x, labels = torch.zeros(2, 5), torch.zeros(2, dtype=torch.long)
    kind(eps=0.1, steps=1, restarts=3)(logits_fn, x, labels, seed=torch.arange(2))
    starts = torch.stack(points[::2])
    assert (starts[0] == 0).all()
    assert len(starts.reshape(6, 5).unique(dim=0)) == 5


# ---- the ball


@settings(max_examples=60, deadline=None)
@given(
    attack=st.sampled_from(list(ATTACKS)),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=6),
    norm=st.sampled_from(['linf', 'l2']),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    eps=st.sampled_from([0.0, 1e-4, EPS, 0.7]),
    beyond=st.booleans(),
    padded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_ball_and_range_hold_in_pixel_units(
    attack: str,
    shape: list[int],
    norm: str,
    dtype: torch.dtype,
    eps: float,
    beyond: bool,
    padded: bool,
    seed: int,
) -> None:
    if attack == 'Square':
        norm, shape = 'linf', [*shape, 3, 2, 2][: max(len(shape), 4)]
    options = {
        'PGD': dict(restarts=2),
        'APGD': dict(steps=6, restarts=2),
        'Square': dict(queries=9),
    }
    torch.manual_seed(seed)
    view = (-1, *[1] * (len(shape) - 2))
    std = (50 + 20 * torch.rand(shape[1])).view(view).to(dtype)
    mean = (100 + 20 * torch.rand(shape[1])).view(view).to(dtype)
    pixels = 255 * torch.rand(shape, dtype=dtype) * (1.2 if beyond else 1) - 20 * beyond
    clean = (pixels - mean) / std
    valid = torch.rand(shape) > 0.3 if padded else None
    low, high = -mean / std, (255 - mean) / std
    space = InputSpace(255 / std, low, high, valid)
    weight = torch.randn(3, clean[0].numel(), dtype=dtype)
    lead = torch.tensor([100.0, 0, 0], dtype=dtype)
    before = clean.clone()
    result = build_attack(attack, eps=eps, norm=norm, **options.get(attack, {}))(
        lambda x, index: (x.flatten(1) @ weight.T).tanh() + lead,
        clean,
        torch.zeros(shape[0], dtype=torch.long),
        space,
        seed,
    )
    assert torch.equal(clean, before)
    assert result.shape == clean.shape and result.dtype == dtype and result.isfinite().all()
    if norm == 'linf':
        # Exactly: not one rounding beyond.
        assert ((result - clean).abs() <= torch.tensor(eps, dtype=dtype) * (255 / std)).all()
    else:
        moved = (result.double() - clean.double()) * std / 255
        assert (moved.flatten(1).norm(dim=1) <= eps * (1 + 1e-6)).all()
    assert (result >= low.minimum(clean)).all() and (result <= high.maximum(clean)).all()
    if eps == 0:
        assert torch.equal(result, clean)
    if padded:
        assert torch.equal(result[~valid], clean[~valid])


def test_noise_is_even_in_the_ball() -> None:
    x, labels = torch.zeros(4000, 3), torch.zeros(4000, dtype=torch.long)
    valid = torch.tensor([True, True, False])

    def noise(norm: str, space: InputSpace = UNIT) -> Tensor:
        def logits_fn(x: Tensor, index: Tensor) -> Tensor:
            size = x.abs().amax(1)
            return torch.stack((1 - (size > 0).float(), size * 0 + 0.5), dim=1)

        attack = UniformNoise(eps=2.0, norm=norm)
        return attack(logits_fn, x, labels, space, seed=torch.arange(4000))

    cube = noise('linf')
    assert cube.mean(0).abs().max() < 0.1
    torch.testing.assert_close(cube.var(0), torch.full((3,), 4 / 3), rtol=0.08, atol=0)
    for space, entries in ((UNIT, 3), (InputSpace(valid=valid), 2)):
        ball = noise('l2', space)
        # The share of the volume within each point is even between 0 and 1.
        volume = (ball.norm(dim=1) / 2).pow(entries)
        assert volume.max() <= 1 + 1e-5
        deciles = torch.histc(volume, 10, 0, 1) / 4000
        assert (deciles - 0.1).abs().max() < 0.02
        assert ball.mean(0).abs().max() < 0.1


@by_attack(BOTH_NORMS)
@pytest.mark.parametrize('how', ['flat', 'nan', 'inf', 'scores'])
def test_a_broken_sample_stays_finite_and_alone(attack: Attack, how: str) -> None:
    net, x, labels = smooth_net(), torch.rand(6, 3, 6, 6).double(), torch.arange(6) % 4
    lead = 2 * F.one_hot(labels, 4)

    def broken(x: Tensor, index: Tensor) -> Tensor:
        bad = index == 2
        if how in ('nan', 'inf') and x.requires_grad:
            wrong = torch.zeros_like(x)
            wrong[bad, 0, 1, 2] = float(how)  # One pixel is enough.
            x.register_hook(lambda gradient: gradient + wrong)
        logits = net(x) + lead[index]
        if how == 'scores':
            return torch.where(bad[:, None], math.nan, logits)
        if how == 'flat':
            return torch.where(bad[:, None], logits.detach(), logits)
        return logits

    expected = attack(lambda x, index: net(x) + lead[index], x, labels, PIXELS)
    result = attack(broken, x, labels, PIXELS)
    others = torch.arange(6) != 2
    torch.testing.assert_close(result[others], expected[others], rtol=0, atol=1e-9)
    assert result.isfinite().all()
    randomless = isinstance(attack, FGSM) or (not attack.black_box and attack.restarts == 1)
    if randomless or how == 'scores':
        assert torch.equal(result[2], x[2])


def test_scores_that_become_nan_are_no_success() -> None:
    x, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)

    def breaks(x: Tensor, index: Tensor) -> Tensor:
        scores = torch.stack((1 - x.sum(1), x.sum(1)), dim=1)
        return torch.where((x.abs().amax(1) > 0.1)[:, None], math.nan, scores)

    for attack in (PGD(eps=1.0), UniformNoise(eps=1.0)):
        assert torch.equal(attack(breaks, x, labels), x)
    # Its steps get short enough to come near the edge and stay within it.
    near = APGD(eps=1.0)(breaks, x, labels)
    assert (near > 0.05).all() and (near <= 0.1).all()


# ---- nothing is left behind, nothing is wasted


@by_attack(BOTH_NORMS)
def test_nothing_is_left_behind(attack: Attack) -> None:
    net, x = Conv3dNet().eval(), torch.rand(3, 3, 4, 6, 6, requires_grad=True)
    with torch.no_grad():
        labels = net(x).argmax(1)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    space = InputSpace(torch.ones(3, 1, 1, 1), torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
    kept = (net.fc.weight, x.detach().clone(), labels.clone(), space.scale.clone())
    before = snapshot(net)
    result = attack(of(net), x, labels, space)
    assert_same(before, snapshot(net))
    assert net.fc.weight is kept[0] and torch.equal(x, kept[1]) and torch.equal(labels, kept[2])
    assert torch.equal(space.scale, kept[3])
    assert x.grad is None and not result.requires_grad and not result.is_inference()
    assert result.data_ptr() != x.data_ptr()

    def fails(x: Tensor, index: Tensor) -> Tensor:
        if len(index) and (x != kept[1][index]).any():
            raise KeyError('later')
        return net(x)

    if not isinstance(attack, FGSM):
        with pytest.raises(KeyError):
            attack(fails, x, labels, space)
        assert_same(before, snapshot(net))
        assert torch.is_grad_enabled()


@by_attack(BOTH_NORMS)
@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(attack: Attack, context: Any) -> None:
    net, x, labels = smooth_net(), torch.rand(6, 3, 6, 6).double(), torch.arange(6) % 4
    expected = attack(of(net), x, labels, PIXELS)
    with context():
        own = [value.clone() for value in (x, labels, torch.zeros(6, dtype=torch.long))]
        space = InputSpace(torch.ones(1).double(), torch.zeros(1), torch.ones(1))
        result = attack(of(net), own[0], own[1], space, own[2])
    assert torch.equal(result, expected) and not result.is_inference()


def test_a_model_that_works_in_place_does_not_reach_the_result() -> None:
    model, x = Planes(), torch.rand(3, 3, 6, 6).double()
    labels = torch.zeros(3, dtype=torch.long)
    for attack in every(EPS)[:3] + [Square(eps=EPS, queries=9)]:
        expected = attack(of(model), x, labels, PIXELS)
        assert torch.equal(attack(of(lambda x: model(x.mul_(1))), x, labels, PIXELS), expected)
        assert (
            changes(attack(of(lambda x: model(x.mul_(5))), x, labels, PIXELS), x, 'linf').max()
            <= EPS
        )


class Meter:
    """Counts forwards and backwards, in calls and in samples."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls = {'forward': 0, 'backward': 0}
        self.samples = 0

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        assert x.shape[0] == len(index) > 0
        assert index.dtype == torch.long
        self.calls['forward'] += 1
        self.samples += len(index)
        x = x * 1
        if x.requires_grad:
            x.register_hook(self._backward)
        return self.model(x)

    def _backward(self, _: Tensor) -> None:
        self.calls['backward'] += 1


@pytest.mark.parametrize(
    ('attack', 'forward', 'backward'),
    [
        (UniformNoise(eps=EPS, restarts=5), 6, 0),
        (FGSM(eps=EPS), 1, 1),
        (PGD(eps=EPS, steps=4), 5, 4),
        (PGD(eps=EPS, steps=4, restarts=3), 15, 12),
        (APGD(eps=EPS, steps=7), 8, 7),
        (APGD(eps=EPS, steps=7, restarts=2), 16, 14),
        (Square(eps=EPS, queries=9), 10, 0),
    ],
    ids=name,
)
def test_cost_is_what_the_docstring_says(attack: Attack, forward: int, backward: int) -> None:
    meter, x = Meter(Planes()), torch.rand(4, 3, 6, 6).double()
    attack(meter, x, torch.zeros(4, dtype=torch.long))
    assert meter.calls == {'forward': forward, 'backward': backward}
    assert meter.samples == 4 * forward
    assert (backward == 0) == attack.black_box


@by_attack(BOTH_NORMS)
def test_a_batch_of_wrong_samples_costs_one_forward(attack: Attack) -> None:
    meter, x = Meter(Planes(3)), torch.rand(4, 3, 6, 6).double()
    result = attack(meter, x, torch.ones(4, dtype=torch.long))
    assert meter.calls == {'forward': 1, 'backward': 0}
    assert torch.equal(result, x)


@by_attack([attack for attack in every(0.5) if not isinstance(attack, FGSM)])
def test_an_attack_stops_at_what_is_fooled(trained: Any, attack: Attack) -> None:
    """At 0.5 nearly all is fooled at once."""
    net, x, labels = trained[0], trained[1][:20], trained[2][:20]
    meter = Meter(net)
    result = attack(meter, x, labels, PIXELS)
    fooled = net(result).argmax(1) != labels
    assert fooled.double().mean() > (0.5 if attack.black_box else 0.9)
    most = Meter(Planes(4))
    attack(most, x, torch.zeros(20, dtype=torch.long), PIXELS)
    assert meter.samples < (0.8 if attack.black_box else 0.5) * most.samples


# ---- Square


def test_square_halves_its_patches_as_the_paper_does() -> None:
    marks = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    for queries in (10_000, 1000):
        shares = [patch_share(query, queries, 0.8) for query in range(1, queries)]
        changed = [
            i + 2 for i, (a, b) in enumerate(zip(shares, shares[1:], strict=False)) if a != b
        ]
        assert changed == [mark * queries // 10_000 + 1 for mark in marks]
        assert shares[0] == 0.8 and shares[-1] == 0.8 / 512


@pytest.mark.parametrize('shape', [(2, 3, 8, 6), (2, 5, 3, 8, 6), (2, 2, 3, 5, 8, 6)])
def test_patches_are_squares_in_a_run_of_frames(shape: tuple[int, ...]) -> None:
    frames = Frames(torch.zeros(shape), None)
    count = math.prod(shape[1:]) // (3 * 8 * 6)
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(count, 8, 6)
    lengths, signs = set(), set()
    for _ in range(300):
        window, sign = frames.patch(0.2, generator)
        spans = [range(size)[span] for size, span in zip((count, 3, 8, 6), window, strict=True)]
        assert len(spans[1]) == 3 and len(spans[2]) == len(spans[3]) == 3  # sqrt(0.2 * 48) = 3.1
        lengths.add(len(spans[0]))
        assert sign.shape == (3, 1, 1) and (sign.abs() == 1).all()
        signs.add(tuple(sign.flatten().tolist()))
        seen[window[0], window[2], window[3]] += 1
    assert lengths == set(range(1, count + 1))
    assert len(signs) == 8
    assert (seen > 0).all(), 'some pixels are out of reach'
    whole, _ = frames.patch(1.0, generator)
    assert whole[3] == slice(0, 6) and whole[2].stop - whole[2].start == 6
    dot, _ = frames.patch(1e-9, generator)
    assert dot[3].stop - dot[3].start == 1


def test_stripes_are_columns() -> None:
    stripes = Frames(torch.zeros(2, 5, 3, 8, 6), None).stripes(torch.Generator().manual_seed(0))
    assert stripes.shape == (5, 3, 8, 6) and (stripes.abs() == 1).all()
    assert (stripes == stripes[:1, :, :1]).all()
    assert (stripes[0, :, 0] != stripes[0, 0, 0]).any()
    assert stripes[0, :, 0].unique().numel() == 2


def test_square_does_not_mind_the_layout() -> None:
    model = Planes(shape=(4, 3, 6, 6))
    x = torch.rand(2, 4, 3, 6, 6).double()
    labels = torch.zeros(2, dtype=torch.long)
    square = Square(eps=EPS, queries=40)
    expected = square(of(model), x, labels)
    layouts: list[tuple[Tensor, Callable[[Tensor], Tensor], Any]] = [
        (
            x.transpose(1, 2),
            lambda x: x.transpose(1, 2),
            Square(eps=EPS, queries=40, channel_dim=1),
        ),
        (x.transpose(1, 2)[:, None], lambda x: x[:, 0].transpose(1, 2), square),
        (
            x.unflatten(1, (2, 2)).movedim(3, 2),
            lambda x: x.movedim(2, 3).flatten(1, 2),
            square,
        ),
    ]
    for layout, back, attack in layouts:
        result = attack(of(lambda x, back=back: model(back(x))), layout, labels)
        assert result.shape == layout.shape
        torch.testing.assert_close(back(result), expected, rtol=0, atol=1e-12)


def test_square_changes_pixels_to_the_edge_of_the_ball() -> None:
    model, x = Planes(shape=(2, 3, 6, 6)), torch.rand(2, 2, 3, 6, 6).double()
    result = Square(eps=EPS, queries=20)(of(model), x, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close((result - x).abs(), torch.full_like(x, EPS), rtol=0, atol=1e-12)


def test_square_never_asks_for_a_gradient() -> None:
    model = Planes()
    x, labels = torch.rand(2, 3, 6, 6).double(), torch.zeros(2, dtype=torch.long)

    def no_gradients(points: Tensor, index: Tensor) -> Tensor:
        assert not points.requires_grad and not torch.is_grad_enabled()
        return model(points).detach().round(decimals=6)

    for attack in (Square(eps=EPS, queries=9), UniformNoise(eps=EPS)):
        assert attack.black_box
        assert (attack(no_gradients, x, labels) != x).any()
    assert not FGSM.black_box and not PGD.black_box and not APGD.black_box


# ---- configs and bad input


def test_attacks_are_built_from_configs() -> None:
    assert build_attack(dict(type='PGD', eps=0.1, steps=3)) == PGD(eps=0.1, steps=3)
    assert build_attack('uniform_noise', eps=0.1) == UniformNoise(eps=0.1)
    attack = FGSM(eps=0.2)
    assert build_attack(attack) is attack
    assert list(ATTACKS) == ['UniformNoise', 'FGSM', 'PGD', 'APGD', 'Square']
    for attack in BOTH_NORMS:
        assert build_attack(dict(vars(attack), type=type(attack).__name__)) == attack
    with pytest.raises(AttributeError):
        attack.eps = 3


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='PDG', eps=0.1), "attack='PDG' is unknown; write 'PGD'"),
        (dict(eps=0.1), "attack='' is unknown; write 'UniformNoise', 'FGSM', 'PGD'"),
        (dict(type='PGD', eps=0.1, step=3), 'PGD has no option step=; write steps'),
        (dict(type='PGD'), 'PGD needs the options eps'),
        (dict(type='FGSM', eps=-0.1), r'eps=-0.1 must be finite .* 8/255'),
        (dict(type='FGSM', eps=math.inf), 'eps=inf must be finite'),
        (dict(type='FGSM', eps=math.nan), 'eps=nan must be finite'),
        (dict(type='FGSM', eps=0.1, norm='l1'), "norm='l1' is unknown; write norm='linf' or"),
        (dict(type='PGD', eps=0.1, steps=0), 'steps=0 must be an integer, at least 1'),
        (dict(type='PGD', eps=0.1, steps=2.5), 'steps=2.5 must be an integer'),
        (dict(type='PGD', eps=0.1, step_size=-1), 'step_size=-1 must be finite'),
        (dict(type='PGD', eps=0.1, loss='kl'), "loss='kl' is unknown; write loss='ce' or"),
        (dict(type='APGD', eps=0.1, restarts=0), 'restarts=0 must be'),
        (dict(type='UniformNoise', eps=0.1, restarts=0), 'restarts=0 must be'),
        (dict(type='Square', eps=0.1, queries=0), 'queries=0 must be'),
        (dict(type='Square', eps=0.1, p_init=1.5), r'p_init=1.5 must lie in \(0, 1\]'),
        (dict(type='Square', eps=0.1, norm='l2'), "write norm='linf', or take"),
    ],
)
def test_bad_options_are_told(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_attack(config)


def test_a_ready_attack_takes_no_options() -> None:
    with pytest.raises(ValueError, match=r'steps=3 beside a ready attack; write PGD\(\.\.\.\)'):
        build_attack(PGD(eps=0.1), steps=3)


@pytest.mark.parametrize(
    ('x', 'labels', 'options', 'message'),
    [
        (torch.zeros(2, 5, dtype=torch.half), torch.zeros(2).long(), {}, 'float32 or float64'),
        (torch.zeros(5), torch.zeros(5).long(), {}, r'shape \(B, ...\).* got \(5,\)'),
        (torch.zeros(0, 5), torch.zeros(0).long(), {}, 'B at least 1'),
        (torch.zeros(2, 5), torch.zeros(2), {}, r'integers of shape \(2,\).* torch.float32'),
        (torch.zeros(2, 5), torch.zeros(2, 3).long(), {}, r'got \(2, 3\).*labels.argmax\(1\)'),
        (torch.zeros(2, 5), torch.tensor([0, 3]), {}, r'labels=\[0, 3\] must lie in 0..2'),
        (torch.zeros(2, 5), torch.tensor([-1, 0]), {}, r'labels=\[-1, 0\] must lie in 0..2'),
        (torch.zeros(2, 5), torch.zeros(2).long(), dict(seed=0.5), 'seed=0.5 must be an integer'),
        (
            torch.zeros(2, 5),
            torch.zeros(2).long(),
            dict(seed=torch.arange(3)),
            'a tensor of 2 integers: one for each sample',
        ),
    ],
)
def test_bad_inputs_are_told(x: Tensor, labels: Tensor, options: Any, message: str) -> None:
    model = nn.Linear(5, 3)
    with pytest.raises(ValueError, match=message):
        FGSM(eps=0.1)(of(model), x, labels, **options)


@pytest.mark.parametrize(
    ('logits_fn', 'message'),
    [
        (lambda x: x.sum(1), r'scores of shape \(2, classes\) for the 2 samples .* \(2,\)'),
        (lambda x: x[:1], r'scores of shape \(2, classes\) .* \(1, 5\)'),
        (lambda x: x[:, :1], r'margin needs at least 2 classes, got scores \(2, 1\)'),
        (lambda x: x.detach(), 'without torch.no_grad'),
    ],
)
def test_bad_logits_are_told(logits_fn: Any, message: str) -> None:
    x, labels = torch.eye(5)[:2], torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        FGSM(eps=0.1)(of(logits_fn), x, labels)


def test_frozen_parameters_are_no_obstacle() -> None:
    model, x = nn.Linear(5, 3).requires_grad_(False), torch.randn(2, 5)
    assert (FGSM(eps=0.1)(of(model), x, model(x).argmax(1)) != x).all()


def test_a_detached_input_is_not_taken_for_robustness() -> None:
    model, x = nn.Linear(5, 3), torch.randn(2, 5)
    with pytest.raises(ValueError, match='do not depend on its input'):
        PGD(eps=0.1)(of(lambda x: model(x.detach())), x, model(x).argmax(1))


def test_dlr_needs_three_classes() -> None:
    model = Planes(2)
    x, labels = torch.rand(2, 3, 6, 6).double(), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="loss='dlr' needs at least 3 .* has 2; write loss='ce'"):
        APGD(eps=0.1, loss='dlr')(of(model), x, labels)


@pytest.mark.parametrize(
    ('shape', 'channel_dim'),
    [((2, 5), None), ((2, 3, 4), None), ((2, 3, 4, 4), 2), ((2, 3, 4, 4), 0)],
)
def test_square_needs_frames(shape: tuple[int, ...], channel_dim: int | None) -> None:
    x, labels = torch.zeros(shape), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r'Square takes images or clips .* write channel_dim=1'):
        Square(eps=0.1, channel_dim=channel_dim)(of(lambda x: x.flatten(1)), x, labels)
