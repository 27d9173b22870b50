"""The few numbers of a checkpoint that a reader wants first, each with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .intervals import Estimate, bootstrap_mean, wilson_interval
from .results import Robustness
from .selection import shared_videos
from .tables import worst_case_text


class WorstCase(NamedTuple):
    """Accuracy where a video counts only if it is right clean and under every attack of one ball.

    Args:
        norm (str): The norm of the attacks, and their structure if they have one.
        eps (float, optional): Their radius as a fraction of the value range; None: they have none.
        attacks (list[str]): Their names.
        accuracy (Estimate): In percent.
        num_videos (int): How many videos it is of.
    """

    norm: str
    eps: float | None
    attacks: list[str]
    accuracy: Estimate
    num_videos: int

    @property
    def condition(self) -> str:
        """``'the worst case at ε = 4/255'``, with the norm where it is not ℓ∞."""
        return worst_case_text(self.norm, self.eps)


@dataclass(frozen=True)
class Summary:
    """What a checkpoint achieves; None or NaN where something was not evaluated.

    Args:
        clean (Estimate, optional): Clean top-1 accuracy in percent.
        num_clean (int): Of how many videos.
        mpc (Estimate, optional): Mean top-1 accuracy over all corruptions, in percent; NaN where
            severities are missing. The bounds are NaN unless all cells have the same videos.
        num_corrupted (int): How many videos they share.
        corruptions (list[str]): The names of the corruptions.
        rpc (float): mPC in percent of the clean accuracy.
        worst (list[WorstCase]): One for each norm and eps.
    """

    clean: Estimate | None
    num_clean: int
    mpc: Estimate | None
    num_corrupted: int
    corruptions: list[str]
    rpc: float
    worst: list[WorstCase]


def summarize(results: Robustness) -> Summary:
    """The numbers of one checkpoint.

    Args:
        results (Robustness): The results.

    Returns:
        Summary: The numbers.
    """
    has_clean = 'clean' in results.cells
    keys = results.keys('corruption')
    return Summary(
        clean=results.interval('clean') if has_clean else None,
        num_clean=len(results.cells['clean'].videos) if has_clean else 0,
        mpc=_mpc(results) if keys else None,
        num_corrupted=len(shared_videos(results.cells[key].videos for key in keys)) if keys else 0,
        corruptions=results.corruption_table().names,
        rpc=results.rpc(),
        worst=_worst_cases(results),
    )


def strongest_attack(results: Robustness) -> str | None:
    """The key of the attack under which accuracy falls most; None if there is no attack."""

    def change(key: str) -> float:
        clean = results.clean_top(key)
        return results.top(key) - (clean if math.isfinite(clean) else 0)

    return min(results.keys('attack'), key=change, default=None)


def _mpc(results: Robustness) -> Estimate:
    """mPC with an interval that a bootstrap over videos gives."""
    value, keys = results.mpc(), results.keys('corruption')
    sets = {frozenset(results.cells[key].videos) for key in keys}
    if not math.isfinite(value) or len(sets) > 1:
        return Estimate(value, math.nan, math.nan)
    videos = results.cells[keys[0]].videos
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(results.cells[key].name, []).append(key)
    shares = np.mean(
        [
            np.mean([results.correct(key, videos=videos) for key in group], axis=0)
            for group in groups.values()
        ],
        axis=0,
    )
    _, low, high = bootstrap_mean(100 * shares)
    return Estimate(value, low, high)


def _worst_cases(results: Robustness) -> list[WorstCase]:
    found = []
    for group in results.attack_groups():
        keys = [*results.keys('clean'), *group]
        if not shared_videos(results.cells[key].videos for key in keys):
            continue
        _, correct = results.survivors(keys)
        cells = [results.cells[key] for key in group]
        found.append(
            WorstCase(
                norm=cells[0].threat,
                eps=cells[0].level,
                attacks=[cell.name for cell in cells],
                accuracy=wilson_interval(int(correct.sum()), len(correct)),
                num_videos=len(correct),
            )
        )
    return found
