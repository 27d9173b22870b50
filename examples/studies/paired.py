"""Statistics of a study: differences to another arm, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Paired:
    """The differences of two arms over the seeds that both have.

    Args:
        mean (float): Mean difference.
        low (float): Lower end of the 95 % t interval; NaN with a single seed, as ``high`` and the
            p values are.
        high (float): Its upper end.
        t_test (float): Two-sided p value of the paired t test.
        wilcoxon (float): Two-sided p value of Wilcoxon's signed-rank test.
        positive (int): Number of seeds with a difference above 0.
        count (int): Number of seeds.
    """

    mean: float
    low: float
    high: float
    t_test: float
    wilcoxon: float
    positive: int
    count: int

    @property
    def sign(self) -> str:
        """``'+'`` or ``'-'`` where the interval leaves 0 out, else ``'noise'``."""
        if self.low > 0:
            return '+'
        return '-' if self.high < 0 else 'noise'

    def text(self, digits: int = 2) -> str:
        """``+1.36 (+0.73 to +1.99)``."""
        mean = f'{self.mean:+.{digits}f}'
        if self.count < 2:
            return mean
        return f'{mean} ({self.low:+.{digits}f} to {self.high:+.{digits}f})'


def paired(some: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    """Compare two arms.

    Args:
        some (Mapping[int, float]): The values of one arm by seed.
        other (Mapping[int, float]): Those of the arm to compare with.

    Returns:
        Paired: The differences ``some - other`` over the common seeds.

    Raises:
        ValueError: The arms have no seed in common.
    """
    seeds = sorted(some.keys() & other.keys())
    if not seeds:
        raise ValueError('the two arms have no seed in common: run both with the same --seeds')
    differences = np.array([some[seed] - other[seed] for seed in seeds])
    mean, count = float(differences.mean()), len(seeds)
    positive = int((differences > 0).sum())
    if count < 2:
        return Paired(mean, np.nan, np.nan, np.nan, np.nan, positive, count)
    error = float(stats.sem(differences))
    if error == 0:
        p = 1.0 if mean == 0 else 0.0
        return Paired(mean, mean, mean, p, _wilcoxon(differences), positive, count)
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return Paired(mean, mean - reach, mean + reach, p, _wilcoxon(differences), positive, count)


def _wilcoxon(differences: np.ndarray) -> float:
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p values of several claims, adjusted so that any false one is rare.

    The smallest of m values is multiplied by m, the next by m - 1, and so on; none may be smaller
    than the one before it, or larger than 1.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
