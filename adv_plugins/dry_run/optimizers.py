"""Optimizer wrappers that update nothing, and that need no GPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.optim import (
    AmpOptimWrapper,
    ApexOptimWrapper,
    BaseOptimWrapper,
    OptimWrapperDict,
)

_MIXED_PRECISION = {kind.__name__: kind for kind in (AmpOptimWrapper, ApexOptimWrapper)}


def all_wrappers(wrapper: BaseOptimWrapper) -> list[BaseOptimWrapper]:
    """The wrappers of single optimizers inside of one."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


@contextmanager
def without_updates(wrapper: BaseOptimWrapper) -> Iterator[None]:
    """Disable ``step`` and ``zero_grad``, so that parameters and gradients can be inspected."""
    wrappers = all_wrappers(wrapper)
    for one in wrappers:
        one.step = one.zero_grad = _do_nothing
    try:
        yield
    finally:
        for one in wrappers:
            del one.step, one.zero_grad


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def full_precision(config: Any, left_out: list[str]) -> Any:
    """The config of an optimizer wrapper without mixed precision; notes what is left out."""
    if not isinstance(config, Mapping):
        return config
    plain = {name: full_precision(value, left_out) for name, value in config.items()}
    kind = plain.get('type')
    kind = getattr(kind, '__name__', str(kind).rpartition('.')[2])
    if kind in _MIXED_PRECISION:
        left_out.append(kind)
        own = inspect.signature(_MIXED_PRECISION[kind]).parameters
        plain = {name: value for name, value in plain.items() if name not in own}
        plain['type'] = 'OptimWrapper'
    return plain
