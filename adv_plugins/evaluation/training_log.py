"""What mmengine logged of one training, epoch by epoch, read back from its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

_LOGS = 'vis_data/scalars.json'

Series = dict[str, dict[float, float]]


class TrainingLog(NamedTuple):
    """The values that a training logged: by their names, the value at each epoch (iteration).

    Args:
        train (dict[str, dict[float, float]]): Means over each epoch, of ``'loss'`` and others.
        val (dict[str, dict[float, float]]): Metrics of each validation, such as ``'acc/top1'``.
        unit (str): ``'epoch'``, or ``'iteration'`` where the loop does not count epochs.
    """

    train: Series
    val: Series
    unit: str


def read_training_log(path: str | os.PathLike[str]) -> TrainingLog:
    """Read what mmengine logged of one training.

    A training that was resumed has several logs in its work dir. They are read in order of time,
    and what a later one repeats replaces the entries of an earlier one.

    Args:
        path (str | Path): A work dir, one of the dirs in it that are named by time, or a
            ``scalars.json``.

    Returns:
        TrainingLog: The logged values.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: A file is no log of mmengine, or is empty.
    """
    rows: list[dict[str, Any]] = []
    unit = 'iteration'
    for file in _log_files(Path(path)):
        new = _log_rows(file)
        first = next((row for row in new if 'iter' in row), None)
        if first is not None:
            unit = 'epoch' if 'epoch' in first else 'iteration'
            rows = [row for row in rows if _place(row, unit) < _place(first, unit)]
        rows += new
    if not rows:
        raise ValueError(f'{path} has logged nothing yet; wait for its first {_LOGS} entries')
    groups: dict[bool, dict[str, dict[float, list[float]]]] = {True: {}, False: {}}
    for row in rows:
        for name, value in row.items():
            if name not in ('step', 'epoch', 'iter'):
                series = groups['iter' in row].setdefault(name, {})
                series.setdefault(_place(row, unit), []).append(float(value))
    train, val = (
        {name: {x: mean(values) for x, values in s.items()} for name, s in groups[part].items()}
        for part in (True, False)
    )
    return TrainingLog(train, val, unit)


def _place(row: Mapping[str, Any], unit: str) -> float:
    """The epoch or iteration of a row; a validation has it as its step."""
    return float(row['epoch'] if 'iter' in row and unit == 'epoch' else row['step'])


def _log_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [path / _LOGS] if (path / _LOGS).is_file() else sorted(path.glob(f'*/{_LOGS}'))
    if not files:
        # A folder of several trainings must not be read as one that was resumed.
        below = sorted({str(file.parents[2]) for file in path.glob(f'**/{_LOGS}')})
        hint = f'write one of {below[:5]}' if below else 'write the work_dir of a training'
        raise FileNotFoundError(f'{path} has no {_LOGS} and no */{_LOGS}; {hint}')
    return files


def _log_rows(file: Path) -> list[dict[str, Any]]:
    lines = [line for line in file.read_text(encoding='utf-8').splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row['step']
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) > 1:
                # It is still being written.
                break
            raise ValueError(
                f'line {number} of {file} is no entry of an mmengine log: {line[:60]!r}'
            ) from error
        rows.append(row)
    return rows
