"""The file of results that evaluations share: nothing is lost, and damage does not block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handmade_results import CLASSES, EIGHT, LABELS, cell, one_model

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')

from adv_plugins.evaluation import results_store
from adv_plugins.evaluation.cells import Cell
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.results_store import ResultsStore


def empty(**more: Any) -> Robustness:
    given = dict(model='TSM', weights='abc', dataset='clips', classes=list(CLASSES))
    return Robustness(**{**given, **more})


def store(folder: Path, labels: dict[int, int] | None = None, **more: Any) -> ResultsStore:
    return ResultsStore(folder, empty(**more), LABELS if labels is None else labels, 10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What an earlier evaluation found."""
    path = tmp_path / 'robustness_abc.json'
    one_model().save(path)
    return path


def test_what_was_found_is_taken_up(file: Path) -> None:
    found = store(file.parent)
    planned = Cell('clean', videos=[3, 5])
    assert found.rest(planned) == []
    assert found.resume(planned).videos == list(LABELS)
    assert found._results.top('clean') == 75
    other = cell('attack', [0], 'pgd', EIGHT, options={'steps': 99})
    assert found.rest(other) == [3] and found.resume(other) is None
    # Only what this evaluation asked for is in its results, and all of it is in the file.
    found._results.add(other)
    found.save()
    assert list(found._results.cells) == ['clean', 'attack/pgd']
    again = Robustness.load(file)
    assert again.cells.keys() == one_model().cells.keys()
    assert again.cells['attack/pgd'].options == {'steps': 99}
    assert [each.options['steps'] for each in again.earlier] == [10]
    # The evaluation with the first options goes on with them.
    first = store(file.parent)
    assert first.resume(one_model().cells['attack/pgd']).videos == [3, 5, 8]
    first.save()
    assert [each.options['steps'] for each in Robustness.load(file).earlier] == [99]


def test_two_evaluations_at_a_time_lose_nothing(tmp_path: Path) -> None:
    """Also where both run the same cell, and one of them under another eps."""
    one, two = store(tmp_path), store(tmp_path)
    for each, videos, eps in ((one, [3, 5], EIGHT), (two, [8, 9], 4 / 255)):
        each._results.labels = dict(LABELS)
        each._results.add(cell('clean', [0, 1], videos=videos))
        each._results.add(cell('attack', [0, 1], 'pgd', eps, videos=videos))
    for each in (one, two, one, two):
        each.save()
    found = Robustness.load(tmp_path / 'robustness_abc.json')
    assert found.cells['clean'].videos == list(LABELS)
    assert found.cells['attack/pgd'].level == 4 / 255
    assert [each.level for each in found.earlier] == [EIGHT]
    assert {path.suffix for path in tmp_path.iterdir()} == {'.json', '.lock'}


def _older(text: str) -> str:
    return text.replace('"format": 1', '"format": 0')


DAMAGE = {
    'empty': lambda text: '',
    'cut short': lambda text: text[: len(text) // 2],
    'not JSON': lambda text: '<html></html>',
    'of another program': lambda text: '{"model": 3}',
    'a list': lambda text: '[1, 2]',
    'of another version': _older,
    'without a field': lambda text: text.replace('"flags"', '"flag"'),
    'a field too many': lambda text: text.replace('"flags"', '"x": 1, "flags"'),
    'of another shape': lambda text: text.replace('"ranks": [', '"ranks": [7, '),
    'beyond all numbers': lambda text: text.replace('"videos": [3', '"videos": [1e999'),
    'deeper than Python goes': lambda text: '[' * 100_000,
    'no text': None,
}


@pytest.mark.parametrize('change', DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_file_is_put_aside(
    file: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(results_store, 'print_log', lambda text, *_: told.append(text))
    content = file.read_text()
    damaged = b'\xff\xfe\x00' if change is None else change(content).encode()
    for number in (1, 2):
        file.write_bytes(damaged)
        found = store(file.parent)
        assert found.stored.cells == {} and f'damaged-{number}' in told[-1]
        assert (file.parent / f'{file.name}.damaged-{number}').read_bytes() == damaged
        assert f'damaged-{number}' in found._results.missing[file.name]
        found.save()
        assert json.loads(file.read_text())['cells'] == []


def test_a_folder_in_its_place_is_put_aside(file: Path) -> None:
    file.unlink()
    (file / 'mine').mkdir(parents=True)
    store(file.parent).save()
    assert (file.parent / f'{file.name}.damaged-1' / 'mine').is_dir() and file.is_file()


def test_damage_while_it_runs_is_put_aside(file: Path) -> None:
    found = store(file.parent)
    found.resume(Cell('clean'))
    file.write_text('{')
    found.save()
    assert list(Robustness.load(file).cells) == ['clean']
    assert (file.parent / f'{file.name}.damaged-1').read_text() == '{'


@pytest.mark.parametrize(
    ('labels', 'more'),
    [
        ({3: 1}, {}),
        (None, dict(dataset='others')),
        (None, dict(classes=['a', 'b', 'c'])),
        (dict.fromkeys(range(3), 0), {}),
    ],
)
def test_results_of_other_videos_are_put_aside(file: Path, labels: Any, more: Any) -> None:
    content = file.read_text()
    total = 9 if labels and 0 in labels else 10
    found = ResultsStore(file.parent, empty(**more), LABELS if labels is None else labels, total)
    assert found.stored.cells == {}
    assert (file.parent / f'{file.name}.other-1').read_text() == content


def test_a_copied_file_of_other_weights_is_put_aside(file: Path) -> None:
    file.rename(file.with_name('robustness_xyz.json'))
    assert store(file.parent, weights='xyz').stored.cells == {}
    assert (file.parent / 'robustness_xyz.json.other-1').is_file()


def test_numbers_of_classes_may_get_their_names_later(file: Path) -> None:
    """Minutes of evaluation are not lost because somebody found the label map."""
    numbers = [str(label) for label in range(len(CLASSES))]
    for earlier, later in ((numbers, CLASSES), (CLASSES, numbers)):
        results = one_model()
        results.classes = list(earlier)
        results.save(file)
        found = store(file.parent, classes=list(later))
        assert found.resume(Cell('clean')) is not None
        found.save()
        assert Robustness.load(file).classes == CLASSES
    assert {path.suffix for path in file.parent.iterdir()} == {'.json', '.lock'}
