r"""Tables as files: CSV with full precision for programs, LaTeX (booktabs) for papers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files import replacing
from .page_text import printable
from .tables import eps_text, percent


class Column(NamedTuple):
    """A column of a table.

    Args:
        key (str): Its name in the CSV file.
        title (str): Its title in the LaTeX file; '' leaves it out there.
        kind (str): What it holds: ``'text'``, ``'count'``, ``'percent'``, ``'eps'`` or any other
            ``'number'``; or value, low and high of a percentage (``'interval'``), of a difference
            of percentages (``'points'``) or of any other ``'difference'``. Defaults to ``'text'``.
    """

    key: str
    title: str
    kind: str = 'text'


_BOUNDED = ('interval', 'points', 'difference')


@dataclass(frozen=True)
class Table:
    """Numbers as they were computed, to be written at any precision.

    Args:
        name (str): The stem of its files.
        caption (str): What it shows, in a sentence.
        columns (list[Column]): The columns.
        rows (list[list]): The values; None where there is none.
        brief (list[list], optional): The rows that the LaTeX file has. Defaults to None: all.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Any]]
    brief: list[list[Any]] | None = None


def write_tables(folder: Path, tables: Iterable[Table]) -> list[Path]:
    """Write each table as ``<name>.csv`` and ``<name>.tex``.

    Args:
        folder (Path): The folder, which is made where it is missing.
        tables (Iterable[Table]): The tables; those without a row are left out.

    Returns:
        list[Path]: The files.
    """
    files = []
    for table in tables:
        if not table.rows:
            continue
        for suffix, text in (('.csv', as_csv(table)), ('.tex', as_latex(table))):
            files.append(folder / f'{table.name}{suffix}')
            with replacing(files[-1]) as file:
                file.write(text.encode())
    return files


def as_csv(table: Table) -> str:
    """A table as CSV with full precision: an interval takes three columns."""
    header: list[str] = []
    for column in table.columns:
        bounds = ('_low', '_high') if column.kind in _BOUNDED else ()
        header += [column.key, *(column.key + bound for bound in bounds)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    for row in table.rows:
        fields: list[Any] = []
        for column, value in zip(table.columns, row, strict=True):
            if column.kind in _BOUNDED:
                fields += [None] * 3 if value is None else value[:3]
            else:
                fields.append(printable(value) if column.kind == 'text' and value else value)
        writer.writerow(fields)
    return text.getvalue()


def as_latex(table: Table) -> str:
    r"""A table as a LaTeX ``tabular`` with the rules of booktabs, at the precision of the page."""
    shown = [index for index, column in enumerate(table.columns) if column.title]
    columns = [table.columns[index] for index in shown]
    rows = table.rows if table.brief is None else table.brief
    remarks = [' '.join(printable(table.caption).split()), r'needs \usepackage{booktabs}']
    if len(rows) < len(table.rows):
        remarks.append(f'{len(rows)} of {len(table.rows)} rows; {table.name}.csv has all of them')
    alignment = ''.join('l' if column.kind == 'text' else 'r' for column in columns)
    lines = [
        # Each on one line, whatever the names in it are.
        *[f'% {remark}' for remark in remarks],
        rf'\begin{{tabular}}{{{alignment}}}',
        r'\toprule',
        _line(escape(column.title) for column in columns),
        r'\midrule',
    ]
    names = [row[0] for row in rows]
    for number, row in enumerate(rows):
        # A rule between the parts of a table in which each model has several rows.
        if number > 0 and names[number] != names[number - 1] and len(set(names)) < len(names):
            lines.append(r'\midrule')
        lines.append(_line(_latex_cell(table.columns[index].kind, row[index]) for index in shown))
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}']) + '\n'


_SPECIAL = {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    'ε': r'$\varepsilon$',
    '—': '--',
    **{char: f'\\{char}' for char in '&%$#_{}'},
}
_SPECIALS = re.compile('|'.join(map(re.escape, _SPECIAL)))


def escape(text: str) -> str:
    """A name as LaTeX that prints it as it is, on one line."""
    line = ' '.join(printable(str(text)).split())
    return _SPECIALS.sub(lambda match: _SPECIAL[match[0]], line)


def _line(cells: Iterable[str]) -> str:
    # A bracket at the start of a line would be taken for an argument of the line break before it.
    return ' & '.join('{' + cell + '}' if cell.startswith('[') else cell for cell in cells) + r' \\'


def _latex_cell(kind: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '--'
    return _CELLS[kind](value)


def _bounded(written: Callable[[float], str]) -> Callable[[Sequence[float]], str]:
    def text(value: Sequence[float]) -> str:
        middle, low, high = (written(x) if math.isfinite(x) else '--' for x in value[:3])
        return middle if low == high == '--' else f'{middle} [{low}, {high}]'

    return text


_CELLS: dict[str, Callable[[Any], str]] = {
    'text': escape,
    'count': str,
    'percent': percent,
    'interval': _bounded(percent),
    'points': _bounded(lambda value: percent(value, '+')),
    'difference': _bounded('{:+.3g}'.format),
    'eps': eps_text,
    'number': '{:.3g}'.format,
}
