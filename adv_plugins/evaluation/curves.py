"""Accuracy over eps: which cells are the points of a curve, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cells import Cell
from .intervals import wilson_interval
from .selection import shared_videos


class Curve(NamedTuple):
    """Accuracy over eps with its 95 % Wilson interval, in percent; eps 0 is clean."""

    eps: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_videos: int


def curve_of(cells: Sequence[Cell], correct: Callable[..., NDArray[np.bool_]]) -> Curve:
    """The curve through cells, on the videos that all of them share; NaN if they share none.

    Args:
        cells (Sequence[Cell]): The points in the order of their eps; the clean one has none.
        correct (Callable): ``correct(key, videos=...)`` says which videos of a cell are right.
    """
    eps = np.array([float(cell.level or 0) for cell in cells])
    shared = shared_videos(cell.videos for cell in cells)
    if not shared:
        nothing = np.full(len(eps), math.nan)
        return Curve(eps, nothing, nothing, nothing, 0)
    counts = [int(correct(cell.key, videos=shared).sum()) for cell in cells]
    accuracy, low, high = np.array([wilson_interval(count, len(shared)) for count in counts]).T
    return Curve(eps, accuracy, low, high, len(shared))


def lies_on_curve(attack: Cell, points: Sequence[Cell]) -> bool:
    """Whether an attack is one more point of a curve: run with the same options, eps excepted."""
    options = {**attack.options, 'eps': None}
    return (
        attack.level is not None
        and attack.level not in [point.level for point in points]
        and all({**point.options, 'eps': None} == options for point in points)
    )
