"""How far long work is: a bar in a terminal, elsewhere a line in the log every few seconds."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from shutil import get_terminal_size
from typing import Any, TypeVar

Item = TypeVar('Item')
Tell = Callable[[float, str], None]
"""Takes which share of a part is done, 0 to 1, and what that is in words."""

_FEWEST, _MOST = 5.0, 60.0
"""Seconds between two lines; in between, it is a tenth of the time so far."""


class Progress:
    """The progress of work whose amount is known, for a ``with`` statement.

    Args:
        total (float): The amount, in any unit that grows with the time it takes.
        log (Callable): Takes a line, where there is no terminal.

    Attributes:
        done (float): The amount that has been done.

    Example:
        >>> with Progress(3, print) as progress:
        ...     for done in (1, 2, 3):
        ...         time.sleep(10)
        ...         progress.reach(done, f'{done} of 3 naps')
        1 of 3 naps, about 0:00:20 left
        2 of 3 naps, about 0:00:10 left
    """

    def __init__(self, total: float, log: Callable[[str], object]) -> None:
        self.total, self.done = total, 0.0
        self._log, self._stack = log, ExitStack()
        self._bar: Any = None
        self._started = self._told = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty() and _is_main_process():
            # Without tqdm, which only some extras install, there are lines.
            with suppress(ImportError):
                self._bar = _open_bar(self._stack, self.total)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def reach(self, done: float, text: str) -> None:
        """Tell that an amount has been done.

        Args:
            done (float): The amount, from the start.
            text (str): What has been done, in words; '' if that is told elsewhere.
        """
        before, self.done = self.done, done
        if self._bar is not None:
            self._bar.set_description_str(text or self._bar.desc, refresh=False)
            self._bar.update(done - before)
            return
        now = time.monotonic()
        pause = min(max(_FEWEST, (now - self._started) / 10), _MOST)
        if text and now - self._told >= pause and done < self.total:
            self._told = now
            self._log(f'{text}{self.left()}')

    def part(self, amount: float, name: str) -> Tell:
        """The progress of a part of the work, which begins now.

        Args:
            amount (float): Its amount.
            name (str): What it is called.

        Returns:
            Tell: Takes which share of the part is done. That all of it is done is left to tell.
        """
        begin = self.done
        if self._bar is not None:
            self._bar.set_description_str(name)
        return lambda share, text: self.reach(
            begin + share * amount, f'{name}: {text}' if share < 1 else ''
        )

    def left(self) -> str:
        """``', about 0:03:00 left'``, or nothing if that is not known, or if all is done."""
        if not 0 < self.done < self.total:
            return ''
        seconds = (time.monotonic() - self._started) * (self.total - self.done) / self.done
        return f', about {timedelta(seconds=round(seconds))} left'


def track(
    items: Iterable[Item], total: int, what: str, log: Callable[[str], object]
) -> Iterator[Item]:
    """Pass items on, and show how many are done and what time the rest needs.

    Args:
        items (Iterable): The items; the work is done by whoever takes them, or makes them.
        total (int): Their number.
        what (str): What was done to them, such as 'videos made'.
        log (Callable): Takes a line, where there is no terminal.

    Yields:
        The items.
    """
    with Progress(total, log) as progress:
        for done, item in enumerate(items, start=1):
            yield item
            progress.reach(done, f'{done:,} of {total:,} {what}')


def _is_main_process() -> bool:
    """Whether this is no worker of another process, and the first of several that train."""
    if multiprocessing.parent_process() is not None:
        return False
    # The reader of YouTube-8M works without torch; where nothing has imported it, nothing trains.
    distributed = sys.modules.get('torch.distributed')
    started = distributed and distributed.is_available() and distributed.is_initialized()
    return not started or distributed.get_rank() == 0


def _open_bar(stack: ExitStack, total: float) -> Any:
    """A bar, and the lines of the log above it, until the stack is closed."""
    from tqdm import tqdm
    from tqdm.contrib import DummyTqdmFile

    class Bar(tqdm):
        # Its thread could hold a lock while the workers of a DataLoader are forked.
        monitor_interval = 0

    # tqdm shows nothing in a terminal that does not tell its size; here, 80 × 24 is assumed.
    columns, lines = get_terminal_size()
    bar = stack.enter_context(
        Bar(
            total=total,
            bar_format='{percentage:3.0f}% |{bar:20}| {elapsed} so far, {remaining} left: {desc}',
            smoothing=0,
            # Every step is shown: one may take a thousand times as long as the last.
            miniters=0,
            delay=1,
            leave=False,
            ncols=columns - 1,
            nrows=lines,
        )
    )
    if 'mmengine.logging' in sys.modules:
        from mmengine.logging import MMLogger

        for handler in MMLogger.get_current_instance().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream.isatty():
                stack.callback(handler.setStream, handler.stream)
                handler.setStream(DummyTqdmFile(handler.stream))
    return bar
