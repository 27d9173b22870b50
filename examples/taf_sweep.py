"""The ablations of TAF, table 2, in one command: objectives, α, and ε with K.

    python examples/taf_sweep.py [--seeds 0 1 2] [--tables a b c]
    python examples/taf_sweep.py --dataset sthv1 --checkpoint tsm_8f.pth --seeds 0 1 2
    torchrun --nproc_per_node 8 examples/taf_sweep.py --launcher pytorch --dataset sthv1 ...

One option varies while the others keep the paper's values. On OrderedDigits every run shares the
clean epochs of its seed's baseline, and AdvProp takes one attack step instead of five. On
Something-Something V1 every run fine-tunes one trained model, as in the paper: that of
``--checkpoint``, or by default that of the seed's baseline. Learning rates are scaled to the number
of processes. The results are those of the last epoch. Finished runs are kept, so the command can be
interrupted. Writes ``sweep.md`` and ``sweep.png`` and prints the former.
"""

from __future__ import annotations

import passive_waiting  # noqa: F401

# isort: split
import argparse
import inspect
import json
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner
from quickstart import CONFIGS, fork_point
from studies.markdown import spread

from adv_plugins import TAF
from adv_plugins.visualization import plot_sweep

Cell = dict[str, Any]
DATASETS = {
    'ordered-digits': {
        'baseline': 'baselines/tsm_r18_1x1x8_ordered-digits-rgb.py',
        'AdvProp': 'taf/advprop-tsm_r18_1x1x8_ordered-digits-rgb.py',
        'CE': 'taf/ceaug-tsm_r18_1x1x8_ordered-digits-rgb.py',
        'TAF': 'taf/taf-tsm_r18_1x1x8_ordered-digits-rgb.py',
    },
    'sthv1': {
        'baseline': 'tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb.py',
        'AdvProp': 'taf/advprop-tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb.py',
        'CE': 'taf/ceaug-tsm_tsm-pre-r50_8xb8-1x1x8-15e_sthv1-rgb.py',
        'TAF': 'taf/taf-tsm_tsm-pre-r50_8xb8-1x1x8-15e_sthv1-rgb.py',
    },
}


class Row(NamedTuple):
    """A row of table 2: its name, the method, its options, and the paper's top-1."""

    name: str
    method: str
    options: dict[str, Any]
    paper: float


Cells = dict[str, list[tuple[Row, list[Cell]]]]


def attack(eps: int, step: int, steps: int, paper: float) -> Row:
    """A row of table 2c; ``eps`` and ``step`` are in grey levels."""
    options = dict(eps=eps / 255, step_size=step / 255, steps=steps)
    return Row(f'TAF, ε={eps}, K={steps}', 'TAF', options, paper)


BASELINE = Row('baseline', 'baseline', {}, 45.6)
TABLES = {
    'a': (
        BASELINE,
        Row('AdvProp, from scratch', 'AdvProp', {}, 44.5),
        Row('CE-based, fine-tuned', 'CE', {}, 46.1),
        Row('TAF, fine-tuned', 'TAF', {}, 46.9),
    ),
    'b': (
        BASELINE,
        Row('TAF, α=0.2', 'TAF', dict(alpha=0.2), 46.3),
        Row('TAF, α=0.5', 'TAF', dict(alpha=0.5), 46.7),
        Row('TAF, α=0.7', 'TAF', dict(alpha=0.7), 46.9),
        Row('TAF, α=0.8', 'TAF', dict(alpha=0.8), 46.5),
    ),
    'c': (
        BASELINE,
        attack(6, 2, 1, 46.6),
        attack(6, 2, 3, 46.5),
        attack(64, 32, 1, 46.9),
        attack(64, 32, 3, 46.8),
    ),
}


def cell(row: Row, seed: int, args: argparse.Namespace) -> Cell:
    """Train and validate one row with one seed, or read the result of an earlier call."""
    dataset, work_dir, checkpoint = args.dataset, args.work_dir, args.checkpoint
    config = CONFIGS / DATASETS[dataset][row.method]
    # The tables share the run with the paper's own values.
    defaults = inspect.signature(TAF).parameters
    changed = {k: v for k, v in row.options.items() if v != defaults[k].default}
    name = ''.join(f'-{key}{value:.3g}' for key, value in changed.items())
    folder = work_dir / f'{config.stem}{name}-{seed}'
    file = folder / 'result.json'
    if file.exists():
        result = json.loads(file.read_text())
        if result['checkpoint'] != str(checkpoint):
            raise SystemExit(
                f'{file} is of --checkpoint {result["checkpoint"]}, not {checkpoint}; write '
                'another --work-dir'
            )
        return result
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    cfg.randomness, cfg.launcher = dict(seed=seed), args.launcher
    if 'auto_scale_lr' in cfg:
        cfg.auto_scale_lr.enable = True
    for hook in cfg.get('custom_hooks', []):
        hook.update(changed)
    if row.method in ('CE', 'TAF'):
        baseline = CONFIGS / DATASETS[dataset]['baseline']
        trained = work_dir / f'{baseline.stem}-{seed}'
        if checkpoint is not None:
            cfg.load_from = str(checkpoint)
        elif 'clean_epochs' in cfg:
            cfg.load_from, cfg.resume = str(fork_point(baseline, trained)), True
        else:
            cfg.load_from = str(trained / Path(cfg.load_from).name)
    if row.method == 'baseline' and checkpoint is not None:
        cfg.load_from = str(checkpoint)
        found = Runner.from_cfg(cfg).test()
    else:
        runner = Runner.from_cfg(cfg)
        runner.train()
        scalars = runner.message_hub.log_scalars
        found = {key: scalars[f'val/{key}'].current() for key in ('acc/top1', 'acc/top5')}
    result = {key: 100 * float(value) for key, value in found.items()}
    result['checkpoint'] = str(checkpoint)
    if is_main_process():
        file.write_text(json.dumps(result, indent=2) + '\n')
    # Other processes must not look for the file before it exists.
    barrier()
    return result


def markdown(cells: Cells) -> str:
    """Mean and standard deviation over seeds, and the difference to the baseline by seed."""
    lines = []
    for table, rows in cells.items():
        (_, baseline), *_ = rows
        lines += [
            f'| table 2{table} | top-1 | top-5 | top-1 − baseline | paper (SSV1, TSM-R50) |',
            '|---|---|---|---|---|',
        ]
        for row, found in rows:
            top1, top5 = ([c[f'acc/top{k}'] for c in found] for k in (1, 5))
            paired = [c['acc/top1'] - b['acc/top1'] for c, b in zip(found, baseline, strict=True)]
            delta = '' if row is BASELINE else spread(paired, sign='+')
            lines.append(
                f'| {row.name} | {spread(top1)} | {spread(top5)} | {delta} | {row.paper} |'
            )
        lines.append('')
    return '\n'.join(lines)


def draw(cells: Cells, file: Path) -> None:
    """One panel per table, with the baseline as a line across all of them."""
    panels, baseline = {}, []
    for table, rows in cells.items():
        top1 = {row.name.replace(', ', '\n'): [c['acc/top1'] for c in found] for row, found in rows}
        baseline = top1.pop('baseline')
        panels[f'table 2{table}'] = top1
    plot_sweep(panels, ('baseline', baseline)).savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dataset', choices=DATASETS, default='ordered-digits')
    parser.add_argument('--checkpoint', type=Path, help='the trained model to fine-tune')
    parser.add_argument('--tables', choices=TABLES, nargs='+', default=list(TABLES))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm'), default='none')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/taf_sweep'))
    args = parser.parse_args()
    if args.checkpoint is not None and 'ordered' in args.dataset:
        parser.error('--checkpoint needs --dataset sthv1; OrderedDigits is trained in minutes')
    cells: Cells = {}
    for table in args.tables:
        cells[table] = [
            (row, [cell(row, seed, args) for seed in args.seeds]) for row in TABLES[table]
        ]
    if is_main_process():
        draw(cells, args.work_dir / 'sweep.png')
        (args.work_dir / 'sweep.md').write_text(markdown(cells))
        print(markdown(cells))


if __name__ == '__main__':
    main()
