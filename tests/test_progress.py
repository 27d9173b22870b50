"""How far long work is: a bar in a terminal, lines elsewhere, and nothing of short work."""

from __future__ import annotations

import logging
import os
import pty
import re
import sys

import pytest

from adv_plugins import progress as module
from adv_plugins.progress import Progress, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    return now


@pytest.mark.parametrize(
    ('seconds', 'expected'), [(0.01, []), (2.0, [3, 6, 9]), (7.0, [*range(1, 10)])]
)
@pytest.mark.parametrize('where', ['made', 'taken'])
def test_a_line_every_five_seconds(
    where: str, seconds: float, expected: list[int], clock: list[float]
) -> None:
    def work() -> object:
        for i in range(10):
            clock[0] += seconds * (where == 'made')
            yield i

    lines: list[str] = []
    taken = []
    for item in track(work(), 10, 'videos made', lines.append):
        taken.append(item)
        clock[0] += seconds * (where == 'taken')
    assert taken == list(range(10))
    assert lines == [
        f'{done} of 10 videos made, about 0:{seconds * (10 - done) // 60:02.0f}'
        f':{seconds * (10 - done) % 60:02.0f} left'
        for done in expected
    ]


def test_lines_of_hours_become_rare_but_not_too_rare(clock: list[float]) -> None:
    lines: list[str] = []
    for _ in track(range(7200), 7200, 'steps done', lines.append):
        clock[0] += 1
    steps = [int(line.split()[0].replace(',', '')) for line in lines]
    pauses = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert pauses[0] == 5 and pauses == sorted(pauses) and pauses[-1] == 60
    assert 100 < len(lines) < 200


def test_parts_are_weighed_by_what_they_cost(clock: list[float]) -> None:
    """Lines come within a part; what there is to tell at its end is told by whoever did it."""
    lines: list[str] = []
    with Progress(100, lines.append) as progress:
        tell = progress.part(10, 'cell 1 of 2, clean')
        assert progress.left() == ''
        clock[0] += 20
        tell(1, 'batch 6 of 6')
        assert progress.left() == ', about 0:03:00 left'
        tell = progress.part(90, 'cell 2 of 2, pgd')
        clock[0] += 60
        tell(1 / 3, 'batch 2 of 6')
        tell(1, 'batch 6 of 6')
        assert progress.left() == ''
    assert lines == ['cell 2 of 2, pgd: batch 2 of 6, about 0:02:00 left']


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no lines then, and what is logged meanwhile stands above the bar."""
    pytest.importorskip('tqdm')
    logger = pytest.importorskip('mmengine.logging').MMLogger.get_current_instance()
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, 'w') as terminal:
        monkeypatch.setattr(sys, 'stderr', terminal)
        handler = logging.StreamHandler(terminal)
        monkeypatch.setattr(logger, 'handlers', [handler])
        lines: list[str] = []
        with Progress(2, lines.append) as progress:
            progress._bar.delay = 0
            progress._bar.mininterval = 0
            tell = progress.part(2, 'both')
            tell(1 / 2, 'one thing')
            logger.info('a line of the log')
            tell(1, 'two things')
        assert handler.stream is terminal
        terminal.flush()
        written = os.read(ours, 10_000).decode()
    os.close(ours)
    assert lines == []
    assert '0% |' in written and '50% |' in written and '100% |' in written
    # Seconds may pass on a busy machine.
    assert re.search(r'\| 00:\d\d so far, 00:\d\d left: both: one thing', written)
    before, after = written.split('a line of the log')
    assert before.endswith('\r') and after.startswith('\r\n')


def test_lines_in_a_terminal_without_tqdm(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setitem(sys.modules, 'tqdm', None)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    lines: list[str] = []
    for _ in track(range(2), 2, 'steps done', lines.append):
        clock[0] += 10
    assert lines == ['1 of 2 steps done, about 0:00:10 left']
