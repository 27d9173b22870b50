"""The results of one checkpoint as a Markdown page; what is missing is said, with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .deepfool import robustness_summary
from .results import DEEPFOOL, Cell, Groups, Robustness, split_key, wilson_interval

NO_NUMBER = '—'
"""What a table shows where there is no number; why is told under "Missing"."""
_FLAG_WORDS = {True: '**RAISED**', None: '**not checked**', False: 'fine'}
_VALUE_NAMES = {'entropy': 'attention entropy', 'cam_shift': 'CAM shift'}


def page(found: Robustness, groups: Groups | None = None) -> str:
    """Everything as one Markdown document.

    Args:
        found (Robustness): What was found.
        groups (Mapping[str, Sequence[str]], optional): Names of corruptions by group. Defaults to
            None: those of :mod:`adv_plugins.datasets.corruptions`.
    """
    sections = [
        _heading(found),
        _clean_section(found),
        _corruption_section(found, groups),
        _attack_section(found),
        _curve_section(found),
        _value_section(found),
        _deepfool_section(found),
        _class_section(found),
        _flag_section(found),
        _missing_section(found),
    ]
    return '\n\n'.join(section for section in sections if section) + '\n'


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers are to the right of a first column of words."""
    lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
    # A bar in a name would end its column.
    return '\n'.join(
        f'| {" | ".join(text.replace("|", chr(92) + "|") for text in line)} |' for line in lines
    )


def percent(value: float, sign: str = '') -> str:
    """A number of a table with one decimal, or a dash where there is none."""
    # Adding 0 turns -0.0 into 0.0.
    return f'{round(value, 1) + 0.0:{sign}.1f}' if math.isfinite(value) else NO_NUMBER


def eps_text(level: float | None) -> str:
    """An eps as ``8/255`` where it is grey levels, or else as it is."""
    if level is None:
        return NO_NUMBER
    grey = round(255 * level)
    return f'{grey}/255' if 0 < grey < 255 and abs(255 * level - grey) < 1e-6 else f'{level:.4g}'


def _section(title: str, *paragraphs: str) -> str:
    return '\n\n'.join((f'## {title}', *paragraphs))


def _heading(found: Robustness) -> str:
    videos = {video for cell in found.cells.values() for video in cell.videos}
    rows = [
        ('config', found.config),
        ('checkpoint', found.checkpoint),
        ('weights', found.weights),
        ('dataset', found.dataset),
        ('videos', f'{len(videos)} of {len(found.classes)} classes'),
    ]
    lines = [f'# Robustness of {found.model}', '']
    lines += [f'- {name}: {text or NO_NUMBER}' for name, text in rows]
    raised = [flag.name for flag in found.flags if flag.raised]
    if raised:
        lines += ['', f'**Read with care: sanity flags are raised ({", ".join(raised)}).**']
    return '\n'.join(lines)


def _clean_section(found: Robustness) -> str:
    if 'clean' not in found.cells:
        return _section('Clean accuracy', 'There is no number; see "Missing".')
    rows = []
    for k in _tops(found):
        value, low, high = (percent(x) for x in found.interval('clean', k))
        rows.append([f'top-{k}', value, f'[{low}, {high}]', str(len(found.cells['clean'].videos))])
    header = ['', 'accuracy, %', '95 % Wilson interval', 'videos']
    return _section('Clean accuracy', markdown_table(header, rows))


def _corruption_section(found: Robustness, groups: Groups | None) -> str:
    table = found.corruption_table()
    if not table.names:
        return ''
    rows = []
    for name, accuracy in zip(table.names, table.accuracy, strict=True):
        rows.append([name, *map(percent, accuracy), *_corruption_means(found, [name])])
    blank = [''] * len(table.severities)
    for group, names in found.corruption_groups(groups).items():
        rows.append([f'**{group}** ({len(names)})', *blank, *_corruption_means(found, names)])
    rows.append([f'**all** ({len(table.names)})', *blank, *_corruption_means(found, None)])
    severities = [f'severity {level:g}' for level in table.severities]
    means = [f'mPC top-{k}' for k in _tops(found)]
    header = ['corruption', *severities, *means, 'rPC']
    count = _count_text(len(found.cells[key].videos) for key in found.keys('corruption'))
    paragraphs = [
        f'Top-1 accuracy in percent on {count} videos each. mPC is the mean over severities and '
        'corruptions, rPC is top-1 mPC in percent of the clean accuracy on the same videos.',
        markdown_table(header, rows),
        f'P {_clean_top(found, None)}, mPC {percent(found.mpc())}, rPC {percent(found.rpc())}.',
    ]
    complete = [name for name in table.names if math.isfinite(found.mpc([name]))]
    if 0 < len(complete) < len(table.names):
        paragraphs.append(
            f'Over the {len(complete)} corruptions with all severities alone '
            f'({", ".join(complete)}): mPC {percent(found.mpc(complete))}, '
            f'rPC {percent(found.rpc(complete))}.'
        )
    return _section('Corruptions', *paragraphs)


def _corruption_means(found: Robustness, names: Sequence[str] | None) -> list[str]:
    return [*[percent(found.mpc(names, k)) for k in _tops(found)], percent(found.rpc(names))]


def _attack_section(found: Robustness) -> str:
    rows = [_attack_row(found, found.cells[key]) for key in found.keys('attack')]
    rows += [
        [name, *[NO_NUMBER] * 5, 'see "Missing"']
        for kind, name, _ in map(split_key, found.missing)
        if kind == 'attack'
    ]
    if not rows:
        return ''
    for group in found.attack_groups():
        if len(group) > 1:
            rows.append(_worst_row(found, group))
    header = ['attack', 'eps', 'top-1', 'clean top-1', 'videos', 'seconds', 'run with']
    return _section(
        'Attacks',
        'Top-1 accuracy in percent with its 95 % Wilson interval; the clean accuracy is that '
        'on the same videos. In a worst case a video counts only if it is predicted '
        'correctly clean and under every attack of that eps.',
        markdown_table(header, rows),
    )


def _attack_row(found: Robustness, cell: Cell) -> list[str]:
    value, low, high = (percent(x) for x in found.interval(cell.key))
    return [
        cell.name,
        eps_text(cell.level),
        f'{value} [{low}, {high}]',
        _clean_top(found, cell.videos),
        str(len(cell.videos)),
        f'{cell.seconds:.0f}',
        _options_text(cell.options),
    ]


def _worst_row(found: Robustness, group: list[str]) -> list[str]:
    videos, correct = found.survivors([*(['clean'] if 'clean' in found.cells else []), *group])
    value, low, high = (percent(x) for x in wilson_interval(int(correct.sum()), len(correct)))
    return [
        '**worst case**',
        eps_text(found.cells[group[0]].level),
        f'{value} [{low}, {high}]',
        _clean_top(found, videos),
        str(len(videos)),
        '',
        ', '.join(found.cells[key].name for key in group),
    ]


def _curve_section(found: Robustness) -> str:
    names = found.curve_names()
    if not names:
        return ''
    curves = {name: found.curve(name) for name in names}
    levels = sorted({float(eps) for curve in curves.values() for eps in curve.eps})
    rows = []
    for name, curve in curves.items():
        at = dict(zip(curve.eps.tolist(), curve.accuracy.tolist(), strict=True))
        values = [percent(at.get(level, math.nan)) for level in levels]
        rows.append([name, *values, str(curve.num_videos)])
    header = ['attack', *[f'eps {eps_text(level)}' for level in levels], 'videos']
    return _section(
        'Accuracy over eps',
        'Top-1 accuracy in percent on the videos that all points of a row share; eps 0 is clean.',
        markdown_table(header, rows),
    )


def _value_section(found: Robustness) -> str:
    skipped = ('deepfool', 'sanity')
    cells = {k: c for k, c in found.cells.items() if c.kind not in skipped and c.values}
    if not cells:
        return ''
    names = list(dict.fromkeys(name for cell in cells.values() for name in cell.values))
    rows = []
    for key, cell in cells.items():
        means = [_mean_text(cell.values.get(name, [])) for name in names]
        rows.append([key, *means, str(len(cell.videos))])
    header = ['condition', *[_VALUE_NAMES.get(name, name) for name in names], 'videos']
    return _section('Attention', 'Means over videos.', markdown_table(header, rows))


def _deepfool_section(found: Robustness) -> str:
    if 'deepfool' not in found.cells:
        return ''
    cell = found.cells['deepfool']
    rho, success, iterations = (torch.tensor(cell.values[name]) for name in DEEPFOOL)
    summary = robustness_summary(
        rho, success.bool(), iterations.long(), cell.options.get('max_iter', 50)
    )
    rows = [
        [name.replace('_', ' '), f'{value:.4g}' if math.isfinite(value) else NO_NUMBER]
        for name, value in summary.items()
    ]
    return _section(
        'DeepFool',
        f'rho = ‖r‖ / ‖x‖ on {len(cell.videos)} videos, {cell.seconds:.0f} seconds, run with '
        f'{_options_text(cell.options) or "its defaults"}. Videos that were wrong already '
        'count as 0, those that were not fooled are left out of the mean.',
        markdown_table(['', 'value'], rows),
    )


def _class_section(found: Robustness) -> str:
    if 'clean' not in found.cells:
        return ''
    clean, counts = found.class_accuracy('clean')
    header, columns = ['class', 'videos', 'clean top-1'], []
    worst = _worst_corruption(found)
    if worst:
        keys = [key for key in found.keys('corruption') if found.cells[key].name == worst]
        header.append(f'change under {worst}, mean over severities')
        columns.append(np.mean([_class_change(found, key) for key in keys], axis=0))
    attacks = found.keys('attack')
    if attacks:
        key = min(attacks, key=lambda key: _change(found, key))
        header.append(f'change under {found.cells[key].name}')
        columns.append(_class_change(found, key))
    rows = [
        [name, str(counts[i]), percent(clean[i]), *[percent(column[i], '+') for column in columns]]
        for i, name in enumerate(found.classes)
    ]
    return _section(
        'Classes',
        'Top-1 accuracy in percent, and its change in points, on the same videos, under the '
        'corruption with the lowest mPC and the attack with the largest drop.',
        markdown_table(header, rows),
    )


def _class_change(found: Robustness, key: str) -> NDArray[np.float64]:
    videos = found.videos(key)
    return found.class_accuracy(key)[0] - found.class_accuracy('clean', videos)[0]


def _change(found: Robustness, key: str) -> float:
    return found.top(key) - found.top('clean', videos=found.videos(key))


def _worst_corruption(found: Robustness) -> str | None:
    means = {name: found.mpc([name]) for name in found.corruption_table().names}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    return min(means, key=means.__getitem__) if means else None


def _flag_section(found: Robustness) -> str:
    if not found.flags:
        return ''
    order = list(_FLAG_WORDS)
    flags = sorted(found.flags, key=lambda flag: order.index(flag.raised))
    lines = [f'- {_FLAG_WORDS[flag.raised]} {flag.name}: {flag.message}' for flag in flags]
    return _section('Sanity flags', '\n'.join(lines))


def _missing_section(found: Robustness) -> str:
    reasons = found.missing | _gaps(found)
    if not reasons:
        return _section('Missing', 'Nothing that was asked for is missing.')
    lines = [f'- {key}: {reason}' for key, reason in reasons.items()]
    return _section('Missing', '\n'.join(lines))


def _gaps(found: Robustness) -> dict[str, str]:
    """Dashes in a table of levels that nobody has given a reason for."""
    gaps = [] if 'clean' in found.cells else ['clean']
    for kind in ('corruption', 'curve'):
        cells = [found.cells[key] for key in found.keys(kind)]
        names, levels = (
            {getattr(cell, part): None for cell in cells} for part in ('name', 'level')
        )
        gaps += [Cell(kind, name, level).key for name in names for level in levels]
    known = {*found.cells, *found.missing}
    return {key: 'it was not evaluated' for key in gaps if key not in known}


def _tops(found: Robustness) -> tuple[int, ...]:
    """Of five classes or fewer, the true one is always among the first five."""
    return (1, 5) if len(found.classes) > 5 else (1,)


def _clean_top(found: Robustness, videos: ArrayLike | None) -> str:
    return percent(found.top('clean', videos=videos)) if 'clean' in found.cells else NO_NUMBER


def _mean_text(values: Sequence[float]) -> str:
    """The mean of what is finite, and how many that are if not all."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return NO_NUMBER
    some = '' if len(known) == len(values) else f' ({len(known)} of {len(values)})'
    return f'{sum(known) / len(known):.4g}{some}'


def _options_text(options: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{name}={value:.4g}' if isinstance(value, float) else f'{name}={value}'
        for name, value in options.items()
    )


def _count_text(counts: Iterable[int]) -> str:
    known = sorted(set(counts))
    return f'{known[0]} to {known[-1]}' if len(known) > 1 else f'{known[0] if known else 0}'
