"""Differences between checkpoints: by hand, by enumeration, by simulation, and told in full."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.evaluation import comparison
from adv_plugins.evaluation.comparison import (
    Comparison,
    Interval,
    compare,
    mcnemar,
    paired_bootstrap,
)
from adv_plugins.evaluation.results import Cell, Flag, Robustness

CLASSES = ['left', 'right', 'up']
EIGHT = 8 / 255


def result(model: str, count: int = 60, classes: list[str] | None = None) -> Robustness:
    """Videos 0, 10, 20, ... of the classes in turn."""
    classes = CLASSES if classes is None else classes
    labels = {10 * i: i % len(classes) for i in range(count)}
    return Robustness(model, f'{model}.py', f'{model}.pth', classes=classes, labels=labels)


def put(
    found: Robustness, kind: str, wrong: Any, name: str = '', level: Any = None, **more: Any
) -> None:
    """A cell in which the numbered videos are wrong, of all videos unless others are given."""
    videos = more.pop('videos', list(found.labels))
    ranks = [int(video // 10 in wrong) for video in videos]
    predictions = [
        (found.labels[video] + rank) % len(found.classes)
        for video, rank in zip(videos, ranks, strict=True)
    ]
    found.add(Cell(kind, name, level, videos=videos, predictions=predictions, ranks=ranks, **more))


@pytest.fixture
def pair() -> list[Robustness]:
    """Clean: 20 of 60 wrong, of which the second gets 12 right and loses 2 others."""
    a, b = result('TSM'), result('TAF')
    put(a, 'clean', range(20))
    put(b, 'clean', [*range(12, 20), 30, 31])
    for found, shift in ((a, 0), (b, 6)):
        put(found, 'corruption', range(30 - shift), 'snow', 1)
        put(found, 'corruption', range(40), 'snow', 2)
        put(found, 'corruption', range(60 - shift), 'fog', 1)
        attacked = list(found.labels)[:30]
        put(found, 'attack', range(20 - shift), 'pgd', EIGHT, videos=attacked)
        put(found, 'attack', range(5, 25), 'square', EIGHT, videos=attacked[::-1])
    return [a, b]


# ---- the bootstrap


def test_against_all_resamples_of_three_videos() -> None:
    """Of 27 equally likely resamples the quantiles are known."""
    a, b = [0.0, 0.5, 1.0], [1.0, 0.25, 0.5]
    differences = np.subtract(b, a)
    means = [100 * np.mean(draw) for draw in itertools.product(differences, repeat=3)]
    found = paired_bootstrap(a, b, num_resamples=200_000, confidence=0.6)
    assert found.difference == pytest.approx(100 * differences.mean())
    expected = np.quantile(means, (0.2, 0.8), method='inverted_cdf')
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.p_value is None


def test_against_the_normal_approximation() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.random(4000) < 0.5, generator.random(4000) < 0.53
    found = paired_bootstrap(a, b, confidence=0.9)
    differences = b.astype(float) - a
    half = 1.6449 * differences.std() / math.sqrt(4000)
    expected = np.array([0, -half, half]) + differences.mean()
    np.testing.assert_allclose(found[:3], 100 * expected, atol=0.06)


def test_against_scipy() -> None:
    stats = pytest.importorskip('scipy.stats')
    generator = np.random.default_rng(2)
    a, b = generator.random((2, 300))
    expected = stats.bootstrap(
        (100 * (b - a),), np.mean, n_resamples=20_000, method='percentile', rng=3
    ).confidence_interval
    # More distinct values than are counted: drawn by index.
    found = paired_bootstrap(a, b, num_resamples=20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.15)


def test_counts_and_indices_draw_from_one_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(4)
    a, b = (generator.random((2, 500)) < [[0.5], [0.6]]).astype(float)
    counted = paired_bootstrap(a, b, num_resamples=20_000)
    monkeypatch.setattr(comparison, '_FEW', 0)
    drawn = paired_bootstrap(a, b, num_resamples=20_000)
    assert counted[:3] == pytest.approx(drawn[:3], abs=0.25)
    # In pieces, what does not fit into memory at once.
    monkeypatch.setattr(comparison, '_CHUNK', 500 * 1000)
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
        found = paired_bootstrap(a, b, num_resamples=1000, seed=index)
        inside += found.low <= TRUE_DIFFERENCE <= found.high
    assert 0.93 < inside / rounds < 0.97


# P(0.7 u + 0.3 v < t) is (t - 0.15) / 0.7 for t between 0.3 and 0.7.
TRUE_DIFFERENCE = 100 * 0.05 / 0.7


def test_an_unpaired_interval_would_be_wider() -> None:
    """That videos are paired is the point: here all differences are gains."""
    a = np.arange(100) < 50
    b = np.arange(100) < 60
    found = paired_bootstrap(a, b)
    assert found.difference == pytest.approx(10)
    assert 4 <= found.low < found.high <= 16.1
    assert paired_bootstrap(a, b[::-1]).low < -5


@pytest.mark.parametrize('value', [0, 1, 0.3])
def test_models_that_agree_do_not_differ(value: float) -> None:
    found = paired_bootstrap([value] * 9, [value] * 9)
    assert found[:3] == (0, 0, 0)
    assert found.verdict == 'within noise'


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
@settings(max_examples=50)
def test_the_order_of_the_pairs_does_not_matter(rows: Any, random: Any) -> None:
    a, b = zip(*rows, strict=True)
    found = paired_bootstrap(a, b, num_resamples=200)
    assert found.difference == pytest.approx(100 * (sum(b) - sum(a)) / len(rows))
    assert -100 <= found.low <= found.high <= 100
    random.shuffle(rows)
    again = paired_bootstrap(*zip(*rows, strict=True), num_resamples=200)
    assert again[:4] == pytest.approx(found[:4])


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
@settings(max_examples=40)
def test_mcnemar_against_scipy(won: int, lost: int) -> None:
    stats = pytest.importorskip('scipy.stats')
    a = [0] * won + [1] * lost
    b = [1] * won + [0] * lost
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)


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
    found = paired_bootstrap([0, 0], [1, 1])
    assert found[:3] == (100, 100, 100)
    assert found.p_value == 0.5 and found.verdict == 'within noise'


# ---- compare


def test_the_rows(pair: list[Robustness]) -> None:
    found = compare(pair)
    names = [
        'clean',
        'corruption/snow/1',
        'corruption/snow/2',
        'corruption/snow',
        'corruption/fog/1',
        'corruption/fog',
        'mPC',
        'attack/pgd',
        'attack/square',
        'worst case, linf 8/255',
    ]
    assert [row.name for row in found.rows] == names
    assert [row.name for row in found.rows if row.detail] == [names[1], names[2], names[4]]
    expected = {
        'clean': (60, [200 / 3, 250 / 3]),
        'corruption/snow/1': (60, [50, 60]),
        'corruption/snow': (60, [(50 + 100 / 3) / 2, (60 + 100 / 3) / 2]),
        'corruption/fog': (60, [0, 10]),
        'mPC': (60, [125 / 6, (140 / 3 + 10) / 2]),
        'attack/pgd': (30, [100 / 3, 160 / 3]),
        'attack/square': (30, [100 / 3, 100 / 3]),
        # Wrong clean, under pgd or under square: 0 to 24, and all of it.
        'worst case, linf 8/255': (30, [500 / 30, 500 / 30]),
    }
    for name, (count, means) in expected.items():
        row = found.row(name)
        assert (row.num_videos, row.means) == (count, pytest.approx(means)), name
        assert row.changes[0] is None
        assert row.changes[1].difference == pytest.approx(means[1] - means[0]), name
    assert found.row('mPC').note == '2 corruptions, 3 cells'
    assert found.row('clean').changes[1].verdict == 'better'
    assert found.row('attack/square').changes[1][:3] == (0, 0, 0)


def test_no_perturbation_is_within_a_worst_case(pair: list[Robustness]) -> None:
    """An attack that makes a video right has not shown that it is safe."""
    clean = pair[1].cells['clean']
    clean.ranks[27], clean.predictions[27] = 1, (pair[1].labels[270] + 1) % 3
    assert pair[1].correct('attack/pgd', videos=[270]) & pair[1].correct('attack/square', 1, [270])
    row = compare(pair).row('worst case, linf 8/255')
    assert row.means == pytest.approx([500 / 30, 400 / 30])
    del pair[1].cells['clean']
    assert compare(pair).row('worst case, linf 8/255').means == pytest.approx([500 / 30] * 2)


def test_each_row_is_the_bootstrap_of_its_videos(pair: list[Robustness]) -> None:
    found = compare(pair)
    a, b = (r.correct('clean') for r in pair)
    assert found.row('clean').changes[1] == found.change('clean') == paired_bootstrap(a, b)
    shares = [
        (
            (r.correct('corruption/snow/1') / 2 + r.correct('corruption/snow/2') / 2)
            + r.correct('corruption/fog/1')
        )
        / 2
        for r in pair
    ]
    assert found.row('mPC').changes[1] == paired_bootstrap(*shares)
    assert found.row('mPC').changes[1].p_value is None


def test_mpc_is_that_of_each_model(pair: list[Robustness]) -> None:
    for found in pair:
        put(found, 'corruption', range(7, 9), 'fog', 2)
    assert compare(pair).row('mPC').means == pytest.approx([found.mpc() for found in pair])


def test_the_other_way_round(pair: list[Robustness]) -> None:
    forth, back = compare(pair), compare(pair, baseline=1)
    assert back.models == ['TSM', 'TAF'] and back.others == [0]
    for a, b in zip(forth.rows, back.rows, strict=True):
        assert (a.name, a.means) == (b.name, b.means)
        assert b.changes[1] is None
        assert a.changes[1].difference == pytest.approx(-b.changes[0].difference)


@given(st.randoms(use_true_random=False), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_videos_are_paired_by_index(random: Any, count: int) -> None:
    """Other orders and other subsets of the videos: what is shared decides."""
    a, b = result('a', 40), result('b', 40)
    wrong = [{i for i in range(40) if random.random() < 0.4} for _ in range(2)]
    first = random.sample(list(a.labels), count)
    second = random.sample(list(b.labels), 40)
    put(a, 'clean', wrong[0], videos=first)
    put(b, 'clean', wrong[1], videos=second)
    row = compare([a, b]).row('clean')
    right = [[v // 10 not in w for v in first] for w in wrong]
    assert row.num_videos == count
    assert row.means == pytest.approx([100 * np.mean(r) for r in right])
    assert row.changes[1][:3] == paired_bootstrap(*right)[:3]


def test_three_models(pair: list[Robustness]) -> None:
    third = result('CE')
    put(third, 'clean', range(20), videos=list(third.labels)[:30])
    third.skip('attack/pgd', 'out of memory')
    found = compare([*pair, third])
    row = found.row('clean')
    # On the thirty videos that all three have.
    assert row.num_videos == 30
    assert row.means == pytest.approx([100 / 3, 100 * 22 / 30, 100 / 3])
    assert row.changes[2][:3] == (0, 0, 0)
    assert found.left_out['attack/pgd'] == 'CE: out of memory'
    assert found.left_out['attack/square'] == 'CE: it was not evaluated'
    for other in (*pair, third):
        other.skip('attack/apgd', 'too few classes')
        other.skip('attack/pgd', f'not of {other.model}')
    left_out = compare([*pair, third]).left_out
    assert left_out['attack/apgd'] == 'all models: too few classes'
    assert left_out['attack/pgd'] == 'TSM: not of TSM; TAF: not of TAF; CE: not of CE'
    with pytest.raises(KeyError, match="'attack/pgd' is not compared: CE: out of memory"):
        found.row('attack/pgd')
    with pytest.raises(KeyError, match="'attack/pgd' is not compared: CE: out of memory"):
        found.change('attack/pgd')
    with pytest.raises(KeyError, match="'clan' is not compared: write"):
        found.row('clan')
    assert [row.name for row in found.rows] == ['clean']


def test_conditions_that_were_run_differently_are_not_compared(pair: list[Robustness]) -> None:
    a, b = pair
    a.cells['attack/pgd'].options |= {'steps': 10, 'restarts': 1}
    b.cells['attack/pgd'].options |= {'steps': 50, 'restarts': 1}
    b.cells['attack/square'].level = 4 / 255
    found = compare(pair)
    assert found.left_out == {
        'attack/pgd': 'TSM with steps=10, TAF with steps=50',
        'attack/square': f'TSM was run at {EIGHT}, TAF at {4 / 255}',
    }
    assert not any('worst case' in row.name for row in found.rows)
    assert '- attack/pgd: TSM with steps=10, TAF with steps=50' in found.markdown()


def test_conditions_without_a_shared_video(pair: list[Robustness]) -> None:
    put(pair[0], 'attack', [], 'few', EIGHT, videos=[0, 10])
    put(pair[1], 'attack', [], 'few', EIGHT, videos=[20])
    assert compare(pair).left_out == {'attack/few': 'the models share no video'}


def test_values_are_compared_where_all_have_them(pair: list[Robustness]) -> None:
    for found, shift in zip(pair, (0.0, 0.5), strict=True):
        videos = list(found.labels)
        found.cells['clean'].values['entropy'] = [shift + i % 2 for i in range(60)]
        found.cells['clean'].values['entropy'][7] = math.nan if shift else 99.0
        found.add(
            Cell(
                'deepfool',
                videos=videos[:3] if shift else videos[2::-1],
                values=dict(rho=[1.0, 2.0, 4.0], success=[1, 0, 1], iterations=[2, 9, 3]),
            )
        )
    first, second = compare(pair).values
    assert (first.name, first.num_videos) == ('clean: entropy', 59)
    assert first.means == pytest.approx([29 / 59, 29 / 59 + 0.5])
    assert first.changes[1][:3] == pytest.approx((0.5, 0.5, 0.5))
    # The middle one was not fooled, in either.
    assert (second.name, second.num_videos) == ('deepfool: rho', 2)
    assert second.means == [2.5, 2.5]
    # Video by video they differ by 3 in both directions.
    assert second.changes[1][:3] == (0, -3, 3)
    page = compare(pair).markdown()
    assert '| clean: entropy | 59 | 0.4915 | 0.9915 | +0.5 [+0.5, +0.5] | higher |' in page


def test_probes_are_no_results(pair: list[Robustness]) -> None:
    for found in pair:
        put(found, 'sanity', [1, 2], values={'gradient': [0.5] * 60})
        found.skip('video 7', 'cannot be read')
    found = compare(pair)
    assert not found.values and not any('sanity' in row.name for row in found.rows)
    assert found.left_out == {}


# ---- classes


def test_class_changes(pair: list[Robustness]) -> None:
    """Videos 0 to 19 are wrong before; 12 to 19, 30 and 31 after. Classes come in turn."""
    changes = compare(pair).class_changes(highlight=['up'])
    assert [c.name for c in changes] == ['up', 'left', 'right']
    assert [c.num_videos for c in changes] == [20, 20, 20]
    # up: 2, 5, ..., 17 before; 14, 17 after. left: 0, ..., 18; then 12, 15, 18 and 30.
    assert [c.before for c in changes] == pytest.approx([70, 65, 65])
    assert [c.after for c in changes] == pytest.approx([90, 80, 80])
    assert [c.change.difference for c in changes] == pytest.approx([20, 15, 15])
    assert [c.highlighted for c in changes] == [True, False, False]
    assert changes[0].change.p_value == 2 / 16


def test_classes_of_a_highlight_together(pair: list[Robustness]) -> None:
    found = compare(pair)
    both = found.change('clean', classes=['left', 'right'])
    assert both.difference == pytest.approx(15)
    alone = found.class_changes()[1].change
    assert both.high - both.low < alone.high - alone.low
    assert found.change('clean', classes=CLASSES) == found.change('clean')
    with pytest.raises(ValueError, match=r"no class 'rigth'; .*\['right'"):
        found.change('clean', classes=['rigth'])
    with pytest.raises(ValueError, match='no class'):
        found.markdown(highlight=['long-term'])


def test_classes_without_videos_have_no_change() -> None:
    a, b = result('a', 2), result('b', 2)
    for found in (a, b):
        put(found, 'clean', [])
    assert [c.name for c in compare([a, b]).class_changes()] == ['left', 'right']


def test_models_that_are_not_compared(pair: list[Robustness]) -> None:
    for model in (0, 2, -1):
        with pytest.raises(ValueError, match=rf'model={model} is not .* write one of \[1\]'):
            compare(pair).class_changes(model=model)


# ---- what cannot be compared


def test_one_label_for_each_video(pair: list[Robustness]) -> None:
    pair[1].labels[50] = 1
    with pytest.raises(ValueError, match="'TSM' and 'TAF' .* 1 videos, e.g. 2 and 1 .* index 50"):
        compare(pair)


def test_other_classes(pair: list[Robustness]) -> None:
    other = result('TAF', classes=['left', 'down', 'up', 'in'])
    with pytest.raises(
        ValueError, match=r"'TSM' has 3 classes \('right' is number 1\) and 'TAF' has 4 \('down'\)"
    ):
        compare([pair[0], other])
    with pytest.raises(ValueError, match="'TSM' has 3 classes .* 'TAF' has 4"):
        compare([pair[0], result('TAF', classes=[*CLASSES, 'in'])])


def test_other_videos(pair: list[Robustness]) -> None:
    pair[1].labels = {video + 1: label for video, label in pair[1].labels.items()}
    with pytest.raises(ValueError, match="'TSM' and 'TAF' share no video"):
        compare(pair)


def test_names_and_baseline(pair: list[Robustness]) -> None:
    with pytest.raises(ValueError, match='two or more results'):
        compare(pair[:1])
    with pytest.raises(ValueError, match=r"different names, got \['TSM', 'TSM'\]"):
        compare([pair[0], pair[0]])
    with pytest.raises(ValueError, match='baseline=2'):
        compare(pair, baseline=2)


# ---- the page


def test_the_page_has_every_number(pair: list[Robustness]) -> None:
    found = compare(pair)
    page = found.markdown(highlight=['up'])
    assert page.startswith('# Comparison with TSM\n\n- TSM: TSM.pth (TSM.py)\n- TAF: TAF.pth')
    # Ten rows, three classes, and the two sets of classes.
    assert '15 intervals are shown' in page and '5 % of them, 0.75, would exclude 0' in page
    assert '| condition | videos | TSM | TAF | difference | p | verdict |' in page
    for row in found.rows:
        change = row.changes[1]
        note = f' ({row.note})' if row.note else ''
        p_value = '—' if change.p_value is None else f'{change.p_value:.2g}'
        line = (
            f'| {row.name}{note} | {row.num_videos} | {row.means[0]:.1f} | {row.means[1]:.1f} | '
            f'{change.difference:+.1f} [{change.low:+.1f}, {change.high:+.1f}] | {p_value} | '
        ).replace('-0.0', '+0.0')
        word = change.verdict if change.verdict == 'within noise' else f'**{change.verdict}**'
        assert f'{line}{word} |\n' in page
    assert '| corruption/snow (severity 1, 2) | 60 | 41.7 | 46.7 | +5.0 [' in page
    assert '| attack/pgd (eps 8/255) | 30 | 33.3 | 53.3 | +20.0 [' in page
    assert '| **up** | 20 | 70.0 | 90.0 | +20.0 [+5.0, +40.0] | 0.12 | within noise |' in page
    assert '- the 1 marked classes: +20.0 [+5.0, +40.0]' in page
    assert '- the 2 other classes: +15.0 [' in page
    assert page.endswith('## Not compared\n\nNothing.\n')
    # Severities stand by themselves.
    assert page.index('corruption/snow/1') > page.index('## Severity by severity')


def test_every_interval_of_the_page_is_counted(pair: list[Robustness]) -> None:
    for found in pair:
        found.cells['clean'].values['entropy'] = [0.5] * 60
    third = result('CE')
    put(third, 'clean', range(7), values={'entropy': [0.25] * 60})
    page = compare([*pair, third]).markdown()
    assert f'{page.count("[")} intervals are shown' in page
    assert 'difference of TAF | p | verdict | difference of CE | p | verdict |' in page


def test_raised_flags_are_not_lost(pair: list[Robustness]) -> None:
    pair[1].flags = [
        Flag('zero gradients', True, ''),
        Flag('noise', False, ''),
        Flag('x', None, ''),
    ]
    page = compare(pair).markdown()
    assert '**Read TAF with care: sanity flags are raised (zero gradients).**' in page
    assert 'Read TSM' not in page


def test_without_clean_there_are_no_classes(pair: list[Robustness]) -> None:
    del pair[0].cells['clean']
    page = compare(pair).markdown()
    assert '- clean: TSM: it was not evaluated' in page
    assert '## Classes' not in page


def test_a_comparison_is_of_files_as_well(pair: list[Robustness], tmp_path: Any) -> None:
    for found in pair:
        found.save(tmp_path / found.model)
    again = compare([Robustness.load(tmp_path / found.model) for found in pair])
    assert isinstance(again, Comparison) and again.rows == compare(pair).rows
