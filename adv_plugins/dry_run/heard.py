"""What is said while something runs: warnings, and log lines of that level or a higher one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger

_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)


class _Keeper(logging.Handler):
    """Keeps the messages of a logger."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect what is said in the ``with`` block, each message once and on one line.

    Warnings are not shown as well; what is logged is. Warnings for developers are left out.

    Yields:
        list[str]: The messages, complete at the end of the block.
    """
    lines: list[str] = []
    keeper = _Keeper(lines)
    # mmengine's loggers do not pass records on.
    loggers = (logging.getLogger(), MMLogger.get_current_instance())
    for logger in loggers:
        logger.addHandler(keeper)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(keeper)
        # mmengine logs what it deprecates as warnings.
        lines[:] = [line for line in lines if 'deprecated' not in line]
        lines += [str(w.message) for w in caught if not issubclass(w.category, _FOR_DEVELOPERS)]
        lines[:] = dict.fromkeys(' '.join(line.split()) for line in lines)
