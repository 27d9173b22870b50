"""The cost of a step is what is counted, and a budget is kept."""

import itertools

import pytest
import torch
from helpers import Conv3dNet, ConvCounter
from hypothesis import given
from hypothesis import strategies as st

from adv_plugins import AART, ART, TAF, AdvProp, CEAugmentation, Recipe, make_adversarial
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
    assert step_cost(AdvProp()) == pytest.approx(2 + 10 / 3)


@pytest.mark.parametrize(
    ('recipe', 'interval', 'fraction'),
    [
        # Five steps leave 3.75 units: one for the attack, three times 11/12 for the rest.
        (TAF(budget=1.25), 5, 0.91),
        (CEAugmentation(budget=1.25), 1, 0.25),
        (CEAugmentation(budget=1.5), 1, 0.5),
        (TAF(budget=3.0), 1, 1.0),
        # 0.3/2, ... 0.9/6 cost the same.
        (AdvProp(steps=1, budget=1.25), 1, 0.15),
    ],
)
def test_what_a_budget_buys(recipe, interval, fraction):
    found = within_budget(recipe)
    assert (found.budget, found.interval, found.fraction) == (None, interval, fraction)


recipes = st.builds(
    Recipe,
    objective=st.sampled_from(['TrainingLoss', 'TemporalCAM']),
    eps=st.just(0.1),
    steps=st.integers(1, 5),
    random_start=st.booleans(),
    attack_path=st.sampled_from(['clean', 'adversarial']),
    budget=st.floats(1.01, 8),
)


@given(recipes, st.floats(0.05, 1))
def test_a_budget_is_kept_and_used(recipe, share):
    """No other interval and fraction within it attack more samples."""

    def cost(interval, fraction):
        return 1 + share * (step_cost(recipe, fraction) - 1) / interval

    found = within_budget(recipe, share)
    assert cost(found.interval, found.fraction) <= recipe.budget + 1e-6
    bought = found.fraction / found.interval
    for interval, percent in itertools.product(range(1, 25), range(5, 101, 5)):
        if cost(interval, percent / 100) <= recipe.budget - 1e-6:
            assert percent / 100 / interval <= bought + 1e-9
    assert within_budget(found) is found


def test_make_adversarial_keeps_to_it():
    model = make_adversarial(Conv3dNet(), 'ceaugmentation', budget=1.25)
    recipe = get_adversary(model).recipe
    assert (recipe.interval, recipe.fraction, recipe.budget) == (1, 0.25, None)


@pytest.mark.parametrize('budget', [1, 0.5, float('inf')])
def test_a_budget_must_be_more_than_a_clean_run(budget):
    with pytest.raises(ValueError, match='budget=1.25'):
        TAF(budget=budget)


def test_a_budget_chooses_by_itself():
    with pytest.raises(ValueError, match='leave out interval=2'):
        TAF(budget=1.25, interval=2)
