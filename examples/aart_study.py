"""Does A-ART's attention term help over ART anywhere? The study of studies/aart.md.

    python examples/aart_study.py --explore --seeds 0 1 2 3 4 --out FILE.json   # chooses β
    python examples/aart_study.py --seeds 10 11 12 13 14 15 16 17 18 19 --out FILE.json
    python examples/aart_study.py --tables examples/studies/results/aart.json

The vowels come with a package of 6 MB: ``pip install --no-deps aeon``. A cell of one regime, arm
and seed takes 1 to 9 CPU seconds, with ``yt8m`` up to 30. Finished cells are kept in ``--out``, so
that a run can be interrupted and repeated.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.aart_cells import ARMS, BETAS, REGIMES, load, run_cell
from studies.aart_tables import exploration, tables
from studies.store import Results, in_processes, one_thread

KEYS = ('split', 'regime', 'arm', 'seed')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    one_thread()
    if args.tables is None:
        compute(args)
    results = Results(args.tables or args.out, KEYS)
    print(exploration(results) if args.explore else tables(results))


def compute(args: argparse.Namespace) -> None:
    """Add the cells that are missing."""
    results = Results(args.out, KEYS)
    todo = missing(args, results)
    results.check()
    # Data that has to be made is made once, before several processes want it.
    for data in sorted({REGIMES[name].data for _, name, *_ in todo}):
        load(data)
    in_processes(keep_cell, [(args.out, *task) for task in todo], args.processes)


def keep_cell(out: Path, *task: Any) -> None:
    """Compute a cell (split, regime, arm and seed) and add it to the file."""
    values = run_cell(*task)
    Results(out, KEYS).add(dict(zip(KEYS, task, strict=True)) | values)
    print(*task, f'pgd {values["pgd"]:.1f}', flush=True)


def missing(args: argparse.Namespace, results: Results) -> list[tuple[str, str, str, int]]:
    """The cells that are wanted and not in the file: split, regime, arm and seed of each."""
    split, arms = 'test', args.arms
    if args.explore:
        split, arms = 'validate', ['art', *(f'aart-{beta:g}' for beta in BETAS)]
    wanted = [
        (split, name, arm, seed)
        for seed, name, arm in itertools.product(args.seeds, args.regimes, arms)
        # Slots that all get the same attention would give every sequence the same output.
        if (REGIMES[name].net, arm) != ('slots', 'uniform')
    ]
    return [task for task in wanted if dict(zip(KEYS, task, strict=True)) not in results]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--regimes', nargs='+', choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument('--arms', nargs='+', choices=ARMS, default=list(ARMS))
    parser.add_argument(
        '--explore', action='store_true', help='compare values of β on the validation split'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/aart_study.json'))
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    parser.add_argument('--tables', type=Path, help='only print the tables of results')
    return parser.parse_args(argv)


if __name__ == '__main__':
    main()
