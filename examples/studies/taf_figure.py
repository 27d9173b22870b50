"""The study on TAF in one figure: what each regime gains, and whether attention broadens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .paired import paired
from .store import Results
from .taf_tables import Column, columns, regimes

ARMS = {'taf': ('TAF', 'C0'), 'ce': ('CE-based', 'C1'), 'noise': ('random signs', '0.5')}
PANELS = {
    'val': 'validation top-1, points',
    'ce': 'validation cross-entropy',
    'entropy': 'entropy of attention (1 = even)',
    'top_frame': 'share of the top frame',
}
TITLE = 'Difference to clean fine-tuning: each seed, mean and 95 % interval'


def draw(files: Sequence[Results], file: Path) -> None:
    """Draw the differences to clean fine-tuning, a row for each regime.

    Args:
        files (Sequence[Results]): Results of the study.
        file (Path): Where the picture goes.

    Raises:
        ValueError: Two files have the same regime.
    """
    rows: dict[str, Column] = {}
    for results in files:
        for which in regimes(results):
            if (name := _name(which)) in rows:
                raise ValueError(f'{results.file} has {which}, as an earlier file has; give one')
            rows[name] = columns(results, which)
    figure, axes = plt.subplots(
        1, len(PANELS), figsize=(13, 1.2 + 0.8 * len(rows)), sharey=True, layout='constrained'
    )
    for axis, (value, label) in zip(axes, PANELS.items(), strict=True):
        for row, column in enumerate(rows.values()):
            # A label in the legend for each arm, not for each row and panel.
            _draw_row(axis, row, column, value, labelled=axis is axes[0] and row == 0)
        axis.axvline(0, color='black', linewidth=0.8)
        axis.set_xlabel(label)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(TITLE, fontsize=10)
    figure.legend(loc='outside lower center', ncols=len(ARMS))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_row(axis: Axes, row: int, column: Column, value: str, labelled: bool) -> None:
    """The arms of one regime, one below the other."""
    clean = column(value, 'clean')
    for place, (arm, (title, color)) in enumerate(ARMS.items()):
        some, height = column(value, arm), row + 0.24 * (place - 1)
        seeds = sorted(some.keys() & clean.keys())
        if not seeds:
            continue
        axis.plot(
            [some[seed] - clean[seed] for seed in seeds],
            [height] * len(seeds),
            '|',
            color=color,
            alpha=0.5,
            markersize=6,
        )
        found = paired(some, clean)
        reach = [[found.mean - found.low], [found.high - found.mean]]
        axis.errorbar(
            found.mean,
            height,
            xerr=reach,
            fmt='o',
            color=color,
            markersize=5,
            capsize=3,
            label=title if labelled else None,
        )


def _name(which: dict[str, Any]) -> str:
    """A regime as a reader knows it."""
    special = {'ordered-digits-few': '60 clips, ', 'arrow-of-time': 'real footage, '}
    data = special.get(which['data'], '')
    return f'{data}{which["model"].upper()},\n{which["base_epochs"]} base epochs'
