"""The cost of a step is what is counted, and a budget is kept."""

import itertools

import pytest
import torch
from helpers import Conv3dNet, ConvCounter
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins import (
    AART,
    ART,
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    PGDTraining,
    Recipe,
    make_adversarial,
)
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.cost import step_cost, within_budget

RECIPES = {
    'TAF': TAF(eps=0.1, step_size=0.1),
    'TAF, K=3': TAF(eps=0.1, step_size=0.1, steps=3),
    'TAF, random start': TAF(eps=0.1, step_size=0.1, random_start=True),
    'CE': CEAugmentation(eps=0.1, step_size=0.1),
    'CE, K=2': CEAugmentation(eps=0.1, step_size=0.1, steps=2),
    'AdvProp': AdvProp(),
    'AdvProp, K=1': AdvProp(steps=1),
    'part': CEAugmentation(eps=0.1, step_size=0.1, steps=3, fraction=0.5),
    'small': AdvProp(attack_scale=0.5),
    'small TAF': TAF(eps=0.1, step_size=0.1, steps=2, attack_scale=0.5),
    'part of TAF': TAF(eps=0.1, step_size=0.1, steps=2, fraction=0.5),
    'only adversarial TAF': TAF(eps=0.1, step_size=0.1, steps=2, alpha=0),
    'only adversarial AdvProp': AdvProp(clean_weight=0, fraction=0.5),
    'only clean': CEAugmentation(eps=0.1, step_size=0.1, alpha=1),
    'PGDTraining': PGDTraining(steps=2),
    'part of PGDTraining': PGDTraining(steps=2, fraction=0.5),
    'small PGDTraining': PGDTraining(steps=2, attack_scale=0.5),
    'FastTraining': FastTraining(),
    'TRADES': TRADES(steps=2),
    'MART': MART(steps=2),
    'part of MART': MART(steps=2, fraction=0.5),
    'TAF, weights too': TAF(eps=0.1, step_size=0.1, steps=2, weight_eps=0.01),
    'PGDTraining, weights too': PGDTraining(steps=2, weight_eps=0.01),
    'part of TRADES, weights too': TRADES(steps=2, fraction=0.5, weight_eps=0.01),
}


@pytest.mark.parametrize('name', RECIPES)
def test_the_cost_is_what_is_counted(name):
    """In the second convolution: forwards, gradients of inputs and of parameters, by their size."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    model = make_adversarial(Conv3dNet().train(), recipe)
    x, y = torch.rand(4, 3, 4, 8, 8), torch.tensor([0, 1, 2, 3])
    model.adversarial_loss(x, y)['loss'].backward()
    with _Units() as counter:
        model.adversarial_loss(x, y)['loss'].backward()
    assert counter.units / x[:, 0].numel() == pytest.approx(3 * step_cost(recipe))


class _Units(ConvCounter):
    """Forwards and gradients of one convolution, times the pixels that they are of."""

    def __init__(self):
        super().__init__((8, 8, 3, 3, 3))
        self.units = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = (self.forwards, self.input_only, self.full)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        after = (self.forwards, self.input_only, self.full)
        steps = [b - a for a, b in zip(before, after, strict=True)]
        if any(steps):
            self.units += args[0][:, 0].numel() * (steps[0] + steps[1] + 2 * steps[2])
        return result


def test_the_papers_figures():
    assert step_cost(TAF()) == pytest.approx(7 / 3)
    assert step_cost(CEAugmentation()) == 2
    assert step_cost(ART()) == 2
    # A regularizer keeps the clean graph, whose backward then is not the attack's.
    assert step_cost(AART()) == pytest.approx(7 / 3)
    assert step_cost(AART(recompute=True)) == pytest.approx(8 / 3)
    assert step_cost(AdvProp()) == pytest.approx(2 + 10 / 3)


@pytest.mark.parametrize(
    ('recipe', 'batch_size', 'interval', 'samples'),
    [
        # Three steps leave 2.25 units: one for the attack, 1.25/3 of 64 samples for the rest.
        (TAF(budget=1.25), 64, 3, 26),
        (CEAugmentation(budget=1.25), 64, 1, 16),
        (CEAugmentation(budget=1.5), 64, 1, 32),
        (TAF(budget=3.0), 64, 1, 64),
        # 0.15 of 64 are 9.6 samples.
        (AdvProp(steps=1, budget=1.25), 64, 1, 9),
        # Two samples are the least, and a quarter of three or of seven is none.
        (CEAugmentation(budget=1.25), 7, 2, 3),
        (CEAugmentation(budget=1.25), 3, 3, 2),
        (CEAugmentation(budget=1.25), 8, 1, 2),
        (CEAugmentation(budget=1.25), 1, 4, 1),
    ],
)
def test_what_a_budget_buys(recipe, batch_size, interval, samples):
    found = within_budget(recipe, batch_size)
    assert (found.budget, found.interval) == (None, interval)
    assert found.fraction * batch_size == pytest.approx(samples)


recipes = st.builds(
    Recipe,
    objective=st.sampled_from(['TrainingLoss', 'TemporalCAM']),
    eps=st.just(0.1),
    steps=st.integers(1, 5),
    random_start=st.booleans(),
    attack_path=st.sampled_from(['clean', 'adversarial']),
    attack_scale=st.sampled_from([0.5, 1.0]),
    budget=st.floats(1.01, 8),
)


@settings(deadline=None)
@given(recipes, st.integers(1, 40), st.floats(0.05, 1))
def test_a_budget_is_kept_and_used(recipe, size, share):
    """No other interval and number of samples within it have a larger product of both rates."""

    def cost(interval, samples):
        return 1 + share * (step_cost(recipe, samples / size) - 1) / interval

    found = within_budget(recipe, size, share)
    # What a step makes of the fraction.
    samples = max(min(2, size), round(size * found.fraction))
    assert cost(found.interval, samples) <= recipe.budget + 1e-6
    for interval, other in itertools.product(range(1, 25), range(min(2, size), size + 1)):
        if cost(interval, other) <= recipe.budget - 1e-6:
            assert other / interval**2 <= samples / found.interval**2 + 1e-6
    assert within_budget(found, size) is found


@pytest.mark.parametrize(
    ('size', 'walks', 'attacked'),
    [(8, [1, 2, 3, 4], 2), (4, [1, 1, 2, 2], 2), (3, [1, 1, 1, 2], 2)],
)
def test_the_first_batch_settles_it(size, walks, attacked):
    model = make_adversarial(Conv3dNet().train(), 'ceaugmentation', budget=1.25)
    x, y = torch.rand(size, 3, 4, 8, 8), torch.arange(size) % 6
    shapes = []
    for wanted in walks:
        handle = model.stem.register_forward_hook(lambda m, args, out: shapes.append(len(out)))
        model.adversarial_loss(x, y)
        handle.remove()
        assert get_adversary(model).schedule.adversarial_steps == wanted
    assert shapes[:2] == [size, attacked]
    assert get_adversary(model).recipe.budget is None


def test_a_budget_that_pays_for_nothing_is_told():
    with pytest.raises(ValueError, match=r'write at least 1\.000083, such as budget=1\.25'):
        within_budget(CEAugmentation(budget=1.00001), 24)


@pytest.mark.parametrize('budget', [1, 0.5, float('inf')])
def test_a_budget_must_be_more_than_a_clean_run(budget):
    with pytest.raises(ValueError, match='budget=1.25'):
        TAF(budget=budget)


def test_a_budget_chooses_by_itself():
    with pytest.raises(ValueError, match='leave out interval=2'):
        TAF(budget=1.25, interval=2)
