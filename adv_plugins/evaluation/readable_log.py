"""Log lines that can be read: small numbers keep their digits, and many metrics form a table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from mmengine.runner import LogProcessor, Runner
from torch import Tensor

LONGEST_LINE = 160
"""Metrics that fit into a line of this many characters stay in one line."""
TIMES = ('data_time', 'time')


class ReadableLogProcessor(LogProcessor):
    """mmengine's LogProcessor with other texts; the values for files and visualizers are the same.

    A small number is written in scientific notation, ``2.3e-05`` instead of ``0.0000``. Metrics
    that are too many for a line are written as a table: a row for each metric, and a column for
    each attack of :class:`adv_plugins.evaluation.AdversarialTestLoop`.
    """

    def get_log_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> tuple[dict[str, Any], str]:
        """See ``LogProcessor``."""
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        return tag, self._with_small_numbers(line, tag, mode)

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """See ``LogProcessor``."""
        tag, line = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        if len(line) <= LONGEST_LINE:
            return tag, self._with_small_numbers(line, tag, mode)
        others = self._collect_non_scalars(runner, mode)
        metrics = {
            self._remove_prefix(name, f'{mode}/'): value
            for name, value in tag.items()
            if name not in others
        }
        where = line.partition('  ')[0]
        times = [f'{name}: {self._text(metrics.pop(name))}' for name in TIMES if name in metrics]
        attacks = getattr(self._get_cur_loop(runner, mode), 'recipes', ())
        lines = [f'{where}    {"  ".join(times)}'.rstrip(), *self._table(metrics, attacks)]
        for name, value in others.items():
            own_lines = isinstance(value, (Tensor, np.ndarray))
            lines.append(f'{name}:\n{value}' if own_lines else f'{name}: {value}')
        return tag, '\n'.join(lines)

    def _text(self, value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        # Otherwise at most its last digit were left.
        small = 0 < abs(value) < 5 * 10**-self.num_digits
        return f'{value:.1e}' if small else f'{value:.{self.num_digits}f}'

    def _with_small_numbers(self, line: str, tag: Mapping[str, Any], mode: str) -> str:
        for name, value in tag.items():
            name = self._remove_prefix(name, f'{mode}/')
            # Short times are of no interest.
            if isinstance(value, float) and name not in TIMES:
                item = f'{name}: {value:.{self.num_digits}f}'
                pattern = rf'(?<=  )((?:{mode}/)?){re.escape(item)}(?=  |$)'
                line = re.sub(pattern, rf'\g<1>{name}: {self._text(value)}', line)
        return line

    def _table(self, metrics: Mapping[str, Any], attacks: Collection[str]) -> list[str]:
        """The lines of a table; ``<attack>/<metric>`` is in the column of the attack."""
        rows: dict[str, dict[str, str]] = {}
        for key, value in metrics.items():
            attack, _, metric = key.partition('/')
            column, row = (attack, metric) if attack in attacks else ('clean', key)
            rows.setdefault(row, {})[column] = self._text(value)
        if not rows:
            return []
        columns = ['clean', *attacks]
        cells = [[name, *(row.get(column, '') for column in columns)] for name, row in rows.items()]
        if attacks:
            cells.insert(0, ['', *columns])
        first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            '  '.join(
                [name.ljust(first), *(text.rjust(w) for text, w in zip(row, others, strict=True))]
            ).rstrip()
            for name, *row in cells
        ]


def make_log_readable(runner: Runner) -> None:
    """Give a runner's log the texts of :class:`ReadableLogProcessor`.

    A log processor that is a subclass of mmengine's own stays as it is.

    Args:
        runner (Runner): The runner.
    """
    if type(runner.log_processor) is LogProcessor:
        runner.log_processor.__class__ = ReadableLogProcessor
