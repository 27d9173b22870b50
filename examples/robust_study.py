"""How robust does each recipe make a net, and at which cost?

    python examples/robust_study.py --seeds 10 11 12
    python examples/robust_study.py --table examples/studies/results/robust.json

A small video net is trained on 120 clips, as for ``taf_study.py``; every arm goes on from that
checkpoint, with the same clips in the same order. Measured is the accuracy on clean clips, and in
the worst case of three attacks. What was chosen and what came out is in
``examples/studies/robust.md``. Every finished arm is kept in ``--out``, so the command can be
interrupted and repeated. A seed takes 16 CPU minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from studies.clips import DATA, Clips
from studies.fit import fit
from studies.markdown import spread, table
from studies.measure import resisting, rounded, top1
from studies.nets import CAM_LAYER, CAM_LAYOUT
from studies.paired import paired
from studies.store import Results, in_processes, one_thread
from taf_study import Seed
from torch import nn

from adv_plugins import (
    MART,
    TAF,
    TRADES,
    FastTraining,
    PGDTraining,
    Recipe,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.core.cost import step_cost

KEYS = ('arm', 'seed')
MODEL, BASE_EPOCHS, EPOCHS = 'tam', 80, 30
STEPS = 5
"""K; all other options are the defaults of the recipes, such as ε = 8/255."""
RISING = dict(type='LinearEps', start=0, end=8 / 255, iterations=70)
"""Over ten epochs of seven steps."""
ARMS: dict[str, tuple[str, Recipe | None]] = {
    'clean': ('clean training', None),
    'taf': ('TAF', TAF(cam_layer=CAM_LAYER, cam_layout=CAM_LAYOUT)),
    'fast': ('FastTraining', FastTraining(check_interval=None)),
    'pgd': ('PGDTraining', PGDTraining(steps=STEPS)),
    'trades': ('TRADES', TRADES(steps=STEPS)),
    'mart': ('MART', MART(steps=STEPS)),
    'trades-rising': ('TRADES, ε rising for 10 epochs', TRADES(steps=STEPS, eps=RISING)),
}
"""Title and recipe of each arm."""
EPS = (2, 4, 8)
"""In grey levels, in ascending order."""
ATTACKS = (
    dict(type='APGD', steps=20),
    dict(type='APGDTargeted', steps=20, targets=3),
    dict(type='Square', queries=200),
)
ATTACKED = 120


def rate(part: float) -> float:
    """Up to 0.03 in the first 30 %, and down to 0.

    At the clean checkpoint the divergence of TRADES is so large that a high rate ruins the net.
    """
    return 0.03 * min(part / 0.3, (1 - part) / 0.7)


def run_seed(seed: int, arms: Sequence[str], work_dir: Path, out: Path) -> None:
    """Run the arms of one seed that ``out`` does not hold yet."""
    results = Results(out, KEYS)
    missing = [arm for arm in arms if dict(arm=arm, seed=seed) not in results]
    if missing:
        study = Seed(DATA[0], MODEL, BASE_EPOCHS, seed, work_dir)
        for arm in missing:
            cell = dict(arm=arm, seed=seed, **run(study, ARMS[arm][1]))
            results.add(cell)
            print(cell, flush=True)


def run(study: Seed, recipe: Recipe | None) -> dict[str, Any]:
    """Train and measure one arm."""
    net = study.base()
    start = time.process_time()
    # The attack's random numbers start from here, whether the base was trained or read.
    torch.manual_seed(study.seed)
    if recipe is not None:
        make_adversarial(net, recipe, value_range=(0, 1))
    fit(net, study.train, study.flipped, EPOCHS, rate, study.seed + 1000)
    if recipe is not None:
        remove_adversarial(net)
    trained = time.process_time()
    net.eval()
    found = {'train': top1(net, study.train), 'val': top1(net, study.val)}
    found |= worst_case(net, study.val.about(ATTACKED))
    seconds = dict(seconds=trained - start, attack_seconds=time.process_time() - trained)
    return rounded(found | seconds)


def worst_case(net: nn.Module, clips: Clips) -> dict[str, float]:
    """Accuracy in percent at each ε, once each of the attacks was tried.

    A clip that was fooled is not attacked again, nor at a larger ε: its ball contains the smaller
    one.
    """
    found, right = {}, torch.arange(len(clips))
    for eps in EPS:
        for options in ATTACKS:
            if len(right) > 0:
                attack = dict(options, eps=eps / 255)
                right = right[resisting(net, clips, right, attack)]
            found[f'{options["type"]}{eps}'] = 100 * len(right) / len(clips)
        found[f'worst{eps}'] = 100 * len(right) / len(clips)
    return found


def markdown(results: Results) -> str:
    """Cost, clean and worst-case accuracy of each arm over seeds; chance is 8.3 %."""
    values = ('train', 'val', *(f'worst{eps}' for eps in EPS))
    hardest = values[-1]
    rows = []
    for arm, (title, recipe) in ARMS.items():
        found = {value: results.by_seed(value, arm=arm) for value in values}
        if not found['val']:
            continue
        madry = results.by_seed(hardest, arm='pgd')
        gain = paired(found[hardest], madry).text(1) if arm != 'pgd' and madry else ''
        cost = 1.0 if recipe is None else step_cost(recipe)
        accuracies = [spread(list(each.values())) for each in found.values()]
        rows.append([title, f'{cost:.2f}', str(len(found['val'])), *accuracies, gain])
    header = ['recipe', 'cost', 'seeds', 'train', 'clean', *(f'ε = {eps}/255' for eps in EPS)]
    return table([*header, f'ε = {EPS[-1]}/255, − PGDTraining (95 %)'], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--arms', choices=ARMS, nargs='+', default=list(ARMS))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/robust_study/results.json'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/taf_study'))
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    parser.add_argument('--table', type=Path, help='only print the table of results')
    args = parser.parse_args(argv)
    one_thread()
    if args.table is None:
        Results(args.out, KEYS).check()
        tasks = [(seed, args.arms, args.work_dir, args.out) for seed in args.seeds]
        in_processes(run_seed, tasks, args.processes)
    print(markdown(Results(args.table or args.out, KEYS)))


if __name__ == '__main__':
    main()
