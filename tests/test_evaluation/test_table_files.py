"""Tables as files: CSV has every digit, LaTeX compiles whatever the names are."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from adv_plugins.evaluation.table_files import Column, Table, as_csv, as_latex, escape, write_tables

COLUMNS = [
    Column('model', 'model'),
    Column('eps', 'ε', 'eps'),
    Column('top1', 'top-1', 'interval'),
    Column('change', 'change', 'points'),
    Column('rho', 'ρ_x', 'difference'),
    Column('note', ''),
]
ROWS = [
    ['a_b', 4 / 255, (100 / 3, 1.0, 99.0), (1.25, -1.0, 2.0), (0.01234, -1e-5, 2e-5), 'x'],
    ['a_b', 0.5, None, (math.nan,) * 3, None, None],
    ['50 % & c', 0.0, (math.nan, math.nan, math.nan), (0.0, math.nan, math.nan), None, 'y,"z'],
]


def test_csv_has_full_precision_and_a_column_for_each_bound() -> None:
    header, *rows = csv.reader(io.StringIO(as_csv(Table('t', '', COLUMNS, ROWS))))
    assert header[:6] == ['model', 'eps', 'top1', 'top1_low', 'top1_high', 'change']
    assert header[-1] == 'note' and all(len(row) == len(header) for row in rows)
    assert float(rows[0][1]) == 4 / 255 and float(rows[0][2]) == 100 / 3
    assert rows[1][2:5] == [''] * 3 and rows[1][5] == 'nan'
    assert rows[2][0] == '50 % & c' and rows[2][-1] == 'y,"z'


def test_latex_is_at_the_precision_of_the_page() -> None:
    assert as_latex(Table('t', 'What\nit is.', COLUMNS, ROWS, brief=ROWS)).splitlines() == [
        '% What it is.',
        r'% needs \usepackage{booktabs}',
        r'\begin{tabular}{lrrrr}',
        r'\toprule',
        r'model & $\varepsilon$ & top-1 & change & ρ\_x \\',
        r'\midrule',
        r'a\_b & 4/255 & 33.3 [1.0, 99.0] & +1.2 [-1.0, +2.0] & +0.0123 [-1e-05, +2e-05] \\',
        r'a\_b & 0.5 & -- & -- & -- \\',
        r'\midrule',
        r'50 \% \& c & 0 & -- & +0.0 & -- \\',
        r'\bottomrule',
        r'\end{tabular}',
    ]
    brief = as_latex(Table('t', '', COLUMNS, ROWS, brief=ROWS[:1]))
    assert '% 1 of 3 rows; t.csv has all of them\n' in brief and brief.count(r'a\_b') == 1


@pytest.mark.parametrize(
    ('name', 'latex'),
    [
        ('a_b#1 {x} $5', r'a\_b\#1 \{x\} \$5'),
        ('\\input{/etc/passwd}', r'\textbackslash{}input\{/etc/passwd\}'),
        ('<|>', r'\textless{}\textbar{}\textgreater{}'),
        ('~^', r'\textasciitilde{}\textasciicircum{}'),
        ('two\nlines %', r'two lines \%'),
    ],
)
def test_a_name_is_printed_as_it_is(name: str, latex: str) -> None:
    assert escape(name) == latex


def test_a_bracket_is_no_argument_of_the_line_before() -> None:
    columns = [Column('a', 'a'), Column('b', 'b')]
    assert '\n{[x] y} & z' in as_latex(Table('t', '', columns, [['[x] y', 'z']]))


def test_tables_without_rows_are_left_out(tmp_path: Path) -> None:
    tables = [Table('full', '', COLUMNS, ROWS), Table('empty', '', COLUMNS, [])]
    files = write_tables(tmp_path / 'new', tables)
    assert [file.name for file in files] == ['full.csv', 'full.tex']
    assert sorted(tmp_path.rglob('*.*')) == sorted(files)
