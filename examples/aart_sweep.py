"""Figure 3 of A-ART on the embedded sample: GAP of ART over ε and over α, and A-ART over β.

    python examples/aart_sweep.py [--eps 0.1 0.5 2] [--alpha 0.25 1 4] [--beta 0.001 0.1]

One option varies while the others keep the paper's values. The line in the picture is the
validation GAP of Non-ART. Finished runs are kept. Writes ``sweep.png`` and ``sweep.md`` and prints
the latter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aart_table import Cell, config_file, spread, train_and_test

from adv_plugins.visualization import plot_sweep

PAPER = {'eps': 0.5, 'alpha': 1.0, 'beta': 0.001}
LABELS = {'eps': 'ε (ART, α = 1)', 'alpha': 'α (ART, ε = 0.5)', 'beta': 'β (A-ART, ε = 0.5, α = 1)'}
COLUMNS = {
    'validation GAP': ('best', 100),
    'test GAP': ('GAP', 100),
    'GAP, one step': ('fgm/GAP', 100),
    'GAP, ten steps': ('pgd/GAP', 100),
    'attention MSE · 10⁶': ('fgm/attention_mse', 1e6),
}


def cell(work_dir: Path, dataset: str, seed: int, option: str = '', value: float = 0.0) -> Cell:
    """Train with one option changed (Non-ART without an option), and test at the paper's ε."""
    method = {'': 'Non-ART', 'beta': 'A-ART'}.get(option, 'ART')
    file = config_file(method, dataset)
    options: dict[str, Any] = {}
    name = file.stem
    if option:
        keys = PAPER if option == 'beta' else ('eps', 'alpha')
        hook = {key: value if key == option else PAPER[key] for key in keys}
        options['custom_hooks'] = [dict(type=method.replace('-', '') + 'Hook', **hook)]
        name += f'-{option}{value:g}'
    return train_and_test(file, work_dir / f'{name}-{seed}', seed, **options)


def row(name: str, cells: list[Cell]) -> str:
    """One line of the table."""
    columns = [spread([c[key] for c in cells], factor) for key, factor in COLUMNS.values()]
    return f'| {name} | {" | ".join(columns)} |'


def draw(curves: dict[str, dict[float, list[Cell]]], baseline: list[Cell], file: Path) -> None:
    """One panel per option, with Non-ART as a line across all of them."""
    panels = {
        LABELS[option]: {value: [100 * c['best'] for c in cells] for value, cells in points.items()}
        for option, points in curves.items()
    }
    line = ('Non-ART', [100 * c['best'] for c in baseline])
    plot_sweep(panels, line, 'validation GAP, percent').savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--eps', type=float, nargs='*', default=[0.1, 0.25, 0.5, 1.0, 2.0])
    parser.add_argument('--alpha', type=float, nargs='*', default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument('--beta', type=float, nargs='*', default=[])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--dataset', default='yt8m-sample')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/aart_sweep'))
    args = parser.parse_args()
    baseline = [cell(args.work_dir, args.dataset, seed) for seed in args.seeds]
    lines = [f'| | {" | ".join(COLUMNS)} |', '|---|' + '---|' * len(COLUMNS)]
    lines.append(row('Non-ART', baseline))
    curves: dict[str, dict[float, list[Cell]]] = {}
    for option in PAPER:
        for value in getattr(args, option):
            cells = [cell(args.work_dir, args.dataset, s, option, value) for s in args.seeds]
            curves.setdefault(option, {})[value] = cells
            lines.append(row(f'{option}={value:g}', cells))
    draw(curves, baseline, args.work_dir / 'sweep.png')
    (args.work_dir / 'sweep.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
