"""The ensemble: each part where those before it failed, and its time."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_cases import EPS, PIXELS, Planes, changes, of
from torch import Tensor, nn

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
    kept_name,
    margins,
    part_names,
)
from adv_plugins.evaluation.attacks.ensemble import out_of_time

OPTIONS: dict[str, Any] = dict(eps=0.03, steps=5, targets=2)


def test_the_parts_are_those_of_autoattack_in_its_order() -> None:
    parts = StandardEnsemble(eps=EPS, channel_dim=1).parts
    assert parts == [
        APGD(eps=EPS, steps=100, loss='ce'),
        APGDTargeted(eps=EPS, steps=100, targets=9, loss='dlr'),
        DeepFoolTargeted(eps=EPS, steps=100, targets=9),
        Square(eps=EPS, queries=5000, channel_dim=1),
    ]
    assert [part.black_box for part in parts] == [False, False, False, True]
    in_l2 = StandardEnsemble(eps=EPS, norm='l2').parts
    assert [type(part) for part in in_l2] == [APGD, APGDTargeted, DeepFoolTargeted]
    assert {part.norm for part in in_l2} == {'l2'}
    assert len(StandardEnsemble(eps=EPS, queries=0).parts) == 3


def masking(net: nn.Module, x: Tensor) -> Any:
    """A model whose gradient vanishes at the clean inputs of the odd rows, as if masked there."""

    def logits_fn(points: Tensor, index: Tensor) -> Tensor:
        near = ((points - x[index]).abs() < 1e-3).flatten(1).all(1) & (index % 2 == 1)
        return torch.where(near[:, None], net(x[index]) + 0 * points.sum(), net(points))

    return logits_fn


def test_each_part_gets_what_those_before_it_did_not_fool(trained: Any) -> None:
    net, x, labels = trained[0], trained[1][:60], trained[2][:60].clone()
    labels[7] = (labels[7] + 1) % 4
    logits_fn, seeds = masking(net, x), torch.arange(60)
    ensemble = StandardEnsemble(**OPTIONS, queries=80)
    found = ensemble.search(logits_fn, x, labels, PIXELS, seeds)
    first = torch.full((60,), math.nan)
    for number, part in reversed(list(enumerate(ensemble.parts, start=1))):
        alone = part(logits_fn, x, labels, PIXELS, seeds)
        first[net(alone).argmax(1) != labels] = number
    first[7] = math.nan
    # Random numbers go on from part to part, so Square's are others here than alone.
    known = first < 4
    assert torch.equal(found.columns['fooled_by'][known], first[known])
    by_square = found.columns['fooled_by'] == 4
    assert by_square.any() and not by_square[known].any()
    assert torch.equal(found.fooled, net(found.best).argmax(1) != labels)
    by_a_part = found.columns['fooled_by'].isfinite()
    assert (found.fooled ^ by_a_part).nonzero().flatten().tolist() == [7]
    assert {1, 4} < set(found.columns['fooled_by'].nan_to_num(0).int().tolist()), 'one is missing'
    assert found.columns['stopped_in'].isnan().all()
    assert (changes(found.best, x, 'linf') <= 0.03 + 1e-9).all()
    assert torch.equal(found.best[7], x[7])


def test_what_is_not_fooled_has_the_smallest_margin_of_all_parts() -> None:
    model, x = Planes(3), torch.rand(4, 3, 6, 6).double()
    labels = torch.zeros(4, dtype=torch.long)
    ensemble = StandardEnsemble(eps=EPS, steps=5, queries=9)
    together = margins(model(ensemble(of(model), x, labels)), labels)
    alone = [margins(model(part(of(model), x, labels)), labels) for part in ensemble.parts]
    # But for Square, which has other random numbers here, and is weaker.
    torch.testing.assert_close(together, torch.stack(alone).amin(0))


class Clock:
    """A clock that a forward moves on by a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr('time.monotonic', lambda: self.now)

    def timed(self, logits_fn: Any) -> Any:
        def wrapped(points: Tensor, index: Tensor) -> Tensor:
            self.now += 1
            return logits_fn(points, index)

        return wrapped


@pytest.mark.parametrize(
    ('seconds', 'part'), [(0.1, 1), (1.2, 1), (1.4, 2), (4, 2), (4.9, 3), (8.1, 4), (40, 0)]
)
def test_time_ends_where_it_ends_and_is_told(
    monkeypatch: pytest.MonkeyPatch, seconds: float, part: int
) -> None:
    """Four samples: 6 forwards of Auto-PGD, 13 each of the two targeted ones, 10 of Square."""
    model, x = Planes(3), torch.rand(4, 3, 6, 6).double()
    labels = torch.tensor([0, 0, 0, 1])
    ensemble = StandardEnsemble(**OPTIONS, queries=9, seconds=seconds)
    clock = Clock(monkeypatch)
    found = ensemble.search(clock.timed(of(model)), x, labels, PIXELS)
    assert found.columns['stopped_in'].nan_to_num(0).tolist() == [part, part, part, 0]
    assert clock.now - 100 == min(42, math.floor(4 * seconds) + 1)
    assert found.columns['fooled_by'].isnan().all()
    # What was found in time stays.
    moved = margins(model(found.best), labels) < margins(model(x), labels)
    assert moved.tolist() == [seconds > 0.5] * 3 + [False]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        result = ensemble(Clock(monkeypatch).timed(of(model)), x, labels, PIXELS)
    assert torch.equal(result, found.best)
    assert [str(each.message) for each in caught] == ([told(part)] if part else [])


def told(part: int) -> str:
    counts = [3 if part <= number else 0 for number in (1, 2, 3, 4)]
    names = ('APGD', 'APGDTargeted', 'DeepFoolTargeted', 'Square')
    text = ', '.join(f'{name} for {n}' for name, n in zip(names, counts, strict=True))
    return (
        f'out of time: of 4, left out or not run to the end were {text}; they count as not fooled, '
        'and more seconds= may fool them'
    )


def test_samples_that_were_not_attacked_are_not_late() -> None:
    names = part_names(dict(type='StandardEnsemble', eps=EPS, norm='l2', seed=3))
    assert out_of_time(names, [math.nan, math.nan]) == ''
    counts = 'of 3, left out or not run to the end were APGD for 0, APGDTargeted for 1, DeepFool'
    assert f'{counts}Targeted for 2; they' in out_of_time(names, [math.nan, 3, 2])


def test_inputs_without_frames_are_told_before_the_first_forward() -> None:
    def never(points: Tensor, index: Tensor) -> Tensor:
        raise AssertionError

    x, labels = torch.rand(2, 7), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match='Square takes images or clips'):
        StandardEnsemble(eps=EPS)(never, x, labels)
    model = nn.Linear(7, 5)
    features = StandardEnsemble(eps=EPS, steps=2, queries=0)
    assert (features(of(model), x, model(x).argmax(1)) != x).any()


@dataclass(frozen=True, kw_only=True)
class Short(StandardEnsemble):
    """An ensemble of the user's own."""

    @property
    def parts(self) -> list[Attack]:
        return [APGD(steps=self.steps, **self.ball), Square(queries=self.queries, **self.ball)]


def test_the_parts_of_a_subclass_are_its_own() -> None:
    assert part_names(dict(type=kept_name(Short), eps=EPS, steps=2)) == ['APGD', 'Square']
    assert part_names(dict(type='PGD', eps=EPS)) == part_names(dict(type='unknown.Kind')) == []


def test_each_part_chooses_its_own_frames() -> None:
    """The gradient leads to frame 0, whose score is a feint; frame 3 decides, without a slope."""
    x, labels = 0.3 + 0.4 * torch.rand(3, 4, 3, 6, 6), torch.zeros(3, dtype=torch.long)

    def logits_fn(points: Tensor, index: Tensor) -> Tensor:
        moved = (points[:, 3] - x[index][:, 3]).abs().mean((1, 2, 3)) > 0.02
        score = 0.001 * points[:, 0].mean((1, 2, 3)) + 10 * moved
        return torch.stack((torch.ones_like(score), score), dim=1)

    ensemble = StandardEnsemble(eps=0.05, steps=2, targets=1, queries=2, frames=1)
    runs = [
        ensemble.search(logits_fn, x, labels, PIXELS, torch.arange(3) + 3 * run)
        for run in range(10)
    ]
    by = torch.cat([run.columns['fooled_by'] for run in runs])
    assert (by == 4).sum() > 1 and (by[by.isfinite()] == 4).all()
    for run in runs:
        assert ((run.best - x).flatten(2).abs().amax(2) > 0).sum(1).amax() == 1


@pytest.mark.parametrize(
    'attack',
    [FGSM(eps=EPS), PGD(eps=EPS, steps=3, restarts=2), APGD(eps=EPS, steps=3),
     UniformNoise(eps=EPS, restarts=3), Square(eps=EPS, queries=9),
     DeepFoolTargeted(eps=EPS, steps=4), StandardEnsemble(eps=EPS, steps=3, queries=9)],
)  # fmt: skip
def test_without_a_stop_every_sample_is_attacked_to_the_end(attack: Any) -> None:
    """Two classes: the second one leads from the start, or after a short way."""
    model, x = Planes(), torch.rand(4, 3, 6, 6).double()
    labels = torch.zeros(4, dtype=torch.long)
    lead = torch.tensor([-1, -1, 0.05, 0.05]).double() - margins(model(x), labels)
    seen: list[int] = []

    def logits_fn(points: Tensor, index: Tensor) -> Tensor:
        seen.append(len(index))
        return model(points) + lead[index, None] * F.one_hot(labels[index], 2)

    stopped = attack.search(logits_fn, x, labels, PIXELS)
    assert min(seen) < 4 or isinstance(attack, FGSM)
    seen.clear()
    found = attack.search(logits_fn, x, labels, PIXELS, stop=False)
    assert set(seen) == {4} and not found.fooled.any()
    gain, before = (
        margins(logits_fn(x, torch.arange(4)), labels)
        - margins(logits_fn(each.best, torch.arange(4)), labels)
        for each in (found, stopped)
    )
    assert (gain >= before - 1e-9).all() and (gain[:2] > before[:2]).all()
    if not (attack.black_box or isinstance(attack, StandardEnsemble)):
        slope = model.slope
        room = torch.where(slope > 0, 1 - x, x).clamp(max=EPS)
        torch.testing.assert_close(gain, (room * slope.abs()).flatten(1).sum(1))
