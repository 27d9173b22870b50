"""The tables of the A-ART study, in Markdown."""

from __future__ import annotations

import itertools

import numpy as np

from .aart_cells import BETAS, REGIMES
from .markdown import spread, table
from .paired import holm, paired
from .store import Results

# Ten steps, in the ball of training and in one of twice its radius.
CLAIMS = {'pgd': 'ε', 'pgd2': '2 ε'}


def exploration(results: Results) -> str:
    """Gain of A-ART over ART by β, on the validation split: in both balls, and their mean."""
    rows = []
    for name in _regimes(results, 'validate'):
        for arm in (f'aart-{beta:g}' for beta in BETAS):
            some, art = (
                {v: _values(results, name, a, v, 'validate') for v in CLAIMS} for a in (arm, 'art')
            )
            if not some['pgd'].keys() & art['pgd'].keys():
                continue
            gains = [paired(some[value], art[value]) for value in CLAIMS]
            mean = np.mean([gain.mean for gain in gains])
            texts = [gain.text(1) for gain in gains]
            rows.append([f'`{name}`', arm.partition('-')[2], *texts, f'{mean:+.2f}'])
    return table(['regime', 'β', *(f'attacks of {ball}' for ball in CLAIMS.values()), 'mean'], rows)


def tables(results: Results) -> str:
    """The tables of the confirmation: the claims, everything beside them, and the replay."""
    parts = [
        ('A-ART over ART under ten steps', _claims(results)),
        ('A-ART minus ART elsewhere, and minus the controls', _others(results)),
        ('Replay', _replay(results)),
    ]
    return '\n\n'.join(f'**{title}**\n\n{text}' for title, text in parts)


def _claims(results: Results) -> str:
    """The gains by regime and ball, with Holm's correction over all of them."""
    rows, p_values = [], []
    for name, value in itertools.product(_regimes(results, 'test'), CLAIMS):
        arms = {arm: _values(results, name, arm, value) for arm in ('non-art', 'art', 'aart')}
        if not arms['art'].keys() & arms['aart'].keys():
            continue
        gain = paired(arms['aart'], arms['art'])
        p_values.append(gain.t_test)
        columns = [spread(list(by_seed.values())) if by_seed else '' for by_seed in arms.values()]
        tests = [gain.text(), f'{gain.positive} of {gain.count}', f'{gain.wilcoxon:.3f}']
        rows.append([f'`{name}`', f'{REGIMES[name].beta:g}', CLAIMS[value], *columns, *tests])
    for row, p in zip(rows, holm(p_values), strict=True):
        row.append('< 0.0001' if p < 1e-4 else f'{p:.4f}')
    head = ['regime', 'β', 'ball', 'Non-ART', 'ART', 'A-ART', 'A-ART − ART (95 %)', 'better in']
    return table([*head, 'Wilcoxon p', 'Holm p'], rows)


def _others(results: Results) -> str:
    """A-ART against ART elsewhere, and against ART without attention or with a larger ball."""
    columns = {
        'art': {'clean': 'clean', 'fgm': 'one step, ε', 'strong2': '40 steps, 2 ε'},
        'uniform': {'clean': 'clean', 'pgd': 'ε', 'pgd2': '2 ε'},
        'wide': {'clean': 'clean', 'pgd': 'ε', 'pgd2': '2 ε'},
    }
    rows = [
        [f'`{name}`']
        + [_gain(results, name, arm, value) for arm, values in columns.items() for value in values]
        for name in _regimes(results, 'test')
    ]
    head = [
        f'− {"ART" if arm == "art" else arm}: {text}'
        for arm, values in columns.items()
        for text in values.values()
    ]
    return table(['regime', *head], rows)


def _gain(results: Results, name: str, other: str, value: str) -> str:
    """The difference of A-ART to another arm."""
    some, base = (_values(results, name, arm, value) for arm in ('aart', other))
    return paired(some, base).text() if some.keys() & base.keys() else ''


def _replay(results: Results) -> str:
    """How much of the damage of ten steps in the ball of ε goes through the maps."""
    columns = ['clean', 'pgd', 'clean_maps', 'attacked_maps', 'held']
    rows = []
    for name in _regimes(results, 'test'):
        found = {arm: _means(results, name, arm) for arm in ('non-art', 'art', 'aart')}
        if not found['art']:
            continue
        reach = [_reach(mean) for mean in found.values()]
        moved = [f'{mean["moved"]:.3f}' if mean else '' for mean in found.values()]
        numbers = [f'{found["art"][column]:.1f}' for column in columns]
        rows.append([f'`{name}`', *numbers, ' / '.join(reach), ' / '.join(moved)])
    head = ['ART: clean', 'attacked', 'attacked, clean maps', 'clean, attacked maps']
    arms = 'Non-ART / ART / A-ART'
    return table(
        ['regime', *head, 'attacked, maps held', f'reach, %: {arms}', f'‖A − A′‖: {arms}'], rows
    )


def _means(results: Results, name: str, arm: str) -> dict[str, float]:
    """Every measured value of an arm, averaged over the seeds; empty if it was not run."""
    cells = results.select(split='test', regime=name, arm=arm)
    values = ('clean', 'pgd', 'clean_maps', 'attacked_maps', 'held', 'moved')
    return {value: float(np.mean([c[value] for c in cells])) for value in values} if cells else {}


def _reach(mean: dict[str, float]) -> str:
    """The share of the damage that is gone where the maps are held, in percent."""
    damage = mean['clean'] - mean['pgd'] if mean else 0
    return f'{100 * (mean["held"] - mean["pgd"]) / damage:.0f}' if damage > 0 else ''


def _values(
    results: Results, regime: str, arm: str, value: str, split: str = 'test'
) -> dict[int, float]:
    return results.by_seed(value, split=split, regime=regime, arm=arm)


def _regimes(results: Results, split: str) -> list[str]:
    """The regimes with results, in the order of the study."""
    return [name for name in REGIMES if results.select(split=split, regime=name)]
