"""The patches of Square, and the layouts of clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attack_cases import EPS, Planes, of
from torch import Tensor

from adv_plugins.evaluation.attacks import (
    APGD,
    FGSM,
    PGD,
    Square,
    UniformNoise,
)
from adv_plugins.evaluation.attacks.square import Frames, patch_share


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


@pytest.mark.parametrize(
    ('shape', 'channel_dim'),
    [((2, 5), None), ((2, 3, 4), None), ((2, 3, 4, 4), 2), ((2, 3, 4, 4), 0)],
)
def test_square_needs_frames(shape: tuple[int, ...], channel_dim: int | None) -> None:
    x, labels = torch.zeros(shape), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r'Square takes images or clips .* write channel_dim=1'):
        Square(eps=0.1, channel_dim=channel_dim)(of(lambda x: x.flatten(1)), x, labels)
