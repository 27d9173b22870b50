"""How a plain module is called: with one tensor, a container of them, or several arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.batch import Inputs

_Kind = inspect.Parameter
_ALL_ON = {_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD}


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call a module with a batch, as its ``forward`` asks for.

    A mapping is passed by keywords where these are arguments of ``forward``, and a list or a tuple
    as positional arguments where ``forward`` requires several. Otherwise it is one argument.

    Args:
        model (nn.Module): The module.
        inputs (Tensor | Mapping | list | tuple): The batch.

    Returns:
        Any: What the module returns.

    Raises:
        TypeError: ``forward`` requires several arguments, and not those of the mapping.
    """
    if isinstance(inputs, Mapping):
        return model(**inputs) if _takes_keywords(model, inputs) else model(inputs)
    if isinstance(inputs, Tensor):
        return model(inputs)
    if _takes_several(_signature(model)):
        return model(*inputs)
    try:
        return model(inputs)
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f'{type(model).__name__} got the {type(inputs).__name__} as its one argument, and '
            f'raised {type(error).__name__}: {error}. Where each entry is an argument of forward, '
            'write a dict of them; where each is a sample, torch.stack(inputs)'
        ) from error


def _takes_keywords(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    signature = _signature(model)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        if _takes_several(signature):
            raise TypeError(
                f'forward{signature} of {type(model).__name__} gets the entries of a dict by the '
                f'names of its arguments, but with {", ".join(map(str, inputs))}: {error}'
            ) from error
        return False
    return True


def _takes_several(signature: inspect.Signature) -> bool:
    """Whether ``forward`` requires several arguments, or any number."""
    parameters = list(signature.parameters.values())
    required = [p for p in parameters if p.kind not in _ALL_ON and p.default is _Kind.empty]
    return len(required) > 1 or any(p.kind is _Kind.VAR_POSITIONAL for p in parameters)


def _signature(model: nn.Module) -> inspect.Signature:
    """The signature of ``forward``; where it only hands all on, that of the one module inside."""
    signature, inside = inspect.signature(model.forward), list(model.children())
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return _signature(inside[0]) if len(inside) == 1 and kinds == _ALL_ON else signature
