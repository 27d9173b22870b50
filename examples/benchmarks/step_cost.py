"""The cost of an adversarial training step: seconds, memory, forwards and backwards.

    python examples/benchmarks/step_cost.py [--size small|full] [--models tsm videomae ...]

Uses models with random weights and random data. For each model it measures the steps of this
package's recipes, and compares them with a clean step, with the theoretical minimum (the floor),
and with the way attack libraries do the same work. All steps of a model share its weights and take
turns, in a different order each round, so that other load on the machine affects all of them
equally; ratios are taken within a round. A step includes everything up to the gradients of the
parameters, but not ``optimizer.step()``. Writes ``step_cost.json`` and the Markdown tables
``step_cost.md`` to ``--out``.

``--size small`` is meant for two CPU cores; ``full`` has the papers' sizes and is meant for CUDA.
If other programs use the machine too, ``--cpu-time`` counts the CPU seconds of this process, on one
thread. torchattacks is included if it is installed. Trust the ratios, which come from one run on
one machine, rather than the seconds. On a cluster it needs the other files of this folder and an
installed package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from step_cases import CASES, SIZES, build_case, build_steps, has_torchattacks, in_words
from step_measures import LEGEND, chosen_device, describe_machine, measure, summarize, table


def report(results: Mapping[str, Any]) -> str:
    """The Markdown page."""
    machine = ', '.join(f'{key} {value}' for key, value in results['machine'].items())
    clock = 'CPU seconds of one thread' if results['cpu_time'] else 'wall-clock seconds'
    parts = [f'{machine}; {clock}, {results["repeats"]} rounds. {LEGEND}']
    if not results['torchattacks']:
        parts.append('torchattacks is not installed and was left out.')
    for model in results['models'].values():
        parts += [f'{model["title"]}, {model["size"]}', table(model['steps'])]
        parts += [f'{name} failed: {error}' for name, error in model['failed'].items()]
    return '\n\n'.join(parts) + '\n'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    has_cuda = torch.cuda.is_available()
    parser.add_argument('--size', choices=SIZES, default='full' if has_cuda else 'small')
    parser.add_argument('--models', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--device', default='cuda' if has_cuda else 'cpu')
    parser.add_argument(
        '--cpu-time', action='store_true', help='CPU seconds of one thread, for a busy machine'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/step_cost'))
    args = parser.parse_args(argv)
    device = chosen_device(args.device)
    if args.cpu_time:
        if device.type != 'cpu':
            parser.error(f'--cpu-time measures a CPU; it does not work with --device {device}')
        torch.set_num_threads(1)
    results = dict(
        machine=describe_machine(device),
        size=args.size,
        repeats=args.repeats,
        cpu_time=args.cpu_time,
        torchattacks=has_torchattacks(),
        models={},
    )
    for name in args.models:
        size = SIZES[args.size][name]
        case = build_case(CASES[name], size, device)
        rows, failed = measure(case, build_steps(case), args.repeats, args.cpu_time)
        model = dict(title=case.title, size=in_words(size), steps=summarize(rows), failed=failed)
        results['models'][name] = model
        print(f'\n{model["title"]}, {model["size"]}\n\n{table(model["steps"])}', flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'step_cost.json').write_text(json.dumps(results, indent=1))
    (args.out / 'step_cost.md').write_text(report(results))


if __name__ == '__main__':
    main()
