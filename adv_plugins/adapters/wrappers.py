"""Unwrapping models from mmengine's model wrappers."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn


def inner_model(model: nn.Module) -> nn.Module:
    """The model itself, without DistributedDataParallel or another wrapper.

    Args:
        model (nn.Module): A model, plain or wrapped by mmengine's Runner.

    Returns:
        nn.Module: The unwrapped model.
    """
    inner: nn.Module = model.module if is_model_wrapper(model) else model
    return inner
