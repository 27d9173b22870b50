"""Logs of trainings: all of them are read, and no other file is taken for one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from training_logs import log, resumed_log

from adv_plugins.evaluation.training_log import read_training_log
from adv_plugins.visualization import plot_training_curves


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    return resumed_log(tmp_path)


def test_a_resumed_log(resumed: Path) -> None:
    found = read_training_log(resumed)
    assert found.unit == 'epoch'
    assert found.train == {
        'loss': {1: 3.5, 2: 1.5, 3: 0.5},
        'top1_acc': {1: 0.625, 2: 0.5, 3: 0.5},
    }
    assert found.val == {'acc/top1': {1: 0.25, 2: 0.5}, 'loss': {2: 1.75}}


def test_logs_may_be_named_in_three_ways(resumed: Path) -> None:
    folder = resumed / '20260102_000000'
    for path in (folder, folder / 'vis_data' / 'scalars.json', str(folder)):
        assert read_training_log(path).train['loss'] == {2: 1.5, 3: 0.5}


def test_iterations_where_there_are_no_epochs(tmp_path: Path) -> None:
    rows = [dict(loss=float(n), iter=n, step=n) for n in (5, 10)]
    log(tmp_path, 'a', [*rows, dict(GAP=0.5, step=10)])
    found = read_training_log(tmp_path)
    assert found.unit == 'iteration'
    assert found.train == {'loss': {5: 5.0, 10: 10.0}}
    assert found.val == {'GAP': {10: 0.5}}


def test_a_line_that_is_being_written_is_left_out(resumed: Path) -> None:
    file = resumed / '20260102_000000' / 'vis_data' / 'scalars.json'
    text = file.read_text()
    file.write_text(text + '{"loss": 7.0, "ste')
    assert read_training_log(resumed).train['loss'][3] == 0.5
    file.write_text('{"loss": 7.0, "ste\n' + text)
    with pytest.raises(ValueError, match=r"line 1 of .*scalars.json is no entry .*'\{\"loss\": 7"):
        read_training_log(resumed)


def test_logs_that_are_not_there(resumed: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'vis_data/scalars.json; write the work_dir'):
        read_training_log(tmp_path / 'nothing')
    # A folder of two trainings is not one that was resumed.
    shutil.copytree(resumed, tmp_path / 'second')
    with pytest.raises(FileNotFoundError, match=r"write one of \['.*run', '.*second'\]"):
        read_training_log(tmp_path)
    log(tmp_path / 'empty', 'a', [])
    with pytest.raises(ValueError, match='has logged nothing yet'):
        read_training_log(tmp_path / 'empty')


def test_a_log_of_mmengine(train: Any) -> None:
    """As its own hooks write it, not as it is thought to be."""
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    runner = train('real')
    found = read_training_log(runner.work_dir)
    assert found.unit == 'epoch'
    epochs = runner.max_epochs
    assert max(found.train['loss']) == epochs
    assert all(math.isfinite(value) for value in found.train['loss'].values())
    assert (
        plot_training_curves({'real': runner.work_dir}).axes[0].lines[0].get_xdata()[-1] == epochs
    )
