"""Files on disk: which of those that a list names are missing, and how one is written whole."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

ON_DISK = frozenset({None, 'disk', 'local'})
"""The values of ``io_backend`` for which MMAction2's transforms read plain files."""


def file_backends(pipeline: Any) -> set[str | None]:
    """The backends with which the transforms of a pipeline read files.

    Args:
        pipeline (Compose): The built pipeline of a dataset.

    Returns:
        set[str | None]: The ``io_backend`` of each; empty if no transform reads files.
    """
    transforms = getattr(pipeline, 'transforms', ())
    return {step.io_backend for step in transforms if hasattr(step, 'io_backend')}


def is_remote(path: str) -> bool:
    """Whether a path has the prefix of a remote backend, such as ``s3://``."""
    return '://' in path


def find_missing(paths: Iterable[str]) -> list[str]:
    """The paths that do not exist.

    Each folder is listed once instead of looking up each of its files, which is five times as fast
    on a local disk, and more over a network. Remote paths count as existing.

    Args:
        paths (Iterable[str]): Files or folders.

    Returns:
        list[str]: Those that are missing, in order.
    """
    listings: dict[str, set[str]] = {}

    def exists(path: str) -> bool:
        folder, name = os.path.split(path.rstrip('/'))
        if folder not in listings:
            listings[folder] = list_folder(folder)
        return name in listings[folder]

    return [path for path in paths if not is_remote(path) and not exists(path)]


def list_folder(folder: str) -> set[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return set(os.listdir(folder or '.'))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def preview(values: Iterable[Any], count: int = 3) -> str:
    """The first few values, separated by commas, for messages."""
    values = [str(value) for value in values]
    return ', '.join(values[:count]) + (', ...' if len(values) > count else '')


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
