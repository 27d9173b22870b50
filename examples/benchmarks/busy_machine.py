"""How much a clean training step slows down where another process takes one of two cores.

Prints the mean milliseconds of a step with 16 clips of 32 pixels: with two threads, with two that
wait passively, and with one, each on an idle machine and beside one busy process. Run it on a
machine with two cores (or under ``taskset -c 0,1``) and nothing else to do.

Example:
    python examples/benchmarks/busy_machine.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / 'mm_configs/baselines'
MODELS = {
    "the quickstart's SlowOnly": 'slowonly_r8_1x1x8_ordered-digits-120-rgb.py',
    'TSM-R18, as in the tables': 'tsm_r18_1x1x8_ordered-digits-rgb.py',
}
THREADS = {
    '2, by default': dict(OMP_NUM_THREADS='2'),
    '2, waiting passively': dict(OMP_NUM_THREADS='2', OMP_WAIT_POLICY='PASSIVE'),
    '1': dict(OMP_NUM_THREADS='1'),
}


def measure(config: str, seconds: float) -> float:
    """Milliseconds of a step in this process, the mean over so many seconds after one step."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS as REGISTRY
    from mmengine.registry import init_default_scope

    import adv_plugins  # noqa: F401

    cfg = Config.fromfile(CONFIGS / config)
    init_default_scope('mmaction')
    model = REGISTRY.build(cfg.model).train()
    shape = (16, 1, 3, 8, 32, 32) if cfg.model.type == 'Recognizer3D' else (16, 8, 3, 32, 32)
    inputs = torch.randn(shape)
    from mmaction.structures import ActionDataSample

    samples = [ActionDataSample().set_gt_label(label % 12) for label in range(16)]
    steps, started = -1, 0.0
    while steps < 1 or time.perf_counter() - started < seconds:
        if steps == 0:
            started = time.perf_counter()
        losses = model(inputs, samples, mode='loss')
        model.parse_losses(losses)[0].backward()
        steps += 1
    return 1000 * (time.perf_counter() - started) / steps


def in_a_process(config: str, variables: dict[str, str], seconds: float, busy: bool) -> float:
    """The same in a process of its own, which reads the variables before torch is loaded."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('OMP_')} | variables
    command = [sys.executable, '-W', 'ignore', __file__, '--seconds', str(seconds)]
    other = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if busy else None
    try:
        done = subprocess.run(
            [*command, '--measure', config], env=environment, check=True, stdout=subprocess.PIPE
        )
    finally:
        if other is not None:
            other.kill()
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=5.0, help='how long each cell is measured')
    parser.add_argument('--measure', choices=MODELS.values(), help='only this config, here')
    args = parser.parse_args()
    if args.measure is not None:
        print(measure(args.measure, args.seconds))
        return
    print('| model | threads | idle | one busy process |\n|---|---|---|---|')
    for model, config in MODELS.items():
        for name, variables in THREADS.items():
            idle, busy = (
                in_a_process(config, variables, args.seconds, busy) for busy in (False, True)
            )
            print(f'| {model} | {name} | {idle:,.0f} | {busy:,.0f} |', flush=True)


if __name__ == '__main__':
    main()
