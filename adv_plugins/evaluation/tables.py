"""Markdown tables, and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..core.options import grey_levels
from .intervals import Estimate
from .page_text import as_cell

NO_NUMBER = '—'
"""What a table shows where there is no number."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A Markdown table: columns of names are aligned to the left, those of numbers to the right.

    Args:
        header (Sequence[str]): The titles of the columns.
        rows (Iterable[Sequence[str]]): The cells, which are shown as they are; what is meant as
            Markdown is a :class:`adv_plugins.evaluation.page_text.Markdown`.
        names (int): How many columns hold names; they come first. Defaults to 1.
    """
    # A bar within a name would end its column.
    lines = [[as_cell(text).replace('|', r'\|') for text in line] for line in (header, *rows)]
    lines.insert(1, [*['---'] * names, *['---:'] * (len(header) - names)])
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


def worst_case_text(norm: str, eps: float | None) -> str:
    """``'the worst case at ε = 4/255'``, with the norm where it is not ℓ∞."""
    ball = '' if norm == 'linf' else f' ({norm})'
    return 'the worst case' + (f' at ε = {eps_text(eps)}{ball}' if eps is not None else ball)


def count_text(counts: Iterable[int]) -> str:
    """``'48'``, or ``'40 to 48'`` where the counts differ."""
    known = sorted(set(counts))
    return f'{known[0]} to {known[-1]}' if len(known) > 1 else f'{known[0] if known else 0}'


def estimate_text(estimate: Estimate, unit: str = '') -> str:
    """``91.7 % [87.5, 94.6]``; without bounds where they are unknown."""
    value, low, high = map(percent, estimate)
    bounds = f' [{low}, {high}]' if estimate.low == estimate.low else ''
    return f'{value}{unit}{bounds}'
