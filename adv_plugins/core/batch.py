"""What a model is fed: one tensor, or named tensors with masks of their valid entries.

In a mapping the floating-point tensors are what an attack perturbs, one entry a modality. A boolean
``<name>_mask`` beside them, of the leading axes of ``<name>``, is True where it is valid and False
where it is padding. Everything else passes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .functional import relative_size

Inputs = Tensor | Mapping[str, Any]
MASK = '_mask'
LONE = ''
"""The name of a batch that is one tensor."""


def modalities(inputs: Inputs) -> dict[str, Tensor]:
    """What an attack perturbs, by name; ``{'': inputs}`` for one tensor.

    Raises:
        TypeError: There is no floating-point tensor.
    """
    values = {LONE: inputs} if isinstance(inputs, Tensor) else inputs
    found = {}
    if isinstance(values, Mapping):
        found = {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
    if found:
        return found
    got: object = type(inputs).__name__
    if isinstance(inputs, Tensor):
        got = inputs.dtype
    elif isinstance(inputs, Mapping):
        got = {name: getattr(value, 'dtype', type(value)) for name, value in inputs.items()}
    raise TypeError(
        'an attack needs inputs that are one floating-point tensor, or a dict with some, got '
        f'{got}; convert them before (inputs.float()), or let the data preprocessor normalise them'
    )


def replace(inputs: Inputs, values: Mapping[str, Tensor]) -> Inputs:
    """The same batch with other values for some of its tensors."""
    return values[LONE] if isinstance(inputs, Tensor) else {**inputs, **values}


def valid_entries(inputs: Inputs, name: str) -> Tensor | None:
    """Where a modality is no padding, broadcastable to it; None where all of it is valid."""
    if isinstance(inputs, Tensor) or name + MASK not in inputs:
        return None
    mask: Tensor = inputs[name + MASK]
    value: Tensor = inputs[name]
    if mask.dtype is not torch.bool or mask.shape != value.shape[: mask.ndim]:
        raise ValueError(
            f'{name}{MASK} must be boolean (True = valid) over the leading axes of {name!r}, got '
            f'{mask.dtype} {tuple(mask.shape)} for {tuple(value.shape)}'
        )
    return mask.view(*mask.shape, *[1] * (value.ndim - mask.ndim))


def relative_sizes(inputs: Inputs, perturbed: Inputs) -> dict[str, Tensor]:
    """``||R|| / ||X||`` of every sample by modality, without the padding, shape (B,) each."""
    moved = modalities(perturbed)
    sizes = {}
    for name, value in modalities(inputs).items():
        valid = valid_entries(inputs, name)
        parts = (moved[name].detach() - value.detach(), value.detach())
        if valid is not None:
            parts = tuple(part.masked_fill(~valid, 0) for part in parts)  # type: ignore[assignment]
        sizes[name] = relative_size(*parts)
    return sizes


def batch_size(inputs: Inputs) -> int:
    """Number of samples."""
    return len(next(iter(modalities(inputs).values())))


def per_sample(values: Tensor, count: int) -> Tensor:
    """``(B·k, ...)`` with the batch outermost as ``(B, k, ...)``."""
    return values.reshape(count, -1, *values.shape[1:])


def clone(inputs: Inputs) -> Inputs:
    """A copy of all tensors: those made under inference_mode cannot be differentiated."""
    if isinstance(inputs, Tensor):
        return inputs.clone()
    return {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def take(inputs: Inputs, index: Tensor) -> Inputs:
    """The samples at ``index``."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    return take_entries(inputs, index, batch_size(inputs))


def take_entries(values: Mapping[str, Any], index: Tensor, size: int) -> dict[str, Any]:
    """The samples at ``index`` of every tensor and list with one entry a sample; the rest, such as
    position ids or a tuple that is a shape, is left whole."""
    taken = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.ndim and len(value) == size:
            value = value[index]
        elif isinstance(value, list) and len(value) == size:
            value = [value[i] for i in index.tolist()]
        taken[name] = value
    return taken
