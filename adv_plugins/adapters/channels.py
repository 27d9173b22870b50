"""Which axis of an input holds the channels, where its shape does not tell: (B, 3, 3, H, W).

The first convolution that an input reaches takes its channels on axis 1, and each of them depends
on one channel of the input alone. So it is looked at in a forward that runs anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..core.compiling import not_compiled

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


def possible_axes(shape: Sequence[int], channels: int) -> list[int]:
    """The axes that may hold this number of channels, by their length alone.

    Of four and more, the one before the last is height or width, unless no other axis fits.
    """
    axes = [axis for axis in range(1, len(shape)) if shape[axis] == channels]
    others = [axis for axis in axes if axis != len(shape) - 2]
    return others if others and len(shape) > 3 else axes


class ChannelFinder(TorchFunctionMode):
    """While it is active, looks at the convolutions for the axes of the channels.

    Args:
        inputs (Mapping[str, Tensor]): Inputs that require a gradient, by name.
        axes (Mapping[str, Sequence[int]]): The possible axes of each.

    Attributes:
        found (dict[str, int]): The axis of each input for which a convolution tells.
    """

    def __init__(self, inputs: Mapping[str, Tensor], axes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._axes = axes
        self._waiting = dict(inputs)
        self.found: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._waiting and func in _CONVOLUTIONS:
            self._look(args[0] if args else kwargs['input'])
        return func(*args, **kwargs)

    @not_compiled
    def _look(self, seen: Tensor) -> None:
        if not seen.requires_grad:
            return
        first = seen.select(1, 0).sum()
        slopes = torch.autograd.grad(
            first, list(self._waiting.values()), retain_graph=True, allow_unused=True
        )
        for name, slope in zip(list(self._waiting), slopes, strict=True):
            if slope is None:
                continue
            count = self._waiting.pop(name).shape[self._axes[name][0]]
            alone = [axis for axis in self._axes[name] if _reached(slope, axis) == 1]
            if seen.shape[1] == count and len(alone) == 1:
                self.found[name] = alone[0]


def _reached(slope: Tensor, axis: int) -> int:
    """The number of indices along an axis that have any slope."""
    return int(slope.movedim(axis, 0).flatten(1).any(dim=1).sum())
