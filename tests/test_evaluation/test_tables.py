"""Numbers and tables in Markdown."""

from __future__ import annotations

import math

import pytest

from adv_plugins.evaluation.tables import eps_text, markdown_table, percent


@pytest.mark.parametrize(
    ('level', 'text'),
    [(8 / 255, '8/255'), (1.0, '1'), (0.5, '0.5'), (0.03, '0.03'), (0.0, '0'), (None, '—')],
)
def test_eps_in_grey_levels(level: float | None, text: str) -> None:
    assert eps_text(level) == text


def test_pieces_of_tables() -> None:
    assert percent(-0.04, '+') == '+0.0'
    assert percent(1.25, '+') == '+1.2' and percent(math.nan) == percent(math.inf) == '—'
    assert markdown_table(['a|b'], [['c']]) == '| a\\|b |\n| --- |\n| c |'
