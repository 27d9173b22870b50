"""The results of a study: one cell per arm and seed, kept in a JSON file as they come in.

A file holds cells of one machine kind and one set of versions only, because another torch or
another number of threads rounds differently and trains other models.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Cell = dict[str, Any]


def environment() -> dict[str, Any]:
    """What results depend on besides the seed; a study trains with one thread per process."""
    return {
        'torch': torch.__version__,
        'threads': 1,
        'machine': f'{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}',
    }


class Results:
    """The cells in a file, in the order of their keys.

    Args:
        file (Path): The file; it need not exist.
        keys (Iterable[str]): The entries of a cell that tell it from others, such as
            ``('arm', 'seed')``.

    Raises:
        SystemExit: The file was made with other versions or on another kind of CPU.
    """

    def __init__(self, file: Path, keys: Iterable[str]) -> None:
        self.file, self.keys = file, tuple(keys)
        self.cells: dict[tuple, Cell] = {}
        self.environment: dict[str, Any] | None = None
        if file.exists():
            content = json.loads(file.read_text())
            self.environment = content['environment']
            for cell in content['cells']:
                self.cells[self.key(cell)] = cell

    def key(self, cell: Mapping[str, Any]) -> tuple:
        """What tells a cell from others."""
        return tuple(cell[name] for name in self.keys)

    def __contains__(self, cell: Mapping[str, Any]) -> bool:
        return self.key(cell) in self.cells

    def check(self) -> None:
        """Raise ``SystemExit`` if cells that are computed now may not be added to the file."""
        if self.environment not in (None, environment()):
            raise SystemExit(
                f'{self.file} was made with {self.environment}, and this is {environment()}: one '
                'table must not mix them; write another --out'
            )

    def add(self, cell: Cell) -> None:
        """Keep a cell. The file is replaced as a whole, so that it is never half written."""
        self.environment = environment()
        self.cells[self.key(cell)] = cell
        cells = sorted(self.cells.values(), key=lambda c: [str(c[k]).zfill(9) for k in self.keys])
        lines = ',\n'.join(json.dumps(entry) for entry in cells)
        text = f'{{"environment": {json.dumps(self.environment)}, "cells": [\n{lines}\n]}}\n'
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(f'.{os.getpid()}.part')
        draft.write_text(text)
        draft.replace(self.file)

    def select(self, **wanted: Any) -> list[Cell]:
        """The cells with these entries."""
        return [
            cell for cell in self.cells.values() if all(cell[k] == v for k, v in wanted.items())
        ]

    def by_seed(self, value: str, **wanted: Any) -> dict[int, float]:
        """One measured value of an arm by seed; cells without it are left out."""
        return {c['seed']: c[value] for c in self.select(**wanted) if c.get(value) is not None}


def one_thread() -> None:
    """Compute with one thread: a process per core is faster, and the same on every machine."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def in_processes(
    work: Callable[..., Any], tasks: Iterable[tuple], processes: int
) -> Iterator[tuple[tuple, Any]]:
    """Run independent tasks in processes of one thread each; give the results as they come.

    Args:
        work (Callable): A function at the top level of a module.
        tasks (Iterable[tuple]): Its arguments, one tuple a task.
        processes (int): How many at a time.

    Yields:
        tuple: The arguments of a task and its result.
    """
    context = get_context('spawn')
    with ProcessPoolExecutor(processes, mp_context=context, initializer=one_thread) as pool:
        running: dict[Future, tuple] = {pool.submit(work, *task): task for task in tasks}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)
