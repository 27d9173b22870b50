"""Markdown tables, and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..core.options import grey_levels
from .page_text import as_cell

NO_NUMBER = '—'
"""What a table shows where there is no number."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column is aligned to the left, the others to the right.

    Args:
        header (Sequence[str]): The titles of the columns.
        rows (Iterable[Sequence[str]]): The cells, which are shown as they are; what is meant as
            Markdown is a :class:`adv_plugins.evaluation.page_text.Markdown`.
    """
    # A bar within a name would end its column.
    lines = [[as_cell(text).replace('|', r'\|') for text in line] for line in (header, *rows)]
    lines.insert(1, ['---', *['---:'] * (len(header) - 1)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def percent(value: float, sign: str = '') -> str:
    """A number with one decimal, or a dash where it is not finite.

    Args:
        value (float): The number.
        sign (str): ``'+'`` writes the sign of positive numbers as well. Defaults to ''.
    """
    # Adding 0 turns -0.0 into 0.0.
    return f'{round(value, 1) + 0.0:{sign}.1f}' if math.isfinite(value) else NO_NUMBER


def eps_text(level: float | None) -> str:
    """An eps as ``8/255`` where it is a whole number of grey levels, in decimals otherwise."""
    if level is None:
        return NO_NUMBER
    levels = grey_levels(level)
    return f'{level:.4g}' if levels is None else f'{levels}/255'
