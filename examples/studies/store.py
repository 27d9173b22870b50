"""The results of a study: one cell per arm and seed, kept in a JSON file as they come in.

A file holds cells of one machine kind and one set of versions only, because another torch or
another number of threads rounds differently and trains other models.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

Cell = dict[str, Any]


def environment() -> dict[str, Any]:
    """What results depend on besides the seed."""
    packages = ('torch', 'numpy', 'opencv-python', 'scikit-learn', 'mmaction2')
    return {
        **{name: metadata.version(name) for name in packages},
        'threads': torch.get_num_threads(),
        'machine': f'{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}',
    }


class Results:
    """The cells in a file, in the order of their keys; several processes may add to one file.

    A study computes with one thread (:func:`one_thread`), also where it checks its file.

    Args:
        file (Path): The file; it need not exist.
        keys (Iterable[str]): The entries of a cell that tell it from others, such as
            ``('arm', 'seed')``.
    """

    def __init__(self, file: Path, keys: Iterable[str]) -> None:
        self.file, self.keys = file, tuple(keys)
        self.cells: dict[tuple, Cell] = {}
        self.environment: dict[str, Any] | None = None
        self._read()

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        return self._key(cell) in self.cells

    def check(self) -> None:
        """Check that cells which are computed now may be added to the file.

        Raises:
            SystemExit: The file was made with other versions or on another kind of CPU.
        """
        if self.environment not in (None, environment()):
            raise SystemExit(
                f'{self.file} was made with {self.environment}, and this is {environment()}: one '
                'table must not mix them; write another --out'
            )

    def add(self, cell: Cell) -> None:
        """Keep a cell, beside those that others have added meanwhile.

        The file is replaced as a whole, so that it is never half written.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{self.file}.lock'):
            self._read()
            self.check()
            self.environment = environment()
            self.cells[self._key(cell)] = cell
            ordered = [self.cells[key] for key in sorted(self.cells)]
            lines = ',\n'.join(json.dumps(entry) for entry in ordered)
            draft = self.file.with_suffix('.part')
            draft.write_text(
                f'{{"environment": {json.dumps(self.environment)}, "cells": [\n{lines}\n]}}\n'
            )
            draft.replace(self.file)

    def _read(self) -> None:
        if self.file.exists():
            content = json.loads(self.file.read_text())
            self.environment = content['environment']
            self.cells = {self._key(cell): cell for cell in content['cells']}

    def _key(self, cell: Mapping[str, Any]) -> tuple:
        return tuple(cell[name] for name in self.keys)

    def select(self, **wanted: Any) -> list[Cell]:
        """The cells with these entries."""
        return [
            cell for cell in self.cells.values() if all(cell[k] == v for k, v in wanted.items())
        ]

    def by_seed(self, value: str, **wanted: Any) -> dict[int, float]:
        """One measured value of an arm by seed; cells without it are left out."""
        return {c['seed']: c[value] for c in self.select(**wanted) if c.get(value) is not None}


def one_thread() -> None:
    """Compute with one thread: a process per core is faster, and the result does not depend on the
    number of cores."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def in_processes(work: Callable[..., None], tasks: Iterable[tuple], processes: int) -> None:
    """Run independent tasks in processes of one thread each; the first error stops all.

    Args:
        work (Callable): A function at the top level of a module; it keeps its results itself.
        tasks (Iterable[tuple]): Its arguments, one tuple a task.
        processes (int): How many at a time.
    """
    context = get_context('spawn')
    with ProcessPoolExecutor(processes, mp_context=context, initializer=one_thread) as pool:
        running = [pool.submit(work, *task) for task in tasks]
        try:
            for done in as_completed(running):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
