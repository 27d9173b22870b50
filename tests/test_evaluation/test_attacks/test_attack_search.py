"""What every attack promises: what it keeps, samples that do not interact, its cost, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_cases import (
    BOTH_NORMS,
    EPS,
    PIXELS,
    Planes,
    by_attack,
    changes,
    every,
    name,
    of,
    smooth_net,
)
from helpers import Conv3dNet, assert_same, snapshot
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
    for stop in (True, False):
        result = kind(eps=0.1, steps=3).search(logits_fn, x, labels, stop=stop).best
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
        # Of two classes there is one to go to.
        (APGDTargeted(eps=EPS, steps=7, targets=1), 9, 7),
        (APGDTargeted(eps=EPS, steps=7, targets=9), 9, 7),
        (DeepFoolTargeted(eps=EPS, steps=7, targets=1), 9, 7),
        (StandardEnsemble(eps=EPS, steps=7, targets=1, queries=9), 8 + 9 + 9 + 10, 3 * 7),
        (StandardEnsemble(eps=EPS, norm='l2', steps=7, targets=1), 8 + 9 + 9, 3 * 7),
    ],
    ids=name,
)
def test_cost_is_what_the_docstring_says(attack: Attack, forward: int, backward: int) -> None:
    meter, x = Meter(Planes()), torch.rand(4, 3, 6, 6).double()
    attack(meter, x, torch.zeros(4, dtype=torch.long))
    assert meter.calls == {'forward': forward, 'backward': backward}
    assert meter.samples == 4 * forward
    assert attack.cost == forward + 2 * backward or attack.targets > 1
    assert (backward == 0) == bool(attack.black_box)


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
