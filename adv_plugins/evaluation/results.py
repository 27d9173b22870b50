"""What an evaluation of one checkpoint found, video by video, and the numbers that follow.

Every number of a report is computed here from predictions of single videos, so that a report can
be written again, resumed or compared with another checkpoint's (see
:mod:`~adv_plugins.evaluation.comparison`) without a model.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

KINDS = ('clean', 'corruption', 'attack', 'curve', 'deepfool', 'sanity')
FORMAT = 1
"""Number of the file format; a reader of another one says so."""
DEEPFOOL = ('rho', 'success', 'iterations')

Groups = Mapping[str, Sequence[str]]


@dataclass
class Cell:
    """One condition under which every video was predicted.

    Args:
        kind (str): One of ``'clean'``, ``'corruption'``, ``'attack'``, ``'curve'`` (one eps of an
            accuracy curve), ``'deepfool'`` and ``'sanity'`` (what flags are made of).
        name (str): Name of the corruption or attack. Defaults to ''.
        level (float, optional): Severity of a corruption, or eps of an attack as a fraction of the
            value range. Defaults to None.
        options (dict): What it was run with, made of what JSON has; tuples become lists, and
            numbers that are not finite become words, as they do in a file. Defaults to none.
        videos (list[int]): Dataset indices, in the order of all further lists. Defaults to none.
        predictions (list[int]): The class with the highest score; none for ``'deepfool'``.
        ranks (list[int]): The place of the true class among all, 0 being the first; none for
            ``'deepfool'``. Ties must be broken as for ``predictions``.
        values (dict[str, list[float]]): Further numbers of each video, such as ``'entropy'`` and
            ``'cam_shift'``. ``'deepfool'`` has ``'rho'``, ``'success'`` and ``'iterations'``.
        seconds (float): How long it took. Defaults to 0.

    Raises:
        ValueError: The kind, the name or an option is not as described.
    """

    kind: str
    name: str = ''
    level: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    videos: list[int] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'kind must be one of {KINDS}, got {self.kind!r}')
        needs_name = self.kind in ('corruption', 'attack', 'curve')
        if needs_name != bool(self.name) or '/' in self.name:
            example = "a name without '/', such as 'snow'" if needs_name else "the name ''"
            raise ValueError(f'a {self.kind} cell must have {example}, got {self.name!r}')
        if self.level is None and self.kind in ('corruption', 'curve'):
            raise ValueError(f'the {self.kind} cell of {self.name!r} must have a level, got None')
        # From arrays and tensors as well, and null in a file is NaN.
        self.videos, self.predictions, self.ranks = (
            [int(value) for value in column]
            for column in (self.videos, self.predictions, self.ranks)
        )
        self.values = {
            name: [math.nan if value is None else float(value) for value in column]
            for name, column in self.values.items()
        }
        try:
            # As after a file, so that a cell of a file can be compared with one to be run.
            self.options = json.loads(json.dumps(_plain(self.options), allow_nan=False))
        except TypeError as error:
            raise ValueError(
                f'the options of {self.key!r} must be numbers, strings, lists and dicts: {error}'
            ) from error

    @property
    def key(self) -> str:
        """``'clean'``, ``'corruption/snow/3'``, ``'attack/pgd'``, ``'curve/pgd/0.01569'``."""
        parts = [self.kind, self.name]
        if self.kind in ('corruption', 'curve'):
            parts.append(f'{self.level:.4g}')
        return '/'.join(part for part in parts if part)


@dataclass
class Flag:
    """A check of the evaluation itself, such as that more steps do not make an attack weaker.

    Args:
        name (str): What is checked.
        raised (bool, optional): Whether it gives cause for doubt; None: it could not be checked.
        message (str): What was found, in a sentence.
    """

    name: str
    raised: bool | None
    message: str


class Estimate(NamedTuple):
    """An estimate and the bounds of its confidence interval, in percent or percentage points."""

    value: float
    low: float
    high: float


class CorruptionTable(NamedTuple):
    """Accuracy by corruption (row) and severity (column), in percent; NaN: there is no number."""

    names: list[str]
    severities: list[float]
    accuracy: NDArray[np.float64]


class Curve(NamedTuple):
    """Accuracy over eps with its 95 % Wilson interval, in percent; eps 0 is clean."""

    eps: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    num_videos: int


@dataclass
class Robustness:
    """All that was found for one checkpoint.

    Args:
        model (str): The name that reports show.
        config (str): The config. Defaults to ''.
        checkpoint (str): The checkpoint. Defaults to ''.
        weights (str): A digest of the weights. Defaults to ''.
        dataset (str): What was evaluated on. Defaults to ''.
        classes (list[str]): Names of the classes.
        labels (dict[int, int]): The true class of each evaluated video, by dataset index.
        cells (dict[str, Cell]): What was found, by :attr:`Cell.key`; see :meth:`add`.
        missing (dict[str, str]): Why there is no number, by the key of the cell; see :meth:`skip`.
        flags (list[Flag]): Checks of the evaluation itself.

    Example:
        >>> found = Robustness('TSM', classes=['left', 'right'], labels={0: 0, 1: 1})
        >>> found.add(Cell('clean', videos=[0, 1], predictions=[0, 0], ranks=[0, 1]))
        >>> found.top('clean')
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

    def __post_init__(self) -> None:
        self.labels = {int(video): int(label) for video, label in self.labels.items()}

    def add(self, cell: Cell) -> None:
        """Keep what was found under one condition; it is then no longer missing.

        Args:
            cell (Cell): The cell. One of the same key is replaced.

        Raises:
            ValueError: Its lists do not fit each other, the labels or the classes.
        """
        self._check(cell)
        self.cells[cell.key] = cell
        for key in (cell.key, f'{cell.kind}/{cell.name}'):
            self.missing.pop(key, None)

    def skip(self, key: str, reason: str) -> None:
        """Keep why there is no number for a condition; what was found earlier is dropped.

        Args:
            key (str): The :attr:`Cell.key`; ``'corruption/snow'`` stands for all severities.
            reason (str): Why, in a sentence.
        """
        for old in list(self.cells):
            if f'{old}/'.startswith(f'{key}/'):
                del self.cells[old]
        self.missing[key] = reason

    def finished(self, planned: Cell) -> bool:
        """Whether a cell was run already, with the same options on the same videos.

        Args:
            planned (Cell): What would be run: kind, name, level, options and videos.
        """
        found = self.cells.get(planned.key)
        return found is not None and all(
            getattr(found, name) == getattr(planned, name)
            for name in ('kind', 'name', 'level', 'options', 'videos')
        )

    def cell(self, key: str) -> Cell:
        """The cell of a key.

        Raises:
            KeyError: There is none; the message says why, or names what is near.
        """
        if key in self.cells:
            return self.cells[key]
        if key in self.missing:
            raise KeyError(f'{self.model!r} has no number for {key!r}: {self.missing[key]}')
        near = difflib.get_close_matches(key, self.cells, n=3, cutoff=0.4)
        raise KeyError(f'{self.model!r} has no cell {key!r}; write {near or list(self.cells)}')

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
            k (int): How many classes are looked at. Defaults to 1.
            videos (array, optional): Dataset indices, in the order that is wanted, all of them
                videos of the cell. Defaults to None: the cell's own videos.

        Returns:
            ndarray: Boolean, shape (N,).

        Raises:
            KeyError: There is no such cell.
            ValueError: It has no predictions, or not of these videos.
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
        found: dict[str, dict[float, float]] = {}
        for key in self.keys('corruption'):
            cell = self.cells[key]
            found.setdefault(cell.name, {})[_level(cell)] = self.top(key, k)
        for kind, name, level in map(split_key, self.missing):
            if kind == 'corruption':
                row = found.setdefault(name, {})
                if level is not None:
                    row[level] = math.nan
        severities = sorted({level for row in found.values() for level in row})
        table = [[row.get(level, math.nan) for level in severities] for row in found.values()]
        shape = (len(found), len(severities))
        return CorruptionTable(list(found), severities, np.array(table, dtype=float).reshape(shape))

    def mpc(self, names: Sequence[str] | None = None, k: int = 1) -> float:
        """Mean performance under corruption: over corruptions, of the mean over severities.

        Args:
            names (Sequence[str], optional): Corruptions. Defaults to None: all.
            k (int): Top-k. Defaults to 1.

        Returns:
            float: Percent; NaN where a severity of one of them is missing, or there is none.

        Raises:
            KeyError: A corruption was not evaluated.
        """
        table = self.corruption_table(k)
        if not table.severities:
            return math.nan
        return float(table.accuracy[self._rows(table, names)].mean())

    def rpc(self, names: Sequence[str] | None = None, k: int = 1) -> float:
        """Relative performance under corruption: mPC in percent of the clean accuracy.

        The clean accuracy is that on the videos of the corruptions. The arguments are those of
        :meth:`mpc`.
        """
        chosen = self.corruption_table(k).names if names is None else list(names)
        keys = [key for key in self.keys('corruption') if self.cells[key].name in chosen]
        if not keys or 'clean' not in self.cells:
            return math.nan
        clean = float(np.mean([self.top('clean', k, self.videos(key)) for key in keys]))
        return 100 * self.mpc(names, k) / clean if clean else math.nan

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
            # Asked for late: a report without corruptions needs no datasets.
            from ..datasets.corruptions import CORRUPTION_GROUPS as groups
        names = self.corruption_table().names
        found = {group: [n for n in members if n in names] for group, members in groups.items()}
        return {group: members for group, members in found.items() if members}

    def attack_groups(self) -> list[list[str]]:
        """Keys of the attacks that share a threat model: the norm and eps."""
        groups: dict[tuple[Any, float | None], list[str]] = {}
        for key in self.keys('attack'):
            cell = self.cells[key]
            groups.setdefault((cell.options.get('norm', 'linf'), cell.level), []).append(key)
        return list(groups.values())

    def survivors(
        self, keys: Sequence[str], k: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Which videos are predicted correctly in every one of several cells.

        Args:
            keys (Sequence[str]): Cells whose attacks have one eps, and ``'clean'``, as no
                perturbation at all is within any eps.
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
        """Accuracy in percent where a video counts only if it survives all of several attacks.

        The arguments are those of :meth:`survivors`.
        """
        return 100 * float(self.survivors(keys, k)[1].mean())

    def curve(self, name: str) -> Curve:
        """Top-1 accuracy over eps of an attack, on the videos that all its points share.

        The attack of the same name is a point as well, if only its eps is another.

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
        if attack is not None and _is_point(attack, cells):
            cells.append(attack)
        cells.sort(key=_level)
        keys, eps = [cell.key for cell in cells], [_level(cell) for cell in cells]
        if 'clean' in self.cells:
            keys, eps = ['clean', *keys], [0.0, *eps]
        shared = shared_videos(self.cells[key].videos for key in keys)
        correct = [int(self.correct(key, videos=shared).sum()) for key in keys]
        accuracy, low, high = np.array([wilson_interval(c, len(shared)) for c in correct]).T
        return Curve(np.array(eps), accuracy, low, high, len(shared))

    def curve_names(self) -> list[str]:
        """Names of the attacks with a curve."""
        return list(dict.fromkeys(self.cells[key].name for key in self.keys('curve')))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file; a reader sees the old file or the new one, whole.

        Args:
            path (str | Path): The file. Numbers that are not finite are written as null.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            'format': FORMAT,
            **vars(self),
            'cells': [
                {**vars(cell), 'values': {name: _null(v) for name, v in cell.values.items()}}
                for cell in self.cells.values()
            ],
            'flags': [vars(flag) for flag in self.flags],
        }
        text = json.dumps(content, allow_nan=False)
        part = path.with_name(f'{path.name}.part')
        part.write_text(text + '\n', encoding='utf-8')
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Robustness:
        """Read what :meth:`save` wrote.

        Args:
            path (str | Path): The file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is none of these files, or of another version of the format.
        """
        try:
            content = json.loads(Path(path).read_text(encoding='utf-8'))
            version = content.pop('format')
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f'{path} is no file that Robustness.save wrote') from error
        if version != FORMAT:
            raise ValueError(
                f'{path} has the format {version!r}, and this version of adv_plugins reads '
                f'{FORMAT}; evaluate again, or read it with the version that wrote it'
            )
        try:
            return cls._from_json(content)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f'{path} is damaged: {error}; evaluate again') from error

    def markdown(self, groups: Groups | None = None) -> str:
        """Everything as one Markdown document.

        Args:
            groups (Mapping[str, Sequence[str]], optional): As for :meth:`corruption_groups`.
                Defaults to None.
        """
        from .results_page import page

        return page(self, groups)

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> Robustness:
        cells, labels, flags = (content.pop(name) for name in ('cells', 'labels', 'flags'))
        found = cls(labels=labels, flags=[Flag(**flag) for flag in flags], **content)
        for cell in cells:
            found.add(Cell(**cell))
        return found

    def _check(self, cell: Cell) -> None:
        count = len(cell.videos)
        if count == 0 or len(set(cell.videos)) != count:
            raise ValueError(f'the cell {cell.key!r} has no videos, or one twice: {count} videos')
        unknown = [video for video in cell.videos if video not in self.labels]
        if unknown:
            raise ValueError(
                f'the cell {cell.key!r} has the video {unknown[0]}, which has no label; set '
                'labels before adding cells'
            )
        predicted = cell.kind != 'deepfool'
        lengths = {name: len(column) for name, column in cell.values.items()}
        if predicted:
            lengths |= {'predictions': len(cell.predictions), 'ranks': len(cell.ranks)}
        elif any(name not in cell.values for name in DEEPFOOL):
            raise ValueError(f'a deepfool cell has the values {DEEPFOOL}, got {list(lengths)}')
        wrong = [name for name, length in lengths.items() if length != count]
        if wrong:
            raise ValueError(
                f'the cell {cell.key!r} has {count} videos and {lengths[wrong[0]]} {wrong[0]}'
            )
        if predicted:
            self._check_predictions(cell)

    def _check_predictions(self, cell: Cell) -> None:
        classes = len(self.classes)
        rows = zip(cell.videos, cell.predictions, cell.ranks, strict=True)
        for video, prediction, rank in rows:
            if not (0 <= prediction < classes and 0 <= rank < classes):
                raise ValueError(
                    f'the cell {cell.key!r} has the prediction {prediction} and the rank {rank} '
                    f'for video {video}; there are {classes} classes'
                )
            if (rank == 0) != (prediction == self.labels[video]):
                raise ValueError(
                    f'the cell {cell.key!r} has the rank {rank} for video {video} of class '
                    f'{self.labels[video]}, predicted as {prediction}; only a prediction of the '
                    'true class has the rank 0: where scores are equal or NaN, take both from '
                    'one scores.argsort(descending=True, stable=True)'
                )

    def _rows(self, table: CorruptionTable, names: Sequence[str] | None) -> list[int]:
        if names is None:
            return list(range(len(table.names)))
        for name in names:
            if name not in table.names:
                near = difflib.get_close_matches(name, table.names) or table.names
                raise KeyError(f'{self.model!r} has no corruption {name!r}; write {near}')
        return [table.names.index(name) for name in names]


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Estimate:
    """A share with its Wilson score interval.

    Unlike the normal approximation it stays within 0 and 100 and has a width at both ends.

    Args:
        successes (int): How many of them.
        total (int): How many in all, at least 1.
        confidence (float): Defaults to 0.95.

    Returns:
        Estimate: The share and its bounds in percent.
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f'got {successes} successes of {total}; give 0 to total of at least 1')
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = successes / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    # At 0 and 1 the bound is exact; a rounded root would leave the scale.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return Estimate(100 * share, 100 * low, 100 * high)


def shared_videos(videos: Iterable[Sequence[int]]) -> list[int]:
    """Videos that are in all lists, in the order of the first."""
    first, *others = videos
    common = set(first).intersection(*others)
    return [video for video in first if video in common]


def _level(cell: Cell) -> float:
    assert cell.level is not None
    return float(cell.level)


def _is_point(attack: Cell, cells: Sequence[Cell]) -> bool:
    """Whether an attack lies on a curve: it was run with the same options, but for eps."""
    known = [{**cell.options, 'eps': None} for cell in cells]
    return (
        attack.level is not None
        and attack.level not in [cell.level for cell in cells]
        and all(options == {**attack.options, 'eps': None} for options in known)
    )


def split_key(key: str) -> tuple[str, str, float | None]:
    """Kind, name and level of a key."""
    kind, _, rest = key.partition('/')
    name, _, level = rest.partition('/')
    return kind, name, float(level) if level else None


def _plain(value: Any) -> Any:
    """Numbers that JSON does not know as words."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _null(values: Sequence[float]) -> list[float | None]:
    """Numbers that JSON does not know as null."""
    return [value if math.isfinite(value) else None for value in values]
