"""How certain an accuracy is, or the difference of two on the same videos: intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NOISE = 'within noise'
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
    """

    difference: float
    low: float
    high: float
    p_value: float | None = None
    confidence: float = 0.95

    @property
    def verdict(self) -> str:
        """``'better'``, ``'worse'`` or ``'within noise'``.

        The difference is noise if its interval contains 0 or if McNemar's test is not significant:
        with few videos the bootstrap is overconfident, since it cannot draw what they lack.
        """
        insignificant = self.p_value is not None and self.p_value >= 1 - self.confidence
        if self.low <= 0 <= self.high or insignificant or math.isnan(self.difference):
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
        correct_b (array): Of the second model, for the same videos in the same order.

    Returns:
        float: The two-sided p-value, 1 where the models agree on every video.

    Raises:
        ImportError: SciPy is missing.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
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
        Interval: Second minus first, in percentage points. Where the models agree on every video
        the difference and both bounds are 0.

    Raises:
        ValueError: The shapes differ, or there is no video.
        ImportError: SciPy, which McNemar's test needs, is missing.

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
    mean, low, high = bootstrap_mean(b - a, num_resamples, confidence, seed)
    return Interval(100 * mean, 100 * low, 100 * high, p_value, confidence)


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
