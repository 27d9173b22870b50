"""The records of an evaluation: cells, one for each condition, and flags on the whole of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.option_values import as_number
from .attacks import attack_class, kept_name
from .tables import eps_text

KINDS = ('clean', 'corruption', 'attack', 'curve', 'deepfool', 'sanity', 'transfer')
DEEPFOOL = ('rho', 'success', 'iterations')
"""The values of a DeepFool cell."""
HOW_FAR = ('fooled_by', 'stopped_in')
"""The values of an ensemble of attacks: numbers of its parts."""


@dataclass
class Cell:
    """One condition under which every video was predicted.

    Args:
        kind (str): One of ``'clean'``, ``'corruption'``, ``'attack'``, ``'curve'`` (one eps of an
            accuracy curve), ``'deepfool'``, ``'sanity'`` (what the sanity flags are computed
            from) and ``'transfer'`` (adversarial examples of some model).
        name (str): Name of the corruption or attack, or digest of the weights that the examples
            are of. Defaults to ''.
        level (float, optional): Severity of a corruption, or eps of an attack as a fraction of the
            value range. Defaults to None.
        options (dict): The options of the corruption or attack, made of JSON types; tuples become
            lists, and classes and non-finite numbers strings, as in a file. Defaults to none.
        videos (list[int]): Dataset indices, in the order of all further lists. Defaults to none.
        predictions (list[int]): The class with the highest score; none for ``'deepfool'``.
        ranks (list[int]): The rank of the true class, 0 for the highest score; none for
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
        needs_name = self.kind in ('corruption', 'attack', 'curve', 'transfer')
        if needs_name != bool(self.name) or '/' in self.name:
            example = "a name without '/', such as 'snow'" if needs_name else "the name ''"
            raise ValueError(f'a {self.kind} cell must have {example}, got {self.name!r}')
        if self.level is None and self.kind in ('corruption', 'curve'):
            raise ValueError(f'the {self.kind} cell of {self.name!r} must have a level, got None')
        # Arrays and tensors are accepted as well, and null in a file stands for NaN.
        self.videos, self.predictions, self.ranks = (
            [int(value) for value in column]
            for column in (self.videos, self.predictions, self.ranks)
        )
        self.values = {
            name: [math.nan if value is None else float(value) for value in column]
            for name, column in self.values.items()
        }
        try:
            # As a file would give them back, so that cells of a file equal those still to be run.
            self.options = json.loads(json.dumps(_as_json(self.options), allow_nan=False))
        except TypeError as error:
            raise ValueError(
                f'the options of {self.key!r} must be numbers, strings, lists and dicts: {error}'
            ) from error

    @property
    def threat(self) -> str:
        """The norm of its attack, and the structure if there is one."""
        return str(self.options.get('threat', self.options.get('norm', 'linf')))

    @property
    def key(self) -> str:
        """``'clean'``, ``'corruption/snow/3'``, ``'attack/pgd'``, ``'curve/pgd/4/255'``."""
        parts = [self.kind, self.name]
        if self.kind == 'corruption':
            parts.append(f'{self.level:.4g}')
        if self.kind == 'curve':
            parts.append(eps_text(self.level))
        return '/'.join(part for part in parts if part)

    @property
    def condition(self) -> tuple[Any, ...]:
        """What two cells have in common that were run alike: all but the videos and the numbers.

        However the type of an attack is written, it is the same attack.
        """
        return self.kind, self.name, self.level, compared_options(self.options)

    def lacks(self, planned: Cell) -> list[int]:
        """The videos that are still to be run for a planned cell of the same condition.

        Args:
            planned (Cell): The cell to be run: its videos, and its values by name.
        """
        if not planned.values.keys() <= self.values.keys():
            return planned.videos
        done = set(self.videos)
        return [video for video in planned.videos if video not in done]

    def fill(self, rows: Mapping[int, Mapping[str, float]], seconds: float) -> None:
        """Take the numbers of the videos, in their order.

        Args:
            rows (Mapping[int, Mapping[str, float]]): Numbers by name, by the index of the video.
            seconds (float): How long they took.
        """
        columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
        del columns['label'], columns['finite'], columns['views']
        self.videos, self.seconds = list(rows), seconds
        self.predictions, self.ranks = columns.pop('prediction', []), columns.pop('rank', [])
        self.values = columns

    def united(self, newer: Cell) -> Cell:
        """One cell with the videos of two of the same condition.

        Args:
            newer (Cell): The other one; its numbers count where both have a video.

        Returns:
            Cell: The videos in ascending order; a number that one of the cells does not have is
            NaN for its videos.
        """
        if set(self.videos) <= set(newer.videos):
            return newer
        rows = self._rows() | newer._rows()
        videos = sorted(rows)
        columns: dict[str, list[Any]] = {
            name: [rows[video].get(name, math.nan) for video in videos]
            for name in {**self._columns(), **newer._columns()}
        }
        return replace(
            newer,
            videos=videos,
            predictions=columns.pop('prediction', []),
            ranks=columns.pop('rank', []),
            values=columns,
            seconds=self.seconds + newer.seconds,
        )

    def _columns(self) -> dict[str, list[Any]]:
        has_predictions = self.kind != 'deepfool'
        own = dict(prediction=self.predictions, rank=self.ranks) if has_predictions else {}
        return {**own, **self.values}

    def _rows(self) -> dict[int, dict[str, Any]]:
        columns = self._columns()
        rows = zip(*columns.values(), strict=True)
        return {
            video: dict(zip(columns, row, strict=True))
            for video, row in zip(self.videos, rows, strict=True)
        }

    def to_json(self) -> dict[str, Any]:
        """The arguments as a JSON object; values that are not finite become null."""
        values = {
            name: [value if math.isfinite(value) else None for value in column]
            for name, column in self.values.items()
        }
        return {**vars(self), 'values': values}

    def validate(self, labels: Mapping[int, int], num_classes: int) -> None:
        """Check that the lists fit each other, the labels and the number of classes.

        Args:
            labels (Mapping[int, int]): The true class of each video, by dataset index.
            num_classes (int): Number of classes.

        Raises:
            ValueError: They do not fit.
        """
        count = len(self.videos)
        if count == 0 or len(set(self.videos)) != count:
            raise ValueError(f'the cell {self.key!r} has no videos, or one twice: {count} videos')
        unknown = [video for video in self.videos if video not in labels]
        if unknown:
            raise ValueError(
                f'the cell {self.key!r} has the video {unknown[0]}, which has no label; set '
                'labels before adding cells'
            )
        has_predictions = self.kind != 'deepfool'
        lengths = {name: len(column) for name, column in self.values.items()}
        if has_predictions:
            lengths |= {'predictions': len(self.predictions), 'ranks': len(self.ranks)}
        elif any(name not in self.values for name in DEEPFOOL):
            raise ValueError(f'a deepfool cell has the values {DEEPFOOL}, got {list(lengths)}')
        wrong = [name for name, length in lengths.items() if length != count]
        if wrong:
            raise ValueError(
                f'the cell {self.key!r} has {count} videos and {lengths[wrong[0]]} {wrong[0]}'
            )
        if has_predictions:
            self._validate_predictions(labels, num_classes)

    def _validate_predictions(self, labels: Mapping[int, int], num_classes: int) -> None:
        rows = zip(self.videos, self.predictions, self.ranks, strict=True)
        for video, prediction, rank in rows:
            if not (0 <= prediction < num_classes and 0 <= rank < num_classes):
                raise ValueError(
                    f'the cell {self.key!r} has the prediction {prediction} and the rank {rank} '
                    f'for video {video}; there are {num_classes} classes'
                )
            if (rank == 0) != (prediction == labels[video]):
                raise ValueError(
                    f'the cell {self.key!r} has the rank {rank} for video {video} of class '
                    f'{labels[video]}, predicted as {prediction}; only a prediction of the '
                    'true class has the rank 0: where scores are equal or NaN, take both from '
                    'one scores.argsort(descending=True, stable=True)'
                )


@dataclass
class Flag:
    """A check of the evaluation itself, such as that more steps do not make an attack weaker.

    Args:
        name (str): What is checked.
        raised (bool, optional): Whether it gives cause for doubt; None: it could not be checked.
        message (str): The finding, in a sentence.
    """

    name: str
    raised: bool | None
    message: str


def split_key(key: str) -> tuple[str, str, float | None]:
    """Kind, name and level of a key; no level where what stands in its place is no number."""
    kind, _, rest = key.partition('/')
    name, _, level = rest.partition('/')
    try:
        return kind, name, as_number('level', level) if level else None
    except ValueError:
        return kind, rest, None


def canonical_key(key: str) -> str:
    """A key as it is written today; earlier versions wrote ``'curve/pgd/0.01569'``."""
    if not key.startswith('curve/') or key.count('/') != 2:
        return key
    kind, name, level = split_key(key)
    if level is None:
        return key
    grey = f'{round(255 * level)}/255'
    same = f'{as_number("level", grey):.4g}' == f'{level:.4g}'
    return f'{kind}/{name}/{grey if same else eps_text(level)}'


def compared_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are compared: the type of an attack by its class, however it is written; not
    the threat model, which follows from the others and the views of a video."""
    compared = {name: value for name, value in options.items() if name != 'threat'}
    if 'type' in compared:
        kind = attack_class(compared['type'])
        name = str(compared['type']) if kind is None else kind.__name__
        compared['type'] = name.rpartition('.')[2].lower().replace('_', '')
    return compared


def _as_json(value: Any) -> Any:
    """A JSON value, with classes and non-finite numbers as strings."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if hasattr(value, '__qualname__'):
        return kept_name(value)
    if hasattr(value, 'tolist'):
        return value.tolist()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
