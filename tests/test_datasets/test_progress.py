"""Long work is told in the log, short work is not."""

from __future__ import annotations

import pytest

from adv_plugins.datasets import progress as module
from adv_plugins.datasets.progress import progress


@pytest.mark.parametrize(
    ('seconds', 'expected'), [(0.01, []), (2.0, [3, 6, 9]), (7.0, [*range(1, 10)])]
)
@pytest.mark.parametrize('where', ['made', 'taken'])
def test_a_line_every_five_seconds(
    where: str, seconds: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])

    def work() -> object:
        for i in range(10):
            now[0] += seconds * (where == 'made')
            yield i

    lines: list[str] = []
    taken = []
    for item in progress(work(), 10, 'videos made', lines.append):
        taken.append(item)
        now[0] += seconds * (where == 'taken')
    assert taken == list(range(10))
    assert lines == [
        f'{done} of 10 videos made, about {seconds * (10 - done):.0f} s left' for done in expected
    ]
