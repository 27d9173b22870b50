"""The tables of an evaluation as files have them: the numbers of all checkpoints together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from .comparison import Comparison
from .confusion import confused_pairs, confusion_keys, confusion_matrix
from .intervals import wilson_interval
from .results import Robustness
from .selection import shared_videos
from .summary import strongest_attack, summarize
from .table_files import Column, Table
from .transfer_matrix import transfer_matrix

_MODEL, _VIDEOS = Column('model', 'model'), Column('videos', 'videos', 'count')
_PAIRS = 10
"""How many pairs of confused classes the LaTeX file shows for each model and condition."""


def result_tables(results: Sequence[Robustness], comparison: Comparison | None) -> list[Table]:
    """All tables.

    Args:
        results (Sequence[Robustness]): The results of each checkpoint.
        comparison (Comparison, optional): Their comparison, if there is one.

    Returns:
        list[Table]: ``summary``, ``corruptions``, ``attacks``, ``curves``, ``transfer``,
        ``classes`` and ``confusions``, and with a comparison ``comparison`` and
        ``comparison_values``; some may have no rows.
    """
    tables = [
        _summary_table(results),
        _corruption_table(results),
        _attack_table(results),
        _curve_table(results),
        _transfer_table(results),
        _class_table(results),
        _confusion_table(results),
    ]
    return tables if comparison is None else [*tables, *_comparison_tables(comparison)]


def _summary_table(results: Sequence[Robustness]) -> Table:
    rows: list[list[Any]] = []
    for each in results:
        summary = summarize(each)
        flags = [sum(flag.raised is state for flag in each.flags) for state in (True, None)]
        head = [each.model, summary.num_clean, summary.clean]
        tail = [summary.mpc, summary.rpc, *flags, each.checkpoint, each.weights]
        # One row for each threat model; without an attack there is one as well.
        for case in summary.worst or [None]:
            attacked: list[Any] = [None] * 4
            if case is not None:
                attacked = [case.norm, case.eps, case.num_videos, case.accuracy]
            rows.append([*head, *attacked, *tail])
    columns = [
        _MODEL,
        _VIDEOS,
        Column('clean_top1', 'clean', 'interval'),
        Column('norm', ''),
        Column('eps', 'ε', 'eps'),
        Column('attacked_videos', 'attacked', 'count'),
        Column('worst_case_top1', 'worst case', 'interval'),
        Column('mpc', 'mPC', 'interval'),
        Column('rpc', 'rPC', 'percent'),
        Column('flags_raised', '', 'count'),
        Column('flags_not_checked', '', 'count'),
        Column('checkpoint', ''),
        Column('weights', ''),
    ]
    caption = (
        'Top-1 accuracy in percent with 95 % intervals (Wilson; mPC: bootstrap over videos): '
        'clean, in the worst case over all attacks of one eps, and under corruptions (mPC), which '
        'rPC gives in percent of the clean accuracy.'
    )
    return Table('summary', caption, columns, rows)


def _corruption_table(results: Sequence[Robustness]) -> Table:
    tables = [each.corruption_table() for each in results]
    severities = sorted({level for table in tables for level in table.severities})
    rows: list[list[Any]] = []
    for each, table in zip(results, tables, strict=True):
        for name, accuracy in zip(table.names, table.accuracy.tolist(), strict=True):
            at = dict(zip(table.severities, accuracy, strict=True))
            levels = [at.get(level, math.nan) for level in severities]
            rows.append([each.model, 'corruption', name, *levels, *_means(each, [name])])
        blank = [None] * len(severities)
        for group, names in each.corruption_groups().items() if table.names else ():
            rows.append([each.model, 'group', group, *blank, *_means(each, names)])
        if table.names:
            rows.append([each.model, 'all', 'all', *blank, *_means(each, table.names)])
    columns = [
        _MODEL,
        Column('kind', ''),
        Column('corruption', 'corruption'),
        *[Column(f'severity_{x:g}', f'severity {x:g}', 'percent') for x in severities],
        Column('mpc', 'mPC', 'percent'),
        Column('rpc', 'rPC', 'percent'),
        _VIDEOS,
    ]
    caption = (
        'Top-1 accuracy in percent by corruption and severity, the mean over severities (mPC) and '
        'that in percent of the clean accuracy (rPC); groups of corruptions and all of them below.'
    )
    return Table('corruptions', caption, columns, rows)


def _means(results: Robustness, names: Sequence[str]) -> list[Any]:
    keys = [key for key in results.keys('corruption') if results.cells[key].name in names]
    shared = shared_videos(results.cells[key].videos for key in keys) if keys else []
    return [results.mpc(names), results.rpc(names), len(shared)]


def _attack_table(results: Sequence[Robustness]) -> Table:
    rows: list[list[Any]] = []
    for each in results:
        for key in each.keys('attack'):
            cell = each.cells[key]
            count = len(cell.videos)
            numbers = [cell.level, each.interval(key), each.clean_top(key), count, cell.seconds]
            options = ', '.join(f'{name}={value}' for name, value in cell.options.items())
            rows.append([each.model, cell.name, *numbers, options])
        for case in summarize(each).worst:
            numbers = [case.eps, case.accuracy, None, case.num_videos, None]
            rows.append([each.model, 'worst case', *numbers, ', '.join(case.attacks)])
    columns = [
        _MODEL,
        Column('attack', 'attack'),
        Column('eps', 'ε', 'eps'),
        Column('top1', 'top-1', 'interval'),
        Column('clean_top1', 'clean top-1', 'percent'),
        _VIDEOS,
        Column('seconds', '', 'number'),
        Column('options', ''),
    ]
    caption = (
        'Top-1 accuracy under attack in percent with 95 % Wilson intervals, and the clean accuracy '
        'on the same videos. In the worst case a video counts only if it is right clean and under '
        'every attack of one eps.'
    )
    return Table('attacks', caption, columns, rows)


def _curve_table(results: Sequence[Robustness]) -> Table:
    rows: list[list[Any]] = []
    for each in results:
        for name in each.curve_names():
            curve = each.curve(name)
            points = zip(curve.eps, curve.accuracy, curve.low, curve.high, strict=True)
            for eps, *accuracy in points:
                values = tuple(map(float, accuracy))
                rows.append([each.model, name, float(eps), values, curve.num_videos])
    columns = [
        _MODEL,
        Column('attack', 'attack'),
        Column('eps', 'ε', 'eps'),
        Column('top1', 'top-1', 'interval'),
        _VIDEOS,
    ]
    caption = (
        'Top-1 accuracy in percent over eps with 95 % Wilson intervals, on the videos that all '
        'points of a curve share; eps 0 is clean.'
    )
    return Table('curves', caption, columns, rows)


def _transfer_table(results: Sequence[Robustness]) -> Table:
    rows: list[list[Any]] = []
    matrix = transfer_matrix(results)
    if matrix is not None:
        # Without a source, the clean videos.
        pairs = zip([None, *matrix.models], [matrix.clean, *matrix.rows], strict=True)
        for source, row in pairs:
            for target, accuracy in zip(matrix.models, row, strict=True):
                name = matrix.attack if source else None
                eps = matrix.eps if source else 0.0
                rows.append([target, source, name, eps, accuracy, matrix.num_videos])
    columns = [
        _MODEL,
        Column('examples_of', 'examples of'),
        Column('attack', 'attack'),
        Column('eps', 'ε', 'eps'),
        Column('top1', 'top-1', 'interval'),
        _VIDEOS,
    ]
    caption = (
        'Top-1 accuracy in percent with 95 % Wilson intervals on the adversarial examples of each '
        'model, all on the same videos; those of no model are clean.'
    )
    return Table('transfer', caption, columns, rows)


def _class_table(results: Sequence[Robustness]) -> Table:
    rows: list[list[Any]] = []
    for each in results:
        clean = list(_class_intervals(each, 'clean')) if 'clean' in each.cells else []
        key = strongest_attack(each)
        attacked = list(_class_intervals(each, key)) if key else [(0, None)] * len(each.classes)
        name = each.cells[key].name if key else None
        for index, (count, accuracy) in enumerate(clean):
            label = [each.model, index, each.classes[index]]
            rows.append([*label, count, accuracy, name, *attacked[index]])
    columns = [
        _MODEL,
        Column('label', '', 'count'),
        Column('class', 'class'),
        _VIDEOS,
        Column('clean_top1', 'clean', 'interval'),
        Column('attack', 'attack'),
        Column('attacked_videos', 'attacked', 'count'),
        Column('attacked_top1', 'under attack', 'interval'),
    ]
    caption = (
        'Top-1 accuracy of each class in percent with 95 % Wilson intervals: clean, and under the '
        'attack with the largest drop.'
    )
    return Table('classes', caption, columns, rows)


def _class_intervals(results: Robustness, key: str) -> Iterator[tuple[int, Any]]:
    """The number of videos of each class, and its accuracy."""
    matrix = confusion_matrix(results, key)
    for index, row in enumerate(matrix):
        count = int(row.sum())
        yield count, wilson_interval(int(row[index]), count) if count else None


def _confusion_table(results: Sequence[Robustness]) -> Table:
    rows: list[list[Any]] = []
    brief: list[list[Any]] = []
    for each in results:
        for key in confusion_keys(each):
            condition = each.cells[key].name or 'clean'
            found = [
                [each.model, condition, each.classes[pair.label], each.classes[pair.prediction]]
                + [pair.count, pair.num_videos, pair.share]
                for pair in confused_pairs(confusion_matrix(each, key))
            ]
            rows += found
            brief += found[:_PAIRS]
    columns = [
        _MODEL,
        Column('condition', 'condition'),
        Column('class', 'class'),
        Column('taken_for', 'taken for'),
        Column('count', 'count', 'count'),
        Column('class_videos', 'of', 'count'),
        Column('share', 'share', 'percent'),
    ]
    caption = (
        'Pairs of classes that are confused, clean and under the attack with the largest drop; the '
        'share is in percent of the videos of the true class.'
    )
    return Table('confusions', caption, columns, rows, brief)


def _comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """Accuracies in points, and other values in their own units."""
    baseline = comparison.baseline
    for name, given, mean, change_kind in (
        ('comparison', comparison.rows, 'percent', 'points'),
        ('comparison_values', comparison.values, 'number', 'difference'),
    ):
        rows: list[list[Any]] = []
        for index in comparison.others:
            for row in given:
                change = row.changes[index]
                assert change is not None
                means = [row.means[baseline], row.means[index]]
                found = [change, change.p_value, change.verdict]
                names = [comparison.models[index], comparison.models[baseline], row.name, row.note]
                rows.append([*names, row.num_videos, *means, *found])
        columns = [
            _MODEL,
            Column('baseline_model', ''),
            Column('condition', 'condition'),
            Column('note', ''),
            _VIDEOS,
            Column('baseline', comparison.models[baseline], mean),
            Column('value', 'model', mean),
            Column('difference', 'difference', change_kind),
            Column('p', 'p', 'number'),
            Column('verdict', 'verdict'),
        ]
        caption = (
            f'Differences to {comparison.models[baseline]} on the same videos, with 95 % intervals '
            "(paired bootstrap over videos) and the p-value of McNemar's exact test."
        )
        yield Table(name, caption, columns, rows)
