"""Differences between checkpoints: video by video, and only where they were evaluated alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from handmade_results import EIGHT, THREE_CLASSES, put, result, two_models
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.evaluation import markdown
from adv_plugins.evaluation.cells import Cell
from adv_plugins.evaluation.comparison import Comparison, compare
from adv_plugins.evaluation.intervals import paired_bootstrap
from adv_plugins.evaluation.results import Robustness


@pytest.fixture
def pair() -> list[Robustness]:
    return two_models()


# ---- compare


def test_the_rows(pair: list[Robustness]) -> None:
    comparison = compare(pair)
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
    assert [row.name for row in comparison.rows] == names
    assert [row.name for row in comparison.rows if row.detail] == [names[1], names[2], names[4]]
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
        row = comparison.row(name)
        assert (row.num_videos, row.means) == (count, pytest.approx(means)), name
        assert row.changes[0] is None
        assert row.changes[1].difference == pytest.approx(means[1] - means[0]), name
    assert comparison.row('mPC').note == '2 corruptions, 3 cells'
    assert comparison.row('clean').changes[1].verdict == 'better'
    assert comparison.row('attack/square').changes[1][:3] == (0, 0, 0)


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
    comparison = compare(pair)
    a, b = (r.correct('clean') for r in pair)
    assert (
        comparison.row('clean').changes[1] == comparison.change('clean') == paired_bootstrap(a, b)
    )
    shares = [
        (
            (r.correct('corruption/snow/1') / 2 + r.correct('corruption/snow/2') / 2)
            + r.correct('corruption/fog/1')
        )
        / 2
        for r in pair
    ]
    assert comparison.row('mPC').changes[1] == paired_bootstrap(*shares)
    assert comparison.row('mPC').changes[1].p_value is None


def test_mpc_is_that_of_each_model(pair: list[Robustness]) -> None:
    for results in pair:
        put(results, 'corruption', range(7, 9), 'fog', 2)
    assert compare(pair).row('mPC').means == pytest.approx([results.mpc() for results in pair])


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
    comparison = compare([*pair, third])
    row = comparison.row('clean')
    # On the thirty videos that all three have.
    assert row.num_videos == 30
    assert row.means == pytest.approx([100 / 3, 100 * 22 / 30, 100 / 3])
    assert row.changes[2][:3] == (0, 0, 0)
    assert comparison.left_out['attack/pgd'] == 'CE: out of memory'
    assert comparison.left_out['attack/square'] == 'CE: it was not evaluated'
    for other in (*pair, third):
        other.skip('attack/apgd', 'too few classes')
        other.skip('attack/pgd', f'not of {other.model}')
    left_out = compare([*pair, third]).left_out
    assert left_out['attack/apgd'] == 'all models: too few classes'
    assert left_out['attack/pgd'] == 'TSM: not of TSM; TAF: not of TAF; CE: not of CE'
    with pytest.raises(KeyError, match="'attack/pgd' is not compared: CE: out of memory"):
        comparison.row('attack/pgd')
    with pytest.raises(KeyError, match="'attack/pgd' is not compared: CE: out of memory"):
        comparison.change('attack/pgd')
    with pytest.raises(KeyError, match="'clan' is not compared: write"):
        comparison.row('clan')
    assert [row.name for row in comparison.rows] == ['clean']


def test_conditions_that_were_run_differently_are_not_compared(pair: list[Robustness]) -> None:
    a, b = pair
    a.cells['attack/pgd'].options |= {'steps': 10, 'restarts': 1}
    b.cells['attack/pgd'].options |= {'steps': 50, 'restarts': 1}
    b.cells['attack/square'].level = 4 / 255
    comparison = compare(pair)
    assert comparison.left_out == {
        'attack/pgd': 'TSM with steps=10, TAF with steps=50',
        'attack/square': f'TSM was run at {EIGHT}, TAF at {4 / 255}',
    }
    assert not any('worst case' in row.name for row in comparison.rows)
    assert '- attack/pgd: TSM with steps=10, TAF with steps=50' in markdown(comparison)


def test_an_attack_is_the_same_however_its_type_is_written(pair: list[Robustness]) -> None:
    pair[0].cells['attack/pgd'].options['type'] = 'PGD'
    pair[1].cells['attack/pgd'].options['type'] = 'adv_plugins.evaluation.attacks.pgd'
    assert compare(pair).left_out == {}
    pair[1].cells['attack/pgd'].options['type'] = 'apgd'
    assert 'attack/pgd' in compare(pair).left_out


def test_few_videos_have_no_verdict(pair: list[Robustness]) -> None:
    for results, shift in zip(pair, (0.5, 0.0), strict=True):
        videos, column = list(results.labels)[:6], [math.nan] * 5 + [shift]
        right = range(6) if shift else []
        put(results, 'attack', right, 'few', EIGHT, videos=videos, values={'cam_shift': column})
    comparison = compare(pair)
    row = comparison.row('attack/few')
    assert row.num_videos == 6 and row.changes[1].verdict == 'too few videos'
    (value,) = comparison.values
    assert value.num_videos == 1 and value.changes[1].verdict == 'too few videos'
    page = markdown(comparison)
    assert '| attack/few: cam_shift | -0.5 [-0.5, -0.5] | too few videos | 0.5 | 0 | 1 |' in page
    assert 'cam_shift: 1 of 6 attacked videos were right when clean, with all models' in page
    assert 'at least 20 videos' in page and '**too few' not in page


def test_corruptions_of_different_videos_have_no_mean(pair: list[Robustness]) -> None:
    for results in pair:
        results.labels |= {video + 600: label for video, label in results.labels.items()}
        put(results, 'corruption', [], 'snow', 3, videos=[video + 600 for video in (0, 10)])
    names = [row.name for row in compare(pair).rows]
    assert 'corruption/snow/3' in names and 'mPC' not in names and 'corruption/snow' not in names
    assert 'corruption/fog' in names


def test_conditions_without_a_shared_video(pair: list[Robustness]) -> None:
    put(pair[0], 'attack', [], 'few', EIGHT, videos=[0, 10])
    put(pair[1], 'attack', [], 'few', EIGHT, videos=[20])
    assert compare(pair).left_out == {'attack/few': 'the models share no video'}


def test_values_are_compared_where_all_have_them(pair: list[Robustness]) -> None:
    for results, shift in zip(pair, (0.0, 0.5), strict=True):
        videos = list(results.labels)
        results.cells['clean'].values['entropy'] = [shift + i % 2 for i in range(60)]
        results.cells['clean'].values['entropy'][7] = math.nan if shift else 99.0
        results.add(
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
    page = markdown(compare(pair))
    assert '| clean: entropy | +0.5 [+0.5, +0.5] | higher | 0.4915 | 0.9915 | 59 |' in page


def test_probes_are_no_results(pair: list[Robustness]) -> None:
    for results in pair:
        put(results, 'sanity', [1, 2], values={'gradient': [0.5] * 60})
        results.skip('video 7', 'cannot be read')
    comparison = compare(pair)
    assert not comparison.values and not any('sanity' in row.name for row in comparison.rows)
    assert comparison.left_out == {}


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
    comparison = compare(pair)
    both = comparison.change('clean', classes=['left', 'right'])
    assert both.difference == pytest.approx(15)
    alone = comparison.class_changes()[1].change
    assert both.high - both.low < alone.high - alone.low
    assert comparison.change('clean', classes=THREE_CLASSES) == comparison.change('clean')
    with pytest.raises(ValueError, match=r"no class 'rigth'; .*\['right'"):
        comparison.change('clean', classes=['rigth'])
    with pytest.raises(ValueError, match='no class'):
        markdown(comparison, highlight=['long-term'])


def test_classes_without_videos_have_no_change() -> None:
    a, b = result('a', 2), result('b', 2)
    for results in (a, b):
        put(results, 'clean', [])
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
        compare([pair[0], result('TAF', classes=[*THREE_CLASSES, 'in'])])


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


def test_a_comparison_is_of_files_as_well(pair: list[Robustness], tmp_path: Any) -> None:
    for results in pair:
        results.save(tmp_path / results.model)
    again = compare([Robustness.load(tmp_path / results.model) for results in pair])
    assert isinstance(again, Comparison) and again.rows == compare(pair).rows
