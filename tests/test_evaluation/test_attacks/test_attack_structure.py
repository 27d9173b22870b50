"""The targeted attacks and the ensemble stay in the ball and in the structure, in every norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_cases import PIXELS, Planes, gain, of

from adv_plugins.core.threat import InputSpace
from adv_plugins.evaluation.attacks import (
    UNIT,
    APGDTargeted,
    Attack,
    DeepFoolTargeted,
    StandardEnsemble,
)

ATTACKS: list[tuple[type[Attack], dict[str, Any]]] = [
    (APGDTargeted, dict(steps=4, targets=2)),
    (DeepFoolTargeted, dict(steps=4, targets=2)),
    (StandardEnsemble, dict(steps=2, targets=1, queries=5)),
]
BALLS = {'linf': 0.05, 'l2': 0.5, 'l1': 3.0, 'l21': 1.0}
TOP, LEFT, HEIGHT, WIDTH = 1, 2, 3, 2
BOX = dict(region=(TOP, LEFT, HEIGHT, WIDTH))


@pytest.mark.parametrize('norm', BALLS)
@pytest.mark.parametrize(
    'structure',
    [{}, dict(shared='h w'), dict(frames=2), BOX, dict(shared='h w', frames=2, **BOX)],
    ids=lambda structure: ' '.join(structure) or 'none',
)
@pytest.mark.parametrize('space', [UNIT, PIXELS], ids=['unbounded', 'pixels'])
def test_ball_and_structure_hold(structure: dict[str, Any], norm: str, space: InputSpace) -> None:
    model, x = Planes(3, (4, 3, 5, 5)), torch.rand(3, 4, 3, 5, 5).double()
    labels = torch.zeros(3, dtype=torch.long)
    for kind, options in ATTACKS:
        attack = kind(eps=BALLS[norm], norm=norm, **structure, **options)
        result = attack(of(model), x, labels, space, torch.arange(3))
        delta = result - x
        sizes = {
            'linf': delta.flatten(1).abs().amax(1),
            'l2': delta.flatten(1).norm(dim=1),
            'l1': delta.flatten(1).abs().sum(1),
            'l21': delta.flatten(2).norm(dim=2).sum(1),
        }
        assert (sizes[norm] <= BALLS[norm] * (1 + 1e-9)).all(), attack
        assert (gain(model, result, x) > 0).all(), attack
        inside = torch.zeros(5, 5, dtype=torch.bool)
        inside[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] = True
        inside |= 'region' not in structure
        assert (delta[..., ~inside] == 0).all(), attack
        if 'frames' in structure:
            assert ((delta != 0).flatten(2).any(2).sum(1) <= 2).all(), attack
        if 'shared' in structure and space is UNIT:
            # Among valid pixels it is so before they are clipped.
            moved = delta[..., inside]
            torch.testing.assert_close(moved, moved[..., :1].expand_as(moved), rtol=0, atol=1e-9)
        if space is PIXELS:
            assert result.min() >= 0 and result.max() <= 1
