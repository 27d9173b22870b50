"""The tables of the study on TAF, from a file of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adv_plugins.core.cost import step_cost, within_budget

from .arms import ARMS, MAIN
from .fit import BATCH
from .markdown import spread, table
from .measure import PGD_EPS
from .paired import holm, paired
from .store import Results

CLAIMS = (('taf', 'clean'), ('taf', 'noise'), ('taf', 'ce'))
"""Fixed before the confirmation: which arm is compared with which, in validation top-1."""
CONFIRMATION = dict(data='ordered-digits', model='tsm', base_epochs=80)
CONFIRMATION_SEEDS = range(10, 30)

Column = Callable[[str, str], dict[int, float]]


def markdown(results: Results) -> str:
    """All tables that the cells of a file fill, one set for each data set, model and base."""
    parts = []
    for which in regimes(results):
        column = columns(results, which)
        arms = [arm for arm in ARMS if column('val', arm)]
        main = [arm for arm in ('base', *MAIN) if arm in arms]
        further = [arm for arm in arms if arm not in main]
        parts.append('### {data}, {model}, {base_epochs} base epochs'.format(**which))
        if which == CONFIRMATION:
            parts.append(_claims(column))
        parts += [_accuracy(column, main, ('train', 'val')), _accuracy(column, further)]
        parts += [
            _differences(column, arms, ROBUSTNESS, 2),
            _differences(column, main, ATTENTION, 4),
        ]
    return '\n\n'.join(part for part in parts if part)


def summary(files: Sequence[Results]) -> str:
    """The regimes of several files: how far the base is, and what the main arms gain over clean."""
    header = ('regime', 'seeds', 'base: train', 'base: val', 'clean − base (95 %)')
    header += tuple(f'{ARMS[arm].title} − clean' for arm in MAIN if arm != 'clean')
    rows = []
    for results in files:
        for which in regimes(results):
            column = columns(results, which)
            rows.append(
                (
                    '{data}, {model}, {base_epochs} base epochs'.format(**which),
                    str(len(column('val', 'taf'))),
                    *(spread(list(column(value, 'base').values())) for value in ('train', 'val')),
                    _gain(column, 'val', 'clean', over='base'),
                    *(_gain(column, 'val', arm) for arm in MAIN if arm != 'clean'),
                )
            )
    return table(header, rows)


def regimes(results: Results) -> list[dict[str, Any]]:
    """The data sets, models and bases of a file."""
    names = ('data', 'model', 'base_epochs')
    found = {tuple(cell[name] for name in names) for cell in results.cells.values()}
    return [dict(zip(names, values, strict=True)) for values in sorted(found)]


def columns(results: Results, which: dict[str, Any]) -> Column:
    """A function that gives a measured value of an arm by seed."""
    return lambda value, arm: results.by_seed(value, arm=arm, **which)


def _gain(column: Column, value: str, arm: str, digits: int = 2, over: str = 'clean') -> str:
    """The difference to another arm with its interval; '' where no seed has both."""
    some, other = column(value, arm), column(value, over)
    if arm == over or not some.keys() & other.keys():
        return ''
    return paired(some, other).text(digits)


def _above(column: Column, arm: str) -> str:
    """In how many seeds an arm is above clean fine-tuning."""
    some, clean = column('val', arm), column('val', 'clean')
    if arm == 'clean' or not some.keys() & clean.keys():
        return ''
    found = paired(some, clean)
    return f'{found.positive} of {found.count}'


def _cost(column: Column, arm: str) -> str:
    """Training after the base in clean trainings of 18 epochs, counted, and in CPU seconds."""
    if arm == 'base':
        return ''
    seconds = spread(list(column('seconds', arm).values()), digits=0)
    recipe, cost = ARMS[arm].build(), 1.0
    if ARMS[arm].from_scratch:
        return f'{seconds} s, base included'
    if recipe is not None:
        recipe = within_budget(recipe, BATCH)
        cost += (step_cost(recipe) - 1) / recipe.interval
    return f'{cost * ARMS[arm].epochs / ARMS["clean"].epochs:.2f}; {seconds} s'


def _accuracy(column: Column, arms: Sequence[str], absolute: Sequence[str] = ()) -> str:
    """Gains in validation top-1, each over the arm's own seeds.

    ``absolute`` names accuracies to show as they are, where all arms have the same seeds.
    """
    header = ('arm', 'seeds', *absolute, 'val − clean (95 %)', 'above clean')
    header += ('val − TAF (95 %)', 'cross-entropy − clean (95 %)', 'cost')
    return table(
        header,
        [
            (
                ARMS[arm].title,
                str(len(column('val', arm))),
                *(spread(list(column(value, arm).values())) for value in absolute),
                _gain(column, 'val', arm),
                _above(column, arm),
                _gain(column, 'val', arm, over='taf'),
                _gain(column, 'ce', arm),
                _cost(column, arm),
            )
            for arm in arms
        ],
    )


ROBUSTNESS = {
    'paper_corruptions': "the paper's eight corruptions",
    'video_corruptions': 'six video corruptions',
    **{f'pgd{eps}': f'PGD, ε = {eps}/255' for eps in PGD_EPS},
}
ATTENTION = {
    'entropy': 'entropy',
    'top_frame': 'share of the top frame',
    'overlap_taf': "overlap under TAF's attack",
    'overlap_ce': 'overlap under the CE-based attack',
    'overlap_noise': 'overlap under random signs',
}


def _differences(column: Column, arms: Sequence[str], values: dict[str, str], digits: int) -> str:
    """Clean fine-tuning's own values, and the other arms' differences to them."""
    values = {value: name for value, name in values.items() if column(value, 'clean')}
    arms = [arm for arm in arms if any(column(value, arm) for value in values)]
    rows = []
    for arm in arms if values else ():
        own = arm == 'clean'
        cells = (
            spread(list(column(v, arm).values()), digits - 1)
            if own
            else _gain(column, v, arm, digits)
            for v in values
        )
        rows.append((f'{ARMS[arm].title}{"" if own else " − clean"}', *cells))
    return table(('arm', *values.values()), rows)


def _claims(column: Column) -> str:
    """The claims that were fixed beforehand, over the seeds that were, corrected by Holm."""

    def planned(arm: str) -> dict[int, float]:
        return {s: v for s, v in column('val', arm).items() if s in CONFIRMATION_SEEDS}

    if not all(len(planned(arm)) == len(CONFIRMATION_SEEDS) for pair in CLAIMS for arm in pair):
        return ''
    found = [paired(planned(a), planned(b)) for a, b in CLAIMS]
    corrected = [holm([getattr(f, test) for f in found]) for test in ('t_test', 'wilcoxon')]
    return table(
        ('claim', 'seeds', 'difference (95 %)', 'p, t test', 'p, Wilcoxon', 'result'),
        [
            (
                f'{ARMS[a].title} − {ARMS[b].title}',
                f'{CONFIRMATION_SEEDS[0]} to {CONFIRMATION_SEEDS[-1]}',
                one.text(),
                f'{t:.2g}',
                f'{w:.2g}',
                one.sign if max(t, w) < 0.05 else 'noise',
            )
            for (a, b), one, t, w in zip(CLAIMS, found, *corrected, strict=True)
        ],
    )
