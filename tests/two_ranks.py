"""Two processes of a gloo group that serve a whole session, so that they import everything once."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

TIMEOUT = timedelta(minutes=5)


class TwoRanks:
    """Calls a function on both ranks of a group that is made for the call.

    The processes start with the first call, and anew with the next one after a failure.

    Args:
        folder (Path): Where the ranks of a call meet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0
        self.processes: list[Any] = []
        self.pipes: list[connection.Connection] = []

    def __call__(self, function: Callable[..., None], *args: Any) -> None:
        """Call ``function(rank, *args)``, a function of a module; raise what a rank raised."""
        if not self.processes:
            self._start()
        self.calls += 1
        for pipe in self.pipes:
            pipe.send((function, args, f'{self.folder}/store{self.calls}'))
        busy = list(self.pipes)
        while busy:
            ready = connection.wait(busy, TIMEOUT.total_seconds())
            problem = '' if ready else 'no answer in time'
            for pipe in ready:
                busy.remove(pipe)
                try:
                    problem += pipe.recv()
                except EOFError:
                    problem += 'a process has died'
            if problem:
                # The other rank may be waiting for this one.
                self.kill()
                raise RuntimeError(f'{function.__name__} on two ranks: {problem}')

    def _start(self) -> None:
        context = mp.get_context('spawn')
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs))
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def close(self) -> None:
        """Let both processes end."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join()
        self.processes, self.pipes = [], []

    def kill(self) -> None:
        """End both processes in the middle of what they do."""
        for process in self.processes:
            process.kill()
        self.close()


def _serve(rank: int, pipe: connection.Connection) -> None:
    """Answer each call with what went wrong in it, until nobody is there to call."""
    torch.set_num_threads(1)
    environment = dict(os.environ)
    while True:
        try:
            function, args, store = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            dist.init_process_group(
                'gloo', f'file://{store}', rank=rank, world_size=2, timeout=TIMEOUT
            )
            function(rank, *args)
            dist.barrier()
            dist.destroy_process_group()
            problem = ''
        except Exception:
            problem = traceback.format_exc()
        os.environ.clear()
        os.environ.update(environment)
        pipe.send(problem)
