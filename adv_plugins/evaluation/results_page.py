"""The results of one checkpoint as a Markdown page, which names what is missing and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike

from ..core.structure import Mask, as_region
from .attacks import part_names
from .cells import DEEPFOOL, HOW_FAR, Cell, split_key
from .class_sections import class_section, confusion_section
from .deepfool import robustness_summary
from .intervals import MIN_VIDEOS, wilson_interval
from .page_text import Markdown, as_text, bold, section
from .results import Groups, Robustness
from .selection import shared_videos
from .tables import NO_NUMBER, count_text, eps_text, markdown_table, percent

_FLAG_WORDS = {True: '**RAISED**', None: '**not checked**', False: 'fine'}
_VALUE_NAMES = {'entropy': 'attention entropy', 'cam_shift': 'CAM shift'}


def headline(results: Robustness) -> dict[str, float]:
    """The numbers for a log line, as shares between 0 and 1, as MMAction2 logs accuracies.

    Args:
        results (Robustness): A finished evaluation.

    Returns:
        dict[str, float]: ``acc/top1`` and ``acc/top5`` as by AccMetric, ``mPC``, ``rPC``, and
        ``attack/<name>/top1``; what was not evaluated is left out.
    """
    percents = {}
    if 'clean' in results.cells:
        percents = {f'acc/top{k}': results.top('clean', k) for k in (1, 5)}
        if any(cell.kind == 'corruption' for cell in results.cells.values()):
            percents |= {'mPC': results.mpc(), 'rPC': results.rpc()}
    percents |= {f'{key}/top1': results.top(key) for key in results.keys('attack')}
    return {name: value / 100 for name, value in percents.items()}


def results_page(results: Robustness, groups: Groups | None = None) -> str:
    """The page; see :func:`adv_plugins.evaluation.markdown`.

    Args:
        results (Robustness): The results.
        groups (Mapping[str, Sequence[str]], optional): As for
            :meth:`adv_plugins.evaluation.Robustness.corruption_groups`. Defaults to None.
    """
    sections = [
        _heading(results),
        _clean_section(results),
        _corruption_section(results, groups),
        _attack_section(results),
        _ensemble_section(results),
        _curve_section(results),
        _transfer_section(results),
        _value_section(results),
        _deepfool_section(results),
        class_section(results),
        confusion_section(results),
        _flag_section(results),
        _missing_section(results),
    ]
    return '\n\n'.join(part for part in sections if part) + '\n'


def _heading(results: Robustness) -> str:
    videos = {video for cell in results.cells.values() for video in cell.videos}
    rows = [
        ('config', results.config),
        ('checkpoint', results.checkpoint),
        ('weights', results.weights),
        ('dataset', results.dataset),
        ('videos', f'{len(videos)} of {len(results.classes)} classes'),
    ]
    lines = [f'# Robustness of {as_text(results.model)}', '']
    lines += [f'- {name}: {as_text(text) or NO_NUMBER}' for name, text in rows]
    raised = [as_text(flag.name) for flag in results.flags if flag.raised]
    if raised:
        lines += ['', f'**Read with care: sanity flags are raised ({", ".join(raised)}).**']
    return '\n'.join(lines)


def _clean_section(results: Robustness) -> str:
    if 'clean' not in results.cells:
        return section('Clean accuracy', 'There is no number; see "Missing".')
    rows, count = [], len(results.cells['clean'].videos)
    for k in _tops(results):
        value, low, high = (percent(x) for x in results.interval('clean', k))
        rows.append([f'top-{k}', value, f'[{low}, {high}]', str(count)])
    header = ['', 'accuracy, %', '95 % Wilson interval', 'videos']
    return section('Clean accuracy', markdown_table(header, rows))


def _corruption_section(results: Robustness, groups: Groups | None) -> str:
    table = results.corruption_table()
    if not table.names:
        return ''
    rows = []
    for name, accuracy in zip(table.names, table.accuracy, strict=True):
        rows.append([name, *map(percent, accuracy), *_corruption_means(results, [name])])
    blank = [''] * len(table.severities)
    for group, names in results.corruption_groups(groups).items():
        rows.append(
            [Markdown(f'{bold(group)} ({len(names)})'), *blank, *_corruption_means(results, names)]
        )
    rows.append(
        [Markdown(f'{bold("all")} ({len(table.names)})'), *blank, *_corruption_means(results, None)]
    )
    severities = [f'severity {level:g}' for level in table.severities]
    means = [f'mPC top-{k}' for k in _tops(results)]
    header = ['corruption', *severities, *means, 'rPC']
    count = count_text(len(results.cells[key].videos) for key in results.keys('corruption'))
    paragraphs = [
        f'Top-1 accuracy in percent on {count} videos each. mPC is the mean over severities and '
        'corruptions, rPC is top-1 mPC in percent of the clean accuracy on the same videos.',
        markdown_table(header, rows),
        f'P {_clean_top(results)}, mPC {percent(results.mpc())}, rPC {percent(results.rpc())}.',
    ]
    complete = [name for name in table.names if math.isfinite(results.mpc([name]))]
    if 0 < len(complete) < len(table.names):
        paragraphs.append(
            f'Over the {len(complete)} corruptions with all severities alone '
            f'({", ".join(map(as_text, complete))}): mPC {percent(results.mpc(complete))}, '
            f'rPC {percent(results.rpc(complete))}.'
        )
    return section('Corruptions', *paragraphs)


def _corruption_means(results: Robustness, names: Sequence[str] | None) -> list[str]:
    return [*[percent(results.mpc(names, k)) for k in _tops(results)], percent(results.rpc(names))]


def _attack_section(results: Robustness) -> str:
    rows = [_attack_row(results, results.cells[key]) for key in results.keys('attack')]
    rows += [
        [name, *[NO_NUMBER] * 5, 'see "Missing"']
        for kind, name, _ in (split_key(k) for k in results.missing if k not in results.cells)
        if kind == 'attack'
    ]
    if not rows:
        return ''
    for group in results.attack_groups():
        if len(group) > 1 and shared_videos(results.cells[key].videos for key in group):
            rows.append(_worst_row(results, group))
    header = ['attack', 'eps', 'top-1', 'clean top-1', 'videos', 'seconds', 'run with']
    return section(
        'Attacks',
        'Top-1 accuracy in percent with its 95 % Wilson interval; the clean accuracy is that '
        'on the same videos. In the worst case a video counts only if it is predicted '
        'correctly both clean and under every attack of that eps.',
        markdown_table(header, rows),
    )


def _attack_row(results: Robustness, cell: Cell) -> list[str]:
    value, low, high = (percent(x) for x in results.interval(cell.key))
    return [
        cell.name,
        eps_text(cell.level),
        f'{value} [{low}, {high}]',
        percent(results.clean_top(cell.key)),
        str(len(cell.videos)),
        f'{cell.seconds:.0f}',
        _options_text(cell.options),
    ]


def _worst_row(results: Robustness, group: list[str]) -> list[str]:
    group = [*results.keys('clean'), *group]
    videos, correct = results.survivors(group)
    value, low, high = (percent(x) for x in wilson_interval(int(correct.sum()), len(correct)))
    return [
        bold('worst case'),
        eps_text(results.cells[group[-1]].level),
        f'{value} [{low}, {high}]',
        _clean_top(results, videos),
        str(len(videos)),
        '',
        ', '.join(results.cells[key].name for key in group if key != 'clean'),
    ]


def _ensemble_section(results: Robustness) -> str:
    rows = []
    for key in results.keys('attack'):
        cell = results.cells[key]
        fooled_by, stopped_in = (cell.values.get(name, []) for name in HOW_FAR)
        for number, name in enumerate(part_names(cell.options) if fooled_by else (), start=1):
            late = sum(part <= number for part in stopped_in)
            rows.append([cell.name, name, str(fooled_by.count(number)), str(late)])
    if not rows:
        return ''
    return section(
        'Ensembles',
        'How many videos fell to each part of an ensemble, which gets those that no part before '
        'it fooled; and for how many it was left out, or not run to the end, for lack of time.',
        markdown_table(['ensemble', 'attack', 'fooled', 'out of time'], rows, names=2),
    )


def _curve_section(results: Robustness) -> str:
    names = results.curve_names()
    if not names:
        return ''
    curves = {name: results.curve(name) for name in names}
    levels = sorted({float(eps) for curve in curves.values() for eps in curve.eps})
    rows = []
    for name, curve in curves.items():
        at = dict(zip(curve.eps.tolist(), curve.accuracy.tolist(), strict=True))
        values = [percent(at.get(level, math.nan)) for level in levels]
        rows.append([name, *values, str(curve.num_videos)])
    header = ['attack', *[f'eps {eps_text(level)}' for level in levels], 'videos']
    return section(
        'Accuracy over eps',
        'Top-1 accuracy in percent on the videos that all points of a row share; eps 0 is clean.',
        markdown_table(header, rows),
    )


def _transfer_section(results: Robustness) -> str:
    keys = results.keys('transfer')
    if not keys:
        return ''
    rows = []
    for cell in map(results.cell, keys):
        value, low, high = (percent(x) for x in results.interval(cell.key))
        rows.append(
            [
                f'{cell.name}, its own' if cell.name == results.weights else cell.name,
                eps_text(cell.level),
                f'{value} [{low}, {high}]',
                percent(results.clean_top(cell.key)),
                str(len(cell.videos)),
                _options_text(cell.options),
            ]
        )
    header = ['weights', 'eps', 'top-1', 'clean top-1', 'videos', 'run with']
    return section(
        'Transfer',
        'Top-1 accuracy in percent with its 95 % Wilson interval on adversarial examples that were '
        'made for other weights; the clean accuracy is that on the same videos.',
        markdown_table(header, rows),
    )


def _value_section(results: Robustness) -> str:
    skipped = ('deepfool', 'sanity')
    cells = {k: c for k, c in results.cells.items() if c.kind not in skipped and c.values}
    if not cells:
        return ''
    names = list(dict.fromkeys(name for cell in cells.values() for name in cell.values))
    names = [name for name in names if name not in HOW_FAR]
    if not names:
        return ''
    rows = []
    for key, cell in cells.items():
        means = [_mean_text(cell.values.get(name, [])) for name in names]
        rows.append([key, *means, str(len(cell.videos))])
    header = ['condition', *[_VALUE_NAMES.get(name, name) for name in names], 'videos']
    return section(
        'Attention',
        'Means over videos; in brackets how many of them have a value, where not all do: a video '
        'that is wrong when clean is not attacked, and a clip without evidence has no attention.',
        markdown_table(header, rows),
    )


def _deepfool_section(results: Robustness) -> str:
    if 'deepfool' not in results.cells:
        return ''
    cell = results.cells['deepfool']
    rho, success, iterations = (torch.tensor(cell.values[name]) for name in DEEPFOOL)
    summary = robustness_summary(
        rho, success.bool(), iterations.long(), cell.options.get('max_iter', 50)
    )
    options = as_text(_options_text(cell.options))
    # By default it leaves the prediction, be it right or wrong.
    wrong = 'Videos that were wrong before the attack count as 0; those'
    first = wrong if cell.options.get('criterion') == 'hit1' else 'Those'
    rows = [
        [name.replace('_', ' '), f'{value:.4g}' if math.isfinite(value) else NO_NUMBER]
        for name, value in summary.items()
    ]
    return section(
        'DeepFool',
        f'rho = ‖r‖ / ‖x‖ on {len(cell.videos)} videos, {cell.seconds:.0f} seconds, run with '
        f'{options or "its defaults"}. {first} that it did not fool, and those without a finite '
        'rho (num undefined), are left out of the mean. Rates are shares of the videos.',
        markdown_table(['', 'value'], rows),
    )


def _flag_section(results: Robustness) -> str:
    if not results.flags:
        return ''
    order = list(_FLAG_WORDS)
    flags = sorted(results.flags, key=lambda flag: order.index(flag.raised))
    lines = [
        f'- {_FLAG_WORDS[flag.raised]} {as_text(flag.name)}: {as_text(flag.message)}'
        for flag in flags
    ]
    probed = len(results.cells['sanity'].videos) if 'sanity' in results.cells else 0
    few = f'Checked on {probed} videos only: a flag that is not raised says little.'
    return section('Sanity flags', '\n'.join(lines), *([few] if 0 < probed < MIN_VIDEOS else []))


def _missing_section(results: Robustness) -> str:
    reasons = results.missing | _gaps(results)
    if not reasons:
        return section('Missing', 'Nothing that was asked for is missing.')
    lines = [f'- {as_text(key)}: {as_text(reason)}' for key, reason in reasons.items()]
    return section('Missing', '\n'.join(lines))


def _gaps(results: Robustness) -> dict[str, str]:
    """The dashes in tables for which no reason was noted."""
    gaps = [] if 'clean' in results.cells else ['clean']
    for kind in ('corruption', 'curve'):
        cells = [results.cells[key] for key in results.keys(kind)]
        names, levels = (
            {getattr(cell, part): None for cell in cells} for part in ('name', 'level')
        )
        gaps += [Cell(kind, name, level).key for name in names for level in levels]
    known = {*results.cells, *results.missing}
    return {key: 'it was not evaluated' for key in gaps if key not in known}


def _tops(results: Robustness) -> tuple[int, ...]:
    """The k of top-k accuracy; with five classes or fewer top-5 accuracy is always 100."""
    return (1, 5) if len(results.classes) > 5 else (1,)


def _clean_top(results: Robustness, videos: ArrayLike | None = None) -> str:
    return percent(results.top('clean', videos=videos)) if 'clean' in results.cells else NO_NUMBER


def _mean_text(values: Sequence[float]) -> str:
    """The mean of the finite values, and their number unless all are finite."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return NO_NUMBER
    share = '' if len(known) == len(values) else f' ({len(known)} of {len(values)})'
    return f'{sum(known) / len(known):.4g}{share}'


def _options_text(options: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{name}={value:.4g}' if isinstance(value, float) else f'{name}={value}'
        for name, value in options.items()
        # A mask has as many entries as pixels; the threat says which it is.
        if name != 'region' or not isinstance(as_region(value), Mask)
    )
