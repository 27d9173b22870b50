"""Numbers and tables in Markdown, for the studies and the tables of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def spread(values: Sequence[float], digits: int = 1, sign: str = '') -> str:
    """``mean ± standard deviation``; the mean alone of a single value."""
    text = f'{mean(values):{sign}.{digits}f}'
    return f'{text} ± {stdev(values):.{digits}f}' if len(values) > 1 else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; '' without rows."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) if rows else ''
