"""What ``torch.load`` has to allow for mmengine's checkpoints."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

from .installed import file_of, mentions


def safe_globals() -> bool:
    """Let ``torch.load(weights_only=True)`` load what mmengine's own checkpoints hold.

    Upstream: mmengine#1655. torch 2.6 made ``weights_only=True`` the default, and mmengine 0.10.7
    neither turns it off nor declares the few types of its log history, so it cannot load or resume
    what it saved. Declaring them keeps the protection that turning it off would lose.

    Torch's list holds the types themselves, so this imports ``mmengine.optim``, which takes about a
    second: call it only where mmengine is used.

    Returns:
        bool: True if something was added to torch's list, False if mmengine is absent or passes
        ``weights_only`` itself, or if the list is complete already.
    """
    checkpoint = 'runner/checkpoint.py'
    if file_of('mmengine', checkpoint) is None or mentions('mmengine', checkpoint, 'weights_only'):
        return False
    import torch

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
