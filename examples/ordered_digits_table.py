"""The tables of mm_configs/taf/README.md: models and methods on OrderedDigits over several seeds.

    python examples/ordered_digits_table.py --seeds 0 1 2 [--work-dir work_dirs/table]
    python examples/ordered_digits_table.py --models tsm gst tam tpn-tsm --methods baseline TAF

Each cell is ``mim train mmaction2 CONFIG --cfg-options randomness.seed=SEED`` and the top-1 of the
clean path after the last epoch. Runs that share their clean epochs with the baseline resume from
its checkpoint. Finished cells are kept, so the command can be interrupted, and several commands can
work on different seeds of one work dir at the same time.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from quickstart import CONFIGS, evaluate, evaluation_copy, fork_point, top1, train
from studies.markdown import spread

from adv_plugins.visualization import attention_entropy

MODELS = ('tsm', 'gst', 'tam', 'tpn-tsm')
# The prefix of each method in the names of its configs.
METHODS = {
    'baseline': 'baselines/',
    'TAF': 'taf/taf-',
    'CE': 'taf/ceaug-',
    'AdvProp': 'taf/advprop-',
}
FINE_TUNED = ('TAF', 'CE')


def config_file(model: str, method: str) -> Path:
    """The config of a model trained with a method."""
    return CONFIGS / f'{METHODS[method]}{model}_r18_1x1x8_ordered-digits-rgb.py'


def cell(model: str, method: str, seed: int, work_dir: Path) -> dict[str, float]:
    """Train and evaluate one method with one seed, or read the result of an earlier call."""
    config, baseline = config_file(model, method), config_file(model, 'baseline')
    folder = work_dir / f'{config.stem}-{seed}'
    file = folder / 'result.json'
    if file.exists():
        return json.loads(file.read_text())
    start = None
    if method in FINE_TUNED:
        start = fork_point(baseline, work_dir / f'{baseline.stem}-{seed}')
    runner = train(config, folder, seed, start)
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


def markdown(cells: dict[tuple[str, str], dict[int, dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, and the paired difference to the baseline."""
    lines = [
        '| model | method | seeds | train top-1 | val top-1 | val − baseline | attention entropy |',
        '|---|---|---|---|---|---|---|',
    ]
    for (model, method), seeds in cells.items():
        paired = [seeds[s]['val'] - cells[model, 'baseline'][s]['val'] for s in seeds]
        columns = [spread([cell[key] for cell in seeds.values()]) for key in ('train', 'val')]
        entropy = spread([cell['entropy'] for cell in seeds.values()], digits=3)
        delta = '' if method == 'baseline' else spread(paired, sign='+')
        how = f'{method}, fine-tuned' if method in FINE_TUNED else method
        row = (model.upper(), how, str(len(seeds)), *columns, delta, entropy)
        lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--models', choices=MODELS, nargs='+', default=['tsm'])
    parser.add_argument('--methods', choices=METHODS, nargs='+', default=list(METHODS))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/table'))
    args = parser.parse_args()
    # The baseline comes first, because the fine-tuned runs start from it and are compared with it.
    methods = ['baseline', *(m for m in args.methods if m != 'baseline')]
    cells: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for seed in args.seeds:
        for model, method in itertools.product(args.models, methods):
            result = cell(model, method, seed, args.work_dir)
            cells.setdefault((model, method), {})[seed] = result
    (args.work_dir / 'table.md').write_text(markdown(cells) + '\n')
    print(markdown(cells))


if __name__ == '__main__':
    main()
