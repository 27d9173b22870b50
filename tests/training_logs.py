"""Logs of trainings as mmengine writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def log(folder: Path, time: str, rows: list[dict[str, Any]]) -> None:
    file = folder / time / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def step(epoch: int, number: int, loss: float, accuracy: float = 0.5) -> dict[str, Any]:
    return dict(loss=loss, top1_acc=accuracy, epoch=epoch, iter=number, step=number)


def resumed_log(folder: Path) -> Path:
    """Three epochs of two logged steps; interrupted in the third, resumed after the first."""
    first = [
        step(1, 10, 4.0),
        step(1, 20, 3.0, 0.75),
        {'acc/top1': 0.25, 'step': 1},
        step(2, 30, 2.5),
        {'acc/top1': 0.125, 'step': 2},
        step(3, 50, 9.0),
    ]
    second = [
        step(2, 30, 2.0),
        step(2, 40, 1.0),
        {'acc/top1': 0.5, 'loss': 1.75, 'step': 2},
        step(3, 50, 0.5),
    ]
    log(folder / 'run', '20260102_000000', second)
    log(folder / 'run', '20260101_000000', first)
    return folder / 'run'
