"""What an evaluation found: every number by hand, whole files, and no gap that is not told."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adv_plugins.evaluation.results import FORMAT, Cell, Flag, Robustness, wilson_interval
from adv_plugins.evaluation.results_page import eps_text, markdown_table, percent

CLASSES = ['left', 'right', 'up', 'down', 'push', 'pull']
# Four videos of three classes; 'down' and later ones have none.
LABELS = {3: 0, 5: 0, 8: 1, 9: 2}
EIGHT = 8 / 255


def cell(kind: str, ranks: list[int], name: str = '', level: Any = None, **more: Any) -> Cell:
    """A cell of the first videos whose predictions fit the ranks."""
    videos = more.pop('videos', list(LABELS)[: len(ranks)])
    labels = [LABELS[video] for video in videos]
    predictions = [
        label if rank == 0 else (label + 1) % 6 for label, rank in zip(labels, ranks, strict=True)
    ]
    return Cell(kind, name, level, videos=videos, predictions=predictions, ranks=ranks, **more)


@pytest.fixture
def found() -> Robustness:
    """One model; clean accuracy 75, snow 50 and 25, fog 50 and 0."""
    found = Robustness('TSM', 'tsm.py', 'tsm.pth', 'abc', 'clips', CLASSES, dict(LABELS))
    found.add(cell('clean', [0, 0, 0, 5], values={'entropy': [0.5, 0.7, 0.9, 0.7]}))
    found.add(cell('corruption', [0, 1, 0, 5], 'snow', 1))
    found.add(cell('corruption', [0, 1, 2, 5], 'snow', 2))
    found.add(cell('corruption', [0, 0, 3, 4], 'fog', 1))
    found.add(cell('corruption', [5, 4, 3, 2], 'fog', 2))
    found.add(
        cell(
            'attack',
            [0, 1, 0],
            'pgd',
            EIGHT,
            options=dict(steps=10, step_size=0.25, eps=EIGHT),
            values={'cam_shift': [0.25, math.nan, 0.75]},
            seconds=61.4,
        )
    )
    found.add(cell('attack', [0, 0, 3, 0], 'square', EIGHT))
    return found


# ---- cells


@pytest.mark.parametrize(
    ('made', 'key'),
    [
        (Cell('clean'), 'clean'),
        (Cell('corruption', 'snow', 3), 'corruption/snow/3'),
        (Cell('corruption', 'snow', 3.0), 'corruption/snow/3'),
        (Cell('attack', 'pgd', EIGHT), 'attack/pgd'),
        (Cell('attack', 'patch'), 'attack/patch'),
        (Cell('curve', 'pgd', 4 / 255), 'curve/pgd/0.01569'),
        (Cell('deepfool'), 'deepfool'),
    ],
)
def test_keys(made: Cell, key: str) -> None:
    assert made.key == key


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(kind='adversarial'), "one of .*'attack'.*got 'adversarial'"),
        (dict(kind='attack'), "must have a name without '/', such as 'snow', got ''"),
        (dict(kind='attack', name='a/b'), "got 'a/b'"),
        (dict(kind='clean', name='x'), "must have the name '', got 'x'"),
        (dict(kind='corruption', name='snow'), "of 'snow' must have a level"),
        (dict(kind='attack', name='pgd', options={'loss': object()}), "options of 'attack/pgd'"),
    ],
)
def test_bad_cells_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(**given)


def test_lists_may_be_arrays_and_tensors() -> None:
    made = Cell(
        'clean',
        videos=np.array([3, 5]),
        predictions=torch.tensor([0, 1]),
        ranks=torch.tensor([0, 2]),
        values={'entropy': torch.tensor([0.5, 0.25]), 'success': np.array([True, False])},
    )
    assert made.videos == [3, 5] and made.predictions == [0, 1] and made.ranks == [0, 2]
    assert made.values == {'entropy': [0.5, 0.25], 'success': [1.0, 0.0]}
    assert all(type(video) is int for video in made.videos)


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
def test_cells_that_do_not_fit_are_told(found: Robustness, wrong: Cell, message: str) -> None:
    before = dict(found.cells)
    with pytest.raises(ValueError, match=message):
        found.add(wrong)
    assert found.cells == before


def test_a_cell_is_finished_only_if_it_was_run_alike(found: Robustness) -> None:
    options = dict(steps=10, step_size=0.25, eps=EIGHT)
    videos = list(LABELS)[:3]
    assert found.finished(Cell('attack', 'pgd', EIGHT, options, videos))
    assert not found.finished(Cell('attack', 'pgd', EIGHT, options | {'steps': 20}, videos))
    assert not found.finished(Cell('attack', 'pgd', EIGHT, options | {'loss': 'dlr'}, videos))
    assert not found.finished(Cell('attack', 'pgd', 4 / 255, options, videos))
    assert not found.finished(Cell('attack', 'pgd', EIGHT, options, list(LABELS)))
    assert not found.finished(Cell('attack', 'fgsm', EIGHT, options, videos))


# ---- numbers


def test_accuracy(found: Robustness) -> None:
    assert found.top('clean') == 75
    assert found.top('clean', 5) == 75
    assert found.top('corruption/fog/2') == 0
    assert found.top('corruption/fog/2', 5) == 75
    assert found.top('attack/pgd') == pytest.approx(200 / 3)
    assert found.videos('attack/pgd').tolist() == [3, 5, 8]
    assert found.correct('attack/pgd').tolist() == [True, False, True]


def test_accuracy_on_chosen_videos_in_their_order(found: Robustness) -> None:
    assert found.correct('clean', videos=[9, 3]).tolist() == [False, True]
    assert found.top('clean', videos=found.videos('attack/pgd')) == 100
    with pytest.raises(ValueError, match="'attack/pgd' of 'TSM' lacks 1 of 2 videos.* index 9"):
        found.top('attack/pgd', videos=[3, 9])


def test_class_accuracy(found: Robustness) -> None:
    accuracy, counts = found.class_accuracy('corruption/snow/1')
    assert counts.tolist() == [2, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(accuracy, [50, 100, 0, math.nan, math.nan, math.nan])
    accuracy, counts = found.class_accuracy('clean', [5, 9])
    assert counts.tolist() == [1, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(accuracy[:3], [100, math.nan, 0])


def test_corruptions(found: Robustness) -> None:
    table = found.corruption_table()
    assert table.names == ['snow', 'fog']
    assert table.severities == [1, 2]
    assert table.accuracy.tolist() == [[50, 25], [50, 0]]
    assert found.corruption_table(5).accuracy.tolist() == [[75, 75], [100, 75]]
    assert found.mpc() == (37.5 + 25) / 2
    assert found.mpc(k=5) == (75 + 87.5) / 2
    assert found.mpc(['snow']) == 37.5
    assert found.rpc() == pytest.approx(100 * 31.25 / 75)
    assert found.rpc(['fog']) == pytest.approx(100 * 25 / 75)
    groups = {'weather': ['snow', 'fog', 'frost'], 'noise': ['gaussian_noise'], 'light': ['fog']}
    assert found.corruption_groups(groups) == {'weather': ['snow', 'fog'], 'light': ['fog']}
    with pytest.raises(KeyError, match=r"no corruption 'snwo'; write \['snow'\]"):
        found.mpc(['snwo'])


def test_mpc_weighs_corruptions_and_not_cells(found: Robustness) -> None:
    """Two severities of one corruption and one of another."""
    del found.cells['corruption/fog/2']
    assert found.mpc(['snow']) == 37.5
    assert math.isnan(found.mpc())
    del found.cells['corruption/snow/2']
    assert found.mpc() == 50
    found.add(cell('corruption', [0], 'rain', 1))
    assert found.mpc() == pytest.approx((50 + 50 + 100) / 3)


def test_rpc_takes_the_clean_accuracy_of_the_same_videos(found: Robustness) -> None:
    for key in found.keys('corruption'):
        del found.cells[key]
    assert math.isnan(found.mpc()) and math.isnan(found.rpc())
    # Clean, both of these videos are right: 50 of 100, and not 50 of 75.
    found.add(cell('corruption', [0, 1], 'rain', 1))
    assert found.rpc() == 50
    del found.cells['clean']
    assert math.isnan(found.rpc())


def test_groups_of_the_package_by_default() -> None:
    corruptions = pytest.importorskip('adv_plugins.datasets.corruptions')
    group, names = next(iter(corruptions.CORRUPTION_GROUPS.items()))
    found = Robustness('TSM', classes=CLASSES, labels=dict(LABELS))
    found.add(cell('corruption', [0], names[0], 1))
    assert found.corruption_groups() == {group: [names[0]]}


def test_worst_case(found: Robustness) -> None:
    """On videos 3, 5, 8: pgd right on 3, 8; square right on 3, 5."""
    videos, correct = found.survivors(['attack/square', 'attack/pgd'])
    assert videos.tolist() == [3, 5, 8]
    assert correct.tolist() == [True, False, False]
    assert found.worst_case(['attack/pgd', 'attack/square']) == pytest.approx(100 / 3)
    # Square makes the fourth video right, which no attack can be credited with.
    assert found.worst_case(['attack/square']) == 75
    assert found.worst_case(['clean', 'attack/square']) == 50
    assert found.worst_case(['attack/square'], k=4) == 100
    found.add(cell('attack', [0], 'small', 1 / 255))
    with pytest.raises(ValueError, match='attacks of one eps'):
        found.worst_case(['attack/pgd', 'attack/small'])
    with pytest.raises(ValueError, match='attacks of one eps'):
        found.worst_case([])
    found.add(cell('attack', [0], 'other', EIGHT, videos=[9]))
    with pytest.raises(ValueError, match='share no video'):
        found.worst_case(['attack/pgd', 'attack/other'])


def test_attacks_of_one_threat_model(found: Robustness) -> None:
    found.add(cell('attack', [0], 'small', 1 / 255))
    found.add(cell('attack', [0], 'l2', EIGHT, options={'norm': 'l2'}))
    found.add(cell('attack', [0], 'linf', EIGHT, options={'norm': 'linf'}))
    groups = [['attack/pgd', 'attack/square', 'attack/linf'], ['attack/small'], ['attack/l2']]
    assert found.attack_groups() == groups


def test_curve(found: Robustness) -> None:
    with pytest.raises(KeyError, match=r"no curve of 'pgd'; it has \[\]"):
        found.curve('pgd')
    options = dict(steps=10, step_size=0.25)
    found.add(cell('curve', [1, 1, 1], 'pgd', 16 / 255, options=options | {'eps': 16 / 255}))
    found.add(cell('curve', [0, 0, 1], 'pgd', 4 / 255, options=options | {'eps': 4 / 255}))
    curve = found.curve('pgd')
    # Clean, on these three videos, and the attack itself at 8/255.
    np.testing.assert_allclose(curve.eps, [0, 4 / 255, 8 / 255, 16 / 255])
    np.testing.assert_allclose(curve.accuracy, [100, 200 / 3, 200 / 3, 0])
    assert (curve.low[1], curve.high[1]) == wilson_interval(2, 3)[1:]
    assert curve.num_videos == 3
    # An attack with other steps is not on the curve.
    found.cells['attack/pgd'].options['steps'] = 50
    np.testing.assert_allclose(found.curve('pgd').eps, [0, 4 / 255, 16 / 255])
    assert found.curve_names() == ['pgd']


@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.99])
@pytest.mark.parametrize(('successes', 'total'), [(0, 7), (7, 7), (1, 7), (263, 480), (1, 1)])
def test_wilson_against_scipy(successes: int, total: int, confidence: float) -> None:
    stats = pytest.importorskip('scipy.stats')
    expected = stats.binomtest(successes, total).proportion_ci(confidence, method='wilson')
    value, low, high = wilson_interval(successes, total, confidence)
    assert value == pytest.approx(100 * successes / total)
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_the_bounds_of_an_interval(found: Robustness) -> None:
    assert wilson_interval(0, 9).low == 0 and wilson_interval(9, 9).high == 100
    # By hand: z² = 3.8415, (0.75 + 0.4802 ± sqrt(0.75 · 0.25 / 4 + 0.0600) · 1.96) / 1.9604
    low, high = found.interval('clean')[1:]
    assert (low, high) == pytest.approx((30.06, 95.44), abs=0.01)
    for wrong in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match='of at least 1'):
            wilson_interval(*wrong)


def test_names_that_are_not_there(found: Robustness) -> None:
    with pytest.raises(KeyError, match='corruption/snow/1'):
        found.top('corruption/snow/7')
    found.skip('attack/apgd', 'the model has too few classes')
    with pytest.raises(KeyError, match="no number for 'attack/apgd': the model has too few"):
        found.top('attack/apgd')
    found.add(Cell('deepfool', videos=[3], values=dict(rho=[1], success=[1], iterations=[2])))
    with pytest.raises(ValueError, match='has no predictions, only'):
        found.correct('deepfool')


# ---- what is missing


def test_skipping_drops_what_was_found_and_adding_what_was_missing(found: Robustness) -> None:
    found.skip('corruption/snow', 'cannot be read')
    assert found.keys('corruption') == ['corruption/fog/1', 'corruption/fog/2']
    found.skip('attack/pgd', 'out of memory')
    assert found.keys('attack') == ['attack/square']
    found.add(cell('corruption', [0], 'snow', 1))
    assert found.missing == {'attack/pgd': 'out of memory'}
    found.add(cell('attack', [0], 'pgd', EIGHT))
    assert found.missing == {}


def test_a_name_that_begins_alike_is_not_skipped(found: Robustness) -> None:
    found.add(cell('attack', [0], 'pgd_20', EIGHT))
    found.skip('attack/pgd', 'out of memory')
    assert found.keys('attack') == ['attack/square', 'attack/pgd_20']


def test_missing_severities_leave_no_mean(found: Robustness) -> None:
    found.skip('corruption/fog/2', 'no frames')
    found.skip('corruption/frost', 'no images')
    table = found.corruption_table()
    assert table.names == ['snow', 'fog', 'frost']
    nan = math.nan
    np.testing.assert_array_equal(table.accuracy, [[50, 25], [50, nan], [nan, nan]])
    assert math.isnan(found.mpc()) and math.isnan(found.mpc(['fog'])) and math.isnan(found.rpc())
    assert found.mpc(['snow']) == 37.5
    page = found.markdown({})
    assert '| fog | 50.0 | — | — | — | — |' in page
    assert '| frost | — | — | — | — | — |' in page
    assert 'P 75.0, mPC —, rPC —.' in page
    assert 'Over the 1 corruptions with all severities alone (snow): mPC 37.5, rPC 50.0.' in page
    assert '- corruption/fog/2: no frames' in page
    assert '- corruption/frost: no images' in page


def test_gaps_that_nobody_explained_are_told(found: Robustness) -> None:
    """As an interrupted evaluation leaves them."""
    del found.cells['corruption/fog/2']
    del found.cells['clean']
    found.add(cell('curve', [0], 'pgd', 1 / 255))
    found.add(cell('curve', [0], 'fgsm', 2 / 255))
    found.skip('curve/fgsm/0.003922', 'interrupted')
    missing = found.markdown({}).split('## Missing')[1].split()
    assert ' '.join(missing) == (
        '- curve/fgsm/0.003922: interrupted - clean: it was not evaluated '
        '- corruption/fog/2: it was not evaluated - curve/pgd/0.007843: it was not evaluated'
    )
    assert 'There is no number; see "Missing".' in found.markdown({})


# ---- files


def test_round_trip(found: Robustness, tmp_path: Any) -> None:
    found.add(
        Cell(
            'deepfool',
            options=dict(norm=math.inf, sizes=(1, 2), eps=0.1 + 0.2),
            videos=[3, 5],
            values=dict(rho=[math.nan, 1 / 3], success=[0, 1], iterations=[5, 2]),
        )
    )
    found.skip('attack/apgd', 'why')
    found.flags = [Flag('a', True, 'b'), Flag('c', None, 'd')]
    file = tmp_path / 'deep' / 'tsm.json'
    found.save(file)
    again = Robustness.load(file)
    # NaN is not equal to itself.
    rho = again.cells['deepfool'].values['rho']
    assert math.isnan(rho[0]) and rho[1] == 1 / 3
    shift = again.cells['attack/pgd'].values['cam_shift']
    assert math.isnan(shift[1])
    for values, name in ((rho, 'deepfool'), (shift, 'attack/pgd')):
        mine = found.cells[name].values
        values[:] = mine['rho' if name == 'deepfool' else 'cam_shift']
    assert again == found
    assert again.cells['deepfool'].options == {'norm': 'inf', 'sizes': [1, 2], 'eps': 0.1 + 0.2}
    assert again.finished(
        Cell('deepfool', options=dict(norm=math.inf, sizes=(1, 2), eps=0.1 + 0.2), videos=[3, 5])
    )
    assert again.markdown({}) == found.markdown({})
    assert [path.name for path in file.parent.iterdir()] == ['tsm.json']


def test_a_file_is_json_that_every_reader_takes(found: Robustness, tmp_path: Any) -> None:
    found.cells['clean'].values['entropy'][1:3] = [math.nan, math.inf]
    found.save(tmp_path / 'tsm.json')

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads((tmp_path / 'tsm.json').read_text(), parse_constant=refuse)
    assert content['format'] == FORMAT
    assert content['cells'][0]['values']['entropy'] == [0.5, None, None, 0.7]
    assert found.cells['clean'].values['entropy'][2] == math.inf


def test_a_failed_save_leaves_the_old_file(
    found: Robustness, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'tsm.json'
    found.save(file)
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError('no space left')

    monkeypatch.setattr(os, 'replace', full)
    found.model = 'TAF'
    with pytest.raises(OSError, match='no space left'):
        found.save(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text[:-20], 'no file that Robustness.save wrote'),
        (lambda text: '[]', 'no file that Robustness.save wrote'),
        (lambda text: '{}', 'no file that Robustness.save wrote'),
        (lambda text: '\udcff', 'no file that Robustness.save wrote'),
        (lambda text: text.replace('"format": 1', '"format": 7'), 'the format 7, .* reads 1'),
        (lambda text: text.replace('"ranks"', '"rank"'), "damaged: .*'rank'.* evaluate again"),
        (lambda text: text.replace('"cells"', '"cell"'), 'damaged'),
        (
            lambda text: text.replace('[0, 0, 0, 5]', '[0, 0, 0]'),
            'damaged: .* 4 videos and 3 ranks',
        ),
        (lambda text: text.replace('"labels": {', '"labels": {"x": 1, '), 'damaged'),
    ],
)
def test_files_that_cannot_be_read_are_told(
    found: Robustness, tmp_path: Any, change: Any, message: str
) -> None:
    file = tmp_path / 'tsm.json'
    found.save(file)
    text = change(file.read_text(encoding='utf-8'))
    file.write_text(text, encoding='utf-8', errors='surrogateescape')
    with pytest.raises(ValueError, match=message) as told:
        Robustness.load(file)
    assert str(file) in str(told.value)


def test_no_file(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError):
        Robustness.load(tmp_path / 'none.json')


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 5), st.integers(0, 5)),
        min_size=1,
        unique_by=lambda row: row[0],
    ),
    st.integers(1, 6),
)
def test_a_file_keeps_every_accuracy(tmp_path_factory: Any, rows: Any, k: int) -> None:
    videos, labels, ranks = map(list, zip(*rows, strict=True))
    found = Robustness('m', classes=CLASSES, labels=dict(zip(videos, labels, strict=True)))
    predictions = [y if rank == 0 else (y + 1) % 6 for y, rank in zip(labels, ranks, strict=True)]
    found.add(Cell('clean', videos=videos, predictions=predictions, ranks=ranks))
    file = tmp_path_factory.getbasetemp() / 'kept.json'
    found.save(file)
    again = Robustness.load(file)
    assert again == found
    assert again.top('clean', k) == pytest.approx(100 * sum(r < k for r in ranks) / len(ranks))
    order = sorted(videos)
    by_video = dict(zip(videos, ranks, strict=True))
    assert again.correct('clean', k, order).tolist() == [by_video[v] < k for v in order]


# ---- the page


def lines(page: str, title: str) -> list[str]:
    """The lines of a section that are not empty."""
    section = page.split(f'## {title}\n')[1].split('\n## ')[0]
    return [line for line in section.splitlines() if line]


def test_the_page_has_every_number(found: Robustness) -> None:
    page = found.markdown({'weather': ['snow', 'fog', 'frost']})
    assert page.startswith(
        '# Robustness of TSM\n\n- config: tsm.py\n- checkpoint: tsm.pth\n- weights: abc\n'
        '- dataset: clips\n- videos: 4 of 6 classes\n'
    )
    assert lines(page, 'Clean accuracy')[2:] == [
        '| top-1 | 75.0 | [30.1, 95.4] | 4 |',
        '| top-5 | 75.0 | [30.1, 95.4] | 4 |',
    ]
    section = lines(page, 'Corruptions')
    assert 'on 4 videos each' in section[0]
    assert section[1].startswith('| corruption | severity 1 | severity 2 | mPC top-1 | mPC top-5 |')
    assert section[3:] == [
        '| snow | 50.0 | 25.0 | 37.5 | 75.0 | 50.0 |',
        '| fog | 50.0 | 0.0 | 25.0 | 87.5 | 33.3 |',
        '| **weather** (2) |  |  | 31.2 | 81.2 | 41.7 |',
        '| **all** (2) |  |  | 31.2 | 81.2 | 41.7 |',
        'P 75.0, mPC 31.2, rPC 41.7.',
    ]
    assert lines(page, 'Attacks')[3:] == [
        '| pgd | 8/255 | 66.7 [20.8, 93.9] | 100.0 | 3 | 61 | '
        'steps=10, step_size=0.25, eps=0.03137 |',
        '| square | 8/255 | 75.0 [30.1, 95.4] | 75.0 | 4 | 0 |  |',
        '| **worst case** | 8/255 | 33.3 [6.1, 79.2] | 100.0 | 3 |  | pgd, square |',
    ]
    assert lines(page, 'Attention')[1:] == [
        '| condition | attention entropy | CAM shift | videos |',
        '| --- | ---: | ---: | ---: |',
        '| clean | 0.7 | — | 4 |',
        '| attack/pgd | — | 0.5 (2 of 3) | 3 |',
    ]
    # Under fog, left loses half of its two videos; under pgd, on three videos.
    assert lines(page, 'Classes')[1:] == [
        '| class | videos | clean top-1 | change under fog, mean over severities '
        '| change under pgd |',
        '| --- | ---: | ---: | ---: | ---: |',
        '| left | 2 | 100.0 | -50.0 | -50.0 |',
        '| right | 1 | 100.0 | -100.0 | +0.0 |',
        '| up | 1 | 0.0 | +0.0 | — |',
        '| down | 0 | — | — | — |',
        '| push | 0 | — | — | — |',
        '| pull | 0 | — | — | — |',
    ]
    assert lines(page, 'Missing') == ['Nothing that was asked for is missing.']
    for title in ('DeepFool', 'Sanity flags', 'Accuracy over eps'):
        assert f'## {title}' not in page


def test_classes_change_on_the_same_videos() -> None:
    """Of two videos to the left the clean one is right, and it alone is attacked."""
    found = Robustness('TSM', classes=CLASSES, labels=dict(LABELS))
    found.add(cell('clean', [1, 0]))
    found.add(cell('attack', [1], 'pgd', EIGHT, videos=[5]))
    assert '| left | 2 | 50.0 | -100.0 |' in found.markdown({})


def test_the_page_has_curves_and_deepfool(found: Robustness) -> None:
    found.add(cell('curve', [0, 1, 1], 'pgd', 4 / 255))
    found.add(cell('curve', [1, 1], 'fgsm', 4 / 255))
    found.add(cell('curve', [1, 1], 'fgsm', 0.5))
    found.add(
        Cell(
            'deepfool',
            options=dict(max_iter=5),
            videos=[3, 5, 8],
            values=dict(rho=[0.25, 0.75, 9.0], success=[1, 1, 0], iterations=[2, 3, 5]),
        )
    )
    page = found.markdown({})
    assert lines(page, 'Accuracy over eps')[1:] == [
        '| attack | eps 0 | eps 4/255 | eps 0.5 | videos |',
        '| --- | ---: | ---: | ---: | ---: |',
        '| pgd | 100.0 | 33.3 | — | 3 |',
        '| fgsm | 100.0 | 0.0 | 0.0 | 2 |',
    ]
    section = lines(page, 'DeepFool')
    assert 'on 3 videos, 0 seconds, run with max_iter=5' in section[0]
    assert '| rho mean | 0.5 |' in section
    assert '| success rate | 0.6667 |' in section
    assert '| at max iter | 0.3333 |' in section
    assert '- curve/pgd/0.5: it was not evaluated' in page


def test_flags_come_with_the_raised_ones_first(found: Robustness) -> None:
    found.flags = [
        Flag('noise', False, 'is weaker than pgd'),
        Flag('steps', None, 'there is one attack'),
        Flag('gradients', True, 'are zero for 3 of 4 videos'),
    ]
    page = found.markdown({})
    assert lines(page, 'Sanity flags') == [
        '- **RAISED** gradients: are zero for 3 of 4 videos',
        '- **not checked** steps: there is one attack',
        '- fine noise: is weaker than pgd',
    ]
    assert '**Read with care: sanity flags are raised (gradients).**' in page.split('\n## ')[0]
    found.flags.pop()
    assert 'Read with care' not in found.markdown({})


def test_missing_attacks_stand_in_their_table(found: Robustness) -> None:
    found.skip('attack/apgd', 'too few classes')
    page = found.markdown({})
    assert '| apgd | — | — | — | — | — | see "Missing" |' in lines(page, 'Attacks')
    assert lines(page, 'Missing') == ['- attack/apgd: too few classes']


def test_videos_that_no_cell_has_are_not_counted(found: Robustness) -> None:
    found.labels |= {100: 0, 101: 1}
    assert '- videos: 4 of 6 classes\n' in found.markdown({})


def test_five_classes_have_no_top_5() -> None:
    found = Robustness('TSM', classes=CLASSES[:5], labels=dict(LABELS))
    found.add(cell('clean', [0, 1, 0, 1]))
    found.add(cell('corruption', [0, 1, 0, 1], 'snow', 1))
    assert 'top-5' not in found.markdown({})


def test_an_empty_evaluation_has_a_page() -> None:
    page = Robustness('TSM', classes=CLASSES).markdown({})
    assert '- config: —' in page
    assert '- clean: it was not evaluated' in page


@pytest.mark.parametrize(
    ('level', 'text'),
    [(8 / 255, '8/255'), (1.0, '1'), (0.5, '0.5'), (0.03, '0.03'), (0.0, '0'), (None, '—')],
)
def test_eps_in_grey_levels(level: float | None, text: str) -> None:
    assert eps_text(level) == text


def test_pieces_of_tables() -> None:
    assert percent(-0.04, '+') == '+0.0'
    assert percent(1.25, '+') == '+1.2' and percent(math.nan) == percent(math.inf) == '—'
    assert markdown_table(['a|b'], [['c']]) == '| a\\|b |\n| --- |\n| c |'
