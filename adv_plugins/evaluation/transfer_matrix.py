"""The transfer matrix: how accurate each model is on the adversarial examples of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .cells import Cell
from .intervals import Estimate, wilson_interval
from .page_text import as_text
from .results import Robustness
from .selection import shared_videos
from .tables import NO_NUMBER, eps_text, estimate_text, markdown_table


@dataclass(frozen=True)
class TransferMatrix:
    """Top-1 accuracies in percent, all of them on the same videos; None where there is none.

    Args:
        models (list[str]): The names of the models.
        attack (str): The name of the attack that made the examples.
        eps (float): Its radius, as a fraction of the value range.
        num_videos (int): How many videos.
        clean (list[Estimate | None]): Of each model, clean.
        rows (list[list[Estimate | None]]): For the examples of each model, the accuracy of each.
    """

    models: list[str]
    attack: str
    eps: float
    num_videos: int
    clean: list[Estimate | None]
    rows: list[list[Estimate | None]]

    def markdown(self) -> str:
        """The table, and how it is read."""

        def written(name: str, accuracies: Sequence[Estimate | None]) -> list[str]:
            return [name, *(estimate_text(each) if each else NO_NUMBER for each in accuracies)]

        lines = [written('none: clean', self.clean)]
        lines += [written(name, row) for name, row in zip(self.models, self.rows, strict=True)]
        return '\n\n'.join(
            (
                f'Top-1 accuracy in percent on {self.num_videos} videos, with 95 % intervals. Each '
                'row has the adversarial examples of one model, each column the model that they '
                f'are shown to: {as_text(self.attack)} at ε = {eps_text(self.eps)}, run to the end '
                'on every video. A model that falls to the examples of another more often than to '
                'its own hides its gradients, or its attack is too weak.',
                markdown_table(['examples of', *self.models], lines),
            )
        )


def transfer_matrix(results: Sequence[Robustness]) -> TransferMatrix | None:
    """The matrix of several models.

    Args:
        results (Sequence[Robustness]): Their results.

    Returns:
        TransferMatrix: Of the videos that all cells share; examples that were made with other
        options than the first ones are left out. None without a cell of the kind ``'transfer'``,
        or a shared video.
    """
    cells = {(each.weights, key): each.cells[key] for each in results for key in each.cells}
    first = next((cell for cell in cells.values() if cell.kind == 'transfer'), None)
    if first is None:
        return None
    alike = (first.level, first.options)
    found: list[list[Cell | None]] = []
    for source in results:
        key = Cell('transfer', source.weights).key
        row = [cells.get((target.weights, key)) for target in results]
        found.append(
            [cell if cell and (cell.level, cell.options) == alike else None for cell in row]
        )
    known = [cell for row in found for cell in row if cell]
    clean = [cells.get((target.weights, 'clean')) for target in results]
    shared = shared_videos(cell.videos for cell in (*known, *filter(None, clean)))
    if not shared:
        return None

    def accuracy(cell: Cell | None) -> Estimate | None:
        if cell is None:
            return None
        ranks = dict(zip(cell.videos, cell.ranks, strict=True))
        return wilson_interval(sum(ranks[video] == 0 for video in shared), len(shared))

    return TransferMatrix(
        models=[each.model for each in results],
        attack=str(first.options.get('attack', first.options.get('type'))),
        eps=float(first.level or 0),
        num_videos=len(shared),
        clean=[accuracy(cell) for cell in clean],
        rows=[[accuracy(cell) for cell in row] for row in found],
    )
