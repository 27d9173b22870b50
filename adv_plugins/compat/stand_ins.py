"""Stand-ins for modules that MMAction2 and mmengine import and a fresh machine lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .installed import exists, file_of, mentions


def drn() -> bool:
    """Stand in for ``mmaction.models.localizers.drn``, which the wheel lacks.

    Upstream: mmaction2#2714. The folder has no ``__init__.py``, so the wheel was built without it,
    but ``mmaction.models.localizers`` imports ``DRN`` from it and so no model can be imported.

    Returns:
        bool: True if the stand-in was set up, False if MMAction2 is absent or complete.
    """
    package = 'mmaction.models.localizers.drn'
    localizers = 'models/localizers'
    if not mentions('mmaction', f'{localizers}/__init__.py', '.drn'):
        return False
    if file_of('mmaction', f'{localizers}/drn/drn.py') is not None:
        return False
    acted = _FALLBACK.offer(package, lambda module: None, is_package=True)
    return _FALLBACK.offer(f'{package}.drn', _fill_drn) or acted


def importlib_metadata() -> bool:
    """Stand in for the back-port ``importlib_metadata`` with the standard library's module.

    Upstream: MMAction2 1.2.0 imports the back-port in ``mmaction.utils`` and does not declare it.

    Returns:
        bool: True if the stand-in was set up, False if MMAction2 is absent or the back-port is
        installed.
    """
    name = 'importlib_metadata'
    if not mentions('mmaction', 'utils/dependency.py', name) or exists(name):
        return False
    return _FALLBACK.offer(name, _fill_importlib_metadata)


def pkg_resources() -> bool:
    """Stand in for the part of ``pkg_resources`` that mmengine asks for.

    Upstream: setuptools 82 removed ``pkg_resources`` (mmcv#3325 is the same break), which mmengine
    0.10.7 needs to resolve a config's ``_base_ = 'mmaction::...'``. The ``mim`` command imports it
    before any plugin can help, hence the pin of setuptools in the extra ``mmaction``.

    Returns:
        bool: True if the stand-in was set up, False if mmengine does not import it or setuptools
        has it.
    """
    name = 'pkg_resources'
    # The real module is only looked for: importing it is slow and warns.
    if not mentions('mmengine', 'utils/package_utils.py', name) or exists(name):
        return False
    return _FALLBACK.offer(name, _fill_pkg_resources)


def vindlu() -> bool:
    """Leave out MMAction2's VindLU if it cannot be imported with the installed transformers.

    Upstream: where transformers is installed, MMAction2 1.2.0 imports VindLU, whose copy of BERT
    takes ``apply_chunking_to_forward`` from ``transformers.modeling_utils``. transformers 5 moved
    it and removed other names, so that no model of MMAction2 can be imported.

    Returns:
        bool: True if VindLU was left out, False if either is absent or they are compatible.
    """
    package, name = 'mmaction.models.multimodal.vindlu', 'apply_chunking_to_forward'
    if package in sys.modules or file_of('transformers', 'modeling_utils.py') is None:
        return False
    if not mentions('mmaction', 'models/multimodal/vindlu/modeling_bert.py', name):
        return False
    if mentions('transformers', 'modeling_utils.py', name):
        return False
    # The real package would be found first: only an entry in sys.modules takes precedence.
    empty = ModuleType(package, 'VindLU needs transformers 4 (pip install "transformers<5").')
    empty.__all__ = []  # type: ignore[attr-defined]
    sys.modules[package] = empty
    return True


def _fill_drn(module: ModuleType) -> None:
    """Give the stand-in for ``drn.drn`` the one name that MMAction2 imports."""

    class DRN:
        """Stand-in for MMAction2's DRN, which can be imported but not built."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError(
                'The wheel of MMAction2 1.2.0 lacks mmaction/models/localizers/drn '
                '(mmaction2#2714). To use DRN, install MMAction2 from its source or copy that '
                'folder into the installed package.'
            )

    DRN.__module__ = module.__name__
    module.DRN = DRN  # type: ignore[attr-defined]


def _fill_importlib_metadata(module: ModuleType) -> None:
    """Give the stand-in for the back-port the public names of the standard library's module."""
    vars(module).update({name: getattr(metadata, name) for name in metadata.__all__})


def _fill_pkg_resources(module: ModuleType) -> None:
    """Give the stand-in for ``pkg_resources`` the names that mmengine and mim use."""
    from packaging.version import parse  # comes with mmengine, through matplotlib

    names: dict[str, Any] = {
        'DistributionNotFound': metadata.PackageNotFoundError,
        'get_distribution': _Distribution,
        'parse_version': parse,
    }
    vars(module).update(names)


class _Distribution:
    """An installed distribution with the attributes that ``pkg_resources`` gave it.

    Args:
        name (str): Name of the distribution.

    Raises:
        importlib.metadata.PackageNotFoundError: If it is not installed.
    """

    def __init__(self, name: str) -> None:
        self._distribution = metadata.distribution(name)
        self.project_name = self._distribution.metadata['Name']
        self.version = self._distribution.version
        self.location = str(self._distribution.locate_file(''))

    def has_metadata(self, name: str) -> bool:
        """Whether the distribution has a metadata file of that name."""
        return self._distribution.read_text(name) is not None

    def get_metadata(self, name: str) -> str:
        """The text of a metadata file.

        Args:
            name (str): Name of the file, such as ``top_level.txt``.

        Returns:
            str: Its text.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        text = self._distribution.read_text(name)
        if text is None:
            raise FileNotFoundError(name)
        return text


class _FallbackFinder(MetaPathFinder, Loader):
    """A finder of modules that no other finder has.

    An entry in ``sys.modules`` would hide a real module that is installed later, and would not
    survive ``importlib.reload``, which mmengine applies to ``pkg_resources``. A finder at the end
    of ``sys.meta_path`` has neither fault.
    """

    def __init__(self) -> None:
        self._modules: dict[str, tuple[Callable[[ModuleType], None], bool]] = {}

    def offer(
        self, name: str, fill: Callable[[ModuleType], None], *, is_package: bool = False
    ) -> bool:
        """Offer a module.

        Args:
            name (str): Full name of the module.
            fill (Callable): Called with the empty module to fill it.
            is_package (bool): Whether it can have submodules. Defaults to False.

        Returns:
            bool: False if it was offered before.
        """
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        known = name in self._modules
        self._modules[name] = (fill, is_package)
        return not known

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find an offered module."""
        if fullname not in self._modules:
            return None
        return ModuleSpec(fullname, self, origin=__name__, is_package=self._modules[fullname][1])

    def exec_module(self, module: ModuleType) -> None:
        """Fill an offered module."""
        self._modules[module.__name__][0](module)


_FALLBACK = _FallbackFinder()
