"""Swapping the class of a module for a subclass, so that the object's identity is kept."""

from __future__ import annotations

from torch import nn

_CLASSES: dict[tuple[type, type, str], type] = {}


def swap_class(module: nn.Module, mixin: type[nn.Module], prefix: str) -> None:
    """Add ``mixin`` to the class of a module; the new class is named ``prefix`` + its name."""
    base = type(module)
    key = (mixin, base, prefix)
    if key not in _CLASSES:
        members = {'__module__': base.__module__, '__doc__': base.__doc__}
        # mmengine's init_cfg finds layers by the names of their class and its direct bases.
        bases = (mixin, base, *base.__bases__)
        _CLASSES[key] = type(prefix + base.__name__, bases, members)
    module.__class__ = _CLASSES[key]


def restore_class(module: nn.Module) -> None:
    """Undo :func:`swap_class`."""
    module.__class__ = type(module).__bases__[1]
