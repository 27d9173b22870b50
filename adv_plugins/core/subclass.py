"""Swapping the class of a module for a subclass, so that the object's identity is kept."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn

_CLASSES: dict[tuple[type, type, str], type] = {}
_KEY = '_swapped_from'
"""Where a run-time class keeps what it is made of."""


class Swapped(nn.Module):
    """What all run-time classes have in common; the mixins derive from it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the run-time class away from ``__init_subclass__`` of the host's classes.

        That may need arguments, or enter the class in a registry.
        """

    def __prepare_scriptable__(self) -> None:
        """Called by ``torch.jit.script``, which would stop at the code of the mixin."""
        raise TypeError(
            'an adversarial model cannot be scripted; script a plain copy of it: '
            'torch.jit.script(remove_adversarial(copy.deepcopy(model)))'
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle an instance by the class it was swapped from, which can be imported."""
        reduced = super().__reduce_ex__(protocol)
        key = type(self).__dict__[_KEY]
        if reduced[0] is not getattr(copyreg, '__newobj__'):  # noqa: B009 (typeshed lacks it)
            raise TypeError(
                f'{key[0].__name__} is pickled in a way of its own, which knows nothing of the '
                'adversarial part; pickle model.state_dict() and adversarial_state_dict(model), or '
                'call remove_adversarial(model) first'
            )
        return (_new, key, *reduced[2:])


def swap_class(module: nn.Module, mixin: type[Swapped], prefix: str) -> None:
    """Add ``mixin`` to the class of a module; the new class is named ``prefix`` + its name.

    Raises:
        TypeError: The class cannot have a subclass at run time; then nothing has changed.
    """
    base = type(module)
    try:
        module.__class__ = _subclass(base, mixin, prefix)
    except Exception as error:
        raise TypeError(
            f'{base.__name__} cannot be made adversarial, because a subclass of it cannot be made '
            f'at run time: {error}'
        ) from error


def restore_class(module: nn.Module) -> None:
    """Undo :func:`swap_class`."""
    module.__class__ = swapped_from(type(module))


def swapped_from(kind: type) -> type:
    """The class that a run-time class was made from."""
    base: type = kind.__dict__[_KEY][0]
    return base


def _subclass(base: type, mixin: type[Swapped], prefix: str) -> type:
    key = (base, mixin, prefix)
    if key not in _CLASSES:
        # mmengine's init_cfg finds layers by the names of their class and its direct bases.
        layers = tuple(kind for kind in base.__bases__ if issubclass(kind, nn.Module))
        kind, bases = type(base), (mixin, base, *layers)
        if _first_to_have_a_dict(base) is not nn.Module:
            # Python gives an object a class only if both took their layout from the same base, and
            # a class takes it from the first one. In class M(ABC, nn.Module) that is M itself.
            kind, bases = type(kind.__name__, (_MixinFirst, kind), {}), (base, mixin)
        members = {'__module__': base.__module__, '__doc__': base.__doc__, _KEY: key}
        _CLASSES[key] = kind(prefix + base.__name__, bases, members)
    return _CLASSES[key]


def _first_to_have_a_dict(kind: type) -> type:
    """The class that a class has its layout from."""
    while kind.__base__ is not None and kind.__base__.__dictoffset__:
        kind = kind.__base__
    return kind


class _MixinFirst(type):
    """Puts the mixin before the class of the module, although that comes first in the bases."""

    def mro(cls) -> list[type]:
        order = super().mro()
        mixins = [kind for kind in order[1:] if issubclass(kind, Swapped)]
        return [cls, *mixins, *(kind for kind in order[1:] if kind not in mixins)]


def _new(base: type, mixin: type[Swapped], prefix: str) -> Any:
    """An instance without its state, for pickle."""
    kind: Any = _subclass(base, mixin, prefix)
    return kind.__new__(kind)
