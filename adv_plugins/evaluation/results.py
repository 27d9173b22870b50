"""What an evaluation of one checkpoint found, video by video: kept in a file, told as Markdown.

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
import torch
from numpy.typing import ArrayLike, NDArray

from .deepfool import robustness_summary

KINDS = ('clean', 'corruption', 'attack', 'curve', 'deepfool', 'sanity')
FORMAT = 1
"""Number of the file format; a reader of another one says so."""
NO_NUMBER = '—'
"""What a table shows where there is no number; why is told under "Missing"."""
_DEEPFOOL = ('rho', 'success', 'iterations')
_FLAG_WORDS = {True: '**RAISED**', None: '**not checked**', False: 'fine'}
_VALUE_NAMES = {'entropy': 'attention entropy', 'cam_shift': 'CAM shift'}

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
        for kind, name, level in map(_split, self.missing):
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
        shared = _shared(self.cell(key).videos for key in keys)
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
        shared = _shared(self.cells[key].videos for key in keys)
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
        sections = [
            _heading(self),
            _clean_section(self),
            _corruption_section(self, groups),
            _attack_section(self),
            _curve_section(self),
            _value_section(self),
            _deepfool_section(self),
            _class_section(self),
            _flag_section(self),
            _missing_section(self),
        ]
        return '\n\n'.join(section for section in sections if section) + '\n'

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
        elif any(name not in cell.values for name in _DEEPFOOL):
            raise ValueError(f'a deepfool cell has the values {_DEEPFOOL}, got {list(lengths)}')
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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers are to the right of a first column of words."""
    lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
    # A bar in a name would end its column.
    return '\n'.join(
        f'| {" | ".join(text.replace("|", chr(92) + "|") for text in line)} |' for line in lines
    )


def percent(value: float, sign: str = '') -> str:
    """A number of a table with one decimal, or a dash where there is none."""
    # Adding 0 turns -0.0 into 0.0.
    return f'{round(value, 1) + 0.0:{sign}.1f}' if math.isfinite(value) else NO_NUMBER


def eps_text(level: float | None) -> str:
    """An eps as ``8/255`` where it is grey levels, or else as it is."""
    if level is None:
        return NO_NUMBER
    grey = round(255 * level)
    return f'{grey}/255' if 0 < grey < 255 and abs(255 * level - grey) < 1e-6 else f'{level:.4g}'


def _section(title: str, *paragraphs: str) -> str:
    return '\n\n'.join((f'## {title}', *paragraphs))


def _heading(found: Robustness) -> str:
    videos = {video for cell in found.cells.values() for video in cell.videos}
    rows = [
        ('config', found.config),
        ('checkpoint', found.checkpoint),
        ('weights', found.weights),
        ('dataset', found.dataset),
        ('videos', f'{len(videos)} of {len(found.classes)} classes'),
    ]
    lines = [f'# Robustness of {found.model}', '']
    lines += [f'- {name}: {text or NO_NUMBER}' for name, text in rows]
    raised = [flag.name for flag in found.flags if flag.raised]
    if raised:
        lines += ['', f'**Read with care: sanity flags are raised ({", ".join(raised)}).**']
    return '\n'.join(lines)


def _clean_section(found: Robustness) -> str:
    if 'clean' not in found.cells:
        return _section('Clean accuracy', 'There is no number; see "Missing".')
    rows = []
    for k in _tops(found):
        value, low, high = (percent(x) for x in found.interval('clean', k))
        rows.append([f'top-{k}', value, f'[{low}, {high}]', str(len(found.cells['clean'].videos))])
    header = ['', 'accuracy, %', '95 % Wilson interval', 'videos']
    return _section('Clean accuracy', markdown_table(header, rows))


def _corruption_section(found: Robustness, groups: Groups | None) -> str:
    table = found.corruption_table()
    if not table.names:
        return ''
    rows = []
    for name, accuracy in zip(table.names, table.accuracy, strict=True):
        rows.append([name, *map(percent, accuracy), *_corruption_means(found, [name])])
    blank = [''] * len(table.severities)
    for group, names in found.corruption_groups(groups).items():
        rows.append([f'**{group}** ({len(names)})', *blank, *_corruption_means(found, names)])
    rows.append([f'**all** ({len(table.names)})', *blank, *_corruption_means(found, None)])
    severities = [f'severity {level:g}' for level in table.severities]
    means = [f'mPC top-{k}' for k in _tops(found)]
    header = ['corruption', *severities, *means, 'rPC']
    count = _count_text(len(found.cells[key].videos) for key in found.keys('corruption'))
    paragraphs = [
        f'Top-1 accuracy in percent on {count} videos each. mPC is the mean over severities and '
        'corruptions, rPC is top-1 mPC in percent of the clean accuracy on the same videos.',
        markdown_table(header, rows),
        f'P {_clean_top(found, None)}, mPC {percent(found.mpc())}, rPC {percent(found.rpc())}.',
    ]
    complete = [name for name in table.names if math.isfinite(found.mpc([name]))]
    if 0 < len(complete) < len(table.names):
        paragraphs.append(
            f'Over the {len(complete)} corruptions with all severities alone '
            f'({", ".join(complete)}): mPC {percent(found.mpc(complete))}, '
            f'rPC {percent(found.rpc(complete))}.'
        )
    return _section('Corruptions', *paragraphs)


def _corruption_means(found: Robustness, names: Sequence[str] | None) -> list[str]:
    return [*[percent(found.mpc(names, k)) for k in _tops(found)], percent(found.rpc(names))]


def _attack_section(found: Robustness) -> str:
    rows = [_attack_row(found, found.cells[key]) for key in found.keys('attack')]
    rows += [
        [name, *[NO_NUMBER] * 5, 'see "Missing"']
        for kind, name, _ in map(_split, found.missing)
        if kind == 'attack'
    ]
    if not rows:
        return ''
    for group in found.attack_groups():
        if len(group) > 1:
            rows.append(_worst_row(found, group))
    header = ['attack', 'eps', 'top-1', 'clean top-1', 'videos', 'seconds', 'run with']
    return _section(
        'Attacks',
        'Top-1 accuracy in percent with its 95 % Wilson interval; the clean accuracy is that '
        'on the same videos. In a worst case a video counts only if it is predicted '
        'correctly clean and under every attack of that eps.',
        markdown_table(header, rows),
    )


def _attack_row(found: Robustness, cell: Cell) -> list[str]:
    value, low, high = (percent(x) for x in found.interval(cell.key))
    return [
        cell.name,
        eps_text(cell.level),
        f'{value} [{low}, {high}]',
        _clean_top(found, cell.videos),
        str(len(cell.videos)),
        f'{cell.seconds:.0f}',
        _options_text(cell.options),
    ]


def _worst_row(found: Robustness, group: list[str]) -> list[str]:
    videos, correct = found.survivors([*(['clean'] if 'clean' in found.cells else []), *group])
    value, low, high = (percent(x) for x in wilson_interval(int(correct.sum()), len(correct)))
    return [
        '**worst case**',
        eps_text(found.cells[group[0]].level),
        f'{value} [{low}, {high}]',
        _clean_top(found, videos),
        str(len(videos)),
        '',
        ', '.join(found.cells[key].name for key in group),
    ]


def _curve_section(found: Robustness) -> str:
    names = found.curve_names()
    if not names:
        return ''
    curves = {name: found.curve(name) for name in names}
    levels = sorted({float(eps) for curve in curves.values() for eps in curve.eps})
    rows = []
    for name, curve in curves.items():
        at = dict(zip(curve.eps.tolist(), curve.accuracy.tolist(), strict=True))
        values = [percent(at.get(level, math.nan)) for level in levels]
        rows.append([name, *values, str(curve.num_videos)])
    header = ['attack', *[f'eps {eps_text(level)}' for level in levels], 'videos']
    return _section(
        'Accuracy over eps',
        'Top-1 accuracy in percent on the videos that all points of a row share; eps 0 is clean.',
        markdown_table(header, rows),
    )


def _value_section(found: Robustness) -> str:
    skipped = ('deepfool', 'sanity')
    cells = {k: c for k, c in found.cells.items() if c.kind not in skipped and c.values}
    if not cells:
        return ''
    names = list(dict.fromkeys(name for cell in cells.values() for name in cell.values))
    rows = []
    for key, cell in cells.items():
        means = [_mean_text(cell.values.get(name, [])) for name in names]
        rows.append([key, *means, str(len(cell.videos))])
    header = ['condition', *[_VALUE_NAMES.get(name, name) for name in names], 'videos']
    return _section('Attention', 'Means over videos.', markdown_table(header, rows))


def _deepfool_section(found: Robustness) -> str:
    if 'deepfool' not in found.cells:
        return ''
    cell = found.cells['deepfool']
    rho, success, iterations = (torch.tensor(cell.values[name]) for name in _DEEPFOOL)
    summary = robustness_summary(
        rho, success.bool(), iterations.long(), cell.options.get('max_iter', 50)
    )
    rows = [
        [name.replace('_', ' '), f'{value:.4g}' if math.isfinite(value) else NO_NUMBER]
        for name, value in summary.items()
    ]
    return _section(
        'DeepFool',
        f'rho = ‖r‖ / ‖x‖ on {len(cell.videos)} videos, {cell.seconds:.0f} seconds, run with '
        f'{_options_text(cell.options) or "its defaults"}. Videos that were wrong already '
        'count as 0, those that were not fooled are left out of the mean.',
        markdown_table(['', 'value'], rows),
    )


def _class_section(found: Robustness) -> str:
    if 'clean' not in found.cells:
        return ''
    clean, counts = found.class_accuracy('clean')
    header, columns = ['class', 'videos', 'clean top-1'], []
    worst = _worst_corruption(found)
    if worst:
        keys = [key for key in found.keys('corruption') if found.cells[key].name == worst]
        header.append(f'change under {worst}, mean over severities')
        columns.append(np.mean([_class_change(found, key) for key in keys], axis=0))
    attacks = found.keys('attack')
    if attacks:
        key = min(attacks, key=lambda key: _change(found, key))
        header.append(f'change under {found.cells[key].name}')
        columns.append(_class_change(found, key))
    rows = [
        [name, str(counts[i]), percent(clean[i]), *[percent(column[i], '+') for column in columns]]
        for i, name in enumerate(found.classes)
    ]
    return _section(
        'Classes',
        'Top-1 accuracy in percent, and its change in points, on the same videos, under the '
        'corruption with the lowest mPC and the attack with the largest drop.',
        markdown_table(header, rows),
    )


def _class_change(found: Robustness, key: str) -> NDArray[np.float64]:
    videos = found.videos(key)
    return found.class_accuracy(key)[0] - found.class_accuracy('clean', videos)[0]


def _change(found: Robustness, key: str) -> float:
    return found.top(key) - found.top('clean', videos=found.videos(key))


def _worst_corruption(found: Robustness) -> str | None:
    means = {name: found.mpc([name]) for name in found.corruption_table().names}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    return min(means, key=means.__getitem__) if means else None


def _flag_section(found: Robustness) -> str:
    if not found.flags:
        return ''
    order = list(_FLAG_WORDS)
    flags = sorted(found.flags, key=lambda flag: order.index(flag.raised))
    lines = [f'- {_FLAG_WORDS[flag.raised]} {flag.name}: {flag.message}' for flag in flags]
    return _section('Sanity flags', '\n'.join(lines))


def _missing_section(found: Robustness) -> str:
    reasons = found.missing | _gaps(found)
    if not reasons:
        return _section('Missing', 'Nothing that was asked for is missing.')
    lines = [f'- {key}: {reason}' for key, reason in reasons.items()]
    return _section('Missing', '\n'.join(lines))


def _gaps(found: Robustness) -> dict[str, str]:
    """Dashes in a table of levels that nobody has given a reason for."""
    gaps = [] if 'clean' in found.cells else ['clean']
    for kind in ('corruption', 'curve'):
        cells = [found.cells[key] for key in found.keys(kind)]
        names, levels = (
            {getattr(cell, part): None for cell in cells} for part in ('name', 'level')
        )
        gaps += [Cell(kind, name, level).key for name in names for level in levels]
    known = {*found.cells, *found.missing}
    return {key: 'it was not evaluated' for key in gaps if key not in known}


def _tops(found: Robustness) -> tuple[int, ...]:
    """Of five classes or fewer, the true one is always among the first five."""
    return (1, 5) if len(found.classes) > 5 else (1,)


def _clean_top(found: Robustness, videos: ArrayLike | None) -> str:
    return percent(found.top('clean', videos=videos)) if 'clean' in found.cells else NO_NUMBER


def _mean_text(values: Sequence[float]) -> str:
    """The mean of what is finite, and how many that are if not all."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return NO_NUMBER
    some = '' if len(known) == len(values) else f' ({len(known)} of {len(values)})'
    return f'{sum(known) / len(known):.4g}{some}'


def _options_text(options: Mapping[str, Any]) -> str:
    return ', '.join(
        f'{name}={value:.4g}' if isinstance(value, float) else f'{name}={value}'
        for name, value in options.items()
    )


def _count_text(counts: Iterable[int]) -> str:
    known = sorted(set(counts))
    return f'{known[0]} to {known[-1]}' if len(known) > 1 else f'{known[0] if known else 0}'


def _shared(videos: Iterable[Sequence[int]]) -> list[int]:
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


def _split(key: str) -> tuple[str, str, float | None]:
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
