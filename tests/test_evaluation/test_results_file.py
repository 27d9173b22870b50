"""Files of results: whole, readable by others, and the same since the first version."""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

import pytest
from handmade_results import CLASSES, one_model
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.evaluation import markdown
from adv_plugins.evaluation.cells import Cell, Flag
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.results_file import FORMAT

OLD_FILE = (
    '{"format": 1, "model": "TSM", "config": "tsm.py", "checkpoint": "tsm.pth", "weights": "abc", '
    '"dataset": "clips", "classes": ["left", "right"], "labels": {"3": 0, "5": 1}, "cells": '
    '[{"kind": "attack", "name": "pgd", "level": 0.03137254901960784, "options": {"steps": 10}, '
    '"videos": [3, 5], "predictions": [0, 0], "ranks": [0, 1], "values": {"cam_shift": [0.25, '
    'null]}, "seconds": 61.4}], "missing": {"deepfool": "why"}, "flags": [{"name": "noise", '
    '"raised": false, "message": "fine"}]}\n'
)
"""As every version of format 1 has written it."""


@pytest.fixture
def results() -> Robustness:
    return one_model()


def test_an_old_file_is_read_and_written_as_it_was(tmp_path: Any) -> None:
    (tmp_path / 'old.json').write_text(OLD_FILE, encoding='utf-8')
    results = Robustness.load(tmp_path / 'old.json')
    assert (results.model, results.labels) == ('TSM', {3: 0, 5: 1})
    assert results.top('attack/pgd') == 50 and results.missing == {'deepfool': 'why'}
    assert results.flags == [Flag('noise', False, 'fine')]
    results.save(tmp_path / 'new.json')
    assert (tmp_path / 'new.json').read_text(encoding='utf-8') == OLD_FILE


def test_round_trip(results: Robustness, tmp_path: Any) -> None:
    results.add(
        Cell(
            'deepfool',
            options=dict(norm=math.inf, sizes=(1, 2), eps=0.1 + 0.2),
            videos=[3, 5],
            values=dict(rho=[math.nan, 1 / 3], success=[0, 1], iterations=[5, 2]),
        )
    )
    results.skip('attack/apgd', 'why')
    results.flags = [Flag('a', True, 'b'), Flag('c', None, 'd')]
    file = tmp_path / 'deep' / 'tsm.json'
    results.save(file)
    again = Robustness.load(file)
    # NaN is not equal to itself.
    rho = again.cells['deepfool'].values['rho']
    assert math.isnan(rho[0]) and rho[1] == 1 / 3
    shift = again.cells['attack/pgd'].values['cam_shift']
    assert math.isnan(shift[1])
    for values, name in ((rho, 'deepfool'), (shift, 'attack/pgd')):
        mine = results.cells[name].values
        values[:] = mine['rho' if name == 'deepfool' else 'cam_shift']
    assert again == results
    assert again.cells['deepfool'].options == {'norm': 'inf', 'sizes': [1, 2], 'eps': 0.1 + 0.2}
    assert again.alike(Cell('deepfool', options=dict(norm=math.inf, sizes=(1, 2), eps=0.1 + 0.2)))
    assert markdown(again, groups={}) == markdown(results, groups={})
    assert [path.name for path in file.parent.iterdir()] == ['tsm.json']


def test_a_file_is_json_that_every_reader_takes(results: Robustness, tmp_path: Any) -> None:
    results.cells['clean'].values['entropy'][1:3] = [math.nan, math.inf]
    results.save(tmp_path / 'tsm.json')

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads((tmp_path / 'tsm.json').read_text(), parse_constant=refuse)
    assert content['format'] == FORMAT
    assert content['cells'][0]['values']['entropy'] == [0.5, None, None, 0.7]
    assert results.cells['clean'].values['entropy'][2] == math.inf


def test_a_failed_save_leaves_the_old_file(
    results: Robustness, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'tsm.json'
    results.save(file)
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError('no space left')

    monkeypatch.setattr(os, 'replace', full)
    results.model = 'TAF'
    with pytest.raises(OSError, match='no space left'):
        results.save(file)
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
        (lambda text: re.sub('"classes": \\[.*?\\]', '"classes": 7', text), 'damaged'),
    ],
)
def test_files_that_cannot_be_read_are_told(
    results: Robustness, tmp_path: Any, change: Any, message: str
) -> None:
    file = tmp_path / 'tsm.json'
    results.save(file)
    text = change(file.read_text(encoding='utf-8'))
    file.write_text(text, encoding='utf-8', errors='surrogateescape')
    with pytest.raises(ValueError, match=message) as told:
        Robustness.load(file)
    assert str(file) in str(told.value)


def test_no_file(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError):
        Robustness.load(tmp_path / 'none.json')


@settings(deadline=None)
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
    results = Robustness('m', classes=CLASSES, labels=dict(zip(videos, labels, strict=True)))
    predictions = [y if rank == 0 else (y + 1) % 6 for y, rank in zip(labels, ranks, strict=True)]
    results.add(Cell('clean', videos=videos, predictions=predictions, ranks=ranks))
    file = tmp_path_factory.getbasetemp() / 'kept.json'
    results.save(file)
    again = Robustness.load(file)
    assert again == results
    assert again.top('clean', k) == pytest.approx(100 * sum(r < k for r in ranks) / len(ranks))
    order = sorted(videos)
    by_video = dict(zip(videos, ranks, strict=True))
    assert again.correct('clean', k, order).tolist() == [by_video[v] < k for v in order]


def test_a_failed_save_leaves_nothing_behind(
    results: Robustness, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError('no space left')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='no space left'):
        results.save(tmp_path / 'tsm.json')
    assert not list(tmp_path.iterdir())


def test_writers_at_a_time_do_not_share_a_part(
    results: Robustness, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of them is about to finish, another writes the whole of the file."""
    replace, other = os.replace, one_model()

    def late(*paths: Any) -> None:
        monkeypatch.setattr(os, 'replace', replace)
        other.model = 'other'
        other.save(tmp_path / 'tsm.json')
        assert Robustness.load(tmp_path / 'tsm.json').model == 'other'
        replace(*paths)

    monkeypatch.setattr(os, 'replace', late)
    results.save(tmp_path / 'tsm.json')
    assert Robustness.load(tmp_path / 'tsm.json') == results
    assert [path.name for path in tmp_path.iterdir()] == ['tsm.json']


def test_earlier_cells_are_in_the_file(results: Robustness, tmp_path: Any) -> None:
    first = results.cells['attack/square']
    results.add(Cell('attack', 'square', 4 / 255, {}, [3], [0], [0]))
    results.missing['attack/square'] = 'evaluating it again failed'
    results.save(tmp_path / 'tsm.json')
    again = Robustness.load(tmp_path / 'tsm.json')
    assert again.earlier == [first] and again.cells['attack/square'].level == 4 / 255
    assert again.missing == results.missing
