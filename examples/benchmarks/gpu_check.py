"""What a GPU must show: that training on it is right, and what it costs.

    python examples/benchmarks/gpu_check.py [--device cuda] [--minutes 7] [--out FILE]

One command for one card, without data or downloads. The checks compare small nets: each recipe's
step with the same step in double precision on the CPU, mixed precision, memory formats, cuDNN's
modes, SyncBatchNorm, compilation, resuming and random streams. Then the steps of TSM-R50 and
VideoMAE-B are measured as ``step_cost.py`` does it; a batch that does not fit is halved. When the
time is up, no further check, row or round begins. Prints Markdown, writes the same figures as JSON,
and exits with 1 if anything failed. A failed check does not stop the others.

On a CPU the models are smaller, and checks that need a GPU are left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Read by cuBLAS when it starts; without it, its results may differ from run to run.
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import torch
from gpu_checks import CHECKS, Check, Finding, LeftOut, full_precision
from step_cases import CASES, CLEAN, SIZES, build_case, build_steps, in_words
from step_measures import LEGEND, chosen_device, describe_machine, measure, summarize, table

import adv_plugins

MODELS = ('tsm', 'videomae')
ROUNDS = 15
OK, FAILED, LEFT_OUT = 'ok', 'failed', 'left out'


@dataclass
class Outcome:
    """The outcome of a check.

    Args:
        name (str): The check.
        outcome (str): ``'ok'``, ``'failed'`` or ``'left out'``.
        findings (list[Finding]): Its figures and their limits.
        text (str): The error, or why the check was left out. Defaults to ''.
    """

    name: str
    outcome: str = OK
    findings: list[Finding] = field(default_factory=list)
    text: str = ''

    @property
    def row(self) -> str:
        figures = [f'{what} {figure:.2g} ({limit:.6g})' for what, figure, limit in self.findings]
        text = ' '.join(self.text.replace('|', '\\|').split())
        return f'| {self.name} | {self.outcome} | {"; ".join(figures)} | {text} |'


def run_check(name: str, check: Check, device: torch.device, deadline: float) -> Outcome:
    """Make a check; an error in it is its outcome."""
    found = Outcome(name)
    try:
        if time.monotonic() > deadline:
            raise LeftOut('the time is up')
        with full_precision(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found.findings.extend(check(device))
    except LeftOut as reason:
        found.outcome, found.text = LEFT_OUT, str(reason)
    except Exception as error:
        found.outcome, found.text = FAILED, f'{type(error).__name__}: {error}'[:600]
    # A figure that is no number is no success either.
    if not all(figure <= limit for _, figure, limit in found.findings):
        found.outcome = FAILED
    return found


def run_cost(name: str, device: torch.device, deadline: float) -> dict[str, Any]:
    """Measure the steps of a model, with the largest batch that fits."""
    size = SIZES['full' if device.type == 'cuda' else 'small'][name]
    notes = []
    while True:
        # What the last round or another model has left, outside of the handler: it holds a part.
        case = steps = None
        gc.collect()
        torch.cuda.empty_cache()
        try:
            case = build_case(CASES[name], size, device)
            steps = build_steps(case)
            rows, failed = measure(case, steps, ROUNDS, deadline=deadline)
            break
        except torch.OutOfMemoryError:
            if size[0] == 1:
                raise
            notes.append(f'a batch of {size[0]} did not fit into the memory')
            size = (size[0] // 2, *size[1:])
    late = [step for step in steps if step not in rows and step not in failed]
    if late:
        notes.append(f'the time was up before: {"; ".join(late)}')
    notes.append(f'rounds: {len(rows[CLEAN].seconds)}')
    found = summarize(rows)
    return dict(title=case.title, size=in_words(size), steps=found, failed=failed, notes=notes)


def left_out() -> list[str]:
    """What is not measured as it is with all packages, and why."""
    missing = []
    if find_spec('mmaction') is None:
        missing.append(
            'MMAction2 is not installed: TSM-R50 is one in plain PyTorch, VideoMAE-B that of '
            'transformers'
        )
    if find_spec('torchattacks') is None:
        missing.append('torchattacks is not installed: its rows are left out')
    return missing


def machine_of(device: torch.device) -> dict[str, Any]:
    machine = describe_machine(device) | dict(adv_plugins=adv_plugins.__version__)
    if device.type == 'cuda':
        machine['TF32'] = f'in convolutions {torch.backends.cudnn.allow_tf32}, in products '
        machine['TF32'] += str(torch.backends.cuda.matmul.allow_tf32)
    return machine


def report(results: Mapping[str, Any]) -> str:
    """The Markdown page."""
    machine = ', '.join(f'{key} {value}' for key, value in results['machine'].items())
    checks = [Outcome(**check) for check in results['checks']]
    lines = ['| check | outcome | figures (at most) | remark |', '| --- | --- | --- | --- |']
    counts = [f'{sum(c.outcome == kind for c in checks)} {kind}' for kind in (OK, FAILED, LEFT_OUT)]
    parts = [
        f'`{results["command"]}`: {machine}; {results["seconds"]:.0f} s.',
        f'Checks: {", ".join(counts)}.',
        '\n'.join([*lines, *(check.row for check in checks)]),
        LEGEND,
        *results['left_out'],
    ]
    for model in results['models'].values():
        if 'steps' in model:
            clean = model['steps'][CLEAN]['peak'] / 2**30
            notes = '; '.join([f'a clean step takes {clean:.2f} GiB', *model['notes']])
            parts += [f'{model["title"]}, {model["size"]}; {notes}.', table(model['steps'])]
        parts += [f'Failed: {name}: {error}' for name, error in model['failed'].items()]
    return '\n\n'.join(parts) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    # What has begun by then may take a minute more.
    parser.add_argument('--minutes', type=float, default=7.0, help='nothing begins after them')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu_check.json'))
    args = parser.parse_args(argv)
    start = time.monotonic()
    end = start + 60 * args.minutes
    device = chosen_device(args.device)
    results: dict[str, Any] = dict(
        command=shlex.join(['python', 'examples/benchmarks/gpu_check.py', *argv]),
        machine=machine_of(device),
        left_out=left_out(),
        checks=[],
        models={},
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name, check in CHECKS.items():
        found = run_check(name, check, device, end)
        results['checks'].append(asdict(found))
        args.out.write_text(json.dumps(results, indent=1))
        print(f'{found.outcome}: {name}', found.text, file=sys.stderr, flush=True)
    for count, name in enumerate(MODELS):
        share = (end - time.monotonic()) / (len(MODELS) - count)
        try:
            results['models'][name] = run_cost(name, device, time.monotonic() + share)
        except ModuleNotFoundError as error:
            results['left_out'].append(f'{name} is left out: {error}')
        except Exception as error:
            failed = {name: f'{type(error).__name__}: {error}'[:600]}
            results['models'][name] = dict(failed=failed)
        print(f'measured: {name}', file=sys.stderr, flush=True)
    results['seconds'] = time.monotonic() - start
    args.out.write_text(json.dumps(results, indent=1))
    print(report(results))
    wrong = any(check['outcome'] == FAILED for check in results['checks'])
    return int(wrong or any(model['failed'] for model in results['models'].values()))


if __name__ == '__main__':
    sys.exit(main())
