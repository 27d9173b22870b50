"""Attacks against optima in closed form, and against each other on a trained net."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_cases import (
    BOTH_NORMS,
    EPS,
    GRADIENT,
    PIXELS,
    SQUARE_L2,
    Planes,
    by_attack,
    changes,
    gain,
    name,
    of,
    smooth_net,
)
from torch import Tensor, nn

from adv_plugins.core.threat import InputSpace
from adv_plugins.evaluation.attacks import (
    APGD,
    ATTACKS,
    FGSM,
    PGD,
    Attack,
    Square,
    UniformNoise,
    build_attack,
    margins,
)


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
    [
        (kind, norm)
        for kind in ATTACKS
        for norm in ('linf', 'l2')
        if (kind, norm) != SQUARE_L2 and kind != 'Universal'
    ],
)
def test_accuracy_falls_with_eps(trained: Any, kind: str, norm: str) -> None:
    options = {
        'UniformNoise': {},
        'FGSM': {},
        'Square': {'queries': 100},
        'StandardEnsemble': {'steps': 8, 'queries': 20},
    }.get(kind, {'steps': 8})
    sizes = [0.0, 0.02, 0.05, 0.1, 0.3] if norm == 'linf' else [0.0, 0.2, 0.5, 1.0, 3.0]
    accuracies = [
        accuracy(build_attack(kind, eps=eps, norm=norm, **options), trained, 40) for eps in sizes
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == 1 and accuracies[-1] < (0.95 if kind == 'UniformNoise' else 0.1)


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
