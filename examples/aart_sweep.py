"""Figure 3 of a-art.txt on the embedded sample: validation GAP of ART over ε and over α.

    python examples/aart_sweep.py [--eps 0.1 0.25 0.5 1 2] [--alpha 0.25 0.5 1 2 4] [--seeds 0]

One of them varies while the other stays at the paper's value (ε=0.5, α=1). The line is Non-ART's
GAP. Finished runs are kept. Writes ``sweep.png`` and prints the numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
from aart_table import config_file, train_and_test

PAPER = {'eps': 0.5, 'alpha': 1.0}
LABELS = {'eps': 'ε, with α = 1', 'alpha': 'α, with ε = 0.5'}


def gap(work_dir: Path, dataset: str, seed: int, hook: dict[str, float] | None) -> float:
    """Best validation GAP of ART with these options, or of Non-ART without."""
    file = config_file('Non-ART' if hook is None else 'ART', dataset)
    options: dict[str, Any] = {}
    name = file.stem
    if hook is not None:
        options['custom_hooks'] = [dict(type='ARTHook', **hook)]
        name += ''.join(f'-{key}{value:g}' for key, value in hook.items())
    return train_and_test(file, work_dir / f'{name}-{seed}', seed, **options)['best']


def draw(curves: dict[str, dict[float, list[float]]], baseline: list[float], file: Path) -> None:
    """One panel an option: mean and spread over the seeds."""
    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3.5), layout='constrained', sharey=True)
    for axis, (option, points) in zip(axes, curves.items(), strict=True):
        values = list(points)
        means = [100 * mean(points[value]) for value in values]
        errors = [100 * stdev(gaps) if len(gaps) > 1 else 0.0 for gaps in points.values()]
        axis.errorbar(values, means, errors, marker='o', capsize=3, label='ART')
        axis.axhline(100 * mean(baseline), color='grey', linestyle='--', label='Non-ART')
        axis.set_xscale('log')
        axis.set_xticks(values, [f'{value:g}' for value in values])
        axis.minorticks_off()
        axis.set_xlabel(LABELS[option])
    axes[0].set_ylabel('validation GAP, percent')
    axes[0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--eps', type=float, nargs='+', default=[0.1, 0.25, 0.5, 1.0, 2.0])
    parser.add_argument('--alpha', type=float, nargs='+', default=[0.25, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--dataset', default='yt8m-sample')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/aart_sweep'))
    args = parser.parse_args()
    baseline = [gap(args.work_dir, args.dataset, seed, None) for seed in args.seeds]
    print(f'Non-ART: {[round(100 * value, 2) for value in baseline]}')
    curves: dict[str, dict[float, list[float]]] = {}
    for option, values in (('eps', args.eps), ('alpha', args.alpha)):
        curves[option] = {}
        for value in values:
            hook = {**PAPER, option: value}
            gaps = [gap(args.work_dir, args.dataset, seed, hook) for seed in args.seeds]
            curves[option][value] = gaps
            print(f'{option}={value:g}: {[round(100 * value, 2) for value in gaps]}')
    draw(curves, baseline, args.work_dir / 'sweep.png')


if __name__ == '__main__':
    main()
