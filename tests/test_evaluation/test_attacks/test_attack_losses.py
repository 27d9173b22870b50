"""The losses against loops and against PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from attack_cases import Planes, of

from adv_plugins.evaluation.attacks import (
    APGD,
    margins,
)
from adv_plugins.evaluation.attacks.losses import LOSSES


def test_dlr_equals_a_loop() -> None:
    logits, labels = torch.randn(50, 7).double(), torch.randint(7, (50,))
    expected = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(z, reverse=True)
        other = max(value for c, value in enumerate(z) if c != y)
        expected.append(-(z[y] - other) / (ranked[0] - ranked[2]))
    ratios = LOSSES['dlr'](logits, labels)
    torch.testing.assert_close(ratios, torch.tensor(expected).double())
    torch.testing.assert_close(LOSSES['dlr'](5 * logits + 3, labels), ratios)
    assert (ratios > 0).any() and (ratios < 0).any()


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
    distances = margins(logits, torch.tensor([0, 1, 1, 2, 0, 0]))
    torch.testing.assert_close(
        distances, torch.tensor([1.0, -2, 0, nan, -inf, -inf]), equal_nan=True
    )
    assert (distances < 0).tolist() == [False, True, False, False, True, True]


def test_dlr_needs_three_classes() -> None:
    model = Planes(2)
    x, labels = torch.rand(2, 3, 6, 6).double(), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="DLR needs at least 3 .* has 2; write loss='ce'"):
        APGD(eps=0.1, loss='dlr')(of(model), x, labels)
