"""The page of one checkpoint: it has every number, and every gap is explained."""

from __future__ import annotations

import math

import pytest
from handmade_results import CLASSES, EIGHT, LABELS, cell, one_model

from adv_plugins.evaluation import markdown
from adv_plugins.evaluation.cells import Cell, Flag
from adv_plugins.evaluation.results import Robustness


@pytest.fixture
def results() -> Robustness:
    return one_model()


def lines(page: str, title: str) -> list[str]:
    """The lines of a section that are not empty."""
    section = page.split(f'## {title}\n')[1].split('\n## ')[0]
    return [line for line in section.splitlines() if line]


def test_an_ensemble_has_a_row_for_each_part(results: Robustness) -> None:
    nan = math.nan
    values = {'fooled_by': [nan, 1, nan, 3], 'stopped_in': [2, nan, nan, nan]}
    options = dict(type='StandardEnsemble', norm='l2', eps=EIGHT, seed=0)
    results.add(cell('attack', [0, 1, 0, 1], 'all', EIGHT, options=options, values=values))
    assert lines(markdown(results), 'Ensembles')[3:] == [
        '| all | APGD | 1 | 0 |',
        '| all | APGDTargeted | 0 | 1 |',
        '| all | DeepFoolTargeted | 1 | 1 |',
    ]
    assert 'fooled_by' not in markdown(results)


def test_a_mask_is_said_but_not_listed(results: Robustness) -> None:
    for name, region in (('masked', [[True] * 3] * 2), ('boxed', [0, 0, 2, 3])):
        options = dict(type='PGD', threat=f'linf, region={name}', region=region)
        results.add(cell('attack', [0, 1, 0, 1], name, EIGHT, options=options))
    rows = {line.split(' | ')[0]: line for line in lines(markdown(results), 'Attacks')}
    assert 'region=masked' in rows['| masked'] and 'True' not in rows['| masked']
    assert 'region=[0, 0, 2, 3]' in rows['| boxed']


def test_the_page_has_every_number(results: Robustness) -> None:
    page = markdown(results, groups={'weather': ['snow', 'fog', 'frost']})
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
    results = Robustness('TSM', classes=CLASSES, labels=dict(LABELS))
    results.add(cell('clean', [1, 0]))
    results.add(cell('attack', [1], 'pgd', EIGHT, videos=[5]))
    assert '| left | 2 | 50.0 | -100.0 |' in markdown(results, groups={})


def test_the_page_has_curves_and_deepfool(results: Robustness) -> None:
    results.add(cell('curve', [0, 1, 1], 'pgd', 4 / 255))
    results.add(cell('curve', [1, 1], 'fgsm', 4 / 255))
    results.add(cell('curve', [1, 1], 'fgsm', 0.5))
    results.add(
        Cell(
            'deepfool',
            options=dict(max_iter=5),
            videos=[3, 5, 8],
            values=dict(rho=[0.25, 0.75, 9.0], success=[1, 1, 0], iterations=[2, 3, 5]),
        )
    )
    page = markdown(results, groups={})
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


def test_flags_come_with_the_raised_ones_first(results: Robustness) -> None:
    results.flags = [
        Flag('noise', False, 'is weaker than pgd'),
        Flag('steps', None, 'there is one attack'),
        Flag('gradients', True, 'are zero for 3 of 4 videos'),
    ]
    page = markdown(results, groups={})
    assert lines(page, 'Sanity flags') == [
        '- **RAISED** gradients: are zero for 3 of 4 videos',
        '- **not checked** steps: there is one attack',
        '- fine noise: is weaker than pgd',
    ]
    assert '**Read with care: sanity flags are raised (gradients).**' in page.split('\n## ')[0]
    results.flags.pop()
    assert 'Read with care' not in markdown(results, groups={})


def test_missing_attacks_stand_in_their_table(results: Robustness) -> None:
    results.skip('attack/apgd', 'too few classes')
    page = markdown(results, groups={})
    assert '| apgd | — | — | — | — | — | see "Missing" |' in lines(page, 'Attacks')
    assert lines(page, 'Missing') == ['- attack/apgd: too few classes']


def test_videos_that_no_cell_has_are_not_counted(results: Robustness) -> None:
    results.labels |= {100: 0, 101: 1}
    assert '- videos: 4 of 6 classes\n' in markdown(results, groups={})


def test_five_classes_have_no_top_5() -> None:
    results = Robustness('TSM', classes=CLASSES[:5], labels=dict(LABELS))
    results.add(cell('clean', [0, 1, 0, 1]))
    results.add(cell('corruption', [0, 1, 0, 1], 'snow', 1))
    assert 'top-5' not in markdown(results, groups={})


def test_an_empty_evaluation_has_a_page() -> None:
    page = markdown(Robustness('TSM', classes=CLASSES), groups={})
    assert '- config: —' in page
    assert '- clean: it was not evaluated' in page


def test_flags_on_few_videos_say_so(results: Robustness) -> None:
    results.flags = [Flag('noise', False, 'fine')]
    probe = dict(score_change=[0.0] * 4, simplex=[0] * 4, gradient=[1.0] * 4)
    results.add(cell('sanity', [1, 1, 1, 1], values=probe))
    assert 'Checked on 4 videos only' in lines(markdown(results, groups={}), 'Sanity flags')[-1]


def test_rho_that_is_undefined_is_counted(results: Robustness) -> None:
    values = dict(rho=[0.25, float('inf'), 0.75], success=[1, 1, 1], iterations=[2, 3, 5])
    results.add(Cell('deepfool', videos=[3, 5, 8], values=values))
    section = lines(markdown(results, groups={}), 'DeepFool')
    assert '| rho mean | 0.5 |' in section and '| num undefined | 1 |' in section
