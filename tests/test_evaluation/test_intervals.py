"""Intervals and tests: by hand, by enumeration, by simulation, and against SciPy."""

from __future__ import annotations

import itertools
import math
import sys
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.evaluation import intervals
from adv_plugins.evaluation.intervals import (
    MIN_VIDEOS,
    Interval,
    mcnemar,
    paired_bootstrap,
    wilson_interval,
)

# ---- Wilson's interval


@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.99])
@pytest.mark.parametrize(('successes', 'total'), [(0, 7), (7, 7), (1, 7), (263, 480), (1, 1)])
def test_wilson_against_its_equation(successes: int, total: int, confidence: float) -> None:
    """Wilson (1927): the shares p with |p̂ - p| = z · sqrt(p (1 - p) / n)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = successes / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    value, low, high = wilson_interval(successes, total, confidence)
    assert value == pytest.approx(100 * share)
    assert (low, high) == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-12)


def test_wilson_at_its_ends() -> None:
    assert wilson_interval(0, 9).low == 0 and wilson_interval(9, 9).high == 100
    for wrong in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match='of at least 1'):
            wilson_interval(*wrong)


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'scipy.stats', None)
    with pytest.raises(ImportError, match=r'SciPy.*adv_plugins\[mmaction\]'):
        wilson_interval(1, 2)


# ---- the bootstrap


def test_against_all_resamples_of_three_videos() -> None:
    """Of 27 equally likely resamples the quantiles are known."""
    a, b = [0.0, 0.5, 1.0], [1.0, 0.25, 0.5]
    differences = np.subtract(b, a)
    means = [100 * np.mean(draw) for draw in itertools.product(differences, repeat=3)]
    interval = paired_bootstrap(a, b, num_resamples=200_000, confidence=0.6)
    assert interval.difference == pytest.approx(100 * differences.mean())
    expected = np.quantile(means, (0.2, 0.8), method='inverted_cdf')
    assert (interval.low, interval.high) == pytest.approx(tuple(expected))
    assert interval.p_value is None


def test_against_the_normal_approximation() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.random(4000) < 0.5, generator.random(4000) < 0.53
    interval = paired_bootstrap(a, b, confidence=0.9)
    differences = b.astype(float) - a
    half = 1.6449 * differences.std() / math.sqrt(4000)
    expected = np.array([0, -half, half]) + differences.mean()
    np.testing.assert_allclose(interval[:3], 100 * expected, atol=0.06)


def test_against_scipy() -> None:
    stats = pytest.importorskip('scipy.stats')
    generator = np.random.default_rng(2)
    a, b = generator.random((2, 300))
    expected = stats.bootstrap(
        (100 * (b - a),), np.mean, n_resamples=20_000, method='percentile', rng=3
    ).confidence_interval
    # More distinct values than are counted: drawn by index.
    interval = paired_bootstrap(a, b, num_resamples=20_000)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.15)


def test_counts_and_indices_draw_from_one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(4)
    a, b = (generator.random((2, 500)) < [[0.5], [0.6]]).astype(float)
    counted = paired_bootstrap(a, b, num_resamples=20_000)
    monkeypatch.setattr(intervals, '_FEW', 0)
    drawn = paired_bootstrap(a, b, num_resamples=20_000)
    assert counted[:3] == pytest.approx(drawn[:3], abs=0.25)
    # In pieces, what does not fit into memory at once.
    monkeypatch.setattr(intervals, '_CHUNK', 500 * 1000)
    pieces = paired_bootstrap(a, b, num_resamples=20_000)
    assert pieces[:3] == pytest.approx(drawn[:3], abs=0.25)


def test_coverage_of_the_interval() -> None:
    """Of 95 % intervals, about 95 % contain what is true, for models that mostly agree."""
    generator = np.random.default_rng(5)
    inside, rounds, videos = 0, 1000, 200
    for index in range(rounds):
        hard = generator.random(videos)
        a = 0.7 * hard + 0.3 * generator.random(videos) < 0.6
        b = 0.7 * hard + 0.3 * generator.random(videos) < 0.65
        interval = paired_bootstrap(a, b, num_resamples=1000, seed=index)
        inside += interval.low <= TRUE_DIFFERENCE <= interval.high
    assert 0.93 < inside / rounds < 0.97


# P(0.7 u + 0.3 v < t) is (t - 0.15) / 0.7 for t between 0.3 and 0.7.
TRUE_DIFFERENCE = 100 * 0.05 / 0.7


def test_an_unpaired_interval_would_be_wider() -> None:
    """That videos are paired is the point: here all differences are gains."""
    a = np.arange(100) < 50
    b = np.arange(100) < 60
    interval = paired_bootstrap(a, b)
    assert interval.difference == pytest.approx(10)
    assert 4 <= interval.low < interval.high <= 16.1
    assert paired_bootstrap(a, b[::-1]).low < -5


@pytest.mark.parametrize('value', [0, 1, 0.3])
def test_models_that_agree_do_not_differ(value: float) -> None:
    interval = paired_bootstrap([value] * MIN_VIDEOS, [value] * MIN_VIDEOS)
    assert interval[:3] == (0, 0, 0)
    assert interval.verdict == 'within noise'


def test_the_direction_and_the_seed() -> None:
    a, b = [0, 0, 1, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0, 1, 1, 1]
    forth, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert forth.difference == -back.difference == 37.5
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=13)
    assert paired_bootstrap(a, b, seed=0) == forth
    state = np.random.get_state()[1].copy()
    paired_bootstrap(a, b, seed=3)
    assert (np.random.get_state()[1] == state).all()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_pairs_does_not_matter(rows: Any, random: Any) -> None:
    a, b = zip(*rows, strict=True)
    interval = paired_bootstrap(a, b, num_resamples=200)
    assert interval.difference == pytest.approx(100 * (sum(b) - sum(a)) / len(rows))
    assert -100 <= interval.low <= interval.high <= 100
    random.shuffle(rows)
    again = paired_bootstrap(*zip(*rows, strict=True), num_resamples=200)
    assert again[:4] == pytest.approx(interval[:4])


@pytest.mark.parametrize(('a', 'b'), [([], []), ([1], [1, 0]), ([[1]], [[1]])])
def test_bad_pairs_are_told(a: Any, b: Any) -> None:
    with pytest.raises(ValueError, match='each of the same videos'):
        paired_bootstrap(a, b)


# ---- McNemar and the verdict


@pytest.mark.parametrize(
    ('won', 'lost', 'p_value'),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (6, 0, 2 / 64), (3, 1, 10 / 16), (2, 2, 1)],
)
def test_mcnemar_by_hand(won: int, lost: int, p_value: float) -> None:
    a = [False] * won + [True] * lost + [True] * 7 + [False] * 4
    b = [True] * won + [False] * lost + [True] * 7 + [False] * 4
    assert mcnemar(a, b) == mcnemar(b, a) == p_value


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_mcnemar_against_the_sum_of_binomials(gained: int, lost: int) -> None:
    a = [0] * gained + [1] * lost
    b = [1] * gained + [0] * lost
    changed = gained + lost
    tail = sum(math.comb(changed, count) for count in range(min(gained, lost) + 1))
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail / 2**changed), rel=1e-9)


def test_mcnemar_of_many_videos() -> None:
    a = np.arange(20_000) < 9_000
    assert mcnemar(a, ~a) < 1e-40


@pytest.mark.parametrize(
    ('interval', 'verdict'),
    [
        (Interval(1.0, 0.2, 1.8), 'better'),
        (Interval(-1.0, -1.8, -0.2), 'worse'),
        (Interval(1.0, 0.0, 2.0), 'within noise'),
        (Interval(1.0, -0.2, 1.8, 0.01), 'within noise'),
        (Interval(1.0, 0.2, 1.8, 0.06), 'within noise'),
        (Interval(1.0, 0.2, 1.8, 0.06, 0.9), 'better'),
        (Interval(1.0, 0.2, 1.8, 0.04), 'better'),
    ],
)
def test_verdicts(interval: Interval, verdict: str) -> None:
    assert interval.verdict == verdict


def test_two_lucky_videos_are_noise() -> None:
    """Both of two videos gained: every resample says so, and nothing is known."""
    interval = paired_bootstrap([0, 0], [1, 1])
    assert interval[:3] == (100, 100, 100)
    assert interval.p_value == 0.5 and interval.verdict == 'too few videos'


@pytest.mark.parametrize('kind', [int, float])
def test_below_a_number_of_videos_there_is_no_verdict(kind: type) -> None:
    """Right or wrong, and shares; for the better, for the worse, and without a difference."""
    for count, verdicts in (
        (MIN_VIDEOS - 1, ['too few videos'] * 3),
        (MIN_VIDEOS, ['better', 'worse', 'within noise']),
    ):
        low = np.arange(count) % 4 / 8 if kind is float else np.zeros(count)
        high = low + (0.25 if kind is float else 1)
        pairs = ((low, high), (high, low), (low, low))
        assert [paired_bootstrap(a, b).verdict for a, b in pairs] == verdicts


def test_few_videos_that_differ_are_noise() -> None:
    """All five favour one model, as they do in 6 % of cases by chance."""
    a = np.full(1000, 0.5)
    for differing, verdict in ((5, 'within noise'), (9, 'better')):
        b = a + 0.25 * (np.arange(1000) < differing)
        change = paired_bootstrap(a, b)
        assert change.low > 0 and change.num_differing == differing
        assert change.verdict == verdict


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_videos_without_a_number_are_left_out_and_counted(value: float) -> None:
    a, b = np.zeros(MIN_VIDEOS + 2), np.ones(MIN_VIDEOS + 2)
    a[0] = b[1] = value
    change = paired_bootstrap(a, b)
    assert change[:3] == (100, 100, 100) and change.verdict == 'better'
    assert (change.num_videos, change.num_undefined) == (MIN_VIDEOS, 2)
    assert change.p_value is not None
    nothing = paired_bootstrap([value] * 30, [1] * 30)
    assert math.isnan(nothing.difference) and nothing.verdict == 'too few videos'
    assert nothing.num_undefined == 30 and nothing.p_value is None


def test_mcnemar_takes_the_same_videos_right_or_wrong() -> None:
    right, wrong = [1] * 8, [0] * 8
    assert mcnemar([*right, math.nan, 0], [*wrong, 1, math.nan]) == mcnemar(right, wrong)
    for a, b, message in (
        ([0, 1], [1], 'one number for each of the same videos'),
        ([0.5, 1], [1, 1], r'right \(1\) or wrong \(0\), not shares'),
    ):
        with pytest.raises(ValueError, match=message):
            mcnemar(a, b)


def test_tensors_and_options_of_the_bootstrap() -> None:
    found = paired_bootstrap(torch.zeros(30), torch.ones(30))
    assert found.verdict == 'better' and (found.num_videos, found.num_undefined) == (30, 0)
    for options in (dict(confidence=95), dict(confidence=math.nan), dict(num_resamples=0)):
        with pytest.raises(ValueError, match=f'{next(iter(options))}='):
            paired_bootstrap([0, 1], [1, 1], **options)
