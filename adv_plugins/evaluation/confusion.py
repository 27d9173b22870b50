"""Which classes a model takes for which others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cells import Cell
from .results import Robustness
from .summary import strongest_attack
from .tables import eps_text


class ConfusedPair(NamedTuple):
    """A class and one that its videos are taken for.

    Args:
        label (int): The true class.
        prediction (int): The class that is predicted instead.
        count (int): For how many videos.
        num_videos (int): How many videos the true class has.
    """

    label: int
    prediction: int
    count: int
    num_videos: int

    @property
    def share(self) -> float:
        """The count in percent of the videos of the true class."""
        return 100 * self.count / self.num_videos


def confusion_keys(results: Robustness) -> list[str]:
    """The keys of the cells whose confusions are shown: clean, and the strongest attack."""
    strongest = strongest_attack(results)
    return results.keys('clean') + ([strongest] if strongest else [])


def condition_text(cell: Cell) -> str:
    """How a cell of :func:`confusion_keys` is called: ``'clean'`` or ``'pgd, ε = 4/255'``."""
    if not cell.name:
        return 'clean'
    return cell.name if cell.level is None else f'{cell.name}, ε = {eps_text(cell.level)}'


def confusion_matrix(results: Robustness, key: str) -> NDArray[np.int64]:
    """How many videos of each class are taken for each class.

    Args:
        results (Robustness): The results.
        key (str): Key of a cell with predictions, such as ``'clean'``.

    Returns:
        ndarray: Shape (C, C): a row for each true class, a column for each prediction.

    Raises:
        KeyError: There is no such cell.
    """
    cell = results.cell(key)
    matrix = np.zeros((len(results.classes),) * 2, dtype=np.int64)
    labels = [results.labels[video] for video in cell.videos]
    np.add.at(matrix, (labels, cell.predictions), 1)
    return matrix


def confused_pairs(matrix: NDArray[np.int64]) -> list[ConfusedPair]:
    """The pairs of classes that are confused, the most frequent first.

    Args:
        matrix (ndarray): What :func:`confusion_matrix` returned.

    Returns:
        list[ConfusedPair]: All pairs that occur; of equally frequent ones, those with the larger
        share come first.
    """
    totals = matrix.sum(axis=1)
    pairs = [
        ConfusedPair(
            int(label), int(prediction), int(matrix[label, prediction]), int(totals[label])
        )
        for label, prediction in np.argwhere(matrix)
        if label != prediction
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share))
