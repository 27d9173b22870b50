"""Which classes are taken for which, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..evaluation.confusion import confused_pairs
from .figures import blank_figure, check_not_empty, drawn, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 16
"""With more classes than this, only those that are confused most are shown."""
_LETTERS = 26


def plot_confusion(
    matrices: Mapping[str, NDArray[np.int64]], classes: Sequence[str], title: str
) -> Figure:
    """Confusion matrices side by side: a row for each true class, a column for each prediction.

    Args:
        matrices (Mapping[str, ndarray]): By the condition, such as ``'clean'``, what
            :func:`adv_plugins.evaluation.confusion.confusion_matrix` returned, shape (C, C).
        classes (Sequence[str]): The name of each class.
        title (str): What stands above them, such as the name of the model.

    Returns:
        Figure: A panel for each condition. Each square has its number of videos, and is the darker,
        the larger its share of the true class. Of more than 16 classes those of the pairs that are
        confused most are shown, and a last column counts the other predictions. To be
        saved with ``figure.savefig(file)``.

    Raises:
        ValueError: There is no matrix, or a shape is not as described.
        ImportError: matplotlib is missing.
    """
    check_not_empty('matrices', matrices, "give e.g. {'clean': confusion_matrix(results, 'clean')}")
    for condition, matrix in matrices.items():
        if matrix.shape != (len(classes),) * 2:
            raise ValueError(
                f'matrices[{condition!r}] has the shape {matrix.shape}, and there are '
                f'{len(classes)} classes; give one row and one column a class'
            )
    chosen = _most_confused(list(matrices.values()))
    names = [drawn(shortened(classes[index], _LETTERS)) for index in chosen]
    columns = names if len(chosen) == len(classes) else [*names, 'others']
    side = 0.36 * len(columns)
    margin = 0.09 * max(map(len, columns))
    figure = blank_figure(margin + len(matrices) * (side + 0.3) + 0.5, side + 0.75 * margin + 1.2)
    panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for panel, (condition, matrix) in zip(panels, matrices.items(), strict=True):
        _panel(panel, matrix, chosen)
        panel.set_xticks(range(len(columns)), columns, rotation=60, ha='right', fontsize='small')
        panel.set_xlabel('prediction')
        panel.set_title(drawn(condition), fontsize='medium')
    panels[0].set_yticks(range(len(names)), names, fontsize='small')
    panels[0].set_ylabel('true class')
    if len(chosen) < len(classes):
        title = f'{title}: the {len(chosen)} of {len(classes)} classes that are confused most'
    figure.suptitle(drawn(title, 100))
    return figure


def _most_confused(matrices: Sequence[NDArray[np.int64]]) -> list[int]:
    """The classes to show, in the order of the class list."""
    total = np.sum(matrices, axis=0)
    if len(total) <= MAX_CLASSES:
        return list(range(len(total)))
    chosen: set[int] = set()
    for pair in confused_pairs(total):
        if len(chosen | {pair.label, pair.prediction}) <= MAX_CLASSES:
            chosen |= {pair.label, pair.prediction}
    # Without a confusion, any classes show that all is right.
    return sorted(chosen) or list(range(MAX_CLASSES))


def _panel(panel: Axes, matrix: NDArray[np.int64], chosen: Sequence[int]) -> None:
    """The squares of one condition; the last column counts the classes that are not shown."""
    shown = matrix[np.ix_(chosen, chosen)]
    totals = matrix[list(chosen)].sum(axis=1, keepdims=True)
    if len(chosen) < len(matrix):
        shown = np.hstack([shown, totals - shown.sum(axis=1, keepdims=True)])
    share = shown / np.maximum(totals, 1)
    panel.imshow(share, cmap='Blues', vmin=0, vmax=1)
    for row, column in np.argwhere(shown):
        style = dict(ha='center', va='center', fontsize='x-small')
        colour = 'white' if share[row, column] > 0.5 else 'black'
        panel.text(column, row, str(shown[row, column]), color=colour, **style)
    # Where a right prediction would be, a dot.
    empty = [place for place in range(len(chosen)) if not shown[place, place]]
    panel.scatter(empty, empty, s=4, color='0.6')
    panel.tick_params(length=0)
    panel.spines[:].set_color('0.8')
