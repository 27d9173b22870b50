"""The study on TAF: under which checkpoint does fine-tuning with it help?

    python examples/taf_study.py --seeds 10 11 12 --arms clean taf noise ce --out taf.json
    python examples/taf_study.py --seeds 10 11 12 --base-epochs 200 --out finished.json
    python examples/taf_study.py --tables examples/studies/results/taf_*.json --figure gains.png

A small video net is trained on 120 clips; every arm goes on from that checkpoint for 18 epochs, and
arms are compared by seed, which changes clips, weights and order. The plan and the results are in
``examples/studies/README.md``. Every finished arm is kept in ``--out``, and every base in
``--work-dir``, so the command can be interrupted and repeated. It needs 1.5 to 2 CPU minutes for a
seed with the four main arms, and runs a process of one thread on every core.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from studies import taf_figure, taf_tables
from studies.arms import ARMS, MAIN
from studies.clips import DATA, FRAMES, Clips, flipped_labels, load_clips
from studies.fit import fit
from studies.measure import damaged, measure, measure_attacked
from studies.nets import MODELS, SmallVideoNet, build_net
from studies.store import Results, in_processes, one_thread

from adv_plugins import make_adversarial, remove_adversarial

KEYS = ('data', 'model', 'base_epochs', 'arm', 'seed')


def base_rate(part: float) -> float:
    """Cosine from 0.05 to a tenth of it."""
    return 0.05 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))


def fine_tuning_rate(part: float) -> float:
    """0.005, divided by ten after two thirds (as in TAF, section 4.1)."""
    return 0.005 if part < 2 / 3 else 0.0005


class Seed:
    """One seed of a study: its clips, and the nets that are trained on them.

    Args:
        data (str): One of ``DATA``.
        model (str): One of ``MODELS``.
        base_epochs (int): Epochs before the fine-tuning.
        seed (int): The seed.
        work_dir (Path): Where trained bases are kept.
    """

    def __init__(self, data: str, model: str, base_epochs: int, seed: int, work_dir: Path) -> None:
        self.model, self.base_epochs, self.seed = model, base_epochs, seed
        self.name = dict(data=data, model=model, base_epochs=base_epochs, seed=seed)
        self.work_dir = work_dir
        self.train, self.val = load_clips(data, seed)
        self.flipped = flipped_labels(data)

    @cached_property
    def corrupted(self) -> dict[str, Clips]:
        """Validation clips under every corruption."""
        return damaged(self.val)

    def run(self, arm: str) -> dict[str, Any]:
        """Train and measure one arm."""
        start = time.process_time()
        net = self.trained(arm)
        seconds = round(time.process_time() - start, 1)
        measured = measure(net, self.train, self.val, self.corrupted)
        # As long as a training, so for the main arms only.
        if arm in ('base', *MAIN):
            measured |= measure_attacked(net, self.val)
        return dict(self.name, arm=arm, **measured, seconds=seconds)

    def trained(self, arm: str) -> SmallVideoNet:
        """The plain net at the end of an arm."""
        if arm == 'base':
            return self.base()
        recipe, from_scratch = ARMS[arm].build(), ARMS[arm].from_scratch
        net = self.untrained() if from_scratch else self.base()
        # The attack's random numbers start from here, whether the base was trained or read.
        torch.manual_seed(self.seed)
        if recipe is not None:
            make_adversarial(net, recipe, value_range=(0, 1))
        if from_scratch:
            self.fit_base(net)
        epochs, order = ARMS[arm].epochs, self.seed + 1000
        fit(net, self.train, self.flipped, epochs, fine_tuning_rate, order)
        return net if recipe is None else remove_adversarial(net)

    def untrained(self) -> SmallVideoNet:
        """The net with the weights that the seed draws."""
        torch.manual_seed(self.seed)
        return build_net(self.model, len(self.flipped), FRAMES)

    def base(self) -> SmallVideoNet:
        """The clean net before the fine-tuning, trained now or read."""
        net = self.untrained()
        # Another torch rounds differently, and trains another base.
        folder = self.work_dir / f'torch-{torch.__version__}'
        file = folder / f'{"-".join(map(str, self.name.values()))}.pth'
        if file.exists():
            net.load_state_dict(torch.load(file))
            return net
        self.fit_base(net)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f'.{os.getpid()}.part')
        torch.save(net.state_dict(), draft)
        draft.replace(file)
        return net

    def fit_base(self, net: SmallVideoNet) -> None:
        """The epochs before the fine-tuning."""
        fit(net, self.train, self.flipped, self.base_epochs, base_rate, self.seed)


def run_seed(name: dict[str, Any], arms: Sequence[str], work_dir: Path, out: Path) -> None:
    """Run the arms of one seed that ``out`` does not hold yet."""
    results = Results(out, KEYS)
    missing = [arm for arm in arms if dict(name, arm=arm) not in results]
    if missing:
        seed = Seed(**name, work_dir=work_dir)
        for arm in missing:
            cell = seed.run(arm)
            results.add(cell)
            print(cell, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--arms', choices=ARMS, nargs='+', default=list(MAIN))
    parser.add_argument('--data', choices=DATA, default=DATA[0])
    parser.add_argument('--model', choices=MODELS, default=MODELS[0])
    parser.add_argument('--base-epochs', type=int, default=80, help='200: the fit is finished')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/taf_study/results.json'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/taf_study'))
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    parser.add_argument('--tables', type=Path, nargs='+', help='only print the tables of results')
    parser.add_argument('--figure', type=Path, help='with --tables: also draw the gains')
    args = parser.parse_args(argv)
    one_thread()
    if args.tables is None:
        Results(args.out, KEYS).check()
        arms = list(dict.fromkeys(['base', 'clean', *args.arms]))
        names = [
            dict(data=args.data, model=args.model, base_epochs=args.base_epochs, seed=seed)
            for seed in args.seeds
        ]
        tasks = [(name, arms, args.work_dir, args.out) for name in names]
        in_processes(run_seed, tasks, args.processes)
    files = [Results(file, KEYS) for file in args.tables or [args.out]]
    print('\n\n'.join([taf_tables.summary(files), *map(taf_tables.markdown, files)]))
    if args.figure is not None:
        taf_figure.draw(files, args.figure)


if __name__ == '__main__':
    main()
