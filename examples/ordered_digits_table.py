"""The table of the README: baseline, CE, AdvProp and TAF on OrderedDigits over several seeds.

    python examples/ordered_digits_table.py --seeds 0 1 2 [--work-dir work_dirs/table]

Each cell is ``mim train mmaction2 CONFIG --cfg-options randomness.seed=SEED`` and the clean path's
top-1 of the last epoch. Runs that share their clean epochs with the baseline resume from its
checkpoint. Finished cells are kept and not trained again, so the command can be interrupted, and
several may work on the seeds of one work dir at a time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from quickstart import BASELINE, CONFIGS, TAF, evaluate, evaluation_copy, fork_point, top1, train

from adv_plugins.visualization import attention_entropy

METHODS = {
    'baseline': BASELINE,
    'TAF, fine-tuned': TAF,
    'CE, fine-tuned': CONFIGS / 'taf/ceaug-tsm_r18_1x1x8_ordered-digits-rgb.py',
    'AdvProp, from scratch': CONFIGS / 'taf/advprop-tsm_r18_1x1x8_ordered-digits-rgb.py',
}


def cell(method: str, seed: int, work_dir: Path) -> dict[str, float]:
    """Train and evaluate one method with one seed, or read what an earlier call has found."""
    folder = work_dir / f'{METHODS[method].stem}-{seed}'
    file = folder / 'result.json'
    if file.exists():
        return json.loads(file.read_text())
    start = None
    if 'fine-tuned' in method:
        start = fork_point(BASELINE, work_dir / f'{METHODS["baseline"].stem}-{seed}')
    runner = train(METHODS[method], folder, seed, start)
    val = runner.val_dataloader.dataset
    result = evaluate(runner.model, val)
    seen = evaluate(runner.model, evaluation_copy(runner.train_dataloader.dataset, val))
    numbers = {
        'val': top1(result),
        'train': top1(seen),
        'entropy': attention_entropy(result['attention']).mean().item(),
    }
    file.write_text(json.dumps(numbers, indent=2) + '\n')
    return numbers


def markdown(cells: dict[str, dict[int, dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, and the paired difference to the baseline."""
    lines = [
        '| method | seeds | train top-1 | val top-1 | val − baseline | attention entropy |',
        '|---|---|---|---|---|---|',
    ]
    for method, seeds in cells.items():
        paired = [seeds[s]['val'] - cells['baseline'][s]['val'] for s in seeds]
        columns = [spread([cell[key] for cell in seeds.values()]) for key in ('train', 'val')]
        entropy = spread([cell['entropy'] for cell in seeds.values()], digits=3)
        delta = '' if method == 'baseline' else spread(paired, sign='+')
        lines.append(
            f'| {method} | {len(seeds)} | {columns[0]} | {columns[1]} | {delta} | {entropy} |'
        )
    return '\n'.join(lines)


def spread(values: list[float], digits: int = 1, sign: str = '') -> str:
    """``mean ± standard deviation``."""
    text = f'{mean(values):{sign}.{digits}f}'
    return f'{text} ± {stdev(values):.{digits}f}' if len(values) > 1 else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/table'))
    args = parser.parse_args()
    cells: dict[str, dict[int, dict[str, float]]] = {method: {} for method in METHODS}
    for seed in args.seeds:
        for method in METHODS:
            cells[method][seed] = cell(method, seed, args.work_dir)
    (args.work_dir / 'table.md').write_text(markdown(cells) + '\n')
    print(markdown(cells))


if __name__ == '__main__':
    main()
