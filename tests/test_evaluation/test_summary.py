"""The first numbers of a report, each with its interval."""

from __future__ import annotations

import math

import pytest
from handmade_results import EIGHT, cell, one_model

from adv_plugins.evaluation.intervals import wilson_interval
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.summary import strongest_attack, summarize


def test_numbers_with_intervals() -> None:
    results = one_model()
    found = summarize(results)
    assert found.clean == wilson_interval(3, 4) and found.num_clean == 4
    assert found.mpc is not None and found.mpc.value == results.mpc() == 31.25
    assert 0 <= found.mpc.low < 31.25 < found.mpc.high <= 100
    assert found.rpc == results.rpc() and found.corruptions == ['snow', 'fog']
    assert found.num_corrupted == 4
    (worst,) = found.worst
    assert worst == ('linf', EIGHT, ['pgd', 'square'], wilson_interval(1, 3), 3)
    assert worst.condition == 'the worst case at ε = 8/255'


def test_bounds_are_unknown_where_the_videos_differ() -> None:
    results = one_model()
    results.add(cell('corruption', [0, 0], 'blur', 1))
    results.add(cell('corruption', [0, 0], 'blur', 2))
    found = summarize(results)
    assert found.mpc is not None and found.mpc.value == results.mpc()
    assert math.isnan(found.mpc.low) and found.num_corrupted == 2


def test_what_was_not_evaluated_is_none() -> None:
    found = summarize(Robustness('TSM', classes=['a', 'b']))
    assert found.clean is found.mpc is None and found.worst == [] and math.isnan(found.rpc)
    assert strongest_attack(Robustness('TSM')) is None


def test_each_ball_has_its_worst_case() -> None:
    results = one_model()
    results.add(cell('attack', [1, 0], 'l2', 0.5, options=dict(norm='l2')))
    assert [case.condition for case in summarize(results).worst] == [
        'the worst case at ε = 8/255',
        'the worst case at ε = 0.5 (l2)',
    ]
    # By the drop on its own videos: that of l2 is half of them, that of pgd a third.
    assert strongest_attack(results) == 'attack/l2'
    assert results.top('attack/l2') == pytest.approx(50)
