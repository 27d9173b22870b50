"""The structure of a perturbation: where it may be, and along which axes it is constant."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .checks import is_integer

_DUAL = {'linf': 1.0, 'l2': 2.0, 'l1': math.inf, 'l21': 2.0}
"""The order of the norm of the gradient that says what a frame gains within a ball."""


class Mask:
    """The places that may be changed, as an option that can be compared and printed.

    Args:
        places (Tensor | Sequence): True where a pixel may be changed; broadcastable to the input.
    """

    def __init__(self, places: Any) -> None:
        self.places = torch.as_tensor(places).bool()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and torch.equal(self.places, other.places)

    def __hash__(self) -> int:
        return hash(self.places.shape)

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.places.cpu().numpy().tobytes()).hexdigest()[:6]
        return f'Mask({int(self.places.sum())} places of {tuple(self.places.shape)}, {digest})'

    def tolist(self) -> Any:
        """The places as a nested list."""
        return self.places.tolist()


def as_tuple(value: Any) -> Any:
    """A list as a tuple, and a single number as one of it; all else as it is."""
    if is_integer(value):
        return (value,)
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def as_axes(shared: Any) -> Any:
    """Axes as a tuple: ``'h w'``, a list, or a single number."""
    return as_tuple(shared.split() if isinstance(shared, str) else shared)


def as_region(region: Any) -> Any:
    """A box as a tuple of four numbers, a mask as a :class:`Mask`; what is neither as it is."""
    if region is None or isinstance(region, Mask):
        return region
    try:
        places = torch.as_tensor(region)
    except (TypeError, ValueError, RuntimeError):
        return region
    box = places.shape == (4,) and places.dtype is not torch.bool
    return tuple(places.tolist()) if box else Mask(places)


@dataclass(frozen=True)
class Place:
    """Where one modality may be changed, and how freely.

    Attributes:
        shared (tuple[int, ...]): The axes along which a perturbation is constant.
        time (int, optional): The axis of the frames.
        allowed (Tensor, optional): True where it may be changed; None: everywhere.
        count (int, optional): How many frames are still to be chosen; None: none.
    """

    shared: tuple[int, ...]
    time: int | None
    allowed: Tensor | None
    count: int | None

    @classmethod
    def of(
        cls,
        threat: Any,
        values: Tensor,
        axes: Mapping[str, int] | None,
        valid: Tensor | None,
    ) -> Place:
        """The place that a threat model leaves of a modality.

        Raises:
            ValueError: The modality lacks an axis, a frame or a place of the threat model.
        """
        axes = guessed_axes(values.shape) if axes is None else axes
        frames, time = threat.frames, axes.get('t')
        if frames is not None or threat.norm == 'l21':
            option = f'frames={frames}' if frames is not None else "norm='l21'"
            time = _axis('t', axes, values, option)
            length = values.shape[time]
            last = frames if isinstance(frames, int) else max(frames or (0,)) + 1
            if last > length:
                raise ValueError(f'{option} needs {last} frames, but the clips have {length}')
            if threat.norm == 'l21' and time not in (threat.dims or range(1, values.ndim)):
                raise ValueError(
                    f"norm='l21' is summed over the frames, axis {time}, which dims={threat.dims} "
                    'leaves out; leave out dims'
                )
        shared = tuple(_axis(axis, axes, values, f'shared={axis!r}') for axis in threat.shared)
        if 0 in shared and threat.norm != 'linf' and not _same_for_all(valid):
            raise ValueError(
                f"shared='b' is one perturbation for samples whose masks differ, but norm="
                f"{threat.norm!r} would scale it for each of them; write norm='linf'"
            )
        masks = [valid, _region(threat.region, axes, values)]
        if time is not None and isinstance(frames, tuple):
            given = torch.zeros(values.shape[time], dtype=torch.bool, device=values.device)
            given[list(frames)] = True
            masks.append(_on_axis(given, time, values.ndim))
        allowed = None
        for mask in masks:
            if mask is not None:
                allowed = mask if allowed is None else allowed & mask
        count = frames if isinstance(frames, int) else None
        return cls(shared, time, allowed, count)

    def drop(self, values: Tensor) -> Tensor:
        """Set values to zero where nothing may be changed."""
        return values if self.allowed is None else values.masked_fill(~self.allowed, 0)

    def free(self, values: Tensor) -> Tensor:
        """One entry of each that have to be the same."""
        for axis in self.shared:
            values = values.narrow(axis, 0, 1)
        return values

    def share(self, values: Tensor, but: int | None = None) -> Tensor:
        """The nearest values that are allowed: along the shared axes their means."""
        values, axes = self.drop(values), [axis for axis in self.shared if axis != but]
        if not axes:
            return values
        if self.allowed is None:
            return values.mean(dim=axes, keepdim=True).expand_as(values)
        counted = self.allowed.expand_as(values).sum(dim=axes, keepdim=True).clamp(min=1)
        return self.drop((values.sum(dim=axes, keepdim=True) / counted).expand_as(values))

    def alike(self, values: Tensor) -> Tensor:
        """With how many entries of its sample, itself included, each has to be the same."""
        axes = [axis for axis in self.shared if axis]
        count = torch.ones_like(values)
        if axes:
            count = self.drop(count).sum(dim=axes, keepdim=True).clamp(min=1).expand_as(values)
        return count

    def choose(self, slope: Tensor, norm: str) -> Place:
        """The place with the frames chosen, if they are not yet: those that gain most."""
        if self.count is None or self.time is None:
            return self
        others = [axis for axis in range(1, slope.ndim) if axis != self.time]
        even = self.share(slope, but=self.time)
        gain = torch.linalg.vector_norm(even, _DUAL[norm], dim=others)
        best = gain.topk(self.count, dim=1).indices
        chosen = torch.zeros_like(gain, dtype=torch.bool).scatter(1, best, True)
        chosen = _on_axis(chosen, self.time, slope.ndim)
        return replace(
            self, allowed=chosen if self.allowed is None else chosen & self.allowed, count=None
        )


def guessed_axes(shape: Sequence[int]) -> dict[str, int]:
    """The axes of an input by letter, those that its shape tells.

    Images are (B, C, H, W), features (B, T, C), clips (B, C, T, H, W) or (B, T, C, H, W), several
    views of them have another axis after the batch. The channels of clips are the axis of size 3.
    """
    known = {2: 'bc', 3: 'btc', 4: 'bchw'}.get(len(shape), 'b')
    orders = {5: {1: 'bcthw', 2: 'btchw', 4: 'bthwc'}, 6: {2: 'bvcthw', 3: 'bvtchw'}}.get(
        len(shape)
    )
    if orders:
        fitting = [order for axis, order in orders.items() if shape[axis] == 3]
        known = fitting[0] if len(fitting) == 1 else 'b' + ' ' * (len(shape) - 3) + 'hw'
    return {letter: axis for axis, letter in enumerate(known) if letter != ' '}


def _same_for_all(valid: Tensor | None) -> bool:
    """Whether all samples have the same mask."""
    return valid is None or bool((valid == valid[:1]).all())


def _axis(axis: str | int, axes: Mapping[str, int], values: Tensor, option: str) -> int:
    found = axes.get(axis, -1) if isinstance(axis, str) else axis
    if not 0 <= found < values.ndim:
        known = ', '.join(f'{letter} is {number}' for letter, number in axes.items())
        raise ValueError(
            f'{option} needs the axis {axis!r}, which is not known in the input '
            f'{tuple(values.shape)} ({known}); write numbers, e.g. shared=(3, 4), and for frames '
            'the channels have to be the one axis of size 3'
        )
    return found


def _region(region: Any, axes: Mapping[str, int], values: Tensor) -> Tensor | None:
    """Where a box or mask allows changes; None: everywhere."""
    if region is None:
        return None
    if isinstance(region, Mask):
        places = region.places.to(values.device)
        shape = tuple(places.shape)
        fits = len(shape) <= values.ndim and all(
            ours in (1, theirs)
            for ours, theirs in zip(shape[::-1], values.shape[::-1], strict=False)
        )
        if not fits:
            raise ValueError(
                f'the mask region has the shape {shape}, which does not broadcast to the input '
                f'{tuple(values.shape)}; write one of {tuple(values.shape[-2:])} for all frames'
            )
        return places.view(*[1] * (values.ndim - places.ndim), *shape)
    top, left, height, width = region
    allowed = torch.ones((1,) * values.ndim, dtype=torch.bool, device=values.device)
    for letter, start, length in (('h', top, height), ('w', left, width)):
        axis = _axis(letter, axes, values, f'region={region}')
        size = values.shape[axis]
        if start + length > size:
            raise ValueError(
                f'region={region} (top, left, height, width) ends at {start + length}, but the '
                f'frames have {size} pixels there'
            )
        inside = torch.zeros(size, dtype=torch.bool, device=values.device)
        inside[start : start + length] = True
        allowed = allowed & _on_axis(inside, axis, values.ndim)
    return allowed


def _on_axis(line: Tensor, axis: int, ndim: int) -> Tensor:
    """One entry for each place on an axis, (T,), or (B, T) for each sample, to broadcast."""
    batch = line.shape[:-1] or (1,)
    return line.view(*batch, *[1] * (axis - 1), line.shape[-1], *[1] * (ndim - axis - 1))
