"""Results whose numbers are known by hand."""

from __future__ import annotations

import math
from typing import Any

from adv_plugins.evaluation.cells import Cell
from adv_plugins.evaluation.results import Robustness

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


def one_model() -> Robustness:
    """One model; clean accuracy 75, snow 50 and 25, fog 50 and 0."""
    results = Robustness('TSM', 'tsm.py', 'tsm.pth', 'abc', 'clips', CLASSES, dict(LABELS))
    results.add(cell('clean', [0, 0, 0, 5], values={'entropy': [0.5, 0.7, 0.9, 0.7]}))
    results.add(cell('corruption', [0, 1, 0, 5], 'snow', 1))
    results.add(cell('corruption', [0, 1, 2, 5], 'snow', 2))
    results.add(cell('corruption', [0, 0, 3, 4], 'fog', 1))
    results.add(cell('corruption', [5, 4, 3, 2], 'fog', 2))
    results.add(
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
    results.add(cell('attack', [0, 0, 3, 0], 'square', EIGHT))
    return results


THREE_CLASSES = ['left', 'right', 'up']


def result(model: str, count: int = 60, classes: list[str] | None = None) -> Robustness:
    """Videos 0, 10, 20, ... of the classes in turn."""
    classes = THREE_CLASSES if classes is None else classes
    labels = {10 * i: i % len(classes) for i in range(count)}
    return Robustness(model, f'{model}.py', f'{model}.pth', classes=classes, labels=labels)


def put(
    results: Robustness, kind: str, wrong: Any, name: str = '', level: Any = None, **more: Any
) -> None:
    """A cell in which the numbered videos are wrong, of all videos unless others are given."""
    videos = more.pop('videos', list(results.labels))
    ranks = [int(video // 10 in wrong) for video in videos]
    predictions = [
        (results.labels[video] + rank) % len(results.classes)
        for video, rank in zip(videos, ranks, strict=True)
    ]
    results.add(
        Cell(kind, name, level, videos=videos, predictions=predictions, ranks=ranks, **more)
    )


def two_models() -> list[Robustness]:
    """Clean: 20 of 60 wrong, of which the second gets 12 right and loses 2 others."""
    a, b = result('TSM'), result('TAF')
    put(a, 'clean', range(20))
    put(b, 'clean', [*range(12, 20), 30, 31])
    for results, shift in ((a, 0), (b, 6)):
        put(results, 'corruption', range(30 - shift), 'snow', 1)
        put(results, 'corruption', range(40), 'snow', 2)
        put(results, 'corruption', range(60 - shift), 'fog', 1)
        attacked = list(results.labels)[:30]
        put(results, 'attack', range(20 - shift), 'pgd', EIGHT, videos=attacked)
        put(results, 'attack', range(5, 25), 'square', EIGHT, videos=attacked[::-1])
    return [a, b]
