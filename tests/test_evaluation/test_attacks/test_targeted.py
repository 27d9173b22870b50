"""Attacks towards one class after the other, against closed forms on linear models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_cases import EPS, PIXELS, Planes, changes, gain, of, smooth_net
from test_apgd import literal_apgd
from torch import Tensor

from adv_plugins.evaluation.attacks import APGD, APGDTargeted, DeepFoolTargeted, margins
from adv_plugins.evaluation.attacks.targeted import targeted_margin, targeted_ratio

DUALS = pytest.mark.parametrize(('norm', 'dual'), [('linf', 1), ('l2', 2)])


def test_targeted_ratio_is_that_of_the_paper() -> None:
    logits = torch.tensor([[9.0, 7.0, 4.0, 2.0, 1.0], [1.0, 7.0, 4.0, 2.0, 9.0]])
    labels, targets = torch.tensor([0, 0]), torch.tensor([2, 3])
    # Numerators 4 - 9 and 2 - 1; below, the first less the mean of third and fourth.
    expected = torch.tensor([-5 / (9 - 3), 1 / (9 - 3)])
    torch.testing.assert_close(targeted_ratio(logits, labels, targets), expected)
    torch.testing.assert_close(targeted_ratio(7 * logits - 3, labels, targets), expected)
    assert targeted_margin(logits, labels, targets).tolist() == [-5, 1]
    # Three classes have no fourth.
    few = torch.tensor([0, 2])
    assert torch.equal(
        targeted_ratio(logits[:, :3], labels, few), targeted_margin(logits[:, :3], labels, few)
    )


class Fan(Planes):
    """Class 0 leads by 100, and the others lead each other in the order of their numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.lead = 10.0 * torch.arange(classes - 1, -1, -1).double()
        self.lead[0] = self.lead[1] + 100

    def optima(self, x: Tensor, eps: float, dual: int) -> Tensor:
        """The smallest margin over each other class in the ball, shape (B, classes - 1)."""
        scores = self(x)
        slopes = torch.linalg.vector_norm((self.weight[1:] - self.weight[0]).flatten(1), dual, 1)
        return scores[:, :1] - scores[:, 1:] - eps * slopes


@pytest.mark.parametrize(('kind', 'classes'), [(APGDTargeted, 3), (DeepFoolTargeted, 6)])
@DUALS
def test_the_best_of_the_targets_is_reached(kind: Any, classes: int, norm: str, dual: int) -> None:
    """Towards the margin; the targeted ratio, of 4 classes or more, has its maximum elsewhere."""
    model, x = Fan(classes), 0.01 * torch.randn(5, 3, 6, 6).double()
    labels = torch.zeros(5, dtype=torch.long)
    eps = {'linf': 0.1, 'l2': 2.0}[norm]
    optima = model.optima(x, eps, dual)
    assert (optima > 0).all(), 'none may be fooled'
    for targets in (1, 3, 9):
        result = kind(eps=eps, norm=norm, steps=20, targets=targets)(of(model), x, labels)
        # The margin is over all classes, and thus at most the one over the targets.
        margin = margins(model(result), labels)
        assert (margin <= optima[:, :targets].amin(1) + 1e-9).all()
    torch.testing.assert_close(margin, optima.amin(1))


def test_deepfool_fills_a_ball_of_l1_among_valid_pixels() -> None:
    """Twenty pixels at their bounds take a whole step of that length."""
    model, x = Planes(2), torch.rand(3, 3, 6, 6).double().round()
    labels, slope = torch.zeros(3, dtype=torch.long), model.slope.flatten()
    # Each pixel may go to its other bound alone.
    gains = (slope * (1 - 2 * x.flatten(1))).clamp(min=0).sort(dim=1, descending=True).values
    attack = DeepFoolTargeted(eps=20.0, norm='l1', steps=3)
    result = attack(of(model), x, labels, PIXELS)
    torch.testing.assert_close(gain(model, result, x), gains[:, :20].sum(1))
    still = DeepFoolTargeted(eps=0.0, norm='l1', steps=3)(of(model), x, labels, PIXELS)
    assert torch.equal(still, x)


@pytest.mark.parametrize('loss', ['ce', 'dlr'])
def test_a_run_is_the_papers_on_the_targeted_loss(loss: str) -> None:
    net, x = smooth_net(), torch.rand(6, 3, 6, 6).double()
    labels = net(8 * x).argmax(1)
    target = net(8 * x).topk(2, dim=1).indices[:, 1]

    def value(points: Tensor, rows: Tensor) -> Tensor:
        logits = net(8 * points)
        if loss == 'ce':
            # What is raised is the log-odds, of which the cross-entropy is a falling function.
            return logits.log_softmax(1).gather(1, target[rows, None]).squeeze(1)
        return targeted_ratio(logits, labels[rows], target[rows])

    visited: list[list[Tensor]] = [[] for _ in range(6)]

    def logits_fn(points: Tensor, rows: Tensor) -> Tensor:
        for point, row in zip(points.detach(), rows.tolist(), strict=True):
            visited[row].append(point)
        return net(8 * points)

    attack = APGDTargeted(eps=0.02, steps=20, targets=1, loss=loss)
    attack.search(logits_fn, x, labels, PIXELS, stop=False)
    for row, points in enumerate(visited):
        own = torch.tensor([row])
        expected, _ = literal_apgd(lambda p, own=own: value(p, own).sum(), x[own], 0.02, 20, 'linf')
        reached = torch.stack([value(point[None], own)[0] for point in points])
        torch.testing.assert_close(reached.max(), value(expected, own)[0])
        assert len(points) == 22


def test_targets_are_the_most_likely_wrong_classes_of_each_sample() -> None:
    """Only the scores of target and true class lead anywhere, so it shows where an attack goes."""
    x, labels = torch.zeros(2, 3).double(), torch.tensor([0, 2])
    clean = torch.tensor([[50.0, 3, 9], [3.0, 9, 50]]).double()
    for attack in (APGDTargeted, DeepFoolTargeted):
        moved = []

        def logits_fn(points: Tensor, index: Tensor, moved: list = moved) -> Tensor:
            moved.append((points != 0).detach())
            return clean[index] + points

        attack(eps=0.1, steps=1, targets=2)(logits_fn, x, labels)
        # A forward to choose; of each run one at the clean input and one after its step.
        ends = moved[2::2]
        assert [end[0].nonzero().flatten().tolist() for end in ends] == [[0, 2], [0, 1]]
        assert [end[1].nonzero().flatten().tolist() for end in ends] == [[1, 2], [0, 2]]


@DUALS
def test_deepfool_stops_right_behind_the_boundary(norm: str, dual: int) -> None:
    model, x = Planes(), torch.randn(4, 3, 6, 6).double()
    labels, model.lead = torch.zeros(4, dtype=torch.long), torch.zeros(2).double()
    labels = model(x).argmax(1)
    distance = margins(model(x), labels) / torch.linalg.vector_norm(model.slope, dual)
    result = DeepFoolTargeted(eps=10.0, norm=norm, overshoot=0.25)(of(model), x, labels)
    assert (margins(model(result), labels) < 0).all()
    torch.testing.assert_close(changes(result, x, norm), 1.25 * distance)


def test_few_classes() -> None:
    """Two have one wrong class, three no targeted ratio."""
    for classes in (2, 3):
        model, x = Planes(classes), torch.randn(3, 3, 6, 6).double()
        labels = torch.zeros(3, dtype=torch.long)
        best = max(
            float((model.weight[other] - model.weight[0]).abs().sum())
            for other in range(1, classes)
        )
        result = APGDTargeted(eps=EPS, steps=20)(of(model), x, labels)
        untargeted = APGD(eps=EPS, steps=20)(of(model), x, labels)
        reached = margins(model(result), labels)
        assert (reached <= margins(model(untargeted), labels) + 1e-9).all()
        assert (reached >= model(x)[:, 0] - model(x)[:, 1:].amax(1) - EPS * best - 1e-9).all()
