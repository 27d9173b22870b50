"""The file that results are kept in: JSON with a format number, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
"""Number of the file format; files of any other format are refused."""


def write_results_file(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write results; a reader sees either the old file or the new one, never a part.

    Args:
        path (str | Path): The file. Its folder is created where it is missing.
        content (Mapping[str, Any]): What JSON can hold, without numbers that are not finite.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({'format': FORMAT, **content}, allow_nan=False)
    part = path.with_name(f'{path.name}.part')
    part.write_text(text + '\n', encoding='utf-8')
    os.replace(part, path)


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
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no file that Robustness.save wrote') from error
    if version != FORMAT:
        raise ValueError(
            f'{path} has the format {version!r}, and this version of adv_plugins reads '
            f'{FORMAT}; evaluate again, or read it with the version that wrote it'
        )
    return content
