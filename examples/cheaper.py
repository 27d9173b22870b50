"""What is left of ART's gain when it may cost less, on the embedded YouTube-8M sample.

    python examples/cheaper.py [--seeds 0 1 2] [--rows full budget interval]

Each row trains with one option changed and is compared with Non-ART. The cost is counted in
forwards and backwards (:func:`adv_plugins.core.cost.step_cost`); ``adv_cost`` in a run's log is
the measured one. Finished runs are kept. Writes ``cheaper.md`` to the work dir and prints it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from aart_table import Cell, config_file, spread, train_and_test

from adv_plugins import ART
from adv_plugins.core.cost import step_cost, within_budget

ROWS: dict[str, dict[str, Any]] = {
    'full': {},
    # Which is fraction=0.25: a quarter of every batch.
    'budget': dict(budget=1.25),
    'interval': dict(interval=4),
}
BATCH = 64
KEYS = {'test GAP': 'GAP', 'GAP, one step': 'fgm/GAP', 'GAP, ten steps': 'pgd/GAP'}


def cost(options: dict[str, Any]) -> float:
    """Counted cost of the run in clean runs."""
    recipe = within_budget(ART(**options), BATCH)
    return 1 + (step_cost(recipe) - 1) / recipe.interval


def line(name: str, cells: list[Cell], clean: list[Cell], full: list[Cell]) -> str:
    """A row: metrics in percent, and which part of the full recipe's gain is kept."""
    columns = [spread([c[key] for c in cells]) for key in KEYS.values()]
    for key in KEYS.values():
        none, some, all_of_it = (mean(c[key] for c in found) for found in (clean, cells, full))
        columns.append(f'{100 * (some - none) / (all_of_it - none):.0f} %')
    options = ', '.join(f'{key}={value}' for key, value in ROWS[name].items()) or 'ART'
    return f'| {options} | {cost(ROWS[name]):.2f} | {" | ".join(columns)} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--rows', choices=ROWS, nargs='+', default=list(ROWS))
    parser.add_argument('--dataset', default='yt8m-sample')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/cheaper'))
    args = parser.parse_args()

    def cells(method: str, name: str, options: dict[str, Any]) -> list[Cell]:
        hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0, by_epoch=False, **options)]
        changes = {} if method == 'Non-ART' else {'custom_hooks': hooks}
        file = config_file(method, args.dataset)
        return [
            train_and_test(file, args.work_dir / f'{name}-{seed}', seed, **changes)
            for seed in args.seeds
        ]

    clean, full = cells('Non-ART', 'clean', {}), cells('ART', 'full', {})
    header = ['', 'counted cost', *KEYS, *[f'gain kept, {name}' for name in KEYS]]
    lines = [f'| {" | ".join(header)} |', '|---' * len(header) + '|']
    plain = [spread([c[key] for c in clean]) for key in KEYS.values()]
    lines.append(f'| Non-ART | 1.00 | {" | ".join(plain)} | | | |')
    lines += [line(n, cells('ART', n, ROWS[n]), clean, full) for n in args.rows]
    (args.work_dir / 'cheaper.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
