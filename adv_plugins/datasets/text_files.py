"""Text files that people wrote: lists and mappings, whatever their editors did to them."""

from __future__ import annotations

import re
from os import PathLike, fspath

from mmengine.fileio import get

# At the start of any line: joined files have them in the middle.
_BYTE_ORDER_MARKS = re.compile('^\ufeff+', re.MULTILINE)


def read_text(path: str | PathLike[str]) -> str:
    """The text of a UTF-8 file, on disk or in a remote backend.

    Line ends become ``\\n``, and the byte order marks that Windows' editors write are left out.

    Args:
        path (str | PathLike): The file.

    Returns:
        str: Its text.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not UTF-8.
    """
    content = get(fspath(path))
    try:
        text = content.decode('utf-8')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        reason = f'{content[error.start : error.start + 1]!r} in line {line}'
    else:
        # Half of the bytes of English UTF-16 are zeros, which are characters of UTF-8 too.
        if '\0' not in text:
            text = text.replace('\r\n', '\n').replace('\r', '\n')
            return _BYTE_ORDER_MARKS.sub('', text)
        reason = f'a zero byte in line {text.count(chr(10), 0, text.index(chr(0))) + 1}'
    utf_16 = content[:2] in (b'\xff\xfe', b'\xfe\xff') or content.count(0) > len(content) / 3
    raise ValueError(
        f'{path} is not a text file in UTF-8, as it has {reason}'
        + ('; it looks like UTF-16' if utf_16 else '')
        + ': save it as UTF-8.'
    )


def read_lines(path: str | PathLike[str]) -> dict[int, str]:
    """The lines of a text file that are not blank, by number; see :func:`read_text`.

    Args:
        path (str | PathLike): The file.

    Returns:
        dict[int, str]: The lines, counted from 1.
    """
    lines = enumerate(read_text(path).split('\n'), start=1)
    return {number: line for number, line in lines if line.strip()}


class Names:
    """The names met in a file, of which each may stand there once.

    Args:
        remedy (str): What to do about a name that stands there twice.
        path (str | PathLike, optional): The file, for messages. Defaults to None.
    """

    def __init__(self, remedy: str, path: str | PathLike[str] | None = None) -> None:
        self._remedy = remedy
        self._prefix = '' if path is None else f'{path}, '
        self._lines: dict[str, int] = {}

    def add(self, name: str, line: int) -> None:
        """Take the name on a line.

        Raises:
            ValueError: If it stood on an earlier line.
        """
        first = self._lines.setdefault(name, line)
        if first != line:
            raise ValueError(
                f'{self._prefix}line {line}: {name!r} is there twice, first on line {first}: '
                f'{self._remedy}.'
            )
