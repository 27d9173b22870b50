"""The files have the numbers of the results, with every digit."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from handmade_results import EIGHT, one_model, put, two_models

from adv_plugins.evaluation import compare
from adv_plugins.evaluation.cells import Flag
from adv_plugins.evaluation.result_tables import result_tables
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.table_files import as_csv, as_latex

pytest.importorskip('mmaction', reason='the groups of corruptions need adv_plugins[mmaction]')


@pytest.fixture(scope='module')
def pair() -> list[Robustness]:
    found = two_models()
    for each in found:
        put(each, 'corruption', range(60), 'fog', 2)
        put(each, 'curve', range(28), 'pgd', 4 / 255, videos=list(each.labels)[:30])
        each.cells['clean'].values['entropy'] = [0.5] * 60
        each.flags = [Flag('noise', True, ''), Flag('steps', None, '')]
    return found


@pytest.fixture(scope='module')
def tables(pair: list[Robustness]) -> dict[str, list[dict[str, str]]]:
    found = result_tables(pair, compare(pair))
    # Nothing was transferred.
    assert [table.name for table in found if not table.rows] == ['transfer']
    assert all(as_latex(table).count(r'\\') > 1 for table in found if table.rows)
    return {table.name: list(csv.DictReader(io.StringIO(as_csv(table)))) for table in found}


def numbers(row: dict[str, str], *names: str) -> tuple[float, ...]:
    return tuple(float(row[name]) for name in names)


def bounded(row: dict[str, str], name: str) -> tuple[float, ...]:
    return numbers(row, name, f'{name}_low', f'{name}_high')


def test_summary(pair: list[Robustness], tables: Any) -> None:
    for results, row in zip(pair, tables['summary'], strict=True):
        assert row['model'] == results.model and row['checkpoint'] == results.checkpoint
        assert bounded(row, 'clean_top1') == results.interval('clean')
        assert numbers(row, 'mpc', 'rpc') == (results.mpc(), results.rpc())
        keys = ['clean', 'attack/pgd', 'attack/square']
        assert float(row['worst_case_top1']) == pytest.approx(results.worst_case(keys))
        assert numbers(row, 'eps', 'videos', 'attacked_videos') == (EIGHT, 60, 30)
        assert (row['flags_raised'], row['flags_not_checked']) == ('1', '1')


def test_corruptions(pair: list[Robustness], tables: Any) -> None:
    rows = {(row['model'], row['corruption']): row for row in tables['corruptions']}
    for results in pair:
        table = results.corruption_table()
        for name, accuracy in zip(table.names, table.accuracy.tolist(), strict=True):
            row = rows[results.model, name]
            assert numbers(row, 'severity_1', 'severity_2') == tuple(accuracy)
            assert numbers(row, 'mpc', 'rpc') == (results.mpc([name]), results.rpc([name]))
        assert float(rows[results.model, 'weather']['mpc']) == results.mpc(['snow'])
        assert float(rows[results.model, 'all']['mpc']) == results.mpc()


def test_attacks_and_curves(pair: list[Robustness], tables: Any) -> None:
    rows = {(row['model'], row['attack']): row for row in tables['attacks']}
    assert len(rows) == 6
    for results in pair:
        row = rows[results.model, 'pgd']
        assert bounded(row, 'top1') == results.interval('attack/pgd')
        assert float(row['clean_top1']) == results.clean_top('attack/pgd')
        assert rows[results.model, 'worst case']['options'] == 'pgd, square'
        curve = results.curve('pgd')
        points = [row for row in tables['curves'] if row['model'] == results.model]
        assert [float(row['eps']) for row in points] == curve.eps.tolist()
        assert [float(row['top1_high']) for row in points] == curve.high.tolist()


def test_classes_and_confusions(pair: list[Robustness], tables: Any) -> None:
    for results in pair:
        accuracy, counts = results.class_accuracy('clean')
        rows = [row for row in tables['classes'] if row['model'] == results.model]
        assert [row['class'] for row in rows] == results.classes
        assert [float(row['clean_top1']) for row in rows] == pytest.approx(accuracy.tolist())
        assert [int(row['videos']) for row in rows] == counts.tolist()
        wrong = [row for row in tables['confusions'] if row['model'] == results.model]
        clean = [row for row in wrong if row['condition'] == 'clean']
        assert sum(int(row['count']) for row in clean) == 60 - results.correct('clean').sum()
        assert len({row['condition'] for row in wrong}) == 2


def test_comparison(pair: list[Robustness], tables: Any) -> None:
    compared = compare(pair)
    for row, found in zip(tables['comparison'], compared.rows, strict=True):
        change = found.changes[1]
        assert change is not None
        assert (row['model'], row['baseline_model']) == ('TAF', 'TSM')
        assert bounded(row, 'difference') == change[:3]
        assert (row['condition'], row['verdict']) == (found.name, change.verdict)
    (row,) = tables['comparison_values']
    assert row['condition'] == 'clean: entropy' and bounded(row, 'difference') == (0, 0, 0)


def test_what_was_not_evaluated_has_no_rows() -> None:
    empty = {table.name: table.rows for table in result_tables([Robustness('TSM')], None)}
    assert [name for name, rows in empty.items() if rows] == ['summary']
    found = one_model()
    for key in [key for key in found.cells if key != 'clean']:
        del found.cells[key]
    rows = {table.name: table.rows for table in result_tables([found], None)}
    assert [name for name, table in rows.items() if table] == ['summary', 'classes', 'confusions']
