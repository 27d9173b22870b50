"""DeepFool against distances to planes and a version that takes one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adv_plugins.evaluation.deepfool import (
    DeepFoolResult,
    deepfool,
    robustness,
    robustness_summary,
)

PUSH = 1e-4  # what the paper's own code adds to each step


def one_by_one(
    logits_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    num_candidates: int = 10,
    overshoot: float = 0.02,
    max_iter: int = 50,
    own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """DeepFool for one sample after another and one class after another.

    ``own`` are the labels (B, C) that the prediction has to leave; without it, the top one.
    """
    perturbations, iterations = [], []
    for i in range(len(x)):
        start = x[i : i + 1]
        logits = logits_fn(start)[0]
        ranking = logits.argsort(descending=True).tolist()
        keep = {ranking[0]} if own is None else set(own[i].nonzero().flatten().tolist())
        targets = [c for c in ranking if c not in keep][: num_candidates - 1]
        total, count = torch.zeros_like(start), 0
        while count < max_iter:
            point = (start + (1 + overshoot) * total).detach().requires_grad_()
            logits = logits_fn(point)[0]
            top = int(logits.argmax())
            if top not in keep:
                break
            best, step = math.inf, None
            for c in targets:
                (w,) = torch.autograd.grad(logits[c] - logits[top], point, retain_graph=True)
                distance = (abs(logits[c] - logits[top]) / w.norm()).item()
                if distance < best:
                    best, step = distance, (distance + PUSH) * w / w.norm()
            total = total + step
            count += 1
        perturbations.append((1 + overshoot) * total[0])
        iterations.append(count)
    return torch.stack(perturbations), torch.tensor(iterations)


def mlp(inputs: int = 12, classes: int = 15, width: int = 32) -> nn.Module:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes)
    )
    with torch.no_grad():
        model[1].weight.mul_(4)
        model[3].weight.mul_(4)
    return model.eval()


def norms(perturbation: Tensor) -> Tensor:
    return perturbation.flatten(1).norm(dim=1)


# ---- closed forms


@pytest.mark.parametrize('overshoot', [0.0, 0.02, 0.5])
def test_two_classes_are_a_plane_apart(overshoot: float) -> None:
    model = nn.Linear(7, 2).double()
    x = torch.randn(20, 7).double()
    result = deepfool(model, x, overshoot=overshoot)
    normal = model.weight[1] - model.weight[0]
    distance = (x @ normal + model.bias[1] - model.bias[0]) / normal.norm()
    torch.testing.assert_close(
        norms(result.perturbation), (distance.abs() + PUSH) * (1 + overshoot)
    )
    expected = -(distance.sign() * (distance.abs() + PUSH) * (1 + overshoot))[:, None]
    torch.testing.assert_close(result.perturbation, expected * normal / normal.norm())
    assert result.success.all()
    assert (result.iterations == 1).all()
    assert (model(x).argmax(1) != model(x + result.perturbation).argmax(1)).all()


def test_many_classes_have_a_nearest_plane() -> None:
    model = nn.Linear(6, 8).double()
    x = torch.randn(30, 6).double()
    result = deepfool(model, x)
    logits = model(x)
    for i, top in enumerate(logits.argmax(1).tolist()):
        others = [c for c in range(8) if c != top]
        distances = [
            (logits[i, top] - logits[i, c]) / (model.weight[top] - model.weight[c]).norm()
            for c in others
        ]
        torch.testing.assert_close(norms(result.perturbation)[i], 1.02 * (min(distances) + PUSH))
    assert result.success.all() and (result.iterations == 1).all()


def test_any_flip_goes_to_the_nearest_zero() -> None:
    model = nn.Linear(6, 8).double()
    x = torch.randn(30, 6).double()
    result = deepfool(model, x, criterion='any_flip')
    logits = model(x)
    nearest = (logits.abs() / model.weight.norm(dim=1)).amin(1)
    torch.testing.assert_close(norms(result.perturbation), 1.02 * (nearest + PUSH))
    assert ((model(x + result.perturbation) > 0) != (logits > 0)).any(1).all()
    # Both directions occur: a label lost and a label won.
    flipped = ((model(x + result.perturbation) > 0) != (logits > 0)) & (logits > 0)
    assert 0 < flipped.any(1).sum() < 30


def test_any_flip_looks_at_the_logits_nearest_to_zero() -> None:
    # The second logit is nearer to 0, the first one steeper: its plane is nearer.
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[10.0, 0.0], [0.0, 0.1]]).double()
    x = torch.tensor([[0.2, 3.0]]).double()
    for count, distance in ((1, 3.0), (2, 0.2)):
        result = deepfool(model, x, num_candidates=count, criterion='any_flip', overshoot=0)
        assert norms(result.perturbation).item() == pytest.approx(distance + PUSH)


def test_hit1_leaves_all_labels() -> None:
    model = nn.Linear(5, 4).double()
    x = torch.randn(40, 5).double()
    top = model(x).topk(2, dim=1).indices
    labels = torch.zeros(40, 4).scatter_(1, top, 1.0)
    result = deepfool(model, x, criterion='hit1', labels=labels)
    after = model(x + result.perturbation).argmax(1, keepdim=True)
    assert result.success.all()
    assert (labels.gather(1, after) == 0).all()
    # Never nearer than the first class outside the labels.
    logits = model(x)
    for i in range(40):
        own, others = labels[i].nonzero().flatten(), (labels[i] == 0).nonzero().flatten()
        distances = (logits[i, own, None] - logits[i, others]) / (
            model.weight[own, None] - model.weight[others]
        ).norm(dim=2)
        least = distances.amax(0).min()
        assert norms(result.perturbation)[i] >= least
    assert (norms(result.perturbation) > norms(deepfool(model, x).perturbation) - 1e-9).all()


# ---- the slow version


@pytest.mark.parametrize('num_candidates', [2, 10, 100])
@pytest.mark.parametrize('overshoot', [0.02, 0.2])
def test_top1_change_equals_one_by_one(num_candidates: int, overshoot: float) -> None:
    model, x = mlp(), torch.randn(16, 3, 4)
    result = deepfool(model, x, num_candidates, overshoot)
    expected, iterations = one_by_one(model, x, num_candidates, overshoot)
    torch.testing.assert_close(result.perturbation, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(result.iterations, iterations)
    assert iterations.unique().numel() > 1, 'all samples took the same number of steps'
    assert result.success.all()


def test_hit1_equals_one_by_one() -> None:
    model, x = mlp(), torch.randn(16, 3, 4)
    labels = torch.zeros(16, 15).scatter_(1, model(x).topk(3, dim=1).indices, 1)
    result = deepfool(model, x, criterion='hit1', labels=labels)
    expected, iterations = one_by_one(model, x, own=labels)
    torch.testing.assert_close(result.perturbation, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(result.iterations, iterations)
    assert result.success.all() and iterations.max() > 2


def test_prediction_changes_exactly_with_the_perturbation() -> None:
    model, x = mlp(), torch.randn(16, 3, 4)
    result = deepfool(model, x)
    assert (model(x + result.perturbation).argmax(1) != model(x).argmax(1)).all()


# ---- samples do not know of each other


def test_finished_samples_are_frozen() -> None:
    model, x = mlp(), torch.randn(16, 3, 4)
    whole = deepfool(model, x)
    assert whole.iterations.min() < whole.iterations.max()
    for count in range(1, int(whole.iterations.max())):
        early = deepfool(model, x, max_iter=count)
        done = whole.iterations <= count
        assert torch.equal(early.success, done)
        assert torch.equal(early.perturbation[done], whole.perturbation[done])
        assert torch.equal(early.iterations, whole.iterations.clamp_max(count))


def test_batch_composition_does_not_matter() -> None:
    model, x = mlp().double(), torch.randn(12, 3, 4).double()
    whole = deepfool(model, x)
    for rows in ([0], [5, 2], [11, 3, 7, 0, 1]):
        part = deepfool(model, x[rows])
        torch.testing.assert_close(part.perturbation, whole.perturbation[rows])
        assert torch.equal(part.iterations, whole.iterations[rows])


class Fragile(nn.Module):
    """An MLP whose logits are NaN or whose gradients are 0 where a first entry is above 100."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.model, self.how = mlp(), how

    def forward(self, x: Tensor) -> Tensor:
        logits, bad = self.model(x), x[:, 0, 0] > 100
        if self.how == 'logits':
            return torch.where(bad[:, None], float('nan'), logits)
        return torch.where(bad[:, None], logits.detach(), logits)


@pytest.mark.parametrize('how', ['logits', 'flat'])
def test_a_broken_sample_stops_alone(how: str) -> None:
    x = torch.randn(6, 3, 4)
    model = Fragile(how)
    expected = deepfool(model, x)
    x[2, 0, 0] = 1000
    result = deepfool(model, x)
    others = torch.arange(6) != 2
    torch.testing.assert_close(result.perturbation[others], expected.perturbation[others])
    assert result.success[others].all()
    assert not result.success[2]
    assert result.iterations[2] == 0
    assert (result.perturbation[2] == 0).all()


@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_a_gradient_that_is_not_finite_is_not_taken(value: str) -> None:
    """The nearest boundary of the second sample has no finite gradient: take the next one."""
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double()

    def logits_fn(x: Tensor) -> Tensor:
        near = x[:, 1] - 0.1
        bad = torch.tensor([0.0, float(value)]).double()
        near.register_hook(lambda gradient: torch.where(gradient == 0, gradient, gradient + bad))
        return torch.stack((x[:, 0], near, -x[:, 0]), dim=1)

    result = deepfool(logits_fn, x, overshoot=0)
    expected = [0.1 / math.sqrt(2) + PUSH, 1 + PUSH]
    assert norms(result.perturbation).tolist() == pytest.approx(expected)
    assert result.success.all()


def test_logits_that_are_nan_are_no_success() -> None:
    x = torch.randn(2, 3)
    nan = float('nan')
    labels = torch.tensor([[0, 1], [0, 1]])
    # From the start, where argmax names class 0.
    result = deepfool(lambda x: x[:, :2] * nan, x, criterion='hit1', labels=labels)
    assert not result.success.any()
    # After a step.
    model = nn.Linear(3, 2)
    start = model(x)

    def breaks(x: Tensor) -> Tensor:
        logits = model(x)
        moved = (logits - start).detach().abs().amax(1, keepdim=True) > 1e-6
        return torch.where(moved, nan, logits)

    result = deepfool(breaks, x)
    assert not result.success.any()
    assert (result.iterations == 1).all()


# ---- masks and modalities


class Pooling(nn.Module):
    """Logits from the mean of all frames, also those that are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = mlp(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.tanh().mean(dim=1))


def test_nothing_outside_the_mask_is_perturbed() -> None:
    model, x = Pooling(), torch.randn(5, 6, 8)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 5, 2])[:, None]
    result = deepfool(model, x, valid=mask)
    assert (result.perturbation[~mask] == 0).all()
    assert (result.perturbation[mask] != 0).all()
    assert result.success.all()
    # As if the padding were no input.
    for i in range(5):
        length = int(mask[i].sum())
        alone = deepfool(
            lambda part, i=i: model(torch.cat((part, x[i : i + 1, part.shape[1] :]), dim=1)),
            x[i : i + 1, :length],
        )
        torch.testing.assert_close(
            alone.perturbation[0], result.perturbation[i, :length], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize('shape', [(5, 6), (5, 6, 1), (5, 6, 8), (1, 6, 1)])
def test_masks_broadcast(shape: tuple[int, ...]) -> None:
    model, x = Pooling(), torch.randn(5, 6, 8)
    mask = torch.ones(5, 6, 8, dtype=torch.bool)
    mask[:, 4:] = False
    given = mask[: shape[0], :, : shape[2]] if len(shape) == 3 else mask[:, :, 0]
    result = deepfool(model, x, valid=given)
    assert torch.equal(result.perturbation, deepfool(model, x, valid=mask).perturbation)
    assert (result.perturbation[:, 4:] == 0).all()


def test_a_sample_without_valid_entries_is_stuck() -> None:
    model, x = Pooling(), torch.randn(2, 6, 8)
    mask = torch.tensor([[True] * 6, [False] * 6])
    result = deepfool(model, x, valid=mask)
    assert result.success.tolist() == [True, False]
    assert (result.perturbation[1] == 0).all()


@pytest.mark.parametrize('criterion', ['top1_change', 'any_flip'])
def test_a_dict_equals_the_concatenated_tensor(criterion: str) -> None:
    model, x = mlp(12), torch.randn(9, 2, 6)
    mask = torch.rand(9, 2, 6) > 0.3
    whole = deepfool(model, x, criterion=criterion, valid=mask)
    rgb, audio = x.split((4, 2), dim=2)
    parts = deepfool(
        lambda parts: model(torch.cat((parts['rgb'], parts['audio']), dim=2)),
        {'rgb': rgb, 'audio': audio},
        criterion=criterion,
        valid={'rgb': mask[..., :4], 'audio': mask[..., 4:]},
    )
    assert list(parts.perturbation) == ['rgb', 'audio']
    joined = torch.cat(tuple(parts.perturbation.values()), dim=2)
    torch.testing.assert_close(joined, whole.perturbation, atol=1e-5, rtol=1e-4)
    assert torch.equal(parts.iterations, whole.iterations)
    torch.testing.assert_close(
        robustness(parts, {'rgb': rgb, 'audio': audio}), robustness(whole, x)
    )


def test_a_modality_that_the_model_ignores_stays_as_it_is() -> None:
    model = mlp(8)
    x = {'rgb': torch.randn(4, 8), 'audio': torch.randn(4, 3)}
    result = deepfool(lambda parts: model(parts['rgb']), x)
    assert result.success.all()
    assert (result.perturbation['audio'] == 0).all()


# ---- failures and what was wrong already


def test_failures_are_told_from_successes() -> None:
    # tanh saturates: the linearisation falls short step after step.
    model, x = mlp(), torch.randn(16, 3, 4)
    result = deepfool(model, x, max_iter=1, overshoot=0)
    assert 0 < result.success.sum() < 16
    assert (result.iterations == 1).all()
    changed = model(x + result.perturbation).argmax(1) != model(x).argmax(1)
    assert torch.equal(changed, result.success)


def test_samples_wrong_already_need_nothing() -> None:
    model, x = mlp(), torch.randn(8, 3, 4)
    top = model(x).argmax(1)
    labels = torch.zeros(8, 15).scatter_(1, top[:, None], 1)
    labels[3] = labels[3].roll(1)
    labels[5] = 0
    result = deepfool(model, x, criterion='hit1', labels=labels)
    wrong = torch.tensor([i in (3, 5) for i in range(8)])
    assert torch.equal(result.iterations == 0, wrong)
    assert torch.equal(norms(result.perturbation) == 0, wrong)
    assert result.success.all()


def test_all_labels_leave_no_class_to_go_to() -> None:
    model, x = mlp(), torch.randn(2, 3, 4)
    labels = torch.stack((torch.ones(15), torch.eye(15)[int(model(x)[1].argmax())]))
    result = deepfool(model, x, criterion='hit1', labels=labels)
    assert result.success.tolist() == [False, True]
    assert result.iterations[0] == 0


# ---- nothing is left behind, nothing is wasted


def test_model_and_input_are_left_as_they_were() -> None:
    model, x = mlp(), torch.randn(4, 3, 4, requires_grad=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = x.detach().clone()
    result = deepfool(model, x)
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert x.grad is None and torch.equal(x, before)
    assert not result.perturbation.requires_grad and not result.perturbation.is_inference()


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context: Any) -> None:
    model, x = mlp(), torch.randn(4, 3, 4)
    expected = deepfool(model, x)
    with context():
        result = deepfool(model, x.clone(), valid=torch.ones(4, 3))
    assert torch.equal(result.perturbation, expected.perturbation)


def test_one_forward_a_step_and_one_backward_a_candidate() -> None:
    model, x = mlp(), torch.randn(6, 3, 4)
    calls = {'forward': 0, 'backward': 0}
    model[3].register_forward_hook(lambda *_: calls.update(forward=calls['forward'] + 1))

    def logits_fn(x: Tensor) -> Tensor:
        hidden = x * 1
        hidden.register_hook(lambda _: calls.update(backward=calls['backward'] + 1))
        return model(hidden)

    steps = int(deepfool(logits_fn, x, num_candidates=4).iterations.max())
    assert steps > 1
    assert calls == {'forward': steps + 1, 'backward': steps * 3}


def test_what_is_stuck_is_not_tried_again() -> None:
    model, calls = mlp(), []

    def flat(x: Tensor) -> Tensor:
        calls.append(x)
        return model(x).detach() + 0 * x.sum()

    result = deepfool(flat, torch.randn(3, 3, 4))
    assert not result.success.any()
    assert len(calls) == 2


# ---- rho


def test_robustness_is_a_joint_relative_norm() -> None:
    perturbation = {'a': torch.tensor([[3.0, 0.0], [0.0, 0.0]]), 'b': torch.tensor([[4.0], [0.0]])}
    x = {'a': torch.tensor([[6.0, 9.0], [1.0, 1.0]]), 'b': torch.tensor([[8.0], [1.0]])}
    valid = {'a': torch.tensor([[1, 0], [1, 1]]), 'b': torch.ones(2)}
    result = DeepFoolResult(perturbation, torch.ones(2), torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(robustness(result, x, valid), torch.tensor([0.5, 0.0]))
    assert robustness(result, x)[0] < 0.5


def test_robustness_of_an_input_of_norm_zero_is_undefined() -> None:
    """Unless nothing had to be done: the second was wrong already, the third was never fooled."""
    perturbation = torch.tensor([[1.0], [0.0], [0.0]])
    result = DeepFoolResult(perturbation, torch.ones(3), torch.tensor([True, True, False]))
    rho = robustness(result, torch.zeros(3, 1)).tolist()
    assert [math.isnan(value) for value in rho] == [True, False, True] and rho[1] == 0


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_robustness_of_an_input_that_is_not_finite_is_undefined(value: float) -> None:
    x = {'a': torch.tensor([[value], [2.0]]), 'b': torch.ones(2, 1)}
    result = DeepFoolResult({'a': torch.ones(2, 1), 'b': torch.zeros(2, 1)}, *torch.ones(2, 2) > 0)
    rho = robustness(result, x)
    assert rho[0].isnan() and rho[1] == pytest.approx(1 / math.sqrt(5))


def test_robustness_where_all_is_padding_is_undefined() -> None:
    result = DeepFoolResult(torch.ones(2, 3), torch.ones(2), torch.tensor([False, True]))
    valid = torch.tensor([[False] * 3, [True] * 3])
    rho = robustness(result, torch.ones(2, 3), valid)
    assert rho[0].isnan() and rho[1] == 1


def test_undefined_rho_is_counted_and_in_no_mean() -> None:
    rho = torch.tensor([0.1, math.nan, 0.3, math.inf, 5.0, math.nan])
    success = torch.tensor([True, True, True, True, False, False])
    summary = robustness_summary(rho, success, torch.ones(6), 1)
    assert summary['rho_mean'] == pytest.approx(0.2)
    assert summary['rho_median'] == pytest.approx(0.2)
    assert summary['rho_failed_mean'] == pytest.approx(5.0)
    assert summary['num_undefined'] == 3 and summary['success_rate'] == pytest.approx(4 / 6)
    nothing = robustness_summary(rho[[1, 5]], success[[1, 5]], torch.ones(2), 1)
    assert math.isnan(nothing['rho_mean']) and math.isnan(nothing['rho_median'])
    assert nothing['num_undefined'] == 2


def test_summary_tells_failures_apart() -> None:
    summary = robustness_summary(
        rho=torch.tensor([0.0, 0.1, 0.2, 0.6, 5.0, 7.0]),
        success=torch.tensor([True, True, True, True, False, False]),
        iterations=torch.tensor([0, 1, 2, 5, 5, 3]),
        max_iter=5,
    )
    assert summary == pytest.approx(
        {
            'rho_mean': 0.225,
            'rho_median': 0.15,
            'rho_failed_mean': 6.0,
            'success_rate': 4 / 6,
            'already_wrong': 1 / 6,
            'at_max_iter': 1 / 6,
            'stuck': 1 / 6,
            'iterations_mean': 16 / 6,
            'num_undefined': 0,
        }
    )


def test_summary_without_success_is_not_zero() -> None:
    one = torch.ones(3)
    summary = robustness_summary(one, one < 0, 50 * one)
    assert math.isnan(summary['rho_mean']) and math.isnan(summary['rho_median'])
    assert summary['at_max_iter'] == 1
    assert math.isnan(robustness_summary(one, one > 0, one)['rho_failed_mean'])


# ---- bad input


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(criterion='top5'), "one of .*'any_flip'.* got 'top5'"),
        (dict(num_candidates=1), "at least 2 for 'top1_change', got 1"),
        (dict(num_candidates=0, criterion='any_flip'), "at least 1 for 'any_flip', got 0"),
        (dict(max_iter=0), 'max_iter must be at least 1, got 0'),
        (dict(overshoot=-0.1), 'overshoot must not be negative, got -0.1'),
        (dict(criterion='hit1'), r'needs labels .* \(2, 15\), got the shape None'),
        (dict(criterion='hit1', labels=torch.tensor([3, 4])), 'one-hot encode class indices'),
        (dict(criterion='hit1', labels=torch.full((2, 15), 0.5)), 'labels of 0 and 1'),
        (dict(valid=torch.ones(3, 3)), r"mask of 'x' .* \(2, 3, 4\) .* got \(3, 3\)"),
        (dict(valid={'rgb': torch.ones(2, 3)}), r"keys of x, \['x'\], got \['rgb'\]"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deepfool(mlp(), torch.randn(2, 3, 4), **options)


@pytest.mark.parametrize(
    ('x', 'message'),
    [
        (torch.zeros(2, 12, dtype=torch.uint8), 'float32 or float64, got torch.uint8'),
        (torch.zeros(2, 12, dtype=torch.float16), 'float32 or float64, got torch.float16'),
        (torch.zeros(12), r'shape \(batch, ...\).* \(12,\)'),
        ({'a': torch.zeros(2, 3), 'b': torch.zeros(3, 3)}, 'one batch size'),
        ({}, 'at least one tensor'),
    ],
)
def test_bad_inputs_are_told(x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deepfool(mlp(), x)


@pytest.mark.parametrize(
    ('logits_fn', 'message'),
    [
        (lambda x: x.sum(dim=(1, 2)), r'shape \(2, classes\), got \(2,\)'),
        (lambda x: x.sum(dim=(0, 1))[None], r'shape \(2, classes\), got \(1, 4\)'),
        (lambda x: x.sum(dim=1).detach(), 'without torch.no_grad'),
    ],
)
def test_bad_logits_are_told(logits_fn: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deepfool(logits_fn, torch.randn(2, 3, 4))
