"""What is told of the time that is left."""

from __future__ import annotations

import pytest

from adv_plugins.evaluation import progress
from adv_plugins.evaluation.progress import Progress


def test_cells_are_weighed_by_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, 'perf_counter', lambda: now[0])
    found = Progress([10, 0, 30, 60])
    text = found.announce('r.json')
    assert text.startswith('3 cells to run (1 more are in r.json), at most 100 forwards')
    now[0] += 20
    assert found.advance(0) == 'cell 1 of 3, about 0:03:00 left'
    now[0] += 60
    assert found.advance(2) == 'cell 2 of 3, about 0:02:00 left'
    assert found.advance(3) == 'cell 3 of 3'


def test_nothing_to_do() -> None:
    found = Progress([0, 0])
    assert found.announce('r.json').startswith('0 cells to run (2 more are in r.json)')
    assert found.advance(0) == 'cell 1 of 0'
