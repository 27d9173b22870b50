"""Which conditions an evaluation of robustness has, on which videos, and how each is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..core.recipe import RECIPES, Recipe, build_recipe
from .attacks import Attack, build_attack
from .measurements import Columns, Measurements, VideoBatch
from .results import Cell, Robustness
from .selection import evenly_spread

ATTACKS = dict(
    noise=dict(type='UniformNoise', restarts=10),
    fgsm=dict(type='FGSM'),
    pgd=dict(type='PGD', steps=20, restarts=5),
    apgd_ce=dict(type='APGD', steps=100, loss='ce'),
    apgd_dlr=dict(type='APGD', steps=100, loss='dlr'),
    square=dict(type='Square', queries=5000),
    cam=dict(type='TAF', steps=10, step_size=None),
)
"""The default attacks, at the loop's ``eps``."""
CURVE = (1 / 255, 2 / 255, 8 / 255, 16 / 255)
"""The default radii of the ε curve."""
DEEPFOOL = dict(num_candidates=10, max_iter=50)
"""The default options of DeepFool; ``deepfool=None`` leaves it out."""

Measure = Callable[[VideoBatch], Columns]


@dataclass(frozen=True)
class Condition:
    """A cell to fill, and how.

    Args:
        cell (Cell): The planned cell: its kind, name, level, options and videos.
        prepare (Callable): Gives the function that measures the videos of a batch; raises where
            the condition cannot be, such as for an attack that does not exist.
    """

    cell: Cell
    prepare: Callable[[], Measure]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated; for the options see
    :class:`~adv_plugins.evaluation.robustness_loop.RobustnessTestLoop`.

    Raises:
        ValueError: A number of videos is less than 1.
    """

    corruptions: Sequence[str]
    severities: Sequence[int]
    attacks: Mapping[str, Any]
    eps: float
    curve: str | None
    curve_eps: Sequence[float]
    deepfool: Mapping[str, Any] | None
    attention: bool
    num_videos: int | None
    attack_videos: int | None
    seed: int
    fp16: bool

    def __post_init__(self) -> None:
        for option in ('num_videos', 'attack_videos'):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ValueError(f'{option}={value} must be at least 1, or None for all')

    def conditions(
        self, measurements: Measurements, total: int, results: Robustness
    ) -> Iterator[Condition]:
        """All conditions, the cheap ones first.

        Args:
            measurements (Measurements): What can be measured.
            total (int): Number of videos in the dataset.
            results (Robustness): The results so far. Videos that could not be read are left out of
                the conditions that come after.

        Yields:
            Condition: One cell after the other.
        """
        for cell, prepare, count in self._cells(measurements):
            # Datasets are often sorted by class: the first videos would be of a few classes alone.
            videos = evenly_spread(total, self.num_videos or total)
            videos = [videos[place] for place in evenly_spread(len(videos), count or len(videos))]
            cell.videos = [v for v in videos if f'video {v}' not in results.missing]
            if self.fp16:
                cell.options['fp16'] = True
            yield Condition(cell, prepare)

    def _cells(
        self, measurements: Measurements
    ) -> Iterator[tuple[Cell, Callable[[], Measure], int | None]]:
        """Each cell, what prepares its measurement, and on how many videos (None: on all)."""
        few = self.attack_videos
        clean = measurements.predict_and_attend if self.attention else measurements.predict
        yield Cell('clean'), lambda: clean, None
        for name in self.corruptions:
            for severity in self.severities:
                cell = Cell('corruption', name, severity, dict(seed=self.seed))
                yield cell, lambda: measurements.predict, None
        attacks = {
            name: dict(type=given) if isinstance(given, str) else dict(given)
            for name, given in self.attacks.items()
        }
        for name, options in attacks.items():
            options = dict(eps=self.eps) | options
            cell = Cell('attack', name, options['eps'], options)
            yield cell, self._attack(measurements, cell, self.attention), few
        for eps in self.curve_eps if self.curve is not None else ():
            cell = Cell('curve', str(self.curve), eps, dict(attacks.get(self.curve, {}), eps=eps))
            yield cell, self._attack(measurements, cell, False), few
        if self.deepfool is not None:
            options = dict(self.deepfool)
            cell = Cell('deepfool', options=options)
            yield cell, lambda: partial(measurements.deepfool, options), few
        yield Cell('sanity'), lambda: measurements.probe, few

    def _attack(
        self, measurements: Measurements, cell: Cell, with_attention: bool
    ) -> Callable[[], Measure]:
        """What prepares an attack; its seed and norm become options of the cell."""
        entry = dict(cell.options)
        cell.options['seed'] = self.seed
        with contextlib.suppress(ValueError):
            # Attacks of different norms have no worst case together. What is wrong with an attack
            # is reported when it is prepared.
            cell.options['norm'] = _build(entry).norm
        return lambda: partial(measurements.attack, _build(entry), with_attention)


def _build(entry: Mapping[str, Any]) -> Attack | Recipe:
    kind = str(entry.get('type', '')).lower()
    return build_recipe(entry) if kind in {n.lower() for n in RECIPES} else build_attack(entry)
