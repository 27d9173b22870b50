"""The file that results are kept in: JSON with a format number, written whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import replacing

FORMAT = 1
"""Number of the file format; files of any other format are refused."""


def write_results_file(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write results; a reader sees either the old file or the new one, never a part.

    Args:
        path (str | Path): The file. Its folder is created where it is missing.
        content (Mapping[str, Any]): What JSON can hold, without numbers that are not finite.
    """
    text = json.dumps({'format': FORMAT, **content}, allow_nan=False) + '\n'
    with replacing(path) as file:
        file.write(text.encode())


def put_aside(path: Path, word: str) -> Path:
    """Rename what cannot be used, so that nothing of it is lost.

    Args:
        path (Path): A file or a folder.
        word (str): What is wrong with it, for the new name.

    Returns:
        Path: The new name, ``<name>.<word>-1`` or, where that exists, ``-2`` and so on.
    """
    names = (path.with_name(f'{path.name}.{word}-{number}') for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    return aside


def read_results_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_results_file` wrote.

    Args:
        path (str | Path): The file.

    Returns:
        dict[str, Any]: The content.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file, or has another format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        version = content.pop('format')
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path} is no file that Robustness.save wrote') from error
    if version != FORMAT:
        raise ValueError(
            f'{path} has the format {version!r}, and this version of adv_plugins reads '
            f'{FORMAT}; evaluate again, or read it with the version that wrote it'
        )
    return content
