"""Results of one checkpoint: every number by hand, and what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from handmade_results import CLASSES, EIGHT, LABELS, cell, one_model

from adv_plugins.evaluation import markdown
from adv_plugins.evaluation.cells import Cell
from adv_plugins.evaluation.intervals import wilson_interval
from adv_plugins.evaluation.results import Robustness


@pytest.fixture
def results() -> Robustness:
    return one_model()


# ---- what is added


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (Cell('clean'), "'clean' has no videos"),
        (Cell('clean', videos=[3, 3], predictions=[0, 0], ranks=[0, 0]), 'or one twice'),
        (Cell('clean', videos=[4], predictions=[0], ranks=[0]), 'the video 4, which has no label'),
        (Cell('clean', videos=[3, 5], predictions=[0], ranks=[0, 0]), '2 videos and 1 predictions'),
        (Cell('clean', videos=[3], predictions=[0]), '1 videos and 0 ranks'),
        (
            Cell('clean', videos=[3], predictions=[0], ranks=[0], values={'entropy': []}),
            '1 videos and 0 entropy',
        ),
        (Cell('clean', videos=[3], predictions=[6], ranks=[1]), 'prediction 6.*6 classes'),
        (Cell('clean', videos=[3], predictions=[1], ranks=[-1]), 'rank -1'),
        # A constant network: nothing scores higher than the true class.
        (Cell('clean', videos=[3, 8], predictions=[0, 0], ranks=[0, 0]), 'scores are equal or NaN'),
        (Cell('clean', videos=[3], predictions=[0], ranks=[1]), 'only a prediction of the true'),
        (Cell('deepfool', videos=[3], values={'rho': [0.1]}), "'success', 'iterations'"),
        (
            Cell('deepfool', videos=[3], values=dict(rho=[0.1], success=[1], iterations=[])),
            '1 videos and 0 iterations',
        ),
    ],
)
def test_cells_that_do_not_fit_are_told(results: Robustness, wrong: Cell, message: str) -> None:
    before = dict(results.cells)
    with pytest.raises(ValueError, match=message):
        results.add(wrong)
    assert results.cells == before


def test_cells_are_alike_only_if_they_were_run_alike(results: Robustness) -> None:
    options = dict(steps=10, step_size=0.25, eps=EIGHT)
    stored = results.cells['attack/pgd']
    assert results.alike(Cell('attack', 'pgd', EIGHT, options)) is stored
    assert results.alike(Cell('attack', 'pgd', EIGHT, options | {'steps': 20})) is None
    assert results.alike(Cell('attack', 'pgd', EIGHT, options | {'loss': 'dlr'})) is None
    assert results.alike(Cell('attack', 'pgd', 4 / 255, options)) is None
    assert results.alike(Cell('attack', 'fgsm', EIGHT, options)) is None
    # 3, 5 and 8 were run; asking for fewer asks for nothing new.
    assert stored.lacks(Cell('attack', 'pgd', EIGHT, options, [5, 3])) == []
    assert stored.lacks(Cell('attack', 'pgd', EIGHT, options, list(LABELS))) == [9]
    # Without the entropy all of them have to be run again.
    wanted = Cell('attack', 'pgd', EIGHT, options, [3, 9], values={'entropy': []})
    assert stored.lacks(wanted) == [3, 9]


@pytest.mark.parametrize('kind', ['PGD', 'pgd', 'P_G_D', 'adv_plugins.evaluation.PGD'])
def test_an_attack_is_the_same_however_its_type_is_written(kind: str) -> None:
    results = Robustness('TSM', classes=CLASSES, labels=dict(LABELS))
    results.add(cell('attack', [0], 'a', EIGHT, options={'type': kind, 'steps': 10}))
    assert results.alike(Cell('attack', 'a', EIGHT, {'type': 'PGD', 'steps': 10}))
    assert not results.alike(Cell('attack', 'a', EIGHT, {'type': 'APGD', 'steps': 10}))


def test_fewer_videos_do_not_replace_more(results: Robustness) -> None:
    results.add(cell('clean', [4, 0], videos=[9, 3], values={'entropy': [0.25, 0.5]}))
    found = results.cells['clean']
    assert found.videos == [3, 5, 8, 9] and found.ranks == [0, 0, 0, 4]
    assert found.values['entropy'] == [0.5, 0.7, 0.9, 0.25]
    results.add(cell('clean', [1], videos=[8], values={'score': [2.0]}))
    found = results.cells['clean']
    assert found.ranks == [0, 0, 1, 4]
    np.testing.assert_array_equal(found.values['entropy'], [0.5, 0.7, math.nan, 0.25])
    np.testing.assert_array_equal(found.values['score'], [math.nan, math.nan, 2, math.nan])
    assert results.earlier == []


def test_other_options_do_not_replace_what_was_run(results: Robustness) -> None:
    first = results.cells['attack/square']
    second = cell('attack', [0], 'square', EIGHT, options={'queries': 10})
    results.add(second)
    assert results.cells['attack/square'] is second and results.earlier == [first]
    # And back again, with a video more, which makes it one of both.
    results.add(cell('attack', [1], 'square', EIGHT, videos=[3]))
    assert results.cells['attack/square'].videos == first.videos
    assert results.cells['attack/square'].ranks == [1, 0, 3, 0]
    assert results.earlier == [second]


def test_results_of_two_evaluations_are_united(results: Robustness) -> None:
    """As of two processes, of which one failed at what the other has."""
    other = Robustness('TAF', classes=CLASSES, labels={3: 0, 12: 1})
    other.add(
        Cell('clean', videos=[3, 12], predictions=[1, 1], ranks=[2, 0], values={'entropy': [1, 1]})
    )
    other.missing = {'attack/pgd': 'out of memory', 'clean': 'a note'}
    other.add(cell('attack', [0], 'square', 4 / 255))
    both = other.united(results)
    assert both.model == 'TAF' and both.labels == LABELS | {12: 1}
    assert both.cells['clean'].videos == [3, 5, 8, 9, 12]
    assert both.cells['clean'].ranks == [2, 0, 0, 5, 0]
    assert both.cells['attack/square'].level == 4 / 255
    assert [(each.key, each.level) for each in both.earlier] == [('attack/square', EIGHT)]
    assert both.missing == {'attack/pgd': 'out of memory', 'clean': 'a note'}
    assert len(other.cells) == 2 and len(other.labels) == 2


def test_old_keys_of_curves_are_known(results: Robustness) -> None:
    results.add(cell('curve', [0, 1], 'pgd', 1 / 255))
    assert list(results.cells)[-1] == 'curve/pgd/1/255'
    assert results.top('curve/pgd/0.003922') == results.top('curve/pgd/1/255') == 50
    told = Robustness('m', missing={'curve/pgd/0.003922': 'a', 'curve/pgd/0.5': 'b', 'x/y': 'c'})
    assert list(told.missing) == ['curve/pgd/1/255', 'curve/pgd/0.5', 'x/y']


def test_a_note_on_a_cell_hides_no_number(results: Robustness) -> None:
    results.missing['corruption/snow/2'] = 'evaluating it again failed'
    results.missing['attack/pgd'] = 'evaluating it again failed'
    assert results.mpc(['snow']) == 37.5
    page = markdown(results, groups={})
    assert page.count('| pgd |') == 1 and '- attack/pgd: evaluating it again failed' in page


def test_cells_of_different_videos_have_a_page_and_means(results: Robustness) -> None:
    results.add(cell('attack', [0], 'other', EIGHT, videos=[9]))
    results.cells['clean'] = cell('clean', [0, 0], videos=[3, 5])
    assert math.isnan(results.clean_top('attack/other'))
    assert results.clean_top('attack/pgd') == 100
    assert results.rpc() == pytest.approx(31.25)
    assert '**worst case**' not in markdown(results, groups={})
    results.add(cell('curve', [0], 'pgd', 1 / 255, videos=[8]))
    assert results.curve('pgd').num_videos == 0 and math.isnan(results.curve('pgd').accuracy[1])


# ---- numbers


def test_accuracy(results: Robustness) -> None:
    assert results.top('clean') == 75
    assert results.top('clean', 5) == 75
    assert results.top('corruption/fog/2') == 0
    assert results.top('corruption/fog/2', 5) == 75
    assert results.top('attack/pgd') == pytest.approx(200 / 3)
    assert results.videos('attack/pgd').tolist() == [3, 5, 8]
    assert results.correct('attack/pgd').tolist() == [True, False, True]


def test_accuracy_on_chosen_videos_in_their_order(results: Robustness) -> None:
    assert results.correct('clean', videos=[9, 3]).tolist() == [False, True]
    assert results.top('clean', videos=results.videos('attack/pgd')) == 100
    with pytest.raises(ValueError, match="'attack/pgd' of 'TSM' lacks 1 of 2 videos.* index 9"):
        results.top('attack/pgd', videos=[3, 9])


def test_class_accuracy(results: Robustness) -> None:
    accuracy, counts = results.class_accuracy('corruption/snow/1')
    assert counts.tolist() == [2, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(accuracy, [50, 100, 0, math.nan, math.nan, math.nan])
    accuracy, counts = results.class_accuracy('clean', [5, 9])
    assert counts.tolist() == [1, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(accuracy[:3], [100, math.nan, 0])


def test_corruptions(results: Robustness) -> None:
    table = results.corruption_table()
    assert table.names == ['snow', 'fog']
    assert table.severities == [1, 2]
    assert table.accuracy.tolist() == [[50, 25], [50, 0]]
    assert results.corruption_table(5).accuracy.tolist() == [[75, 75], [100, 75]]
    assert results.mpc() == (37.5 + 25) / 2
    assert results.mpc(k=5) == (75 + 87.5) / 2
    assert results.mpc(['snow']) == 37.5
    assert results.rpc() == pytest.approx(100 * 31.25 / 75)
    assert results.rpc(['fog']) == pytest.approx(100 * 25 / 75)
    groups = {'weather': ['snow', 'fog', 'frost'], 'noise': ['gaussian_noise'], 'light': ['fog']}
    assert results.corruption_groups(groups) == {'weather': ['snow', 'fog'], 'light': ['fog']}
    with pytest.raises(KeyError, match=r"no corruption 'snwo'; write \['snow'\]"):
        results.mpc(['snwo'])


def test_mpc_weighs_corruptions_and_not_cells(results: Robustness) -> None:
    """Two severities of one corruption and one of another."""
    del results.cells['corruption/fog/2']
    assert results.mpc(['snow']) == 37.5
    assert math.isnan(results.mpc())
    del results.cells['corruption/snow/2']
    assert results.mpc() == 50
    results.add(cell('corruption', [0], 'rain', 1))
    assert results.mpc() == pytest.approx((50 + 50 + 100) / 3)


def test_rpc_takes_the_clean_accuracy_of_the_same_videos(results: Robustness) -> None:
    for key in results.keys('corruption'):
        del results.cells[key]
    assert math.isnan(results.mpc()) and math.isnan(results.rpc())
    # Clean, both of these videos are right: 50 of 100, and not 50 of 75.
    results.add(cell('corruption', [0, 1], 'rain', 1))
    assert results.rpc() == 50
    del results.cells['clean']
    assert math.isnan(results.rpc())


def test_groups_of_the_package_by_default() -> None:
    corruptions = pytest.importorskip('adv_plugins.datasets.corruptions')
    group, names = next(iter(corruptions.CORRUPTION_GROUPS.items()))
    results = Robustness('TSM', classes=CLASSES, labels=dict(LABELS))
    results.add(cell('corruption', [0], names[0], 1))
    assert results.corruption_groups() == {group: [names[0]]}


def test_worst_case(results: Robustness) -> None:
    """On videos 3, 5, 8: pgd right on 3, 8; square right on 3, 5."""
    videos, correct = results.survivors(['attack/square', 'attack/pgd'])
    assert videos.tolist() == [3, 5, 8]
    assert correct.tolist() == [True, False, False]
    assert results.worst_case(['attack/pgd', 'attack/square']) == pytest.approx(100 / 3)
    # Square makes the fourth video right, which no attack can be credited with.
    assert results.worst_case(['attack/square']) == 75
    assert results.worst_case(['clean', 'attack/square']) == 50
    assert results.worst_case(['attack/square'], k=4) == 100
    results.add(cell('attack', [0], 'small', 1 / 255))
    with pytest.raises(ValueError, match='attacks of one eps'):
        results.worst_case(['attack/pgd', 'attack/small'])
    with pytest.raises(ValueError, match='attacks of one eps'):
        results.worst_case([])
    results.add(cell('attack', [0], 'other', EIGHT, videos=[9]))
    with pytest.raises(ValueError, match='share no video'):
        results.worst_case(['attack/pgd', 'attack/other'])


def test_attacks_of_one_threat_model(results: Robustness) -> None:
    results.add(cell('attack', [0], 'small', 1 / 255))
    results.add(cell('attack', [0], 'l2', EIGHT, options={'norm': 'l2'}))
    results.add(cell('attack', [0], 'linf', EIGHT, options={'norm': 'linf'}))
    groups = [['attack/pgd', 'attack/square', 'attack/linf'], ['attack/small'], ['attack/l2']]
    assert results.attack_groups() == groups


def test_curve(results: Robustness) -> None:
    with pytest.raises(KeyError, match=r"no curve of 'pgd'; it has \[\]"):
        results.curve('pgd')
    options = dict(steps=10, step_size=0.25)
    results.add(cell('curve', [1, 1, 1], 'pgd', 16 / 255, options=options | {'eps': 16 / 255}))
    results.add(cell('curve', [0, 0, 1], 'pgd', 4 / 255, options=options | {'eps': 4 / 255}))
    curve = results.curve('pgd')
    # Clean, on these three videos, and the attack itself at 8/255.
    np.testing.assert_allclose(curve.eps, [0, 4 / 255, 8 / 255, 16 / 255])
    np.testing.assert_allclose(curve.accuracy, [100, 200 / 3, 200 / 3, 0])
    assert (curve.low[1], curve.high[1]) == wilson_interval(2, 3)[1:]
    assert curve.num_videos == 3
    # An attack with other steps is not on the curve.
    results.cells['attack/pgd'].options['steps'] = 50
    np.testing.assert_allclose(results.curve('pgd').eps, [0, 4 / 255, 16 / 255])
    assert results.curve_names() == ['pgd']


def test_the_interval_of_an_accuracy(results: Robustness) -> None:
    # By hand: z² = 3.8415, (0.75 + 0.4802 ± sqrt(0.75 · 0.25 / 4 + 0.0600) · 1.96) / 1.9604
    low, high = results.interval('clean')[1:]
    assert (low, high) == pytest.approx((30.06, 95.44), abs=0.01)


def test_names_that_are_not_there(results: Robustness) -> None:
    with pytest.raises(KeyError, match='corruption/snow/1'):
        results.top('corruption/snow/7')
    results.skip('attack/apgd', 'the model has too few classes')
    with pytest.raises(KeyError, match="no number for 'attack/apgd': the model has too few"):
        results.top('attack/apgd')
    results.add(Cell('deepfool', videos=[3], values=dict(rho=[1], success=[1], iterations=[2])))
    with pytest.raises(ValueError, match='has no predictions, only'):
        results.correct('deepfool')


# ---- what is missing


def test_skipping_drops_what_was_found_and_adding_what_was_missing(results: Robustness) -> None:
    results.skip('corruption/snow', 'cannot be read')
    assert results.keys('corruption') == ['corruption/fog/1', 'corruption/fog/2']
    results.skip('attack/pgd', 'out of memory')
    assert results.keys('attack') == ['attack/square']
    results.add(cell('corruption', [0], 'snow', 1))
    assert results.missing == {'attack/pgd': 'out of memory'}
    results.add(cell('attack', [0], 'pgd', EIGHT))
    assert results.missing == {}


def test_a_name_that_begins_alike_is_not_skipped(results: Robustness) -> None:
    results.add(cell('attack', [0], 'pgd_20', EIGHT))
    results.skip('attack/pgd', 'out of memory')
    assert results.keys('attack') == ['attack/square', 'attack/pgd_20']


def test_missing_severities_leave_no_mean(results: Robustness) -> None:
    results.skip('corruption/fog/2', 'no frames')
    results.skip('corruption/frost', 'no images')
    table = results.corruption_table()
    assert table.names == ['snow', 'fog', 'frost']
    nan = math.nan
    np.testing.assert_array_equal(table.accuracy, [[50, 25], [50, nan], [nan, nan]])
    assert (
        math.isnan(results.mpc()) and math.isnan(results.mpc(['fog'])) and math.isnan(results.rpc())
    )
    assert results.mpc(['snow']) == 37.5
    page = markdown(results, groups={})
    assert '| fog | 50.0 | — | — | — | — |' in page
    assert '| frost | — | — | — | — | — |' in page
    assert 'P 75.0, mPC —, rPC —.' in page
    assert 'Over the 1 corruptions with all severities alone (snow): mPC 37.5, rPC 50.0.' in page
    assert '- corruption/fog/2: no frames' in page
    assert '- corruption/frost: no images' in page


def test_gaps_that_nobody_explained_are_told(results: Robustness) -> None:
    """As an interrupted evaluation leaves them."""
    del results.cells['corruption/fog/2']
    del results.cells['clean']
    results.add(cell('curve', [0], 'pgd', 1 / 255))
    results.add(cell('curve', [0], 'fgsm', 2 / 255))
    results.skip('curve/fgsm/0.003922', 'interrupted')
    missing = markdown(results, groups={}).split('## Missing')[1].split()
    assert ' '.join(missing) == (
        '- curve/fgsm/1/255: interrupted - clean: it was not evaluated '
        '- corruption/fog/2: it was not evaluated - curve/pgd/2/255: it was not evaluated'
    )
    assert 'There is no number; see "Missing".' in markdown(results, groups={})
