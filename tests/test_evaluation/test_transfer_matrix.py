"""The transfer matrix out of results, and where it is written."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from handmade_results import EIGHT, put, two_models

from adv_plugins.evaluation import compare, markdown
from adv_plugins.evaluation.intervals import wilson_interval
from adv_plugins.evaluation.result_tables import result_tables
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.table_files import as_csv, as_latex
from adv_plugins.evaluation.transfer_matrix import transfer_matrix

OPTIONS = dict(type='PGD', attack='pgd', seed=0, norm='linf')


def transferred(each: Robustness, source: Robustness, wrong: Any, **more: Any) -> None:
    given = dict(options=OPTIONS, videos=list(each.labels)[:30]) | more
    put(each, 'transfer', wrong, source.weights, EIGHT, **given)


@pytest.fixture
def pair() -> list[Robustness]:
    """Of 30 videos, on the examples of TSM 30 and 12 are wrong, on those of TAF 9 and 24."""
    tsm, taf = two_models()
    tsm.weights, taf.weights = 'aaa', 'bbb'
    transferred(tsm, tsm, range(30))
    transferred(taf, tsm, range(12))
    transferred(tsm, taf, range(9))
    transferred(taf, taf, range(24), videos=[*list(taf.labels)[:30], 310])
    return [tsm, taf]


def test_rows_are_sources_and_columns_targets(pair: list[Robustness]) -> None:
    matrix = transfer_matrix(pair)
    assert matrix is not None
    right = [[0, 18], [21, 6]]
    assert matrix.rows == [[wilson_interval(count, 30) for count in row] for row in right]
    # Of the first 30 videos; TAF's clean gains are among them.
    assert matrix.clean == [wilson_interval(10, 30), wilson_interval(22, 30)]
    assert (matrix.models, matrix.num_videos) == (['TSM', 'TAF'], 30)
    assert (matrix.attack, matrix.eps) == ('pgd', EIGHT)
    lines = matrix.markdown().splitlines()
    assert 'percent on 30 videos' in lines[0] and 'pgd at ε = 8/255, run to the end' in lines[0]
    assert lines[2] == '| examples of | TSM | TAF |'
    assert lines[4:] == [
        '| none: clean | 33.3 [19.2, 51.2] | 73.3 [55.6, 85.8] |',
        '| TSM | 0.0 [0.0, 11.4] | 60.0 [42.3, 75.4] |',
        '| TAF | 70.0 [52.1, 83.3] | 20.0 [9.5, 37.3] |',
    ]


def test_what_is_missing_or_was_made_otherwise_has_a_dash(pair: list[Robustness]) -> None:
    tsm, taf = pair
    transferred(taf, tsm, range(5), options=OPTIONS | dict(steps=99))
    del tsm.cells['transfer/bbb'], tsm.cells['clean']
    matrix = transfer_matrix(pair)
    assert matrix is not None
    assert matrix.rows == [[wilson_interval(0, 30), None], [None, wilson_interval(6, 30)]]
    assert matrix.clean == [None, wilson_interval(22, 30)]
    assert '| TSM | 0.0 [0.0, 11.4] | — |' in matrix.markdown()


def test_checkpoints_of_the_same_weights_have_the_same_numbers(pair: list[Robustness]) -> None:
    twin = two_models()[1]
    twin.model, twin.weights = 'twin', 'bbb'
    matrix = transfer_matrix([*pair, twin])
    assert matrix is not None and len(matrix.rows) == 3
    assert [row[2] for row in matrix.rows] == [row[1] for row in matrix.rows]
    assert matrix.rows[2] == matrix.rows[1]


def test_without_a_transfer_there_is_none(pair: list[Robustness]) -> None:
    assert transfer_matrix(two_models()) is None
    assert 'Transfer' not in markdown(compare(two_models()))
    pair[0].cells['transfer/aaa'].videos = [590]
    assert transfer_matrix(pair) is None


def test_the_pages_have_it(pair: list[Robustness]) -> None:
    page = markdown(compare(pair))
    matrix = transfer_matrix(pair)
    assert matrix is not None and f'## Transfer\n\n{matrix.markdown()}\n' in page
    assert page.endswith('## Not compared\n\nNothing.\n')
    own = markdown(pair[1])
    row = '| {} | 8/255 | {} | 73.3 | 30 | type=PGD, attack=pgd, seed=0, norm=linf |'
    assert row.format('aaa', '60.0 [42.3, 75.4]') in own
    assert '| bbb, its own | 8/255 | 22.6 ' in own


def test_the_report_has_a_section_and_a_file(pair: list[Robustness]) -> None:
    pytest.importorskip('mmaction', reason='the groups of corruptions need adv_plugins[mmaction]')
    from adv_plugins.visualization.robustness_report import number_sections

    found = {
        each.title: each
        for each in number_sections(pair, compare(pair), [], [], ['tables/transfer.csv'])
    }
    assert found['Transfer'].files == ['tables/transfer.csv']
    assert '| TAF | 70.0 [52.1, 83.3] | 20.0' in found['Transfer'].markdown
    # Once is enough.
    assert 'Transfer' not in found['Comparison in detail'].markdown
    (table,) = (each for each in result_tables(pair, None) if each.name == 'transfer')
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [(row['model'], row['examples_of'], row['eps']) for row in rows] == [
        ('TSM', '', '0.0'), ('TAF', '', '0.0'),
        ('TSM', 'TSM', str(EIGHT)), ('TAF', 'TSM', str(EIGHT)),
        ('TSM', 'TAF', str(EIGHT)), ('TAF', 'TAF', str(EIGHT)),
    ]  # fmt: skip
    assert float(rows[3]['top1']) == 60 and rows[3]['videos'] == '30'
    assert as_latex(table).count(r'\\') == 7
