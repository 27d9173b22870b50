"""What an evaluation of one checkpoint found, video by video, and the numbers that follow.

Every number of a report is computed here from the predictions for single videos. A report can thus
be written again, resumed or compared with another checkpoint's (see
:mod:`adv_plugins.evaluation.comparison`) without a model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.checks import near_names
from .cells import Cell, Flag, canonical_key, split_key
from .class_names import are_numbers
from .corruption_table import CorruptionTable
from .curves import Curve, curve_of, lies_on_curve
from .intervals import Estimate, wilson_interval
from .results_file import read_results_file, write_results_file
from .selection import shared_videos

Groups = Mapping[str, Sequence[str]]
"""Names of corruptions by group."""


@dataclass
class Robustness:
    """The results of one checkpoint.

    Args:
        model (str): The name that reports show.
        config (str): The config. Defaults to ''.
        checkpoint (str): The checkpoint. Defaults to ''.
        weights (str): A digest of the weights. Defaults to ''.
        dataset (str): The dataset. Defaults to ''.
        classes (list[str]): Names of the classes.
        labels (dict[int, int]): The true class of each evaluated video, by dataset index.
        cells (dict[str, Cell]): The evaluated conditions, by :attr:`Cell.key`; see :meth:`add`.
        missing (dict[str, str]): Why there is no number, or what it lacks, by the key of the cell;
            see :meth:`skip`.
        flags (list[Flag]): Checks of the evaluation itself.
        earlier (list[Cell]): Cells whose keys were evaluated again with other options, such as
            another eps; they are kept, and in no table.

    Example:
        >>> results = Robustness('TSM', classes=['left', 'right'], labels={0: 0, 1: 1})
        >>> results.add(Cell('clean', videos=[0, 1], predictions=[0, 0], ranks=[0, 1]))
        >>> results.top('clean')
        50.0
    """

    model: str
    config: str = ''
    checkpoint: str = ''
    weights: str = ''
    dataset: str = ''
    classes: list[str] = field(default_factory=list)
    labels: dict[int, int] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    earlier: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.classes = [str(name) for name in self.classes]
        self.labels = {int(video): int(label) for video, label in self.labels.items()}
        self.missing = {canonical_key(key): reason for key, reason in self.missing.items()}

    def add(self, cell: Cell) -> None:
        """Add the cell of one condition, which then is no longer missing.

        Nothing is lost: videos that an earlier cell of the same condition has and this one has not
        stay, and an earlier cell of the same key with other options moves to :attr:`earlier`.

        Args:
            cell (Cell): The cell.

        Raises:
            ValueError: Its lists do not fit each other, the labels or the classes.
        """
        cell.validate(self.labels, len(self.classes))
        alike, current = self.alike(cell), self.cells.get(cell.key)
        if alike is not None:
            cell = alike.united(cell)
            cell.validate(self.labels, len(self.classes))
        self.earlier = [each for each in self.earlier if each is not alike]
        if current is not None and current is not alike:
            self.earlier.append(current)
        self.cells[cell.key] = cell
        for key in (cell.key, f'{cell.kind}/{cell.name}'):
            self.missing.pop(key, None)

    def skip(self, key: str, reason: str) -> None:
        """Note why there is no number for a condition, and drop any earlier cells of it.

        Args:
            key (str): The :attr:`Cell.key`; ``'corruption/snow'`` stands for all severities.
            reason (str): The reason, in a sentence.
        """
        key = canonical_key(key)
        for old in list(self.cells):
            if f'{old}/'.startswith(f'{key}/'):
                del self.cells[old]
        self.missing[key] = reason

    def alike(self, planned: Cell) -> Cell | None:
        """The cell that was run under a condition, if there is one.

        Args:
            planned (Cell): A cell of that condition: kind, name, level and options.
        """
        stored = (*self.cells.values(), *self.earlier)
        return next((cell for cell in stored if cell.condition == planned.condition), None)

    def united(self, stored: Robustness) -> Robustness:
        """These results together with those of another evaluation of the same weights.

        Args:
            stored (Robustness): The other results. Where both have the same key, these count.
        """
        both = replace(self, labels={**stored.labels, **self.labels}, cells={}, earlier=[])
        both.classes = stored.classes if are_numbers(self.classes) else self.classes
        for each in (stored, self):
            for cell in (*each.earlier, *each.cells.values()):
                both.add(cell)
        notes = {k: v for k, v in stored.missing.items() if k in stored.cells}
        both.missing = {k: v for k, v in notes.items() if k not in self.cells} | self.missing
        return both

    def cell(self, key: str) -> Cell:
        """The cell of a key.

        Raises:
            KeyError: There is none; the message says why, or names similar keys.
        """
        key = canonical_key(key)
        if key in self.cells:
            return self.cells[key]
        if key in self.missing:
            raise KeyError(f'{self.model!r} has no number for {key!r}: {self.missing[key]}')
        near = near_names(key, self.cells) or list(self.cells)
        raise KeyError(f'{self.model!r} has no cell {key!r}; write {near}')

    def keys(self, kind: str) -> list[str]:
        """Keys of all cells of a kind, in the order in which they were added."""
        return [key for key, cell in self.cells.items() if cell.kind == kind]

    def videos(self, key: str) -> NDArray[np.int64]:
        """Dataset indices of the videos of a cell, shape (N,)."""
        return np.asarray(self.cell(key).videos, dtype=np.int64)

    def correct(self, key: str, k: int = 1, videos: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Which videos have their true class among the first ``k``.

        Args:
            key (str): Key of a cell with predictions.
            k (int): Number of classes. Defaults to 1.
            videos (array, optional): Dataset indices in the wanted order, all of them videos of
                the cell. Defaults to None: the cell's own videos.

        Returns:
            ndarray: Boolean, shape (N,).

        Raises:
            KeyError: There is no such cell.
            ValueError: It has no predictions, or none for some of these videos.
        """
        cell = self.cell(key)
        if cell.kind == 'deepfool':
            raise ValueError(f'the cell {key!r} has no predictions, only {list(cell.values)}')
        correct = np.asarray(cell.ranks) < k
        if videos is None:
            return correct
        position = {video: index for index, video in enumerate(cell.videos)}
        wanted = np.asarray(videos).tolist()
        absent = [video for video in wanted if video not in position]
        if absent:
            raise ValueError(
                f'the cell {key!r} of {self.model!r} lacks {len(absent)} of {len(wanted)} videos, '
                f'e.g. the one with the dataset index {absent[0]}'
            )
        return correct[[position[video] for video in wanted]]

    def top(self, key: str, k: int = 1, videos: ArrayLike | None = None) -> float:
        """Top-k accuracy in percent; the arguments are those of :meth:`correct`."""
        return 100 * float(self.correct(key, k, videos).mean())

    def interval(self, key: str, k: int = 1) -> Estimate:
        """Top-k accuracy with its 95 % Wilson interval, in percent."""
        correct = self.correct(key, k)
        return wilson_interval(int(correct.sum()), len(correct))

    def class_accuracy(
        self, key: str, videos: ArrayLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Top-1 accuracy of every class.

        Args:
            key (str): Key of a cell with predictions.
            videos (array, optional): As for :meth:`correct`. Defaults to None.

        Returns:
            tuple: Accuracy in percent, NaN for a class without videos, and the number of videos,
            both of shape (number of classes,).
        """
        correct = self.correct(key, videos=videos)
        chosen = self.videos(key) if videos is None else np.asarray(videos)
        labels = np.array([self.labels[int(video)] for video in chosen])
        counts = np.bincount(labels, minlength=len(self.classes))
        hits = np.bincount(labels, weights=correct, minlength=len(self.classes))
        return 100 * hits / np.where(counts == 0, np.nan, counts), counts

    def corruption_table(self, k: int = 1) -> CorruptionTable:
        """Top-k accuracy by corruption and severity, with NaN for what is missing."""
        rows: dict[str, dict[float, float]] = {}
        for key in self.keys('corruption'):
            cell = self.cells[key]
            rows.setdefault(cell.name, {})[float(cell.level)] = self.top(key, k)
        for kind, name, level in map(split_key, self.missing):
            if kind == 'corruption':
                row = rows.setdefault(name, {})
                if level is not None:
                    row.setdefault(level, math.nan)
        severities = sorted({level for row in rows.values() for level in row})
        table = [[row.get(level, math.nan) for level in severities] for row in rows.values()]
        shape = (len(rows), len(severities))
        return CorruptionTable(list(rows), severities, np.array(table, dtype=float).reshape(shape))

    def mpc(self, names: Sequence[str] | None = None, k: int = 1) -> float:
        """Mean performance under corruption (mPC): the mean over corruptions of the means over
        their severities.

        Args:
            names (Sequence[str], optional): Corruptions. Defaults to None: all.
            k (int): Top-k. Defaults to 1.

        Returns:
            float: Percent; NaN where a severity of one of them is missing or there is none.

        Raises:
            KeyError: A corruption was not evaluated.
        """
        table = self.corruption_table(k)
        if not table.severities:
            return math.nan
        return float(table.accuracy[table.rows(names, self.model)].mean())

    def rpc(self, names: Sequence[str] | None = None, k: int = 1) -> float:
        """Relative performance under corruption (rPC): mPC in percent of the clean accuracy.

        The clean accuracy is taken on the videos of the corruptions. The arguments are those of
        :meth:`mpc`.
        """
        chosen = self.corruption_table(k).names if names is None else list(names)
        keys = [key for key in self.keys('corruption') if self.cells[key].name in chosen]
        if not keys:
            return math.nan
        clean = float(np.mean([self.clean_top(key, k) for key in keys]))
        return 100 * self.mpc(names, k) / clean if clean else math.nan

    def clean_top(self, key: str, k: int = 1) -> float:
        """Clean top-k accuracy in percent on the videos of a cell; NaN where there is none."""
        if 'clean' not in self.cells:
            return math.nan
        shared = shared_videos((self.cell(key).videos, self.cells['clean'].videos))
        return self.top('clean', k, shared) if shared else math.nan

    def corruption_groups(self, groups: Groups | None = None) -> dict[str, list[str]]:
        """The evaluated corruptions by group.

        Args:
            groups (Mapping[str, Sequence[str]], optional): Names of corruptions by group. Defaults
                to None: :data:`adv_plugins.datasets.corruptions.CORRUPTION_GROUPS`.

        Returns:
            dict[str, list[str]]: Groups with at least one evaluated corruption, for :meth:`mpc`
            and :meth:`rpc`.
        """
        if groups is None:
            # It needs MMAction2, without which results can be read and compared.
            from ..datasets.corruptions import CORRUPTION_GROUPS as groups
        names = self.corruption_table().names
        known = {group: [n for n in members if n in names] for group, members in groups.items()}
        return {group: members for group, members in known.items() if members}

    def attack_groups(self) -> list[list[str]]:
        """Keys of the attacks by threat model, which is the norm and eps."""
        groups: dict[tuple[Any, float | None], list[str]] = {}
        for key in self.keys('attack'):
            cell = self.cells[key]
            groups.setdefault((cell.threat, cell.level), []).append(key)
        return list(groups.values())

    def survivors(
        self, keys: Sequence[str], k: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Which videos are predicted correctly in every one of several cells.

        Args:
            keys (Sequence[str]): Cells of attacks with one eps; ``'clean'`` may be among them,
                since the zero perturbation is within every eps.
            k (int): Top-k. Defaults to 1.

        Returns:
            tuple: Dataset indices of the videos that all cells share, and whether each is
            correct in all of them, both of shape (N,).

        Raises:
            ValueError: The cells have several eps, or share no video.
        """
        levels = {self.cell(key).level for key in keys if key != 'clean'}
        if not keys or len(levels) > 1:
            raise ValueError(
                f'a worst case is over attacks of one eps, got {list(keys)} with the eps '
                f'{sorted(map(str, levels))}; ask for each eps by itself'
            )
        shared = shared_videos(self.cell(key).videos for key in keys)
        if not shared:
            raise ValueError(f'the cells {list(keys)} of {self.model!r} share no video')
        correct = np.logical_and.reduce([self.correct(key, k, shared) for key in keys])
        return np.asarray(shared, dtype=np.int64), correct

    def worst_case(self, keys: Sequence[str], k: int = 1) -> float:
        """Accuracy in percent where a video counts only if it is correct under all attacks.

        The arguments are those of :meth:`survivors`.
        """
        return 100 * float(self.survivors(keys, k)[1].mean())

    def curve(self, name: str) -> Curve:
        """Top-1 accuracy over eps of an attack, on the videos that all its points share.

        The attack of the same name is a point as well if nothing but its eps differs.

        Args:
            name (str): Name of the attack.

        Raises:
            KeyError: No curve of this attack was evaluated.
        """
        names = self.curve_names()
        if name not in names:
            raise KeyError(f'{self.model!r} has no curve of {name!r}; it has {names}')
        cells = [self.cells[key] for key in self.keys('curve') if self.cells[key].name == name]
        attack = self.cells.get(f'attack/{name}')
        if attack is not None and lies_on_curve(attack, cells):
            cells.append(attack)
        cells.sort(key=lambda cell: cell.level)
        clean = [self.cells['clean']] if 'clean' in self.cells else []
        return curve_of([*clean, *cells], self.correct)

    def curve_names(self) -> list[str]:
        """Names of the attacks with a curve."""
        return list(dict.fromkeys(self.cells[key].name for key in self.keys('curve')))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file; a reader sees the old file or the new one, whole.

        Args:
            path (str | Path): The file. Numbers that are not finite are written as null.
        """
        # Of several cells with one key the last is the current one.
        cells = [cell.to_json() for cell in (*self.earlier, *self.cells.values())]
        content = {**vars(self), 'cells': cells, 'flags': [vars(flag) for flag in self.flags]}
        del content['earlier']
        write_results_file(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Robustness:
        """Read what :meth:`save` wrote.

        Args:
            path (str | Path): The file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file, is damaged, or has another version of the format.
        """
        content = read_results_file(path)
        try:
            cells, labels, flags = (content.pop(name) for name in ('cells', 'labels', 'flags'))
            results = cls(labels=labels, flags=[Flag(**flag) for flag in flags], **content)
            missing = dict(results.missing)
            for cell in cells:
                results.add(Cell(**cell))
            # Some are notes on cells that exist.
            results.missing = missing
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f'{path} is damaged: {error}; evaluate again') from error
        return results
