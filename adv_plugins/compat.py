"""What MMAction2 1.2.0 needs to run on today's Python, torch and setuptools.

MMAction2 1.2.0 and mmengine 0.10.7 are the latest releases, yet a fresh machine can neither import
``mmaction.models`` nor load a checkpoint with them. Each function here repairs one such break,
names the upstream issue, and does nothing where the cause is absent: with a stack that upstream has
fixed, all of them are skipped. A finder that is asked last stands in for missing modules, so that a
real module always wins, and ``torch.load`` keeps ``weights_only=True``.

:func:`apply_patches` applies what must be in place before the first ``import mmaction.models``,
which is why ``import adv_plugins`` calls it first. It reads files on disk and imports neither
mmengine nor MMAction2. The others are called where their host has been imported:
:func:`safe_globals` with mmengine, :func:`color_jitter` and :func:`bfloat16_scores` with MMAction2.

The file is long because it must stay alone: it works before anything else can be imported.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

__all__ = [
    'apply_patches',
    'bfloat16_scores',
    'color_jitter',
    'drn',
    'importlib_metadata',
    'mmaction_problem',
    'pkg_resources',
    'safe_globals',
    'vindlu',
]


def apply_patches() -> dict[str, bool]:
    """Apply every patch that MMAction2 needs before it can be imported.

    Safe to call again, and safe without mmengine or MMAction2: what is not needed is skipped.

    Returns:
        dict[str, bool]: For each patch by name, whether this call had something to do.
    """
    patches = (drn, importlib_metadata, pkg_resources, vindlu)
    return {patch.__name__: patch() for patch in patches}


def drn() -> bool:
    """Stand in for ``mmaction.models.localizers.drn``, which the wheel lacks.

    Upstream: mmaction2#2714. The folder has no ``__init__.py``, so the wheel was built without it,
    but ``mmaction.models.localizers`` imports ``DRN`` from it and so no model can be imported.

    Returns:
        bool: True if the stand-in was set up, False if MMAction2 is absent or complete.
    """
    package = 'mmaction.models.localizers.drn'
    localizers = 'models/localizers'
    if not _mentions('mmaction', f'{localizers}/__init__.py', '.drn'):
        return False
    if _file('mmaction', f'{localizers}/drn/drn.py') is not None:
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
    if not _mentions('mmaction', 'utils/dependency.py', name) or _exists(name):
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
    if not _mentions('mmengine', 'utils/package_utils.py', name) or _exists(name):
        return False
    return _FALLBACK.offer(name, _fill_pkg_resources)


def safe_globals() -> bool:
    """Let ``torch.load(weights_only=True)`` load what mmengine's own checkpoints hold.

    Upstream: mmengine#1655. torch 2.6 made ``weights_only=True`` the default, and mmengine 0.10.7
    neither turns it off nor declares the few types of its log history, so it cannot load or resume
    what it saved. Declaring them keeps the protection that turning it off would lose.

    Torch's list holds the types themselves, so this imports ``mmengine.optim``, which takes about a
    second: call it only where mmengine is used.

    Returns:
        bool: True if something was added to torch's list, False if mmengine is absent or passes
        ``weights_only`` itself, if torch is older than 2.6, or if the list is complete already.
    """
    checkpoint = 'runner/checkpoint.py'
    if _file('mmengine', checkpoint) is None or _mentions('mmengine', checkpoint, 'weights_only'):
        return False
    import torch

    if torch.__version__ < '2.6':  # a TorchVersion, which compares as versions do
        return False
    try:
        needed = _checkpoint_globals()
    except ImportError:  # an mmengine that cannot be imported writes no checkpoints either
        return False
    allowed = torch.serialization.get_safe_globals()
    missing = [entry for entry in needed if entry not in allowed]
    if getattr in allowed:  # keep the wider permission that the caller gave
        missing = [entry for entry in missing if entry != _GETATTR]
    torch.serialization.add_safe_globals(missing)
    return bool(missing)


def vindlu() -> bool:
    """Leave out MMAction2's VindLU if it cannot be imported with the installed transformers.

    Upstream: where transformers is installed, MMAction2 1.2.0 imports VindLU, whose copy of BERT
    takes ``apply_chunking_to_forward`` from ``transformers.modeling_utils``. transformers 5 moved
    it and removed other names, so that no model of MMAction2 can be imported.

    Returns:
        bool: True if VindLU was left out, False if either is absent or they are compatible.
    """
    package, name = 'mmaction.models.multimodal.vindlu', 'apply_chunking_to_forward'
    if package in sys.modules or _file('transformers', 'modeling_utils.py') is None:
        return False
    if not _mentions('mmaction', 'models/multimodal/vindlu/modeling_bert.py', name):
        return False
    if _mentions('transformers', 'modeling_utils.py', name):
        return False
    # The real package would be found first: only an entry in sys.modules takes precedence.
    empty = ModuleType(package, 'VindLU needs transformers 4 (pip install "transformers<5").')
    empty.__all__ = []  # type: ignore[attr-defined]
    sys.modules[package] = empty
    return True


@functools.cache
def mmaction_problem() -> str | None:
    """Why MMAction2 cannot be imported, for code that builds on its classes.

    Returns:
        str | None: The reason in words; None if MMAction2 has been imported.
    """
    if not (_exists('mmaction') and _exists('mmcv')):
        return 'it is not installed'
    try:
        import mmaction.datasets
        import mmaction.models  # noqa: F401
    except Exception as error:  # of any kind: it must not stop a plain PyTorch user
        return f'{type(error).__name__}: {error}'
    return None


def color_jitter() -> bool:
    """Let MMAction2's ``ColorJitter`` lower hues under numpy 2.

    Upstream: for about half of all clips MMAction2 1.2.0 adds a negative number to unsigned bytes,
    where numpy 2 raises an ``OverflowError`` (torchvision#8536 was the same break).

    Returns:
        bool: True if the method was replaced, False if MMAction2's transforms have not been
        imported or work as they are.
    """
    processing = sys.modules.get('mmaction.datasets.transforms.processing')
    if processing is None:
        return False
    import numpy as np

    try:
        processing.ColorJitter.adjust_hue(np.zeros((1, 1, 3)), -0.1)
    except OverflowError:
        processing.ColorJitter.adjust_hue = staticmethod(_adjust_hue)
        return True
    return False


def bfloat16_scores() -> bool:
    """Let MMAction2's heads take class scores in bfloat16.

    Upstream: MMAction2 1.2.0 computes its top-k accuracy in numpy, which has no bfloat16, so that
    ``AmpOptimWrapper(dtype='bfloat16')`` fails with a ``TypeError`` at the first loss.

    Returns:
        bool: True if a method was replaced, False if MMAction2's heads have not been imported or
        work as they are.
    """
    places = (
        ('base', 'BaseHead', 'loss_by_feat'),
        ('omni_head', 'OmniHead', 'loss_by_feat'),
        ('rgbpose_head', 'RGBPoseHead', 'loss_by_scores'),
    )
    replaced = False
    for file, name, method in places:
        heads = sys.modules.get(f'mmaction.models.heads.{file}')
        if heads is None or not _mentions('mmaction', f'models/heads/{file}.py', 'cpu().numpy()'):
            continue
        head = getattr(heads, name)
        original = vars(head)[method]
        if not hasattr(original, '__wrapped__'):
            setattr(head, method, _in_float32(original))
            replaced = True
    return replaced


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    """A head's loss that takes class scores in bfloat16 as float32."""

    @functools.wraps(original)
    def loss(self: Any, cls_scores: Any, targets: Any) -> Any:
        if str(getattr(cls_scores, 'dtype', '')) == 'torch.bfloat16':
            cls_scores = cls_scores.float()
        return original(self, cls_scores, targets)

    return loss


def _adjust_hue(image: Any, factor: float) -> Any:
    """Turn the hue of an image (H, W, 3) by ``255 * factor`` of OpenCV's 180 steps."""
    import cv2
    import numpy as np

    hsv = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    # Signed, and as numpy 1 computed it.
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(factor * 255)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


def _checkpoint_globals() -> list[Any]:
    """The globals in a Runner's checkpoint that torch does not allow by default."""
    import numpy as np

    # numpy's two constructors, as pickle calls them: numpy 2 moved them, and a file names them as
    # the numpy that wrote it did.
    constructors = {
        '_reconstruct': np.empty(0).__reduce__()[0],
        'scalar': np.float64(0).__reduce__()[0],
    }
    return [
        *_pickled_methods(),
        _GETATTR,
        # The arrays of the log history, and scalars such as the best score: floats, and the
        # default integers of Linux and of Windows.
        np.ndarray,
        np.dtype,
        *(type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32')),
        *(
            (constructor, f'numpy.{home}.multiarray.{name}')
            for name, constructor in constructors.items()
            for home in ('_core', 'core')
        ),
    ]


def _pickled_methods() -> dict[type, tuple[str, ...]]:
    """The classes whose methods mmengine puts into a checkpoint, and those methods."""
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    return {
        HistoryBuffer: ('min', 'max', 'current', 'mean'),
        OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
    }


def _get_method(owner: Any, name: str) -> Any:
    """What a checkpoint gets in place of ``getattr``.

    Pickle writes a method as ``getattr(HistoryBuffer, 'mean')``. The real ``getattr`` on torch's
    list would give any attribute of any allowed object to a file that may be hostile; this one
    gives only the few methods that mmengine saves.
    """
    if isinstance(owner, type) and name in _pickled_methods().get(owner, ()):
        return getattr(owner, name)
    raise UnpicklingError(f'a checkpoint may not ask for attribute {name!r} of {owner!r}')


# An entry of torch's list: this function, under the name of the global that it replaces.
_GETATTR = (_get_method, 'builtins.getattr')


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


def _exists(module: str) -> bool:
    """Whether a top-level module is loaded or can be found; it is not imported."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _file(package: str, path: str) -> Path | None:
    """A file of an installed top-level package, which is not imported; None without it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module in sys.modules without a spec, such as a mock
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    return None


def _mentions(package: str, path: str, word: str) -> bool:
    """Whether a file of an installed package exists and contains a word."""
    file = _file(package, path)
    return file is not None and word in file.read_text(encoding='utf-8')
