"""The time of ``import adv_plugins`` in addition to ``import torch``.

Each row is the median CPU time of several fresh processes, in seconds. If mmengine is installed,
the packages that configs refer to (hooks, models, datasets, evaluation) are imported to register
their classes, and mmengine and MMAction2 with them. The first row hides those two, as in a plain
PyTorch project.

Example:
    python examples/benchmarks/import_time.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

HIDE = """
import importlib.util, sys
def hidden(name):
    return name.split('.')[0] in ('mmengine', 'mmaction', 'mmcv', 'mmpretrain')
class Finder:
    def find_spec(self, name, path=None, target=None):
        if hidden(name):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Finder())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if hidden(name) else find_spec(name, package))
"""
MEASURE = """
import time
begun = time.process_time()
import {first}
between = time.process_time()
from adv_plugins import make_adversarial
print(between - begun, time.process_time() - between)
"""


def measure(first: str, prelude: str, repeats: int) -> tuple[float, float]:
    """CPU seconds of importing ``first``, and of importing adv_plugins after it."""
    code = prelude + MEASURE.format(first=first)
    rows = []
    for _ in range(repeats):
        command = [sys.executable, '-W', 'ignore', '-c', code]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append([float(value) for value in output.split()])
    before, after = zip(*rows, strict=True)
    return statistics.median(before), statistics.median(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=5, help='processes per row (default: 5)')
    repeats = parser.parse_args().repeats
    print('| project | imported before | its CPU s | adv_plugins, CPU s more |')
    print('|---|---|---|---|')
    for project, first, prelude in (
        ('plain PyTorch', 'torch', HIDE),
        ('mmengine is installed', 'torch', ''),
        ('mmengine is used', 'torch, mmengine.runner, mmcv.transforms', ''),
    ):
        before, after = measure(first, prelude, repeats)
        print(f'| {project} | `import {first}` | {before:.2f} | {after:.2f} |', flush=True)


if __name__ == '__main__':
    main()
