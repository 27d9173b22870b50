"""Which conditions an evaluation of robustness has, on which videos, and how each is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..core.checks import near_names
from ..core.option_values import as_count, as_length, check_within_range
from ..core.recipe import RECIPES, Recipe
from ..core.threat import ThreatModel
from ..datasets.corruptions import VideoCorruption
from .attacks import Attack, Universal, attack_class, build_attack, kept_name
from .attacks.recipes import build_attack_recipe
from .deepfool import checked_options
from .measurements import Columns, Measurements, VideoBatch
from .results import Cell
from .selection import evenly_spread
from .tables import eps_text

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
CURVE_OF = 'pgd'
"""The default radii of the ε curve."""
DEEPFOOL = dict(num_candidates=10, max_iter=50)
"""The default options of DeepFool; ``deepfool=None`` leaves it out."""

Measure = Callable[[VideoBatch], Columns]


@dataclass(frozen=True)
class Condition:
    """A cell to fill, and how.

    Args:
        cell (Cell): The planned cell: its kind, name, level, options, videos, and the names of its
            values.
        measure (Callable): Measures the videos of a batch.
        cost (int): What a video costs at most, in forwards of the model.
        planned (PlannedAttack, optional): The attack of the cell. Defaults to None: it has none.
    """

    cell: Cell
    measure: Measure
    cost: int
    planned: PlannedAttack | None = None

    def refusal(self, num_classes: int) -> str:
        """Why it cannot be measured for a model of so few classes; '' if it can.

        Args:
            num_classes (int): How many classes the model has.
        """
        attack = self.planned and self.planned.attack
        if isinstance(attack, Attack) and num_classes < attack.least_classes:
            return "left out: loss='dlr' compares three classes, and the model has fewer"
        return ''


@dataclass(frozen=True)
class PlannedAttack:
    """An attack that was asked for.

    Args:
        options (dict): As a cell keeps them.
        attack (Attack | Recipe): What they mean.
    """

    options: dict[str, Any]
    attack: Attack | Recipe

    @classmethod
    def of(cls, where: str, entry: Any, eps: float | None = None) -> PlannedAttack:
        """Build an attack; errors say which one they are about.

        Args:
            where (str): What the entry is called, for the messages.
            entry (Attack | str | type | Mapping): What was given.
            eps (float, optional): Its radius, unless it has one of its own. Defaults to None.

        Raises:
            ValueError: The entry is no attack.
        """
        options = _as_options(where, entry)
        if eps is not None:
            options = {'eps': eps} | options
        try:
            options = as_lengths(options)
            name = recipe_name(options.get('type'))
            if name is None:
                attack = build_attack(options)
                name = kept_name(type(attack))
            else:
                attack = build_attack_recipe({**options, 'type': name})
            check_within_range('eps', attack.eps, attack.norm)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{where}: {error}') from error
        if not isinstance(options['type'], str):
            options['type'] = name
        return cls(options, attack)

    @property
    def threat(self) -> ThreatModel:
        """Which perturbations it may use."""
        recipe = isinstance(self.attack, Recipe)
        return self.attack.solver.threat if recipe else self.attack.threat

    @property
    def differs_by_view(self) -> bool:
        """Whether it may change more of several views than an attack of the same threat model: a
        recipe has a ball for each view, all other attacks have one for the whole video."""
        threat = self.threat
        whole = threat.norm == 'linf' and threat.frames is None and {*threat.shared} <= {*'chw'}
        return isinstance(self.attack, Recipe) and not whole

    @property
    def cost(self) -> int:
        """What a video costs at most, in forwards."""
        recipe = isinstance(self.attack, Recipe)
        return 3 * self.attack.steps + 1 if recipe else self.attack.cost


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated; for the options see
    :class:`adv_plugins.evaluation.RobustnessTestLoop`.

    Everything is checked here, before a weight is loaded or a video read. What clearly means a
    number or a list is taken as such: ``'8/255'``, ``'snow'``, ``3`` as the only severity.

    Raises:
        ValueError: An option is not as described.
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
        # The dataclass is frozen, so replace what was given by what it means via vars().
        own = vars(self)
        own['seed'] = as_count('seed', self.seed, 0)
        for option in ('num_videos', 'attack_videos'):
            if getattr(self, option) is not None:
                own[option] = as_count(option, getattr(self, option))
        for option in ('attention', 'fp16'):
            if not isinstance(getattr(self, option), bool):
                raise ValueError(f'{option}={getattr(self, option)!r} must be True or False')
        own['severities'] = [as_count('severities', each) for each in _listed(self.severities)]
        own['corruptions'] = [str(each) for each in _listed(self.corruptions)]
        for name in self.corruptions:
            for severity in self.severities or (1,):
                try:
                    VideoCorruption(name, severity, self.seed)
                except ValueError as error:
                    raise ValueError(f'corruptions and severities: {error}') from error
        own['eps'] = as_length('eps', self.eps)
        own['curve_eps'] = [as_length('curve_eps', each) for each in _listed(self.curve_eps)]
        own['attacks'] = self._planned_attacks()
        self._curve_attacks()
        if self.deepfool is not None:
            checked = checked_options(self.deepfool)
            own['deepfool'] = {name: checked[name] for name in self.deepfool}
        for option in ('corruptions', 'severities', 'curve_eps'):
            values = getattr(self, option)
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f'{option} has {twice[0]!r} twice; write each of them once')

    def conditions(self, measurements: Measurements, total: int) -> list[Condition]:
        """All conditions, the cheap ones first.

        Args:
            measurements (Measurements): What can be measured.
            total (int): Number of videos in the dataset.
        """
        every, few = self._videos(total)
        conditions = list(self._conditions(measurements))
        for condition in conditions:
            cell = condition.cell
            cell.videos = every if cell.kind in ('clean', 'corruption') else few
            if self.fp16:
                cell.options['fp16'] = True
        return conditions

    def transfer_cell(self, source: str, attack: str, total: int, num_videos: int) -> Cell:
        """The cell of the adversarial examples of other weights.

        Args:
            source (str): The digest of these weights.
            attack (str): The name of one of the attacks.
            total (int): Number of videos in the dataset.
            num_videos (int): How many of those that are attacked it has at most.
        """
        cell = self._attack_cell('transfer', source, self.attacks[attack], {})
        cell.options |= {'attack': attack} | ({'fp16': True} if self.fp16 else {})
        _, few = self._videos(total)
        cell.videos = [few[i] for i in evenly_spread(len(few), num_videos)]
        return cell

    def describe(self) -> str:
        """What is evaluated, in a line for the log."""
        parts = ['clean']
        if self.corruptions:
            parts.append(f'{len(self.corruptions)} corruptions × {len(self.severities)} severities')
        radii = dict.fromkeys(eps_text(planned.attack.eps) for planned in self.attacks.values())
        if self.attacks:
            names = ', '.join(self.attacks)
            parts.append(f'{len(self.attacks)} attacks at eps {", ".join(radii)} ({names})')
        if self.curve is not None and self.curve_eps:
            parts.append(f'{self.curve} at eps {", ".join(map(eps_text, self.curve_eps))}')
        else:
            parts.append('no curve over eps')
        if self.deepfool is not None:
            parts.append('DeepFool')
        return '; '.join([*parts, 'probes for the sanity flags'])

    def _videos(self, total: int) -> tuple[list[int], list[int]]:
        """Which videos are evaluated, and which of these are attacked."""
        # Datasets are often sorted by class: the first videos would be of a few classes alone.
        every = evenly_spread(total, self.num_videos or total)
        few = evenly_spread(len(every), self.attack_videos or len(every))
        return every, [every[index] for index in few]

    def _planned_attacks(self) -> dict[str, PlannedAttack]:
        if not isinstance(self.attacks, Mapping):
            raise ValueError(
                f'attacks={self.attacks!r} must have names; write '
                "attacks=dict(pgd=dict(type='PGD'))"
            )
        planned = {}
        for name, entry in self.attacks.items():
            if not isinstance(name, str) or not name or '/' in name:
                raise ValueError(f"attacks has the name {name!r}; write a word such as 'pgd'")
            planned[name] = PlannedAttack.of(f'attacks[{name!r}]', entry, self.eps)
        if self.curve == CURVE_OF and CURVE_OF not in planned:
            # It is the default: other attacks were chosen, and none of them for a curve.
            vars(self).update(curve=None)
        if self.curve is not None and self.curve_eps and self.curve not in planned:
            near = near_names(str(self.curve), planned) or list(planned)
            choices = ' or '.join(f'curve={name!r}' for name in near)
            raise ValueError(
                f'curve={self.curve!r} is none of the attacks; write '
                f'{choices + ", or " if choices else ""}curve=None for no curve'
            )
        return planned

    def _curve_attacks(self) -> list[PlannedAttack]:
        """The attack of the curve at each of its radii."""
        if self.curve is None:
            return []
        where = f'curve_eps of {self.curve!r}'
        entries = [{**self.attacks[self.curve].options, 'eps': eps} for eps in self.curve_eps]
        return [PlannedAttack.of(where, entry) for entry in entries]

    def _conditions(self, measurements: Measurements) -> Iterator[Condition]:
        look = 4 if self.attention else 0
        clean = measurements.predict_and_attend if self.attention else measurements.predict
        values = {'entropy': []} if self.attention else {}
        yield Condition(Cell('clean', values=values), clean, 1 + look)
        for name in self.corruptions:
            for severity in self.severities:
                cell = Cell('corruption', name, severity, dict(seed=self.seed))
                yield Condition(cell, measurements.predict, 1)
        for name, planned in self.attacks.items():
            values = {'entropy': [], 'cam_shift': []} if self.attention else {}
            cell = self._attack_cell('attack', name, planned, values)
            measure = partial(measurements.attack, planned.attack, self.attention)
            yield Condition(cell, measure, 2 + 2 * look + planned.cost, planned)
        for planned in self._curve_attacks():
            cell = self._attack_cell('curve', str(self.curve), planned, {})
            measure = partial(measurements.attack, planned.attack, False)
            yield Condition(cell, measure, 2 + planned.cost, planned)
        if self.deepfool is not None:
            options = checked_options(self.deepfool)
            cost = 1 + options['max_iter'] * (1 + 2 * options['num_candidates'])
            cell = Cell('deepfool', options=self.deepfool)
            yield Condition(cell, partial(measurements.deepfool, options), cost)
        yield Condition(Cell('sanity'), measurements.probe, measurements.probe_cost)

    def _attack_cell(
        self, kind: str, name: str, planned: PlannedAttack, values: dict[str, list[float]]
    ) -> Cell:
        # Attacks of different norms have no worst case together, and no different structures.
        threat = planned.threat
        options = {**planned.options, 'seed': self.seed, 'norm': threat.norm}
        if str(threat) != threat.norm:
            options['threat'] = str(threat)
        if isinstance(planned.attack, Universal):
            # A file may be written anew under its name.
            options['digest'] = planned.attack.perturbation.digest
        return Cell(kind, name, planned.attack.eps, options, values=values)


def recipe_name(kind: Any) -> str | None:
    """The name of the recipe that a ``type`` means, written in any way, if it means one."""
    if attack_class(kind) is not None:
        return None
    name = getattr(kind, '__name__', None) or str(kind).rpartition('.')[2]
    folded = {recipe.lower(): recipe for recipe in RECIPES}
    return folded.get(name.lower().replace('_', ''))


def as_lengths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an attack in which ``eps`` and ``step_size`` may be text such as ``'8/255'``."""
    given = {n: options[n] for n in ('eps', 'step_size') if options.get(n) is not None}
    # A recipe's eps that changes is told where recipes are built.
    given = {n: value for n, value in given.items() if not isinstance(value, Mapping)}
    return {**options, **{name: as_length(name, value) for name, value in given.items()}}


def _as_options(where: str, entry: Any) -> dict[str, Any]:
    """What was given for an attack as a dict with its type."""
    if isinstance(entry, Attack):
        structure = {name: getattr(entry, name) for name in ('shared', 'frames', 'region')}
        # Cells without a structure are as earlier versions wrote them.
        absent = {name for name, value in structure.items() if value in ((), None)}
        return {'type': type(entry)} | {n: v for n, v in vars(entry).items() if n not in absent}
    if isinstance(entry, Mapping):
        return dict(entry)
    if isinstance(entry, str) or callable(entry):
        return {'type': entry}
    raise ValueError(f"{where}={entry!r} is no attack; write {where}=dict(type='PGD', steps=20)")


def _listed(values: Any) -> list[Any]:
    """The values, or the only one; a command line gives one value without a list."""
    if isinstance(values, str):
        return [part.strip() for part in values.strip('[]() ').split(',') if part.strip()]
    return list(values) if isinstance(values, Iterable) else [values]
