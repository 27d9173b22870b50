"""Whether one checkpoint is better than another on the same videos, or only luckier.

Two accuracies of the same videos are compared video by video: what both get right or wrong says
nothing about their difference, and the interval of the difference is narrower than those of the
two accuracies suggest.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .results import KINDS, Cell, Robustness
from .results_page import NO_NUMBER, eps_text, markdown_table, percent

NOISE = 'within noise'
_CHUNK = 2**22
"""Numbers that are resampled at a time."""
_FEW = 256
"""With more distinct values than that, drawing indices is faster than drawing counts."""
_NOT_COMPARED = ('success', 'iterations')
_DIRECTIONS = {'better': 'higher', 'worse': 'lower', NOISE: NOISE}

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A difference with its confidence interval.

    Args:
        difference (float): How much more the second has than the first.
        low (float): Lower bound.
        high (float): Upper bound.
        p_value (float, optional): Of :func:`mcnemar`, where videos are right or wrong. Defaults
            to None.
        confidence (float): Defaults to 0.95.
    """

    difference: float
    low: float
    high: float
    p_value: float | None = None
    confidence: float = 0.95

    @property
    def verdict(self) -> str:
        """``'better'``, ``'worse'`` or ``'within noise'``.

        It is noise if the interval contains 0, or if McNemar's test says so: of few videos the
        bootstrap is too sure, it has never seen what they do not contain.
        """
        doubtful = self.p_value is not None and self.p_value >= 1 - self.confidence
        if self.low <= 0 <= self.high or doubtful or math.isnan(self.difference):
            return NOISE
        return 'better' if self.difference > 0 else 'worse'

    def text(self) -> str:
        """``+1.3 [+0.4, +2.2]``, in percentage points."""
        value, low, high = (percent(x, '+') for x in self[:3])
        return f'{value} [{low}, {high}]'


class ClassChange(NamedTuple):
    """Accuracy of one class before and after, in percent.

    Args:
        name (str): Name of the class.
        num_videos (int): Number of its videos.
        before (float): Top-1 accuracy of the baseline.
        after (float): Top-1 accuracy of the other model.
        change (Interval): The difference, in percentage points.
        highlighted (bool): Whether it is one of the classes that were asked about.
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
        name (str): Key of the cell, or the name of what several cells have in common.
        num_videos (int): Number of videos that all models share.
        means (list[float]): Of each model; accuracies in percent.
        changes (list[Interval | None]): Of each model against the baseline; None for itself.
        note (str): What it is a mean of or over. Defaults to ''.
        detail (bool): Whether it is a part of another row, as a severity is of a corruption.
            Defaults to False.
    """

    name: str
    num_videos: int
    means: list[float]
    changes: list[Interval | None]
    note: str = ''
    detail: bool = False


def paired_bootstrap(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The difference of two accuracies on the same videos, with a percentile bootstrap interval.

    Videos are drawn with replacement, each with what both models say of it.

    Args:
        correct_a (array): Of the first model, whether each video is right, or a share of how often
            it is, shape (N,).
        correct_b (array): Of the second model, for the same videos in the same order.
        num_resamples (int): Defaults to 10,000.
        confidence (float): Defaults to 0.95.
        seed (int): Of a generator of its own. Defaults to 0.

    Returns:
        Interval: Second minus first, in percentage points. Where models agree on every video it is
        0 with the bounds 0 and 0.

    Raises:
        ValueError: The shapes differ, or there is no video.

    Example:
        >>> paired_bootstrap([1, 1, 0, 0], [1, 1, 1, 1]).difference
        50.0
    """
    a, b = np.asarray(correct_a, dtype=float), np.asarray(correct_b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f'both models need one number for each of the same videos, shape (N,), got {a.shape} '
            f'and {b.shape}'
        )
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    p_value = mcnemar(a == 1, b == 1) if binary else None
    mean, low, high = _bootstrap(b - a, num_resamples, confidence, seed)
    return Interval(100 * mean, 100 * low, 100 * high, p_value, confidence)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """McNemar's exact test: how surprising it is that changed videos change in one direction.

    Args:
        correct_a (array): Boolean, shape (N,).
        correct_b (array): Boolean, for the same videos in the same order.

    Returns:
        float: The two-sided p-value, 1 where no video changes.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    won, lost = int((b & ~a).sum()), int((a & ~b).sum())
    changed = won + lost
    ways, total = 1, 0
    for count in range(min(won, lost) + 1):
        total += ways
        ways = ways * (changed - count) // (count + 1)
    # Integers of any size; only their quotient is rounded.
    return min(1.0, 2 * total / 2**changed)


def compare(results: Sequence[Robustness], baseline: int = 0) -> Comparison:
    """Compare checkpoints with one of them, on the videos that all were evaluated on.

    Args:
        results (Sequence[Robustness]): Two or more, with different model names.
        baseline (int): Index of the one that the others are compared with. Defaults to 0.

    Returns:
        Comparison: See there.

    Raises:
        ValueError: They are of different classes, labels or videos, or cannot be told apart.

    Example:
        >>> found = compare([Robustness.load('tsm.json'), Robustness.load('taf.json')])
        >>> print(found.markdown())
    """
    results = list(results)
    names = [found.model for found in results]
    if len(results) < 2 or len(set(names)) < len(names):
        raise ValueError(f'compare takes two or more results with different names, got {names}')
    if not 0 <= baseline < len(results):
        raise ValueError(f'baseline={baseline} is no index of {len(results)} results; write 0 ...')
    first = results[baseline]
    for other in results:
        _check_pair(first, other)
    return Comparison(results, baseline)


@dataclass
class Comparison:
    """Checkpoints side by side; made by :func:`compare`.

    Args:
        results (list[Robustness]): What was found for each.
        baseline (int): Index of the one that the others are compared with.

    Attributes:
        rows (list[Row]): Accuracy under every condition that all share, and of what several have
            in common: each corruption, mPC, the worst case of attacks of one eps.
        values (list[Row]): The same of other numbers of each video (attention entropy, CAM shift,
            rho of DeepFool where all were fooled), in their own units.
        left_out (dict[str, str]): Why conditions are not compared, by their key.
    """

    results: list[Robustness]
    baseline: int
    rows: list[Row] = field(init=False)
    values: list[Row] = field(init=False)
    left_out: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.left_out = self._left_out()
        first = self.results[self.baseline]
        self._shared = [key for key in first.cells if key not in self.left_out]
        self.rows = list(self._accuracy_rows())
        self.values = list(self._value_rows())

    @property
    def models(self) -> list[str]:
        """The names."""
        return [found.model for found in self.results]

    @property
    def others(self) -> list[int]:
        """Indices of all but the baseline."""
        return [index for index in range(len(self.results)) if index != self.baseline]

    def row(self, name: str) -> Row:
        """The row of a name.

        Raises:
            KeyError: There is none; the message says why, or names what is near.
        """
        found = {row.name: row for row in self.rows}
        if name not in found:
            reason = self.left_out.get(name)
            near = difflib.get_close_matches(name, found, cutoff=0.4) or list(found)
            raise KeyError(f'{name!r} is not compared: {reason or f"write {near}"}')
        return found[name]

    def videos(self, *keys: str) -> list[int]:
        """Dataset indices of the videos that all models share in all of several cells."""
        wanted = [set(found.cell(key).videos) for found in self.results for key in keys]
        order = self.results[self.baseline].cell(keys[0]).videos
        return [video for video in order if all(video in videos for videos in wanted)]

    def change(
        self, key: str, model: int | None = None, classes: Collection[str] | None = None
    ) -> Interval:
        """How a model's top-1 accuracy differs from the baseline's.

        Args:
            key (str): Key of a cell that all share.
            model (int, optional): Index of the model. Defaults to None: the first that is not the
                baseline.
            classes (Collection[str], optional): Names of classes whose videos alone are looked at.
                Defaults to None: all.

        Returns:
            Interval: In percentage points.

        Raises:
            KeyError: The cell is not shared.
            ValueError: A class is unknown, or has no video.
        """
        videos, before, after = self._pair(key, model)
        if classes is not None:
            chosen = self._class_indices(classes)
            labels = self._labels(videos)
            keep = np.isin(labels, sorted(chosen))
            before, after = before[keep], after[keep]
        return paired_bootstrap(before, after)

    def class_changes(
        self, key: str = 'clean', model: int | None = None, highlight: Collection[str] = ()
    ) -> list[ClassChange]:
        """The change of every class, the largest gain first (taf.txt figure 4).

        Args:
            key (str): Key of a cell that all share. Defaults to ``'clean'``.
            model (int, optional): As for :meth:`change`. Defaults to None.
            highlight (Collection[str]): Names of classes to mark, such as long-term motions.
                Defaults to none.

        Returns:
            list[ClassChange]: Classes with at least one shared video; those with the same change
            in the order of the class list.
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

    def markdown(self, highlight: Collection[str] = ()) -> str:
        """Everything as one Markdown document.

        Args:
            highlight (Collection[str]): Names of classes to mark. Defaults to none.
        """
        main = [row for row in self.rows if not row.detail]
        detail = [row for row in self.rows if row.detail]
        sections = [
            self._heading(highlight),
            '## Accuracy\n\n' + self._table(main),
            self._value_section(),
            *(self._class_section(model, highlight) for model in self.others),
            '## Severity by severity\n\n' + self._table(detail) if detail else '',
            '## Not compared\n\n'
            + (
                '\n'.join(f'- {key}: {reason}' for key, reason in self.left_out.items())
                or 'Nothing.'
            ),
        ]
        return '\n\n'.join(section for section in sections if section) + '\n'

    def _left_out(self) -> dict[str, str]:
        """Cells that not all have, or that were not run alike."""
        reasons: dict[str, str] = {}
        keys = dict.fromkeys(key for r in self.results for key in r.cells)
        keys |= {k: None for r in self.results for k in r.missing if k.split('/')[0] in KINDS}
        first = self.results[self.baseline]
        for key in keys:
            lacking = [found for found in self.results if key not in found.cells]
            if lacking:
                why = {r.model: r.missing.get(key, 'it was not evaluated') for r in lacking}
                alike = len(why) == len(self.results) and len(set(why.values())) == 1
                reasons[key] = (
                    f'all models: {why[first.model]}'
                    if alike
                    else '; '.join(f'{model}: {reason}' for model, reason in why.items())
                )
                continue
            for found in self.results:
                difference = _difference(first, found, key)
                if difference:
                    reasons[key] = difference
            if key not in reasons and not self.videos(key):
                reasons[key] = 'the models share no video'
        return reasons

    def _accuracy_rows(self) -> Iterator[Row]:
        first = self.results[self.baseline]
        kinds: dict[str, list[str]] = {}
        for key in self._shared:
            kinds.setdefault(first.cells[key].kind, []).append(key)
        if 'clean' in kinds:
            yield self._row('clean', [['clean']])
            if len(first.classes) > 5:
                yield self._row('clean, top-5', [['clean']], k=5)
        corruptions: dict[str, list[str]] = {}
        for key in kinds.get('corruption', []):
            corruptions.setdefault(first.cells[key].name, []).append(key)
        for name, keys in corruptions.items():
            yield from (self._row(key, [[key]], detail=True) for key in keys)
            levels = ', '.join(f'{first.cells[key].level:g}' for key in keys)
            yield self._row(f'corruption/{name}', [keys], f'severity {levels}')
        if corruptions:
            note = f'{len(corruptions)} corruptions, {len(kinds["corruption"])} cells'
            yield self._row('mPC', list(corruptions.values()), note)
        yield from (self._row(key, [[key]], self._eps(key)) for key in kinds.get('attack', []))
        yield from self._worst_case_rows()
        yield from (self._row(key, [[key]], self._eps(key)) for key in kinds.get('curve', []))

    def _eps(self, key: str) -> str:
        return f'eps {eps_text(self.results[self.baseline].cells[key].level)}'

    def _worst_case_rows(self) -> Iterator[Row]:
        first = self.results[self.baseline]
        for group in first.attack_groups():
            attacks = [key for key in group if key in self._shared]
            if len(attacks) < 2:
                continue
            # No perturbation at all is within any eps.
            keys = [*(['clean'] if 'clean' in self._shared else []), *attacks]
            videos = self.videos(*keys)
            correct = [
                np.all([r.correct(key, videos=videos) for key in keys], axis=0).astype(float)
                for r in self.results
            ]
            cell = first.cells[attacks[0]]
            name = f'worst case, {cell.options.get("norm", "linf")} {eps_text(cell.level)}'
            yield self._compared(name, correct, ', '.join(first.cells[key].name for key in attacks))

    def _row(
        self,
        name: str,
        groups: list[list[str]],
        note: str = '',
        k: int = 1,
        detail: bool = False,
    ) -> Row:
        """Of each video the mean over groups of the mean over their cells."""
        videos = self.videos(*(key for keys in groups for key in keys))
        shares = [
            np.mean(
                [np.mean([r.correct(key, k, videos) for key in keys], axis=0) for keys in groups],
                axis=0,
            )
            for r in self.results
        ]
        return self._compared(name, shares, note, detail)

    def _compared(
        self, name: str, shares: list[Floats], note: str = '', detail: bool = False
    ) -> Row:
        first = shares[self.baseline]
        changes = [
            None if index == self.baseline else paired_bootstrap(first, share)
            for index, share in enumerate(shares)
        ]
        means = [100 * float(share.mean()) for share in shares]
        return Row(name, len(first), means, changes, note, detail)

    def _value_rows(self) -> Iterator[Row]:
        for key in self._shared:
            cells = [found.cells[key] for found in self.results]
            if cells[0].kind == 'sanity':
                continue
            videos = self.videos(key)
            for name in cells[self.baseline].values:
                if name in _NOT_COMPARED or any(name not in cell.values for cell in cells):
                    continue
                columns = np.array([_column(cell, name, videos) for cell in cells])
                columns = columns[:, np.isfinite(columns).all(axis=0)]
                if columns.shape[1]:
                    yield self._value_row(f'{key}: {name}', columns)

    def _value_row(self, name: str, columns: Floats) -> Row:
        first = columns[self.baseline]
        changes = [
            None if index == self.baseline else Interval(*_bootstrap(column - first))
            for index, column in enumerate(columns)
        ]
        return Row(name, len(first), columns.mean(axis=1).tolist(), changes)

    def _pair(self, key: str, model: int | None) -> tuple[list[int], Floats, Floats]:
        """The shared videos of a cell, and which of them the baseline and a model get right."""
        if key not in self._shared:
            near = difflib.get_close_matches(key, self._shared, cutoff=0.4) or self._shared
            raise KeyError(f'{key!r} is not compared: {self.left_out.get(key) or f"write {near}"}')
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

    def _labels(self, videos: list[int]) -> NDArray[np.int64]:
        labels = self.results[self.baseline].labels
        return np.array([labels[video] for video in videos])

    def _class_indices(self, names: Collection[str]) -> set[int]:
        classes = self.results[self.baseline].classes
        for name in names:
            if name not in classes:
                near = difflib.get_close_matches(name, classes) or classes[:5]
                raise ValueError(
                    f'there is no class {name!r}; write one of the classes, e.g. {near}'
                )
        return {index for index, name in enumerate(classes) if name in names}

    def _heading(self, highlight: Collection[str]) -> str:
        count = sum(len(row.changes) - 1 for row in (*self.rows, *self.values))
        for model in self.others if 'clean' in self._shared else []:
            count += len(self.class_changes(model=model)) + 2 * bool(highlight)
        lines = [f'# Comparison with {self.models[self.baseline]}', '']
        lines += [
            f'- {r.model}: {r.checkpoint or NO_NUMBER} ({r.config or NO_NUMBER})'
            for r in self.results
        ]
        lines += [
            '',
            'Each difference is to the baseline, on the same videos, with a 95 % interval: paired '
            'bootstrap over videos, 10000 resamples. A verdict needs an interval without 0 and, '
            "where videos are right or wrong, p < 0.05 in McNemar's exact test. The interval is "
            'about the choice of videos; how much another training run would differ, only other '
            'seeds can tell.',
            '',
            f'{count} intervals are shown. Between equal models about 5 % of them, '
            f'{count / 20:.3g}, would exclude 0 by chance.',
        ]
        for found in self.results:
            raised = ', '.join(flag.name for flag in found.flags if flag.raised)
            if raised:
                warning = f'**Read {found.model} with care: sanity flags are raised ({raised}).**'
                lines += ['', warning]
        return '\n'.join(lines)

    def _table(self, rows: Sequence[Row]) -> str:
        header = ['condition', 'videos', *self.models]
        for index in self.others:
            name = '' if len(self.others) == 1 else f' of {self.models[index]}'
            header += [f'difference{name}', 'p', 'verdict']
        lines = []
        for row in rows:
            line = [f'{row.name} ({row.note})' if row.note else row.name, str(row.num_videos)]
            line += map(percent, row.means)
            for change in filter(None, row.changes):
                line += [change.text(), _p_text(change.p_value), _verdict(change)]
            lines.append(line)
        return markdown_table(header, lines)

    def _value_section(self) -> str:
        if not self.values:
            return ''
        header = ['mean over videos', 'videos', *self.models]
        for index in self.others:
            header += [f'difference of {self.models[index]}', '']
        lines = []
        for row in self.values:
            line = [row.name, str(row.num_videos), *[f'{mean:.4g}' for mean in row.means]]
            for change in filter(None, row.changes):
                value, low, high = (f'{x:+.3g}' for x in change[:3])
                line += [f'{value} [{low}, {high}]', _DIRECTIONS[change.verdict]]
            lines.append(line)
        return '## Attention and DeepFool\n\n' + markdown_table(header, lines)

    def _class_section(self, model: int, highlight: Collection[str]) -> str:
        if 'clean' not in self._shared:
            return ''
        before, after = self.models[self.baseline], self.models[model]
        lines = [f'## Classes: {after} against {before}, clean', '']
        changes = self.class_changes('clean', model, highlight)
        if highlight:
            marked = [change.name for change in changes if change.highlighted]
            rest = [change.name for change in changes if not change.highlighted]
            for word, names in (('marked', marked), ('other', rest)):
                text = self.change('clean', model, names).text() if names else NO_NUMBER
                lines.append(f'- the {len(names)} {word} classes: {text}')
            lines.append('')
        rows = [
            [
                f'**{change.name}**' if change.highlighted else change.name,
                str(change.num_videos),
                percent(change.before),
                percent(change.after),
                change.change.text(),
                _p_text(change.change.p_value),
                _verdict(change.change),
            ]
            for change in changes
        ]
        header = ['class', 'videos', before, after, 'difference', 'p', 'verdict']
        return '\n'.join([*lines, markdown_table(header, rows)])


def _bootstrap(
    differences: Floats, num_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The mean and the bounds of its percentile bootstrap interval."""
    count = len(differences)
    values, counts = np.unique(differences, return_counts=True)
    if len(values) == 1:
        return (float(values[0]),) * 3
    generator = np.random.default_rng(seed)
    few = len(values) <= _FEW
    means = []
    for size in _chunks(num_resamples, _CHUNK // (len(values) if few else count) + 1):
        if few:
            # How often each value is drawn is all that the mean depends on.
            drawn = generator.multinomial(count, counts / count, size)
            means.append(drawn @ values / count)
        else:
            means.append(differences[generator.integers(count, size=(size, count))].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(differences.mean()), float(low), float(high)


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _column(cell: Cell, name: str, videos: list[int]) -> Floats:
    """Values of some videos; NaN where DeepFool did not succeed, and rho is not known."""
    values = np.array(cell.values[name])
    if cell.kind == 'deepfool':
        values[np.array(cell.values['success']) == 0] = math.nan
    position = {video: index for index, video in enumerate(cell.videos)}
    return values[[position[video] for video in videos]]


def _check_pair(first: Robustness, other: Robustness) -> None:
    """Whether the videos of two results are the same."""
    if first.classes != other.classes:
        a, b = first.classes, other.classes
        index = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), 0)
        raise ValueError(
            f'{first.model!r} has {len(a)} classes ({a[index]!r} is number {index}) and '
            f'{other.model!r} has {len(b)} ({b[index]!r}); evaluate both on one dataset'
        )
    shared = first.labels.keys() & other.labels.keys()
    if not shared:
        raise ValueError(
            f'{first.model!r} and {other.model!r} share no video; evaluate both on the same ones'
        )
    wrong = [video for video in sorted(shared) if first.labels[video] != other.labels[video]]
    if wrong:
        raise ValueError(
            f'{first.model!r} and {other.model!r} have different labels for {len(wrong)} videos, '
            f'e.g. {first.labels[wrong[0]]} and {other.labels[wrong[0]]} for the dataset index '
            f'{wrong[0]}; evaluate both on one annotation file'
        )


def _difference(first: Robustness, other: Robustness, key: str) -> str | None:
    """What a condition was run with in different ways."""
    a, b = first.cells[key], other.cells[key]
    if a.level != b.level:
        return f'{first.model} was run at {a.level}, {other.model} at {b.level}'
    names = [name for name in a.options | b.options if a.options.get(name) != b.options.get(name)]
    if names:
        ways = [
            f'{found.model} with ' + ', '.join(f'{name}={cell.options.get(name)}' for name in names)
            for found, cell in ((first, a), (other, b))
        ]
        return f'{ways[0]}, {ways[1]}'
    return None


def _verdict(change: Interval) -> str:
    return change.verdict if change.verdict == NOISE else f'**{change.verdict}**'


def _p_text(p_value: float | None) -> str:
    return NO_NUMBER if p_value is None else f'{p_value:.2g}'
