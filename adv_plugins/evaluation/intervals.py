"""How certain an accuracy is, or the difference of two on the same videos: intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NOISE = 'within noise'
TOO_FEW = 'too few videos'
MIN_VIDEOS = 20
"""With fewer videos there is no verdict: what they lack no resampling can draw."""
MIN_DIFFERING = 6
"""If fewer videos differ between two models, all of them favour the same one by chance in more than
5 % of cases (2 · 0.5⁵ = 6 %); McNemar's test has the same bound."""
_CHUNK = 2**22
"""How many numbers are resampled at a time."""
_FEW = 256
"""With more distinct values than this, drawing indices is faster than drawing counts."""


class Estimate(NamedTuple):
    """An estimate and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


class Interval(NamedTuple):
    """A difference with its confidence interval.

    Args:
        difference (float): How much more the second model has than the first.
        low (float): Lower bound.
        high (float): Upper bound.
        p_value (float, optional): That of :func:`mcnemar`, where each video is right or wrong.
            Defaults to None.
        confidence (float): Defaults to 0.95.
        num_videos (int, optional): How many videos it is of. Defaults to None: not known.
        num_differing (int, optional): At how many of them the models differ. Defaults to None: not
            known.
        num_undefined (int): How many further videos were left out, because one of the models has
            no finite number there. Defaults to 0.
    """

    difference: float
    low: float
    high: float
    p_value: float | None = None
    confidence: float = 0.95
    num_videos: int | None = None
    num_differing: int | None = None
    num_undefined: int = 0

    @property
    def verdict(self) -> str:
        """``'better'``, ``'worse'``, ``'within noise'`` or ``'too few videos'``.

        There is no verdict on fewer than ``MIN_VIDEOS`` videos. The difference is noise if its
        interval contains 0, if McNemar's test is not significant, or if fewer than
        ``MIN_DIFFERING`` videos differ.
        """
        if self.num_videos is not None and self.num_videos < MIN_VIDEOS:
            return TOO_FEW
        insignificant = self.p_value is not None and self.p_value >= 1 - self.confidence
        rare = self.num_differing is not None and self.num_differing < MIN_DIFFERING
        if self.low <= 0 <= self.high or insignificant or rare or math.isnan(self.difference):
            return NOISE
        return 'better' if self.difference > 0 else 'worse'


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Estimate:
    """A share with its Wilson score interval.

    Unlike the normal approximation it stays between 0 and 100 percent and has a width at both ends.

    Args:
        successes (int): Number of successes.
        total (int): Number of trials, at least 1.
        confidence (float): Defaults to 0.95.

    Returns:
        Estimate: The share and its bounds in percent.

    Raises:
        ValueError: The numbers are not as described.
        ImportError: SciPy is missing.
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f'got {successes} successes of {total}; give 0 to total of at least 1')
    bounds = _binomial_test(successes, total).proportion_ci(confidence, method='wilson')
    return Estimate(100 * successes / total, 100 * float(bounds.low), 100 * float(bounds.high))


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """McNemar's exact test: how likely it is by chance that the videos on which two models differ
    favour one of them that much.

    Args:
        correct_a (array): Of the first model, whether each video is right, shape (N,).
        correct_b (array): Of the second model, for the same videos in the same order. Videos at
            which one of them is NaN are left out.

    Returns:
        float: The two-sided p-value, 1 where the models agree on every video.

    Raises:
        ValueError: The shapes differ, or a video is neither right nor wrong.
        ImportError: SciPy is missing.
    """
    a, b, _ = _both_defined(correct_a, correct_b)
    if not _is_binary(a, b):
        raise ValueError('McNemar takes videos that are right (1) or wrong (0), not shares')
    gained, lost = int((b > a).sum()), int((a > b).sum())
    return float(_binomial_test(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_bootstrap(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The difference of two accuracies on the same videos, with a percentile bootstrap interval.

    Videos are drawn with replacement, each together with the answers of both models.

    Args:
        correct_a (array): Of the first model, whether each video is right, or how often it is (a
            share), shape (N,).
        correct_b (array): Of the second model, for the same videos in the same order.
        num_resamples (int): Defaults to 10,000.
        confidence (float): Defaults to 0.95.
        seed (int): Seed of the resampling, which has a generator of its own. Defaults to 0.

    Returns:
        Interval: Second minus first, in percentage points, of the videos at which both are finite.
        Where the models agree on every video the difference and both bounds are 0; without a
        video they are NaN.

    Raises:
        ValueError: The shapes differ, there is no video, or an option is out of range.
        ImportError: SciPy, which McNemar's test needs, is missing.

    Example:
        >>> paired_bootstrap([1, 1, 0, 0], [1, 1, 1, 1]).difference
        50.0
    """
    change = paired_difference(correct_a, correct_b, num_resamples, confidence, seed)
    points = {name: 100 * getattr(change, name) for name in ('difference', 'low', 'high')}
    a, b, _ = _both_defined(correct_a, correct_b)
    binary = len(a) > 0 and _is_binary(a, b)
    return change._replace(**points, p_value=mcnemar(a, b) if binary else None)


def paired_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The difference of the means of any number that each video has, in its own unit.

    Args:
        values_a (array): Of the first model, shape (N,).
        values_b (array): Of the second model, for the same videos in the same order.
        num_resamples (int): Defaults to 10,000.
        confidence (float): Defaults to 0.95.
        seed (int): As for :func:`paired_bootstrap`. Defaults to 0.

    Returns:
        Interval: Second minus first, as for :func:`paired_bootstrap`.

    Raises:
        ValueError: The shapes differ, there is no video, or an option is out of range.
    """
    _check_resampling(num_resamples, confidence)
    a, b, num_undefined = _both_defined(values_a, values_b)
    if len(a) + num_undefined == 0:
        raise ValueError('both models need a number for each of the same videos, got no video')
    estimate = Estimate(math.nan, math.nan, math.nan)
    if len(a):
        estimate = bootstrap_mean(b - a, num_resamples, confidence, seed)
    return Interval(
        *estimate,
        confidence=confidence,
        num_videos=len(a),
        num_differing=int((a != b).sum()),
        num_undefined=num_undefined,
    )


def _both_defined(
    values_a: ArrayLike, values_b: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The numbers of both models where both are finite, and at how many videos they are not."""
    a, b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f'both models need one number for each of the same videos, shape (N,), got {a.shape} '
            f'and {b.shape}'
        )
    defined = np.isfinite(a) & np.isfinite(b)
    return a[defined], b[defined], int((~defined).sum())


def _is_binary(*columns: NDArray[np.float64]) -> bool:
    """Whether all numbers are 0 or 1."""
    return all(bool(np.isin(column, (0, 1)).all()) for column in columns)


def _check_resampling(num_resamples: int, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f'confidence={confidence!r} must be a share such as 0.95')
    if num_resamples < 1:
        raise ValueError(f'num_resamples={num_resamples!r} must be at least 1')


def bootstrap_mean(
    values: NDArray[np.float64],
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """A mean with its percentile bootstrap interval.

    Written here since ``scipy.stats.bootstrap`` takes a thousand times as long for the videos of a
    large dataset.

    Args:
        values (ndarray): One number a video, shape (N,).
        num_resamples (int): Defaults to 10,000.
        confidence (float): Defaults to 0.95.
        seed (int): As for :func:`paired_bootstrap`. Defaults to 0.

    Returns:
        Estimate: In the unit of the values.
    """
    total = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return Estimate(*[float(distinct[0])] * 3)
    generator = np.random.default_rng(seed)
    few = len(distinct) <= _FEW
    means = []
    for size in _chunks(num_resamples, _CHUNK // (len(distinct) if few else total) + 1):
        if few:
            # The mean depends only on how often each distinct value is drawn.
            drawn = generator.multinomial(total, counts / total, size)
            means.append(drawn @ distinct / total)
        else:
            means.append(values[generator.integers(total, size=(size, total))].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return Estimate(float(values.mean()), float(low), float(high))


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _binomial_test(successes: int, total: int) -> Any:
    """SciPy's exact test of a share against one half, which gives its interval as well."""
    try:
        # Imported only when needed: it takes half a second.
        from scipy.stats import binomtest
    except ImportError as error:
        raise ImportError(
            'intervals and tests need SciPy; install it with: pip install "adv_plugins[mmaction]"'
        ) from error
    return binomtest(successes, total)
