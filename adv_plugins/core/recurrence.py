"""Recurrent layers in eval mode: on a GPU they have no backward there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def differentiable_recurrence(model: nn.Module) -> Iterator[None]:
    """Inside the block, recurrent layers in eval mode have a backward, and the values of that mode.

    cuDNN's kernels have a backward in training mode only, which differs from eval mode by the
    dropout between the layers.

    Args:
        model (nn.Module): The model.
    """
    layers = [part for part in model.modules() if isinstance(part, nn.RNNBase)]
    before = [(layer, layer.dropout) for layer in layers if not layer.training]
    for layer, _ in before:
        layer.training, layer.dropout = True, 0.0
    try:
        yield
    finally:
        for layer, dropout in before:
            layer.training, layer.dropout = False, dropout
