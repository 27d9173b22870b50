"""ε over time and ε for each sample: what is used, logged, scaled, and resumed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from adv_plugins import adversarial_state_dict, load_adversarial_state_dict, make_adversarial
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.recipe import build_recipe
from adv_plugins.recipes import CosineEps, LinearEps, UniformEps

RAMP = dict(type='LinearEps', start=0, end=0.4, iterations=4)
EACH = dict(type='UniformEps', low=0.1, high=0.3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 6, generator=generator), torch.tensor([0, 1, 2, 0])


def used(model: nn.Module, count: int) -> list[float]:
    """The ε of so many iterations, as logged, and as large as the perturbations are."""
    logged = []
    for _ in range(count):
        x, labels = batch()
        losses, moved = [], model.perturb(x, labels)
        losses = model.adversarial_loss(x, labels)
        size = (moved - x).abs().amax(dim=1)
        torch.testing.assert_close(size.mean(), losses['adv_eps'], rtol=1e-4, atol=1e-6)
        logged.append(float(losses['adv_eps']))
        losses['loss'].backward()
    return logged


def test_ramps() -> None:
    model = make_adversarial(net(), 'ceaugmentation', eps=RAMP, step_size=None, clamp=False)
    assert used(model, 6) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    half = CosineEps(start=0.4, end=0.2, iterations=4)
    shares = [half.at(i, None, 0, 1) for i in range(6)]
    waves = [0.4 - 0.1 * (1 - math.cos(math.pi * min(i, 4) / 4)) for i in range(6)]
    assert shares == pytest.approx(waves)


def test_a_ramp_counts_from_begin_in_its_unit() -> None:
    ramp = LinearEps(start=0.1, end=0.3, epochs=2)
    assert [ramp.at(99, epoch, 3, 1) for epoch in (3, 4, 5, 9)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.3]
    )
    model = make_adversarial(net(), 'ceaugmentation', eps={**RAMP, 'start': 0.2}, begin=2)
    with pytest.warns(UserWarning, match='units of the input'):
        steps = [model.adversarial_loss(*batch()) for _ in range(4)]
    assert ['adv_eps' in step for step in steps] == [False, False, True, True]
    assert float(steps[2]['adv_eps']) == pytest.approx(0.2)


def test_an_epoch_is_one_under_a_trainer_that_counts_them() -> None:
    model = make_adversarial(net(), 'ceaugmentation', eps=LinearEps(start=0, end=0.4, epochs=4))
    for epoch, eps in ((0, 0.0), (1, 0.1), (3, 0.3), (7, 0.4)):
        get_adversary(model).schedule.go_to(iteration=50 * epoch, epoch=epoch)
        assert float(model.adversarial_loss(*batch())['adv_eps']) == pytest.approx(eps)


@pytest.mark.parametrize('eps', [RAMP, EACH], ids=['ramp', 'each'])
def test_what_is_deployed_is_attacked_at_the_largest(eps: dict[str, object]) -> None:
    """Or else a ramp would find a model that was just loaded robust: its first ε is 0."""
    model = make_adversarial(net(), 'ceaugmentation', eps=eps, step_size=None, clamp=False).eval()
    x, labels = batch()
    largest = get_adversary(model).recipe.largest_eps
    sizes = (model.perturb(x, labels) - x).abs().amax(dim=1)
    torch.testing.assert_close(sizes, torch.full((4,), largest))


def test_step_sizes_scale_along() -> None:
    recipe = build_recipe('advprop', eps=RAMP, step_size=0.1, steps=3)
    assert recipe.solver_at(0.2).step_size == pytest.approx(0.05)
    assert recipe.solver_at(recipe.largest_eps).step_size == 0.1
    default = build_recipe('advprop', eps=RAMP, step_size=None, steps=5)
    assert default.solver_at(0.2).step_size == pytest.approx(0.1)
    assert build_recipe('fasttraining', eps=EACH).step_size == pytest.approx(1.25 * 0.3)
    each = build_recipe('advprop', eps=EACH, step_size=0.06)
    sizes = each.solver_at(torch.tensor([0.1, 0.3])).step_size
    torch.testing.assert_close(sizes, torch.tensor([0.02, 0.06]))


@pytest.mark.parametrize('norm', ['linf', 'l2', 'l1'])
@pytest.mark.parametrize('options', [{}, dict(steps=3, random_start=True)], ids=['K=1', 'K=3'])
def test_every_sample_has_its_own_radius(norm: str, options: dict[str, object]) -> None:
    model = make_adversarial(
        net(), 'ceaugmentation', eps=EACH, step_size=None, norm=norm, clamp=False, **options
    )
    x, labels = batch()
    sizes = []
    for _ in range(5):
        delta = model.perturb(x, labels) - x
        losses = model.adversarial_loss(x, labels)
        order = {'linf': math.inf, 'l2': 2, 'l1': 1}[norm]
        size = torch.linalg.vector_norm(delta, order, dim=1)
        sizes.append(size)
        assert (size <= 0.3 * (1 + 1e-5)).all()
        if not options:
            assert (size >= 0.1 * (1 - 1e-5)).all()
            torch.testing.assert_close(size.mean(), losses['adv_eps'], rtol=1e-4, atol=1e-6)
    assert torch.stack(sizes).std() > 0.02


def test_draws_are_private_and_repeated_on_resume() -> None:
    def train(model: nn.Module, count: int) -> list[float]:
        logged = []
        for _ in range(count):
            losses = model.adversarial_loss(*batch())
            logged.append(float(losses['adv_eps']))
        return logged

    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = make_adversarial(net(), 'advprop', eps=EACH)
    torch.set_rng_state(before)
    first = train(model, 2)
    assert torch.equal(torch.get_rng_state(), before)
    state, weights = adversarial_state_dict(model), copy.deepcopy(model.state_dict())
    rest = train(model, 3)
    again = make_adversarial(net(), 'advprop', eps=EACH)
    again.load_state_dict(weights)
    load_adversarial_state_dict(again, state)
    assert train(again, 3) == rest
    assert len({*first, *rest}) == 5


@pytest.mark.parametrize(
    ('eps', 'message'),
    [
        (
            dict(type='LinearEps', start=0.1, end=-0.1, epochs=3),
            'end=-0.1 must be finite and not neg',
        ),
        (dict(type='LinearEps', start=-1, end=0.1, epochs=3), 'start=-1 must be finite'),
        (dict(type='CosineEps', start=0, end=0.1), 'epochs=None and iterations=None; write one'),
        (dict(type='LinearEps', start=0, end=0.1, epochs=1, iterations=2), 'write one'),
        (
            dict(type='LinearEps', start=0, end=0.1, epochs=0),
            'epochs=0 must be an integer, at least 1',
        ),
        (
            dict(type='LinearEps', start=0, end=0.1, steps=5),
            'LinearEps has no option steps=; write',
        ),
        (dict(type='UniformEps', low=0.2, high=0.1), 'low=0.2 must not be larger than high=0.1'),
        (dict(type='UniformEps'), 'UniformEps needs the options high'),
        (dict(type='Linear', start=0, end=1), "eps='Linear' is unknown; write 'LinearEps'"),
    ],
)
def test_bad_radii_are_told_at_once(eps: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_recipe('advprop', eps=eps)


def test_a_unit_that_the_run_does_not_count_in_is_told_before_the_first_update() -> None:
    model = make_adversarial(net(), 'advprop', eps=dict(type='LinearEps', start=0, end=1, epochs=3))
    with pytest.raises(
        ValueError, match='counts epochs, but this run counts iterations; write iter'
    ):
        model.adversarial_loss(*batch())
    model = make_adversarial(net(), 'advprop', eps=RAMP, begin=1)
    get_adversary(model).schedule.go_to(iteration=10, epoch=1)
    with pytest.raises(ValueError, match='counts iterations, but begin=1 epochs; write epochs=10'):
        model.adversarial_loss(*batch())


def test_text_repr_and_equality() -> None:
    ramp = LinearEps(start='2/255', end='8/255', epochs='10')
    assert repr(ramp) == 'LinearEps(start=2/255, end=8/255, epochs=10)'
    assert build_recipe('advprop', eps=ramp) == build_recipe(
        'advprop', eps=dict(type='linear_eps', start=2 / 255, end=8 / 255, epochs=10)
    )
    assert UniformEps(high=0.1) == UniformEps(low=0, high=0.1)
