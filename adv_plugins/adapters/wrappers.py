"""Models inside the wrappers of mmengine's trainers."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn


def inner_model(model: nn.Module) -> nn.Module:
    """The model itself, without DistributedDataParallel or another wrapper.

    Args:
        model (nn.Module): A model, as it is or wrapped by mmengine's Runner.

    Returns:
        nn.Module: The model as it was built.
    """
    inner: nn.Module = model.module if is_model_wrapper(model) else model
    return inner
