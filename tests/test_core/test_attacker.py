"""The attack alone, as evaluation uses it: on plain models."""

import copy

import pytest
import torch
from helpers import Conv3dNet, assert_same, snapshot

from adv_plugins import TAF, AdvProp, make_adversarial
from adv_plugins.adapters import ClassifierAdapter
from adv_plugins.core.attacker import Attacker
from adv_plugins.core.conversion import get_adversary


@pytest.mark.parametrize('recipe', [TAF(random_start=True), TAF(steps=2), AdvProp()], ids=str)
def test_finds_on_a_plain_model_what_the_converted_one_finds(clips, recipe):
    net = Conv3dNet().eval()
    converted = make_adversarial(copy.deepcopy(net), recipe)
    before = snapshot(net)
    moved = Attacker(ClassifierAdapter(net), recipe).perturb(
        *clips, seed=get_adversary(converted).schedule.stream()
    )
    assert_same(before, snapshot(net))
    assert torch.equal(moved, converted.perturb(*clips)) and not torch.equal(moved, clips[0])


def test_draws_by_its_seed(clips):
    attacker = Attacker(ClassifierAdapter(Conv3dNet().eval()), AdvProp(random_start=True))
    first, again, other = (attacker.perturb(*clips, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_layer_that_does_not_exist_is_told_at_once():
    with pytest.raises(ValueError, match="cam_layer='layer5'.*cam_layer='layer4'"):
        Attacker(ClassifierAdapter(Conv3dNet()), TAF(cam_layer='layer5'))


def test_a_layer_like_no_other_is_not_taken_for_one():
    """Of a model of few modules too, and the model itself is no layer."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'backbone' is no .*; write a name of named_modules\(\)"):
        Attacker(ClassifierAdapter(net), TAF(cam_layer='backbone'))
