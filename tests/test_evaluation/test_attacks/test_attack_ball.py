"""Points in the ball and in the range of pixels, also for noise and for broken samples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from attack_cases import (
    BOTH_NORMS,
    EPS,
    PIXELS,
    by_attack,
    smooth_net,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adv_plugins.core.threat import InputSpace
from adv_plugins.evaluation.attacks import (
    APGD,
    ATTACKS,
    PGD,
    UNIT,
    Attack,
    StandardEnsemble,
    UniformNoise,
    build_attack,
)


@settings(max_examples=60, deadline=None)
@given(
    # A universal perturbation has its file, and tests of its own.
    attack=st.sampled_from([name for name in ATTACKS if name != 'Universal']),
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
    if attack in ('Square', 'StandardEnsemble'):
        norm, shape = 'linf', [*shape, 3, 2, 2][: max(len(shape), 4)]
    options = {
        'PGD': dict(restarts=2),
        'APGD': dict(steps=6, restarts=2),
        'APGDTargeted': dict(steps=4),
        'DeepFoolTargeted': dict(steps=4),
        'StandardEnsemble': dict(steps=3, queries=9),
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
    for norm, (space, entries) in itertools.product(
        ('l2', 'l1'), ((UNIT, 3), (InputSpace(valid=valid), 2))
    ):
        ball = noise(norm, space)
        # The share of the volume within each point is even between 0 and 1.
        size = torch.linalg.vector_norm(ball, int(norm[1]), dim=1)
        volume = (size / 2).pow(entries)
        assert volume.max() <= 1 + 1e-5
        deciles = torch.histc(volume, 10, 0, 1) / 4000
        assert (deciles - 0.1).abs().max() < 0.02
        assert ball.mean(0).abs().max() < 0.1


def test_random_points_are_those_of_earlier_versions() -> None:
    """Evaluations are repeated to the last bit."""
    x, seeds = torch.zeros(2, 3, 4), torch.tensor([5, 7])
    seen: list[Tensor] = []

    def logits_fn(points: Tensor, index: Tensor) -> Tensor:
        seen.append(points.clone())
        return torch.tensor([[1.0, 0.0]]).expand(len(points), 2)

    for norm in ('linf', 'l2'):
        seen.clear()
        attack = UniformNoise(eps=0.5, norm=norm, restarts=1)
        attack(logits_fn, x, torch.zeros(2, dtype=torch.long), seed=seeds)
        for point, seed in zip(seen[1], seeds.tolist(), strict=True):
            generator = torch.Generator().manual_seed(seed)
            if norm == 'linf':
                wanted = 0.5 * (2 * torch.rand(3, 4, generator=generator) - 1)
            else:
                normal = torch.randn(3, 4, generator=generator)
                radius = torch.rand((), generator=generator).pow(1 / 12)
                wanted = normal / normal.norm() * 0.5 * radius
            torch.testing.assert_close(point, wanted)


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
    random = attack.black_box or isinstance(attack, StandardEnsemble)
    randomless = not random and getattr(attack, 'restarts', 1) == 1
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
