"""The clock of a converted model, and the stream that it seeds."""

import random

import numpy as np
import pytest
import torch
from helpers import Conv3dNet
from torch import distributed as dist

from adv_plugins import TAF, make_adversarial
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.randomness import private_random, random_state, set_random_state, stream_seed
from adv_plugins.core.schedule import Schedule


def test_counts_unless_it_is_told():
    schedule, recipe = Schedule(), TAF(begin=2, interval=2)
    active = []
    for _ in range(5):
        active.append(schedule.is_active(recipe))
        schedule.step_taken(adversarial=active[-1])
    assert active == [False, False, True, False, True]
    assert (schedule.iteration, schedule.adversarial_steps, schedule.started) == (5, 2, True)
    schedule.go_to(8, epoch=1)
    assert not schedule.is_active(recipe)
    schedule.go_to(epoch=2)
    assert schedule.iteration == 8 and schedule.is_active(recipe)


def test_steps_of_one_iteration_are_at_one_point():
    schedule = Schedule()
    streams = []
    with schedule.one_iteration():
        for _ in range(3):
            streams.append(schedule.stream())
            assert not schedule.rehearsed
            schedule.step_taken(adversarial=True)
    assert len(set(streams)) == 1 and schedule.stream() not in streams
    assert (schedule.iteration, schedule.adversarial_steps) == (1, 3) and schedule.rehearsed


def test_an_iteration_that_failed_is_none():
    schedule = Schedule()
    with pytest.raises(RuntimeError), schedule.one_iteration():
        raise RuntimeError
    schedule.step_taken(adversarial=False)
    assert schedule.iteration == 1


def test_state_comes_back():
    schedule, other = Schedule(), Schedule()
    schedule.reseed(7)
    schedule.go_to(3)
    schedule.step_taken(adversarial=True)
    other.load_state_dict(schedule.state_dict())
    assert (other.seed, other.iteration, other.started) == (7, 4, True)
    assert other.stream() == schedule.stream()


def test_streams_are_those_of_former_runs(monkeypatch):
    """A run that is resumed by a later version draws on as it did."""
    assert stream_seed(5, 0) == 0x9E3779B97F4A7C15 + 5 - 2**63
    assert len({stream_seed(seed, step) for seed in range(3) for step in range(3)}) == 9
    alone = stream_seed(5, 2)
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_rank', lambda: 1)
    assert stream_seed(5, 2) != alone


def test_private_stream_leaves_the_global_one_and_repeats():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with pytest.raises(KeyError), private_random(torch.device('cpu'), 5):
            drawn.append(torch.rand(3))
            raise KeyError
    assert torch.equal(*drawn) and torch.equal(torch.get_rng_state(), before)


def draw():
    """From all streams that a forward may draw from."""
    return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()


def test_all_private_streams_repeat_and_leave_the_global_ones():
    np.random.seed(1)
    random.seed(1)
    state = random_state(torch.device('cpu'))
    first, private = draw(), []
    set_random_state(state)
    for _ in range(2):
        with private_random(torch.device('cpu'), 5):
            private.append(draw())
    assert draw() == first and private[0] == private[1] != first


@pytest.mark.parametrize('epoch', [None, 0], ids=['by iteration', 'by epoch'])
@pytest.mark.parametrize(('begin', 'interval'), [(0, 1), (6, 3), (4, 3), (1, 5)])
def test_the_first_attack_is_where_the_schedule_has_it(begin, interval, epoch):
    recipe = TAF(begin=begin, interval=interval)
    adversary = get_adversary(make_adversarial(Conv3dNet(), recipe))
    schedule = adversary.schedule
    schedule.go_to(0, epoch)
    adversary.go_to_first_attack()
    assert schedule.is_active(recipe)
    if epoch is None:
        assert not any(recipe.is_active(i, i) for i in range(schedule.iteration))
    else:
        assert schedule.epoch == begin
