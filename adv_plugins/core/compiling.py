"""Keeping a function out of ``torch.compile`` without importing the compiler.

As a decorator, ``torch.compiler.disable`` imports the compiler immediately, which takes longer than
importing the rest of the package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar('F', bound=Callable[..., Any])


def not_compiled(function: F) -> F:
    """``torch.compiler.disable`` for a function, applied only where something is compiled."""
    disable: Any = torch.compiler.disable

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return cast(F, call)
