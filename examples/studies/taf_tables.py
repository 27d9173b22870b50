"""The tables of the study on TAF, from a file of results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adv_plugins.core.cost import step_cost, within_budget

from .arms import ARMS
from .fit import BATCH
from .measure import PGD_EPS
from .paired import holm, paired, spread
from .store import Results

CLAIMS = (('taf', 'clean'), ('taf', 'noise'), ('taf', 'ce'))
"""Fixed before the confirmation: which arm is compared with which, in validation top-1."""


Column = Callable[[str, str], dict[int, float]]


def regimes(results: Results) -> list[dict[str, Any]]:
    """The data sets, models and bases of a file."""
    names = ('data', 'model', 'base_epochs')
    found = {tuple(cell[name] for name in names) for cell in results.cells.values()}
    return [dict(zip(names, values, strict=True)) for values in sorted(found)]


def columns(results: Results, which: dict[str, Any]) -> Column:
    """A function that gives a measured value of an arm by seed."""
    return lambda value, arm: results.by_seed(value, arm=arm, **which)


def markdown(results: Results) -> str:
    """All tables that the cells of a file fill, one set for each data set, model and base."""
    parts = []
    for which in regimes(results):
        column = columns(results, which)
        arms = [arm for arm in ARMS if column('val', arm)]
        title = '{data}, {model}, {base_epochs} base epochs'.format(**which)
        parts += [f'### {title}', _accuracy(column, arms), _robustness(column, arms)]
        parts += [_attention(column, arms), _claims(column, arms)]
    return '\n\n'.join(part for part in parts if part)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _gain(column: Column, value: str, arm: str, digits: int = 2, over: str = 'clean') -> str:
    """The difference to another arm, with its interval."""
    other = column(value, over)
    return '' if arm == over or not other else paired(column(value, arm), other).text(digits)


def _cost(arm: str) -> str:
    """A step in clean steps, counted."""
    recipe = ARMS[arm].build()
    if recipe is None:
        return '' if arm == 'base' else '1.00'
    recipe = within_budget(recipe, BATCH)
    return f'{1 + (step_cost(recipe) - 1) / recipe.interval:.2f}'


def _accuracy(column: Column, arms: list[str]) -> str:
    header = ['arm', 'seeds', 'train', 'val', 'val − clean (95 %)', 'seeds above clean']
    header += ['val − TAF (95 %)', 'cross-entropy − clean (95 %)', 'paper', 'cost']
    rows = []
    for arm in arms:
        val = column('val', arm)
        above = paired(val, column('val', 'clean'))
        rows.append(
            [
                ARMS[arm].title,
                str(len(val)),
                *(spread(list(column(value, arm).values())) for value in ('train', 'val')),
                _gain(column, 'val', arm),
                '' if arm == 'clean' else f'{above.positive} of {above.count}',
                _gain(column, 'val', arm, over='taf'),
                _gain(column, 'ce', arm),
                ARMS[arm].paper,
                _cost(arm),
            ]
        )
    return _table(header, rows)


def _robustness(column: Column, arms: list[str]) -> str:
    values = {
        'paper_corruptions': "the paper's eight corruptions",
        'video_corruptions': 'six video corruptions',
        **{f'pgd{eps}': f'PGD, ε = {eps}/255' for eps in PGD_EPS},
    }
    header = ['arm', *(f'{name} − clean' for name in values.values())]
    rows = []
    for arm in arms:
        if arm == 'clean':
            cells = [spread(list(column(value, arm).values())) for value in values]
        else:
            cells = [_gain(column, value, arm) for value in values]
        rows.append([ARMS[arm].title, *cells])
    return _table(header, rows)


def _attention(column: Column, arms: list[str]) -> str:
    values = {
        'entropy': 'entropy',
        'top_frame': 'share of the top frame',
        'overlap_taf': "overlap under TAF's attack",
        'overlap_ce': 'overlap under the CE-based attack',
    }
    header = ['arm', *(f'{name} − clean' for name in values.values())]
    rows = []
    for arm in arms:
        if arm == 'clean':
            cells = [spread(list(column(value, arm).values()), digits=3) for value in values]
        else:
            cells = [_gain(column, value, arm, digits=4) for value in values]
        rows.append([ARMS[arm].title, *cells])
    return _table(header, rows)


def _claims(column: Column, arms: list[str]) -> str:
    """The claims that were fixed beforehand, with Holm's correction over them."""
    known = [(a, b) for a, b in CLAIMS if {a, b} <= set(arms)]
    found = [paired(column('val', a), column('val', b)) for a, b in known]
    if not found or any(each.count < 2 for each in found):
        return ''
    corrected = [holm([getattr(f, test) for f in found]) for test in ('t_test', 'wilcoxon')]
    header = [
        'claim',
        'seeds',
        'difference (95 %)',
        'p, t test, Holm',
        'p, Wilcoxon, Holm',
        'result',
    ]
    rows = [
        [
            f'{ARMS[a].title} − {ARMS[b].title}',
            str(one.count),
            one.text(),
            f'{t:.2g}',
            f'{w:.2g}',
            one.sign if max(t, w) < 0.05 else 'noise',
        ]
        for (a, b), one, t, w in zip(known, found, *corrected, strict=True)
    ]
    return _table(header, rows)
