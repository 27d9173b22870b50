"""Lines in the log about work that takes longer than a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar('Item')

_EVERY = 5.0
"""Seconds between two lines."""


def progress(
    items: Iterable[Item], total: int, what: str, log: Callable[[str], object]
) -> Iterator[Item]:
    """Pass items on, and log every five seconds how many are done and what time the rest needs.

    Args:
        items (Iterable): The items; the work is done by whoever takes them, or makes them.
        total (int): Their number.
        what (str): What was done to them, such as 'videos made'.
        log (Callable): Takes a line.

    Yields:
        The items.
    """
    begin = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _EVERY and done < total:
            last = now
            left = (now - begin) * (total - done) / done
            log(f'{done:,} of {total:,} {what}, about {left:,.0f} s left')
