"""How much of a recipe's gain remains at a lower cost.

    python examples/cheaper.py [--dataset yt8m-sample] [--seeds 0 1 2] [--rows full budget]
    python examples/cheaper.py --dataset ordered-digits --seeds 0 1 2

Trains ART on the embedded YouTube-8M sample, or TAF on OrderedDigits, where it fine-tunes in the
last third of the run. Each row changes some options and is compared with the clean run, on clean
and attacked videos of the test (or validation) set. The cost is that of the whole run, counted in
forwards and backwards (:func:`adv_plugins.core.cost.step_cost`; low precision makes no difference
to it). Finished runs are kept. Writes ``cheaper-DATASET.md`` to the work dir and prints it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from aart_table import config_file, spread, train_and_test
from mmengine.config import Config
from mmengine.runner import Runner
from ordered_digits_table import config_file as digits_config
from quickstart import fork_point, train

from adv_plugins import ART, TAF, Recipe
from adv_plugins.core.cost import step_cost, within_budget

Options = dict[str, Any]
Cell = dict[str, float]


class Sample:
    """ART on the YouTube-8M sample: the best checkpoint, clean and under two attacks."""

    recipe, batch, share = staticmethod(ART), 64, 1.0
    clean_name = 'Non-ART'
    rows: Mapping[str, Options] = {
        'full': {},
        # This gives fraction=0.25, i.e. a quarter of every batch.
        'budget': dict(budget=1.25),
        'interval': dict(interval=4),
        # Low precision needs several steps, as one step from the clean graph has no own forward.
        'steps': dict(steps=3),
        'low': dict(steps=3, attack_dtype='bfloat16'),
    }
    keys: Mapping[str, str] = {
        'test GAP': 'GAP',
        'GAP, one step': 'fgm/GAP',
        'GAP, ten steps': 'pgd/GAP',
    }

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir

    def clean(self, seed: int) -> Cell:
        """The clean run."""
        file = config_file('Non-ART', 'yt8m-sample')
        return train_and_test(file, self.work_dir / f'clean-{seed}', seed)

    def trained(self, name: str, seed: int) -> Cell:
        """The run of a row."""
        hook = dict(type='ARTHook', eps=0.5, alpha=1.0, by_epoch=False, **self.rows[name])
        file, folder = config_file('ART', 'yt8m-sample'), self.work_dir / f'{name}-{seed}'
        return train_and_test(file, folder, seed, custom_hooks=[hook])


class Digits:
    """TAF on OrderedDigits: the last epoch, clean and under PGD."""

    recipe, batch, share = staticmethod(TAF), 16, 1 / 3
    clean_name = 'baseline'
    rows: Mapping[str, Options] = {
        'full': {},
        # This gives fraction=0.375, because the clean epochs of the run leave budget for it.
        'budget': dict(budget=1.25),
        'fraction': dict(fraction=0.25),
        'interval': dict(interval=2),
        'small': dict(attack_scale=0.5),
        'low': dict(attack_scale=0.5, attack_dtype='bfloat16'),
    }
    keys: Mapping[str, str] = {'val top-1': 'clean', 'top-1, ten steps, 4/255': 'pgd'}

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir

    def clean(self, seed: int) -> Cell:
        """The baseline, whose checkpoint all rows start from."""
        return self._cell(digits_config('tsm', 'baseline'), f'clean-{seed}', seed)

    def trained(self, name: str, seed: int) -> Cell:
        """The run of a row."""
        start = fork_point(digits_config('tsm', 'baseline'), self.work_dir / f'clean-{seed}')
        config = digits_config('tsm', 'TAF')
        return self._cell(config, f'{name}-{seed}', seed, start, self.rows[name])

    def _cell(
        self,
        config: Path,
        name: str,
        seed: int,
        start: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Cell:
        folder = self.work_dir / name
        file = folder / 'result.json'
        if file.exists():
            return json.loads(file.read_text())
        cfg = Config.fromfile(config)
        if options:
            cfg.custom_hooks[0].update(options)
        changed = folder / config.name
        folder.mkdir(parents=True, exist_ok=True)
        cfg.dump(changed)
        if not (last := folder / f'epoch_{cfg.train_cfg.max_epochs}.pth').exists():
            train(changed, folder, seed, start)
        result = self._test(cfg, last)
        file.write_text(json.dumps(result, indent=2) + '\n')
        return result

    def _test(self, cfg: Config, checkpoint: Path) -> Cell:
        """The accuracies of a checkpoint as fractions."""
        cfg.merge_from_dict(dict(load_from=str(checkpoint), work_dir=str(checkpoint.parent)))
        cfg.experiment_name = f'{checkpoint.parent.name}-test'
        cfg.test_cfg = dict(
            type='RobustnessTestLoop',
            corruptions=[],
            attacks=dict(pgd=dict(type='PGD', steps=10)),
            eps=4 / 255,
            attack_videos=240,
            curve=None,
            deepfool=None,
            attention=False,
        )
        found = Runner.from_cfg(cfg).test()
        return {'clean': found['acc/top1'], 'pgd': found['attack/pgd/top1']}


TASKS = {'yt8m-sample': Sample, 'ordered-digits': Digits}


def counted_cost(task: Sample | Digits, options: Options) -> float:
    """The cost of the whole run in clean runs, by counting."""
    recipe: Recipe = within_budget(task.recipe(**options), task.batch, task.share)
    return 1 + task.share * (step_cost(recipe) - 1) / recipe.interval


def line(task: Sample | Digits, name: str, cells: list[Cell], clean: list[Cell]) -> list[str]:
    """One row: the metrics in percent, and the gains over the clean run, paired by seed."""
    columns = [spread([c[key] for c in cells]) for key in task.keys.values()]
    for key in task.keys.values():
        gains = [some[key] - none[key] for some, none in zip(cells, clean, strict=True)]
        columns.append(spread(gains, sign='+'))
    return columns


def kept(task: Sample | Digits, cells: list[Cell], clean: list[Cell], full: list[Cell]) -> str:
    """The share of the full recipe's mean gain that is kept, for each metric."""
    parts = []
    for key in task.keys.values():
        none, some, whole = (mean(c[key] for c in found) for found in (clean, cells, full))
        parts.append(f'{100 * (some - none) / (whole - none):.0f}' if whole != none else '-')
    return f'{", ".join(parts)} %'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dataset', choices=TASKS, default='yt8m-sample')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--rows', nargs='+', help='which rows; default: all')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/cheaper'))
    args = parser.parse_args(argv)
    task = TASKS[args.dataset](args.work_dir / args.dataset)
    rows = args.rows or list(task.rows)
    if unknown := set(rows) - set(task.rows):
        parser.error(f'--rows {" ".join(unknown)}: {args.dataset} has {" ".join(task.rows)}')
    clean = [task.clean(seed) for seed in args.seeds]
    found = {name: [task.trained(name, seed) for seed in args.seeds] for name in rows}
    gains = [f'gain, {name}' for name in task.keys]
    header = ['', 'counted cost', *task.keys, *gains, 'gain kept']
    lines = [f'| {" | ".join(header)} |', '|---' * len(header) + '|']
    plain = [spread([c[key] for c in clean]) for key in task.keys.values()]
    lines.append(f'| {task.clean_name} | 1.00 | {" | ".join(plain)} |' + ' |' * (len(plain) + 1))
    for name, cells in found.items():
        options = ', '.join(f'{key}={value!r}' for key, value in task.rows[name].items())
        columns = [f'`{options}`' if options else task.recipe.__name__]
        columns.append(f'{counted_cost(task, task.rows[name]):.2f}')
        columns += line(task, name, cells, clean)
        columns.append(kept(task, cells, clean, found['full']) if 'full' in found else '')
        lines.append(f'| {" | ".join(columns)} |')
    args.work_dir.mkdir(parents=True, exist_ok=True)
    (args.work_dir / f'cheaper-{args.dataset}.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
