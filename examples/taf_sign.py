"""The sign in TAF, eq. 2: does the attack make hard clips easier or harder?

    python examples/taf_sign.py --seeds 10 11 12 13 14

Eq. 2 takes the gradient of the cross-entropy (``cam_of='loss'``); the prose of section 3.2, where
hard clips become easier, and GradCAM take that of the class score (``cam_of='score'``). This
perturbs validation clips of the bases of ``taf_study.py`` by one step of several lengths, and
prints the cross-entropy at the true label, apart for clips that the net gets right and wrong. A
base that is not trained yet takes half a minute.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from studies.markdown import table
from studies.nets import CAM_LAYER, CAM_LAYOUT
from studies.paired import paired
from studies.store import Results, in_processes, one_thread
from taf_study import Seed
from torch import nn

from adv_plugins import TAF, make_adversarial

KEYS = ('cam_of', 'step_size', 'seed')
SOURCES, STEPS = ('loss', 'score'), (0, 1, 2, 8, 32)
GROUPS = ('right', 'wrong')


def run_seed(seed: int, work_dir: Path, out: Path) -> None:
    """Measure one base, unless ``out`` has it."""
    results = Results(out, KEYS)
    cells = [dict(cam_of=c, step_size=b, seed=seed) for c in SOURCES for b in STEPS]
    if all(cell in results for cell in cells):
        return
    study = Seed('ordered-digits', 'tsm', 80, seed, work_dir)
    net, clips = study.base().eval(), study.val.about(240)
    x, y = clips.inputs(), clips.labels
    with torch.no_grad():
        right = net(x).argmax(dim=1) == y
    for cell in cells:
        losses = _losses_after(net, x, y, cell['cam_of'], cell['step_size'])
        values = {'right': losses[right].mean().item(), 'wrong': losses[~right].mean().item()}
        results.add(dict(cell, **{name: round(value, 4) for name, value in values.items()}))


def _losses_after(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, cam_of: str, step_size: int
) -> torch.Tensor:
    """The cross-entropy at the true label after one step of so many grey levels."""
    if step_size:
        recipe = TAF(
            cam_of=cam_of, step_size=step_size / 255, cam_layer=CAM_LAYER, cam_layout=CAM_LAYOUT
        )
        x = make_adversarial(copy.deepcopy(net), recipe, value_range=(0, 1)).perturb(x, y)
    with torch.no_grad():
        return F.cross_entropy(net(x), y, reduction='none')


def markdown(results: Results) -> str:
    """The change of the cross-entropy by one step, with its 95 % interval over seeds."""
    rows = []
    for step_size in STEPS:
        cells = []
        for source in SOURCES:
            for group in GROUPS:
                before, after = (
                    results.by_seed(group, cam_of=source, step_size=b) for b in (0, step_size)
                )
                mean = f'{sum(before.values()) / len(before):.2f}'
                cells.append(paired(after, before).text() if step_size else mean)
        rows.append([str(step_size), *cells])
    header = [f'{c}: {g} clips' for c in SOURCES for g in GROUPS]
    return table(['β · 255', *header], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/taf_study/sign.json'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/taf_study'))
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    one_thread()
    Results(args.out, KEYS).check()
    tasks = [(seed, args.work_dir, args.out) for seed in args.seeds]
    in_processes(run_seed, tasks, args.processes)
    print(markdown(Results(args.out, KEYS)))


if __name__ == '__main__':
    main()
