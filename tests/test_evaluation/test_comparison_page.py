"""The page of a comparison: it has every number, and counts its intervals."""

from __future__ import annotations

from typing import Any

import pytest
from handmade_results import put, result, two_models

from adv_plugins.evaluation import comparison, markdown
from adv_plugins.evaluation.cells import Flag
from adv_plugins.evaluation.comparison import compare
from adv_plugins.evaluation.intervals import Interval, paired_bootstrap
from adv_plugins.evaluation.results import Robustness


@pytest.fixture
def pair() -> list[Robustness]:
    return two_models()


def test_the_page_has_every_number(pair: list[Robustness]) -> None:
    compared = compare(pair)
    page = markdown(compared, highlight=['up'])
    assert page.startswith('# Comparison with TSM\n\n- TSM: TSM.pth (TSM.py)\n- TAF: TAF.pth')
    # Ten rows, three classes, and the two sets of classes.
    assert '15 intervals are shown' in page and '5 % of them, 0.75, would exclude 0' in page
    assert '| condition | difference | verdict | p | TSM | TAF | videos |' in page
    for row in compared.rows:
        change = row.changes[1]
        note = f' ({row.note})' if row.note else ''
        p_value = '—' if change.p_value is None else f'{change.p_value:.2g}'
        word = change.verdict if change.verdict == 'within noise' else f'**{change.verdict}**'
        difference = f'{change.difference:+.1f} [{change.low:+.1f}, {change.high:+.1f}]'
        line = (
            f'| {row.name}{note} | {difference.replace("-0.0", "+0.0")} | {word} | {p_value} | '
            f'{row.means[0]:.1f} | {row.means[1]:.1f} | {row.num_videos} |\n'
        )
        assert line in page
    assert (
        '| corruption/snow (severity 1, 2) | +5.0 [' in page and '| — | 41.7 | 46.7 | 60 |' in page
    )
    assert '| attack/pgd (eps 8/255) | +20.0 [' in page and '| 0.031 | 33.3 | 53.3 | 30 |' in page
    assert '| **up** | +20.0 [+5.0, +40.0] | within noise | 0.12 | 70.0 | 90.0 | 20 |' in page
    assert '- the 1 marked classes: +20.0 [+5.0, +40.0]' in page
    assert '- the 2 other classes: +15.0 [' in page
    assert page.endswith('## Not compared\n\nNothing.\n')
    # Severities stand by themselves.
    assert page.index('corruption/snow/1') > page.index('## Severity by severity')


def test_every_interval_of_the_page_is_counted(pair: list[Robustness]) -> None:
    for results in pair:
        results.cells['clean'].values['entropy'] = [0.5] * 60
    third = result('CE')
    put(third, 'clean', range(7), values={'entropy': [0.25] * 60})
    page = markdown(compare([*pair, third]))
    assert f'{page.count("[")} intervals are shown' in page
    assert 'difference of TAF | verdict | p | difference of CE | verdict | p |' in page


def test_raised_flags_are_not_lost(pair: list[Robustness]) -> None:
    pair[1].flags = [
        Flag('zero gradients', True, ''),
        Flag('noise', False, ''),
        Flag('x', None, ''),
    ]
    page = markdown(compare(pair))
    assert '**Read TAF with care: sanity flags are raised (zero gradients).**' in page
    assert 'Read TSM' not in page


def test_without_clean_there_are_no_classes(pair: list[Robustness]) -> None:
    del pair[0].cells['clean']
    page = markdown(compare(pair))
    assert '- clean: TSM: it was not evaluated' in page
    assert '## Classes' not in page


def test_each_class_is_bootstrapped_once(
    pair: list[Robustness], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, calls = compare(pair), []

    def counted(a: Any, b: Any) -> Interval:
        calls.append(len(a))
        return paired_bootstrap(a, b)

    monkeypatch.setattr(comparison, 'paired_bootstrap', counted)
    markdown(compared)
    assert calls == [20] * 3


def test_without_clean_anywhere_there_is_a_page(pair: list[Robustness]) -> None:
    for results in pair:
        del results.cells['clean']
    assert '## Classes' not in markdown(compare(pair))
