"""How a file is written whole, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which appears under ``path`` once it is complete, or not at all.

    Until then an older file stays as it is, and so it does if writing fails. What applies to
    ``open(path, 'wb')`` applies here too: a link is followed, an older file keeps its permissions,
    and one that is write-protected is not touched. A missing folder is made.

    Args:
        path (str | PathLike): The file.

    Yields:
        BinaryIO: A file beside it, under a name that no other process uses.

    Raises:
        FileExistsError: If something other than a file is in its place.
        PermissionError: If the older file is write-protected.
    """
    target = os.path.realpath(path)
    mode = _replaceable_mode(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = f'{target}.{uuid.uuid4().hex[:8]}.tmp'
    try:
        with open(temporary, 'xb') as file:
            yield file
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _replaceable_mode(target: str) -> int | None:
    """The permissions of the file that is to be replaced; None if there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        text = 'something other than a file is in the place of the file to write'
        raise FileExistsError(errno.EEXIST, text, target)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, 'the file to replace is write-protected', target)
    return stat.S_IMODE(mode)
