"""Whether one checkpoint is better than another on the same videos, or only luckier.

Accuracies on the same videos are compared video by video. Videos that both models get right, or
both wrong, say nothing about the difference, whose interval is thus narrower than those of the two
accuracies suggest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..core.checks import near_names
from .cells import HOW_FAR, Cell
from .comparability import check_comparable, incomparable_cells
from .intervals import Interval, paired_bootstrap, paired_difference
from .results import Robustness
from .selection import shared_videos
from .tables import eps_text, worst_case_text

_NOT_COMPARED = ('success', 'iterations', *HOW_FAR)
"""Values that say how DeepFool or an ensemble ended, not how robust the model is."""

Floats = NDArray[np.float64]


class ClassChange(NamedTuple):
    """Accuracy of one class before and after, in percent.

    Args:
        name (str): Name of the class.
        num_videos (int): Number of its videos.
        before (float): Top-1 accuracy of the baseline.
        after (float): Top-1 accuracy of the other model.
        change (Interval): The difference, in percentage points.
        highlighted (bool): Whether it is one of the classes to mark.
    """

    name: str
    num_videos: int
    before: float
    after: float
    change: Interval
    highlighted: bool


@dataclass(frozen=True)
class Row:
    """One condition under which all models were evaluated.

    Args:
        name (str): Key of the cell, or a name for the mean over several cells.
        num_videos (int): Number of videos that all models share.
        means (list[float]): The mean of each model; accuracies in percent.
        changes (list[Interval | None]): Each model against the baseline; None for the baseline.
        note (str): Which cells the mean is over, at which eps, or why there are fewer videos than
            were evaluated. Defaults to ''.
        detail (bool): Whether it is a part of another row, as a severity is of a corruption.
            Defaults to False.
        condition (str): How a sentence names the attacks of the row, if it is of attacks. Defaults
            to ''.
    """

    name: str
    num_videos: int
    means: list[float]
    changes: list[Interval | None]
    note: str = ''
    detail: bool = False
    condition: str = ''


def compare(results: Sequence[Robustness], baseline: int = 0) -> Comparison:
    """Compare checkpoints with one of them, on the videos on which all were evaluated.

    Args:
        results (Sequence[Robustness]): Two or more, with different model names.
        baseline (int): Index of the one that the others are compared with. Defaults to 0.

    Returns:
        Comparison: The differences.

    Raises:
        ValueError: They have different classes or labels, no video in common, or equal names.

    Example:
        >>> comparison = compare([Robustness.load('tsm.json'), Robustness.load('taf.json')])
        >>> print(markdown(comparison))
    """
    results = list(results)
    names = [each.model for each in results]
    if len(results) < 2 or len(set(names)) < len(names):
        raise ValueError(f'compare takes two or more results with different names, got {names}')
    if not 0 <= baseline < len(results):
        raise ValueError(f'baseline={baseline} is no index of {len(results)} results; write 0 ...')
    first = results[baseline]
    for other in results:
        check_comparable(first, other)
    return Comparison(results, baseline)


@dataclass
class Comparison:
    """Checkpoints side by side; made by :func:`compare`.

    Args:
        results (list[Robustness]): The results of each.
        baseline (int): Index of the one that the others are compared with.

    Attributes:
        rows (list[Row]): Accuracy under every condition that all share, and over groups of
            conditions: each corruption, mPC, the worst case of the attacks of one eps.
        values (list[Row]): The same for other numbers of each video (attention entropy, CAM shift,
            rho of DeepFool where all were fooled), in their own units.
        shared (list[str]): Keys of the cells that are compared.
        left_out (dict[str, str]): Why the other cells are not, by their key.
    """

    results: list[Robustness]
    baseline: int
    rows: list[Row] = field(init=False)
    values: list[Row] = field(init=False)
    shared: list[str] = field(init=False)
    left_out: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.left_out = incomparable_cells(self.results, self.baseline)
        first = self.results[self.baseline]
        self.shared = [key for key in first.cells if key not in self.left_out]
        self.rows = list(self._accuracy_rows())
        self.values = list(self._value_rows())

    @property
    def models(self) -> list[str]:
        """The names of all models."""
        return [results.model for results in self.results]

    @property
    def others(self) -> list[int]:
        """Indices of all models but the baseline."""
        return [index for index in range(len(self.results)) if index != self.baseline]

    def row(self, name: str) -> Row:
        """The row of a name.

        Raises:
            KeyError: There is none; the message says why, or names similar rows.
        """
        rows = {row.name: row for row in self.rows}
        if name not in rows:
            self._raise_not_compared(name, list(rows))
        return rows[name]

    def videos(self, *keys: str) -> list[int]:
        """Dataset indices of the videos that all models share in all of several cells."""
        first = self.results[self.baseline].cell(keys[0]).videos
        others = (results.cell(key).videos for results in self.results for key in keys)
        return shared_videos([first, *others])

    def change(
        self, key: str, model: int | None = None, classes: Collection[str] | None = None
    ) -> Interval:
        """How a model's top-1 accuracy differs from the baseline's.

        Args:
            key (str): Key of a cell that all share.
            model (int, optional): Index of the model. Defaults to None: the first that is not the
                baseline.
            classes (Collection[str], optional): Names of classes, to compare on their videos
                alone. Defaults to None: all.

        Returns:
            Interval: In percentage points.

        Raises:
            KeyError: The cell is not shared.
            ValueError: A class is unknown or has no video.
        """
        videos, before, after = self._pair(key, model)
        if classes is not None:
            keep = np.isin(self._labels(videos), sorted(self._class_indices(classes)))
            before, after = before[keep], after[keep]
        return paired_bootstrap(before, after)

    def class_changes(
        self, key: str = 'clean', model: int | None = None, highlight: Collection[str] = ()
    ) -> list[ClassChange]:
        """The change of every class, the largest gain first (TAF, figure 4).

        Args:
            key (str): Key of a cell that all share. Defaults to ``'clean'``.
            model (int, optional): As for :meth:`change`. Defaults to None.
            highlight (Collection[str]): Names of classes to mark, such as long-term motions.
                Defaults to none.

        Returns:
            list[ClassChange]: Classes with at least one shared video; classes with equal changes
            are in the order of the class list.
        """
        marked = self._class_indices(highlight)
        videos, before, after = self._pair(key, model)
        labels = self._labels(videos)
        changes = []
        for index, name in enumerate(self.results[self.baseline].classes):
            a, b = before[labels == index], after[labels == index]
            if len(a):
                means = (100 * float(a.mean()), 100 * float(b.mean()))
                changes.append(
                    ClassChange(name, len(a), *means, paired_bootstrap(a, b), index in marked)
                )
        return sorted(changes, key=lambda change: -change.change.difference)

    def _accuracy_rows(self) -> Iterator[Row]:
        first = self.results[self.baseline]
        kinds: dict[str, list[str]] = {}
        for key in self.shared:
            kinds.setdefault(first.cells[key].kind, []).append(key)
        if 'clean' in kinds:
            yield self._row('clean', [['clean']])
            if len(first.classes) > 5:
                yield self._row('clean, top-5', [['clean']], k=5)
        yield from self._corruption_rows(kinds.get('corruption', []))
        for key in kinds.get('attack', []):
            cell = first.cells[key]
            ball = '' if cell.level is None else f' at ε = {eps_text(cell.level)}'
            yield replace(self._row(key, [[key]], self._eps(key)), condition=cell.name + ball)
        yield from self._worst_case_rows()
        yield from (self._row(key, [[key]], self._eps(key)) for key in kinds.get('curve', []))

    def _corruption_rows(self, keys: list[str]) -> Iterator[Row]:
        first = self.results[self.baseline]
        by_name: dict[str, list[str]] = {}
        for key in keys:
            by_name.setdefault(first.cells[key].name, []).append(key)
        for name, group in by_name.items():
            yield from (self._row(key, [[key]], detail=True) for key in group)
            levels = ', '.join(f'{first.cells[key].level:g}' for key in group)
            if self.videos(*group):
                yield self._row(f'corruption/{name}', [group], f'severity {levels}')
        if by_name and self.videos(*keys):
            note = f'{len(by_name)} corruptions, {len(keys)} cells'
            yield self._row('mPC', list(by_name.values()), note)

    def _eps(self, key: str) -> str:
        return f'eps {eps_text(self.results[self.baseline].cells[key].level)}'

    def _worst_case_rows(self) -> Iterator[Row]:
        first = self.results[self.baseline]
        for group in first.attack_groups():
            attacks = [key for key in group if key in self.shared]
            if len(attacks) < 2:
                continue
            # The zero perturbation is within every eps.
            keys = [*(['clean'] if 'clean' in self.shared else []), *attacks]
            videos = self.videos(*keys)
            if not videos:
                continue
            correct = [
                np.all([r.correct(key, videos=videos) for key in keys], axis=0).astype(float)
                for r in self.results
            ]
            cell = first.cells[attacks[0]]
            norm = cell.threat
            name = f'worst case, {norm} {eps_text(cell.level)}'
            note = ', '.join(first.cells[key].name for key in attacks)
            row = self._accuracy_row(name, correct, note)
            yield replace(row, condition=worst_case_text(norm, cell.level))

    def _row(
        self,
        name: str,
        groups: list[list[str]],
        note: str = '',
        k: int = 1,
        detail: bool = False,
    ) -> Row:
        """The mean over groups of the means over their cells, for each video."""
        videos = self.videos(*(key for keys in groups for key in keys))
        shares = [
            np.mean(
                [np.mean([r.correct(key, k, videos) for key in keys], axis=0) for keys in groups],
                axis=0,
            )
            for r in self.results
        ]
        return self._accuracy_row(name, shares, note, detail)

    def _accuracy_row(
        self, name: str, shares: list[Floats], note: str = '', detail: bool = False
    ) -> Row:
        """A row from each model's share of correct answers for each video."""
        first = shares[self.baseline]
        changes = [
            None if index == self.baseline else paired_bootstrap(first, share)
            for index, share in enumerate(shares)
        ]
        means = [100 * float(share.mean()) for share in shares]
        return Row(name, len(first), means, changes, note, detail)

    def _value_rows(self) -> Iterator[Row]:
        for key in self.shared:
            cells = [results.cells[key] for results in self.results]
            if cells[0].kind == 'sanity':
                continue
            videos = self.videos(key)
            for name in cells[self.baseline].values:
                if name in _NOT_COMPARED or any(name not in cell.values for cell in cells):
                    continue
                columns = np.array([_column(cell, name, videos) for cell in cells])
                columns = columns[:, np.isfinite(columns).all(axis=0)]
                if columns.shape[1]:
                    note = _share_note(cells[0].kind, columns.shape[1], len(videos))
                    yield self._value_row(f'{key}: {name}', columns, note)

    def _value_row(self, name: str, columns: Floats, note: str) -> Row:
        first = columns[self.baseline]
        changes = [
            None if index == self.baseline else paired_difference(first, column)
            for index, column in enumerate(columns)
        ]
        return Row(name, len(first), columns.mean(axis=1).tolist(), changes, note)

    def _pair(self, key: str, model: int | None) -> tuple[list[int], Floats, Floats]:
        """The shared videos of a cell, and which of them the baseline and a model get right."""
        if key not in self.shared:
            self._raise_not_compared(key, self.shared)
        index = self.others[0] if model is None else model
        if index not in self.others:
            raise ValueError(
                f'model={model} is not one of those that are compared with the baseline; write '
                f'one of {self.others}'
            )
        videos = self.videos(key)
        before, after = (
            self.results[i].correct(key, videos=videos).astype(float)
            for i in (self.baseline, index)
        )
        return videos, before, after

    def _raise_not_compared(self, name: str, names: Sequence[str]) -> NoReturn:
        reason = self.left_out.get(name) or f'write {near_names(name, names) or list(names)}'
        raise KeyError(f'{name!r} is not compared: {reason}')

    def _labels(self, videos: list[int]) -> NDArray[np.int64]:
        labels = self.results[self.baseline].labels
        return np.array([labels[video] for video in videos])

    def _class_indices(self, names: Collection[str]) -> set[int]:
        classes = self.results[self.baseline].classes
        for name in names:
            if name not in classes:
                near = near_names(name, classes) or classes[:5]
                raise ValueError(
                    f'there is no class {name!r}; write one of the classes, e.g. {near}'
                )
        return {index for index, name in enumerate(classes) if name in names}


def _share_note(kind: str, defined: int, total: int) -> str:
    """Why fewer videos count than were evaluated."""
    if defined == total:
        return ''
    reasons = {
        'attack': f'{defined} of {total} attacked videos were right when clean, with all models',
        'deepfool': f'{defined} of {total} videos were fooled, with all models',
    }
    return reasons.get(kind, f'{defined} of {total} videos have a value, with all models')


def _column(cell: Cell, name: str, videos: list[int]) -> Floats:
    """The values of some videos; NaN where DeepFool failed, so that rho is unknown."""
    values = np.array(cell.values[name])
    if cell.kind == 'deepfool':
        values[np.array(cell.values['success']) == 0] = math.nan
    position = {video: index for index, video in enumerate(cell.videos)}
    return values[[position[video] for video in videos]]
