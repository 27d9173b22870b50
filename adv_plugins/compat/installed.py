"""What is installed, read from disk, and whether MMAction2 can be imported."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path


@functools.cache
def mmaction_problem() -> str | None:
    """Why MMAction2 cannot be imported, for code that builds on its classes.

    Returns:
        str | None: The reason in words; None if MMAction2 has been imported.
    """
    if not (exists('mmaction') and exists('mmcv')):
        return 'it is not installed'
    try:
        import mmaction.datasets
        import mmaction.models  # noqa: F401
    except Exception as error:  # of any kind: it must not stop a plain PyTorch user
        return f'{type(error).__name__}: {error}'
    return None


def exists(module: str) -> bool:
    """Whether a top-level module is loaded or can be found; it is not imported."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def file_of(package: str, path: str) -> Path | None:
    """A file of an installed top-level package, which is not imported; None without it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module in sys.modules without a spec, such as a mock
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    return None


def mentions(package: str, path: str, word: str) -> bool:
    """Whether a file of an installed package exists and contains a word."""
    file = file_of(package, path)
    return file is not None and word in file.read_text(encoding='utf-8')
