"""How far an evaluation is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta


class Progress:
    """The progress through cells of which one may cost ten thousand times what another does.

    Args:
        costs (Sequence[int]): What each cell costs at most, in forwards of one video; 0 where
            nothing is left to do.

    Attributes:
        total (int): How many cells there are to run.
    """

    def __init__(self, costs: Sequence[int]) -> None:
        self._costs = list(costs)
        self._done = self._number = 0
        self._started = time.perf_counter()
        self.total = sum(cost > 0 for cost in costs)

    def announce(self, file: str) -> str:
        """What is ahead, for the log.

        Args:
            file (str): Where the other cells are.
        """
        kept = len(self._costs) - self.total
        found = f' ({kept} more are in {file})' if kept else ''
        return (
            f'{self.total} cells to run{found}, at most {sum(self._costs):,} forwards of a video; '
            'the time left is told after each cell'
        )

    def advance(self, index: int) -> str:
        """Note that a cell is done.

        Args:
            index (int): Its index among all cells.

        Returns:
            str: Its number, and the time that the others take, for the log.
        """
        self._number += 1
        self._done += self._costs[index]
        rest = sum(self._costs) - self._done
        place = f'cell {self._number} of {self.total}'
        if not (self._done and rest):
            return place
        seconds = (time.perf_counter() - self._started) * rest / self._done
        return f'{place}, about {timedelta(seconds=round(seconds))} left'
