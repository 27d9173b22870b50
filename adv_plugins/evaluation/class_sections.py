"""The sections of a page of results that tell of single classes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .confusion import condition_text, confused_pairs, confusion_keys, confusion_matrix
from .page_text import section
from .results import Robustness
from .selection import shared_videos
from .summary import strongest_attack
from .tables import markdown_table, percent

_PAIRS = 10
"""How many pairs of confused classes a page names."""


def class_section(results: Robustness) -> str:
    """The accuracy of each class, and how it changes; '' without clean videos."""
    if 'clean' not in results.cells:
        return ''
    clean, counts = results.class_accuracy('clean')
    header, columns = ['class', 'videos', 'clean top-1'], []
    worst = _worst_corruption(results)
    if worst:
        keys = [key for key in results.keys('corruption') if results.cells[key].name == worst]
        header.append(f'change under {worst}, mean over severities')
        columns.append(np.mean([_class_change(results, key) for key in keys], axis=0))
    key = strongest_attack(results)
    if key is not None:
        header.append(f'change under {results.cells[key].name}')
        columns.append(_class_change(results, key))
    rows = [
        [name, str(counts[i]), percent(clean[i]), *[percent(column[i], '+') for column in columns]]
        for i, name in enumerate(results.classes)
    ]
    return section(
        'Classes',
        'Top-1 accuracy in percent, and its change in points, on the same videos, under the '
        'corruption with the lowest mPC and the attack with the largest drop.',
        markdown_table(header, rows),
    )


def confusion_section(results: Robustness) -> str:
    """Which classes are taken for which; '' if none is."""
    rows = []
    for key in confusion_keys(results):
        pairs = confused_pairs(confusion_matrix(results, key))
        rows += [
            [
                results.classes[pair.label],
                results.classes[pair.prediction],
                condition_text(results.cells[key]),
                f'{pair.count} of {pair.num_videos}',
                percent(pair.share),
            ]
            for pair in pairs[:_PAIRS]
        ]
    if not rows:
        return ''
    return section(
        'Most confused',
        f'Up to {_PAIRS} pairs of classes, clean and under the attack with the largest drop. The '
        'share is in percent of the videos of the true class.',
        markdown_table(['class', 'taken for', 'condition', 'videos', 'share, %'], rows, names=3),
    )


def _class_change(results: Robustness, key: str) -> NDArray[np.float64]:
    videos = shared_videos((results.cells[key].videos, results.cells['clean'].videos))
    attacked, clean = (results.class_accuracy(each, videos)[0] for each in (key, 'clean'))
    return attacked - clean


def _worst_corruption(results: Robustness) -> str | None:
    means = {name: results.mpc([name]) for name in results.corruption_table().names}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    return min(means, key=means.__getitem__) if means else None
