"""A batch of model inputs: what an attack perturbs, where that is valid, and everything else."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .functional import relative_size

Inputs = Tensor | Mapping[str, Any] | list[Any] | tuple[Any, ...]
Values = dict[str, Tensor]
"""One tensor per modality."""
MASK = '_mask'
LONE = ''
"""The modality's name where the batch is a single tensor."""


class Batch:
    """A batch of inputs: one tensor, or several with masks of their valid entries.

    In a mapping, a list or a tuple, every floating-point tensor but a scalar is a modality and may
    be perturbed. In a list or a tuple (SlowFast's pathways) their names are their places, ``'0'``,
    ``'1'``, ...; in a named tuple, those of its fields. Everything else is passed on unchanged, and
    so is a floating-point mask beside other modalities: ``mask``, or ``<anything>_mask``.

    An optional ``<name>_mask`` over the leading axes of ``<name>`` says which entries are valid
    (True or 1) and which are padding (False or 0). A mask with other numbers (weights, or what is
    added to attention scores) says nothing of padding.

    Args:
        inputs (Tensor | Mapping | list | tuple): The inputs as the model takes them.

    Attributes:
        values (dict[str, Tensor]): The modalities by name; ``{'': inputs}`` for a single tensor.

    Raises:
        TypeError: There is no floating-point tensor.
        ValueError: The shape of a boolean mask does not match its modality, or the modalities
            differ in their number of samples.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._given = inputs
        self._copies = False
        self.values = _modalities(inputs)
        named = _by_name(inputs)
        self._valid = {name: _valid_entries(named, name) for name in self.values}

    @property
    def inputs(self) -> Inputs:
        """The inputs for one forward of the model.

        A container is copied, so that the model may change it. In a batch from :meth:`leaves` or
        :meth:`replace` the tensors are copies too, as a model may work in place (``x.sub_(mean)``).
        """
        inputs: Inputs = fresh(self._entries) if self._copies else self._entries
        return inputs

    @property
    def _entries(self) -> Any:
        return _as_given(self._given, {**_by_name(self._given), **self.values})

    @property
    def size(self) -> int:
        """Number of samples, B."""
        return len(self._first)

    @property
    def device(self) -> torch.device:
        """The device of the first modality."""
        return self._first.device

    @property
    def _first(self) -> Tensor:
        return next(iter(self.values.values()))

    def valid(self, name: str) -> Tensor | None:
        """Where a modality is not padding: a broadcastable boolean; None if valid everywhere."""
        return self._valid[name]

    def replace(self, values: Mapping[str, Tensor]) -> Batch:
        """The same batch with other values of its modalities."""
        changed = copy.copy(self)
        changed.values = dict(values)
        changed._copies = True
        return changed

    def leaves(self) -> Batch:
        """The same batch with its modalities as leaves that require a gradient."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.values.items()}
        return self.replace(leaves)

    def take(self, index: Tensor) -> Batch:
        """The samples at ``index``."""
        entries = take_entries(_by_name(self._entries), index, self.size)
        return Batch(_as_given(self._given, entries))

    def is_inference(self) -> bool:
        """Whether a modality was made under inference_mode, and cannot be differentiated."""
        return any(value.is_inference() for value in self.values.values())

    def clone(self) -> Batch:
        """Copy all tensors; tensors made under inference_mode cannot be differentiated."""
        return Batch(fresh(self._entries))

    def relative_sizes(self, perturbed: Batch) -> Values:
        """``||R|| / ||X||`` of every sample by modality, padding excluded, shape (B,) each.

        NaN where a sample is zero everywhere.
        """
        sizes = {}
        for name, value in self.values.items():
            clean = value.detach()
            change = perturbed.values[name].detach() - clean
            valid = self.valid(name)
            if valid is not None:
                clean, change = clean.masked_fill(~valid, 0), change.masked_fill(~valid, 0)
            sizes[name] = relative_size(change, clean)
        return sizes

    def equals(self, other: Batch) -> Tensor:
        """Which samples are the same in both batches, in every modality; shape (B,)."""
        same = []
        for name, value in self.values.items():
            ours, theirs = value.detach().flatten(1), other.values[name].detach().flatten(1)
            same.append(((ours == theirs) | (ours.isnan() & theirs.isnan())).all(dim=1))
        return torch.stack(same).all(dim=0)


def fresh(value: Any) -> Any:
    """A copy that a model may change: of tensors, of containers, and of data samples.

    Of an object, its own attributes are copied in the same way, but not those of objects in it.
    """
    return map_tensors(Tensor.clone, value)


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy with other tensors, as deep as :func:`fresh` copies.

    Args:
        change (Callable): Makes a new tensor of each.
        value (Any): A tensor, a container, or an object that holds such.
    """
    if isinstance(value, (Tensor, Mapping, list, tuple, set)):
        return _map_container(change, value)
    twin = copy.copy(value)
    for name, entry in getattr(twin, '__dict__', {}).items():
        vars(twin)[name] = _map_container(change, entry)
    return twin


def _map_container(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    inner = partial(map_tensors, change)
    if isinstance(value, Mapping):
        return _mapping_like(value, {name: inner(entry) for name, entry in value.items()})
    if isinstance(value, tuple) and hasattr(value, '_make'):
        return value._make(map(inner, value))
    if isinstance(value, (list, tuple, set)):
        return type(value)(map(inner, value))
    return value


def _mapping_like(value: Mapping[str, Any], entries: dict[str, Any]) -> Any:
    """Entries in a mapping of the same type, whose attributes a model may read."""
    # A copy of any other mapping may share what it holds.
    if type(value) is dict or not isinstance(value, (dict, UserDict)):
        return entries
    twin = copy.copy(value)
    twin.update(entries)
    return twin


def per_sample(values: Tensor, count: int) -> Tensor:
    """Reshape ``(B·k, ...)``, batch axis outermost, to ``(B, k, ...)``."""
    return values.reshape(count, -1, *values.shape[1:])


def take_entries(values: Mapping[str, Any], index: Tensor, size: int) -> dict[str, Any]:
    """Select samples from every tensor and list that has one entry per sample.

    Everything else (position ids, a tuple that is a shape) is kept whole.
    """
    taken = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.ndim and len(value) == size:
            value = value[index]
        elif isinstance(value, list) and len(value) == size:
            value = [value[i] for i in index.tolist()]
        taken[name] = value
    return taken


def _by_name(inputs: Any) -> dict[str, Any]:
    """What a batch consists of, by name."""
    if isinstance(inputs, Tensor):
        return {LONE: inputs}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if isinstance(inputs, tuple) and hasattr(inputs, '_asdict'):
        named: dict[str, Any] = inputs._asdict()
        return named
    if isinstance(inputs, (list, tuple)):
        return {str(place): entry for place, entry in enumerate(inputs)}
    return {}


def _as_given(given: Inputs, entries: dict[str, Any]) -> Any:
    """Entries by name in the form of what was given."""
    if isinstance(given, Tensor):
        return entries[LONE]
    if isinstance(given, Mapping):
        return _mapping_like(given, entries)
    if isinstance(given, tuple) and hasattr(given, '_make'):
        return given._make(entries.values())
    return type(given)(entries.values())


def _modalities(inputs: Any) -> Values:
    found = {
        name: value
        for name, value in _by_name(inputs).items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim
    }
    modalities = {name: value for name, value in found.items() if not _is_mask(name)} or found
    for value in modalities.values():
        if value.is_nested or value.layout != torch.strided:
            kind = 'nested' if value.is_nested else str(value.layout)
            raise TypeError(
                f'an attack needs dense tensors, got a {kind} one; write value.to_dense(), or '
                'nested.to_padded_tensor(0.0) with a boolean <name>_mask that is True where valid'
            )
    sizes = {name: len(value) for name, value in modalities.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f'the tensors of a {type(inputs).__name__} are one batch, with the samples along their '
            f'first axis, but have different numbers of them: {sizes}; where each tensor is a '
            'sample, write torch.stack(inputs), and keep what all samples share in the model, as a '
            'buffer'
        )
    if modalities:
        return modalities
    got: object = type(inputs).__name__
    if isinstance(inputs, Tensor):
        got = inputs.dtype
    elif _by_name(inputs):
        got = {n: getattr(value, 'dtype', type(value)) for n, value in _by_name(inputs).items()}
    raise TypeError(
        'an attack needs one floating-point tensor, or a dict, list or tuple that holds some, as '
        f'inputs, got {got}; convert them first (inputs.float()), or let the data preprocessor '
        'normalise them'
    )


def _is_mask(name: str) -> bool:
    return name == MASK[1:] or name.endswith(MASK)


def _valid_entries(entries: Mapping[str, Any], name: str) -> Tensor | None:
    value, mask = entries[name], entries.get(name + MASK)
    if not isinstance(mask, Tensor):
        return None
    fits = mask.shape == value.shape[: mask.ndim]
    if mask.dtype is not torch.bool:
        # A model may multiply by its mask.
        if not fits or not ((mask == 0) | (mask == 1)).all():
            return None
        mask = mask.bool()
    if not fits:
        raise ValueError(
            f'{name}{MASK} must be True where valid, over the leading axes of {name!r}, got the '
            f'shape {tuple(mask.shape)} for {tuple(value.shape)}'
        )
    return mask.view(*mask.shape, *[1] * (value.ndim - mask.ndim))
