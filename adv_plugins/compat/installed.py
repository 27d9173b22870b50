"""What is installed, read from disk, and whether MMAction2 can be imported."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@functools.cache
def mmaction_problem() -> str | None:
    """Why MMAction2 cannot be imported, for code that builds on its classes.

    Returns:
        str | None: The reason in words; None if MMAction2 has been imported.
    """
    for package in ('mmaction', 'mmcv'):
        if not exists(package):
            return f'{package} is not installed'
    try:
        import mmaction.datasets
        import mmaction.models  # noqa: F401
    except Exception as error:  # of any kind: it must not stop a plain PyTorch user
        return f'{type(error).__name__}: {error}'
    return None


@contextmanager
def naming_extra(importer: str, extra: str, *packages: str) -> Iterator[None]:
    """Name the extra if an import in the ``with`` block fails because a package is not installed.

    Args:
        importer (str): What cannot be imported without them, usually ``__name__``.
        extra (str): The extra of adv_plugins that installs the packages.
        *packages (str): The optional packages that the block imports, by their top-level modules.

    Raises:
        ImportError: A package is not installed. If all are, the error of the import is passed on,
            because only it can tell why an installed package does not work.
    """
    try:
        yield
    except ImportError as error:
        missing = [package for package in packages if not exists(package)]
        if not missing:
            raise
        raise ImportError(
            needs(importer, f'{missing[0]}, which is not installed', extra)
        ) from error


def mmaction_needed(name: str) -> ImportError:
    """The error for a name that is only there with MMAction2, such as ``adv_plugins.models.X``."""
    return ImportError(needs(name, f'MMAction2 ({mmaction_problem()})', 'mmaction'))


def needs(name: str, package: str, extra: str) -> str:
    """The message that something needs a package that an extra installs."""
    return f'{name} needs {package}; install it with: pip install "adv_plugins[{extra}]"'


def exists(module: str) -> bool:
    """Whether a top-level module is loaded or can be found; it is not imported."""
    if module in sys.modules:
        # None is how a module is kept from being imported.
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


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
