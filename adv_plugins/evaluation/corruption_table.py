"""Accuracy by corruption and severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.checks import near_names


class CorruptionTable(NamedTuple):
    """Accuracy by corruption (row) and severity (column), in percent; NaN where missing."""

    names: list[str]
    severities: list[float]
    accuracy: NDArray[np.float64]

    def rows(self, names: Sequence[str] | None, model: str) -> list[int]:
        """The rows of some corruptions, or all of them.

        Args:
            names (Sequence[str], optional): The corruptions; None for all.
            model (str): Whose table it is, for the message.

        Raises:
            KeyError: There is no such corruption.
        """
        if names is None:
            return list(range(len(self.names)))
        for name in names:
            if name not in self.names:
                near = near_names(name, self.names) or self.names
                raise KeyError(f'{model!r} has no corruption {name!r}; write {near}')
        return [self.names.index(name) for name in names]
