"""What the metrics of YouTube-8M need to know of many videos, and the metrics made of it.

Of each video these are its ``top_k`` best scores, which of them are labels, and which labels are
missing among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..core.checks import is_integer

CLASSES = ('present', 'all')
# How far above 1 rounding may take a mean of probabilities.
_SLACK = 1e-6
# How many scores are summarised together: few enough for a cache and for little extra memory.
_BLOCK = 2**19


@dataclass(frozen=True)
class RankingSummary:
    """What the metrics need to know of N videos, instead of scores and labels (N, C).

    Args:
        records (ndarray): One structured record per video: the best ``scores`` in descending
            order, their class ``ids`` and whether they are labels (``hits``), ``num_labels``,
            and ``perr_hits``, the labels among the first ``num_labels`` predictions.
        missed (ndarray): The class ids of the labels outside the best, video after video.
        num_classes (int): C.
    """

    records: NDArray[Any]
    missed: NDArray[Any]
    num_classes: int

    @classmethod
    def from_scores(
        cls, scores: ArrayLike | Tensor, labels: ArrayLike | Tensor, top_k: int = 20
    ) -> RankingSummary:
        """Summarise probabilities and binary labels.

        float64 scores are compared in float64, all others in float32.

        Args:
            scores (array or Tensor): Probabilities, shape (N, C).
            labels (array or Tensor): 1 where a video has a label and 0 elsewhere, shape (N, C).
            top_k (int): Predictions kept per video. Defaults to 20.

        Returns:
            RankingSummary: The summary.

        Raises:
            ValueError: Scores are NaN or no probabilities, labels are not binary, or shapes
                differ.
        """
        scores, positive = _checked(scores, labels)
        num_classes = scores.shape[1]
        dtype = _record_dtype(num_classes, top_k, scores.dtype)
        step = max(1, _BLOCK // num_classes)
        blocks = [
            _summarise(scores[first : first + step], positive[first : first + step], dtype)
            for first in range(0, len(scores), step)
        ]
        records, missed = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return cls(records, missed, num_classes)

    @classmethod
    def from_entries(
        cls, entries: Sequence[bytes], num_classes: int, top_k: int = 20
    ) -> RankingSummary:
        """Reassemble a summary from its :meth:`entries`, of float32 scores.

        Args:
            entries (Sequence[bytes]): One a video.
            num_classes (int): C.
            top_k (int): That of the summary. Defaults to 20.

        Returns:
            RankingSummary: The summary.
        """
        dtype = _record_dtype(num_classes, top_k, np.dtype(np.float32))
        size = dtype.itemsize
        return cls(
            np.frombuffer(b''.join(entry[:size] for entry in entries), dtype),
            np.frombuffer(b''.join(entry[size:] for entry in entries), dtype['ids'].base),
            num_classes,
        )

    def entries(self) -> list[bytes]:
        """One short byte string per video: its record, then the ids of its missed labels."""
        records, missed = self.records.tobytes(), self.missed.tobytes()
        size = self.records.itemsize
        num_missed = self.records['num_labels'] - np.count_nonzero(self.records['hits'], axis=1)
        ends = (np.cumsum(num_missed) * self.missed.itemsize).tolist()
        return [
            records[i * size : (i + 1) * size] + missed[start:end]
            for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def num_unlabelled(self) -> int:
        """How many videos have no label."""
        return int(np.count_nonzero(self.records['num_labels'] == 0))

    def global_average_precision(self) -> float:
        """See :func:`adv_plugins.evaluation.global_average_precision`."""
        self._check_videos()
        positives = int(self.records['num_labels'].sum(dtype=np.int64))
        if positives == 0:
            return float('nan')
        total = _precision_sum(self.records['scores'].ravel(), self.records['hits'].ravel())
        return total / positives

    def precision_at_equal_recall_rate(self) -> float:
        """See :func:`adv_plugins.evaluation.precision_at_equal_recall_rate`."""
        self._check_videos()
        # Integers are added up first, so that the order of the videos does not matter.
        hits = np.bincount(self.records['num_labels'], weights=self.records['perr_hits'])
        return float((hits[1:] / np.arange(1, len(hits))).sum() / len(self))

    def hit_at_one(self) -> float:
        """See :func:`adv_plugins.evaluation.hit_at_one`."""
        self._check_videos()
        return float(self.records['hits'][:, 0].mean(dtype=np.float64))

    def mean_average_precision(self, classes: str = 'present') -> float:
        """See :func:`adv_plugins.evaluation.mean_average_precision`."""
        if classes not in CLASSES:
            raise ValueError(f'classes must be one of {CLASSES}, got {classes!r}')
        self._check_videos()
        ids, hits = self.records['ids'].ravel(), self.records['hits'].ravel()
        num_hits = np.bincount(ids[hits], minlength=self.num_classes)
        positives = num_hits + np.bincount(self.missed, minlength=self.num_classes)
        present = np.count_nonzero(positives)
        if classes == 'present' and present == 0:
            return float('nan')

        # For small integers a stable sort is a radix sort.
        order = np.argsort(ids, kind='stable')
        scores, hits = self.records['scores'].ravel()[order], hits[order]
        sizes = np.bincount(ids, minlength=self.num_classes)
        ends = np.cumsum(sizes)
        total = 0.0
        for c in np.flatnonzero(num_hits):
            kept = slice(ends[c] - sizes[c], ends[c])
            total += _precision_sum(scores[kept], hits[kept]) / positives[c]
        return float(total / (present if classes == 'present' else self.num_classes))

    def _check_videos(self) -> None:
        if len(self) == 0:
            raise ValueError('a metric needs at least one video, got none')


def check_top_k(top_k: int, num_classes: int) -> int:
    """How many predictions per video are kept: ``top_k``, or all classes if they are fewer."""
    if not is_integer(top_k) or top_k < 1:
        raise ValueError(f'top_k must be a whole number of at least 1, got {top_k!r}')
    return min(top_k, num_classes)


def _record_dtype(num_classes: int, top_k: int, score: np.dtype[Any]) -> np.dtype[Any]:
    """The layout of one record, in the smallest integers that hold all classes."""
    kept = check_top_k(top_k, num_classes)
    integer = np.min_scalar_type(num_classes)
    return np.dtype(
        [
            ('scores', score, (kept,)),
            ('ids', integer, (kept,)),
            ('hits', np.bool_, (kept,)),
            ('num_labels', integer),
            ('perr_hits', integer),
        ]
    )


def _checked(
    scores: ArrayLike | Tensor, labels: ArrayLike | Tensor
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Scores as float32 or float64 and labels as bool, both (N, C), or a clear error."""
    scores, labels = _to_numpy(scores), _to_numpy(labels)
    if scores.ndim != 2 or scores.shape != labels.shape or scores.size == 0:
        raise ValueError(
            'scores and labels must have one shape (videos, classes) and not be empty, got '
            f'{scores.shape} and {labels.shape}; labels are one-hot, a 1 for each label'
        )
    if scores.dtype != np.float64:
        scores = scores.astype(np.float32, copy=False)
    low, high = scores.min(), scores.max()
    if np.isnan(low):
        video, label = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f'scores must not be NaN, got NaN for video {video}, class {label}')
    if low < 0 or high > 1 + _SLACK:
        raise ValueError(
            f'scores must be probabilities between 0 and 1, got {low:.4g} to {high:.4g}; if they '
            'are logits, apply torch.sigmoid first'
        )
    positive = labels == 1
    neither = positive != (labels != 0)
    if neither.any():
        video, label = np.argwhere(neither)[0]
        raise ValueError(
            f'labels must be 0 or 1, got {labels[video, label]} for video {video}, class {label}'
        )
    return scores, positive


def _to_numpy(values: ArrayLike | Tensor) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _summarise(
    scores: NDArray[Any], positive: NDArray[np.bool_], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The records of some videos, and the class ids of their missed labels."""
    records = np.empty(len(scores), dtype)
    records['scores'], ids = _best(scores, dtype['ids'].shape[0])
    records['ids'] = ids
    records['hits'] = np.take_along_axis(positive, ids, axis=1)
    records['num_labels'] = np.count_nonzero(positive, axis=1)
    records['perr_hits'] = _perr_hits(scores, positive, records)

    outside = positive.copy()
    np.put_along_axis(outside, ids, False, axis=1)
    return records, (np.flatnonzero(outside) % scores.shape[1]).astype(dtype['ids'].base)


def _best(scores: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Each row's ``count`` best scores and their classes; of equal scores the lower class first."""
    num_rows, num_classes = scores.shape
    if count < num_classes:
        # A partition finds the lowest score that is kept. Where more classes have that score than
        # there is room for, the first of them stay.
        worst = np.partition(scores, num_classes - count, axis=1)[:, [num_classes - count]]
        keep = scores >= worst
        crowded = np.flatnonzero(np.count_nonzero(keep, axis=1) > count)
        if crowded.size:
            above, tied = scores[crowded] > worst[crowded], scores[crowded] == worst[crowded]
            room = count - np.count_nonzero(above, axis=1)
            keep[crowded] = above | (tied & (tied.cumsum(axis=1) <= room[:, None]))
        places = np.flatnonzero(keep).reshape(num_rows, count)
        ids = places - num_classes * np.arange(num_rows)[:, None]
    else:
        ids = np.broadcast_to(np.arange(num_classes), scores.shape)
    best = np.take_along_axis(scores, ids, axis=1)
    order = np.argsort(-best, axis=1, kind='stable')
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _perr_hits(
    scores: NDArray[Any], positive: NDArray[np.bool_], records: NDArray[Any]
) -> NDArray[np.intp]:
    """Labels among the n best predictions above 0, n the number of labels of the video."""

    def count(best: NDArray[Any], hits: NDArray[np.bool_], n: NDArray[Any]) -> NDArray[np.intp]:
        within = np.arange(best.shape[1]) < n[:, None]
        return np.count_nonzero(hits & within & (best > 0), axis=1)

    num_labels = records['num_labels']
    perr_hits = count(records['scores'], records['hits'], num_labels)
    # Few videos have more labels than kept predictions: rank all of their classes.
    rows = np.flatnonzero(num_labels > records['scores'].shape[1])
    if rows.size:
        best, ids = _best(scores[rows], scores.shape[1])
        hits = np.take_along_axis(positive[rows], ids, axis=1)
        perr_hits[rows] = count(best, hits, num_labels[rows])
    return perr_hits


def _precision_sum(scores: NDArray[Any], hits: NDArray[np.bool_]) -> float:
    """Sum over the positives of the precision at their rank, in float64.

    Args:
        scores (ndarray): Scores in any order, shape (M,).
        hits (ndarray): Which of them are positives, shape (M,).

    Returns:
        float: The sum; where scores are equal, its expectation over all their orders.
    """
    ranking, positives = np.sort(scores), np.sort(scores[hits])
    above, equal = _above_and_equal(ranking, positives)
    if (equal == 1).all():
        return float((np.arange(len(positives), 0, -1) / (above + 1)).sum())
    hits_above, hits_equal = _above_and_equal(positives, positives)
    # In a run of n equal scores with h positives, given a positive at one place, each place before
    # it holds another with probability (h - 1) / (n - 1). At place j the precision then is
    # (hits_above + 1 + chance * (j - 1)) / (above + j); its mean over j = 1..n has a closed form.
    chance = (hits_equal - 1) / np.maximum(equal - 1, 1)
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, len(scores) + 1))))
    spread = harmonic[above + equal] - harmonic[above]
    expected = chance + (hits_above + 1 - chance * (above + 1)) * spread / equal
    return float(np.where(equal > 1, expected, (hits_above + 1) / (above + 1)).sum())


def _above_and_equal(
    ascending: NDArray[Any], values: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """How many of the ascending numbers are greater than each value, and how many equal to it."""
    right = np.searchsorted(ascending, values, side='right')
    return len(ascending) - right, right - np.searchsorted(ascending, values, side='left')
