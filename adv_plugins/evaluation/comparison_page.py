"""A comparison of checkpoints as a Markdown page."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .comparison import ClassChange, Comparison, Row
from .intervals import MIN_DIFFERING, MIN_VIDEOS, NOISE, TOO_FEW, Interval
from .page_text import as_text, bold
from .tables import NO_NUMBER, markdown_table, percent
from .transfer_matrix import transfer_matrix

_DIRECTIONS = {'better': 'higher', 'worse': 'lower', NOISE: NOISE, TOO_FEW: TOO_FEW}
"""Of values of which neither more nor less is better, such as the attention entropy."""


def comparison_page(comparison: Comparison, highlight: Collection[str] = ()) -> str:
    """The page; see :func:`adv_plugins.evaluation.markdown`.

    Args:
        comparison (Comparison): The comparison.
        highlight (Collection[str]): Names of classes to mark. Defaults to none.

    Raises:
        ValueError: A class is unknown.
    """
    # Computed once, since each takes a bootstrap for every class.
    class_changes = {
        model: comparison.class_changes('clean', model, highlight)
        for model in comparison.others
        if 'clean' in comparison.shared
    }
    transfer = transfer_matrix(comparison.results)
    main = [row for row in comparison.rows if not row.detail]
    detail = [row for row in comparison.rows if row.detail]
    left_out = [
        f'- {as_text(key)}: {as_text(reason)}' for key, reason in comparison.left_out.items()
    ]
    sections = [
        _heading(comparison, class_changes, highlight),
        '## Accuracy\n\n' + _accuracy_table(comparison, main),
        _value_section(comparison),
        '## Transfer\n\n' + transfer.markdown() if transfer else '',
        *(
            _class_section(comparison, model, changes, highlight)
            for model, changes in class_changes.items()
        ),
        '## Severity by severity\n\n' + _accuracy_table(comparison, detail) if detail else '',
        '## Not compared\n\n' + ('\n'.join(left_out) or 'Nothing.'),
    ]
    return '\n\n'.join(section for section in sections if section) + '\n'


def _heading(
    comparison: Comparison,
    class_changes: dict[int, list[ClassChange]],
    highlight: Collection[str],
) -> str:
    count = sum(len(row.changes) - 1 for row in (*comparison.rows, *comparison.values))
    count += sum(len(changes) + 2 * bool(highlight) for changes in class_changes.values())
    lines = [f'# Comparison with {as_text(comparison.models[comparison.baseline])}', '']
    for results in comparison.results:
        parts = (results.model, results.checkpoint, results.config)
        model, checkpoint, config = (as_text(part) or NO_NUMBER for part in parts)
        lines.append(f'- {model}: {checkpoint} ({config})')
    lines += [
        '',
        'Each difference is to the baseline, on the same videos, with a 95 % interval: paired '
        f'bootstrap over videos, 10000 resamples. A verdict needs at least {MIN_VIDEOS} videos, at '
        f'least {MIN_DIFFERING} of them with a difference, an interval without 0 and, where '
        "videos are right or wrong, p < 0.05 in McNemar's exact test. The interval reflects the "
        'choice of videos; only other seeds show how much another training run would differ.',
        '',
        f'{count} intervals are shown. Between equal models about 5 % of them, '
        f'{count / 20:.3g}, would exclude 0 by chance.',
    ]
    for results in comparison.results:
        raised = ', '.join(as_text(flag.name) for flag in results.flags if flag.raised)
        if raised:
            model = as_text(results.model)
            lines += ['', f'**Read {model} with care: sanity flags are raised ({raised}).**']
    return '\n'.join(lines)


def _accuracy_table(comparison: Comparison, rows: Sequence[Row]) -> str:
    # What a narrow screen shows without scrolling comes first.
    header = ['condition']
    for index in comparison.others:
        name = '' if len(comparison.others) == 1 else f' of {comparison.models[index]}'
        header += [f'difference{name}', 'verdict', 'p']
    header += [*comparison.models, 'videos']
    lines = []
    for row in rows:
        line = [f'{row.name} ({row.note})' if row.note else row.name]
        for change in filter(None, row.changes):
            line += _change_cells(change)
        lines.append([*line, *map(percent, row.means), str(row.num_videos)])
    return markdown_table(header, lines)


def _value_section(comparison: Comparison) -> str:
    if not comparison.values:
        return ''
    header = ['mean over videos']
    for index in comparison.others:
        header += [f'difference of {comparison.models[index]}', '']
    header += [*comparison.models, 'videos']
    lines = []
    for row in comparison.values:
        line = [row.name]
        for change in filter(None, row.changes):
            value, low, high = (f'{x:+.3g}' for x in change[:3])
            line += [f'{value} [{low}, {high}]', _DIRECTIONS[change.verdict]]
        lines.append([*line, *[f'{mean:.4g}' for mean in row.means], str(row.num_videos)])
    notes = [f'- {as_text(row.name)}: {as_text(row.note)}' for row in comparison.values if row.note]
    parts = ['## Attention and DeepFool', markdown_table(header, lines), '\n'.join(notes)]
    return '\n\n'.join(part for part in parts if part)


def _class_section(
    comparison: Comparison, model: int, changes: list[ClassChange], highlight: Collection[str]
) -> str:
    before, after = comparison.models[comparison.baseline], comparison.models[model]
    lines = [f'## Classes: {as_text(after)} against {as_text(before)}, clean', '']
    if highlight:
        marked = [change.name for change in changes if change.highlighted]
        rest = [change.name for change in changes if not change.highlighted]
        for word, names in (('marked', marked), ('other', rest)):
            text = NO_NUMBER
            if names:
                text = _points(comparison.change('clean', model, names))
            lines.append(f'- the {len(names)} {word} classes: {text}')
        lines.append('')
    rows = [
        [
            bold(change.name) if change.highlighted else change.name,
            *_change_cells(change.change),
            percent(change.before),
            percent(change.after),
            str(change.num_videos),
        ]
        for change in changes
    ]
    header = ['class', 'difference', 'verdict', 'p', before, after, 'videos']
    return '\n'.join([*lines, markdown_table(header, rows)])


def _change_cells(change: Interval) -> list[str]:
    """Difference, verdict and p-value of an accuracy."""
    p_value = NO_NUMBER if change.p_value is None else f'{change.p_value:.2g}'
    verdict = change.verdict
    if verdict in ('better', 'worse'):
        verdict = bold(verdict)
    return [_points(change), verdict, p_value]


def _points(change: Interval) -> str:
    """``+1.3 [+0.4, +2.2]``, in percentage points."""
    value, low, high = (percent(x, '+') for x in change[:3])
    return f'{value} [{low}, {high}]'
