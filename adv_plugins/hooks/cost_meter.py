"""The measured cost of an adversarial iteration."""

from __future__ import annotations

import time
from collections import deque
from statistics import median


class CostMeter:
    """Measures the cost of a run so far, in clean runs, from its clean and adversarial steps."""

    def __init__(self) -> None:
        # Clean and adversarial ones. Only the last 100 count, because the first ones are slow.
        self._seconds: tuple[deque[float], ...] = (deque(maxlen=100), deque(maxlen=100))
        self._counts = [0, 0]
        self._last: tuple[float, int] | None = None

    def tick(self, adversarial_steps: int) -> float | None:
        """Record the start of an iteration.

        Args:
            adversarial_steps (int): The number of adversarial steps so far.

        Returns:
            float, optional: The cost; None until there have been iterations of both kinds.
        """
        now = time.perf_counter()
        if self._last is not None:
            kind = int(adversarial_steps > self._last[1])
            self._seconds[kind].append(now - self._last[0])
            self._counts[kind] += 1
        self._last = (now, adversarial_steps)
        if not all(self._counts):
            return None
        clean, adversarial = (median(seconds) for seconds in self._seconds)
        share = self._counts[1] / sum(self._counts)
        return 1 + share * (adversarial / clean - 1)
