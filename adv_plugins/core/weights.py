"""Adversarial weight perturbation (Wu et al., NeurIPS 2020, arXiv 2004.05884)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .functional import ascent_direction
from .sharding import is_sharded


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The weights to perturb: all trainable parameters with several axes, such as matrices.

    Most biases and norms are vectors, and stay; class tokens and position embeddings move.

    Raises:
        TypeError: The model is sharded.
        ValueError: There are none.
    """
    if is_sharded(model):
        raise TypeError(
            f'weight_eps moves whole weights, but {type(model).__name__} is sharded; write '
            'weight_eps=0, or wrap the model in DistributedDataParallel'
        )
    weights = [value for value in model.parameters() if value.requires_grad and value.ndim > 1]
    if not weights:
        raise ValueError(
            f'weight_eps moves weights, but all those of {type(model).__name__} are frozen; write '
            'weight_eps=0, or unfreeze a layer'
        )
    return weights


@contextmanager
def perturbed(
    weights: Sequence[nn.Parameter], slopes: Sequence[Tensor | None], eps: float
) -> Iterator[None]:
    """Inside the block each weight w is at ``w + eps · ‖w‖ · g / ‖g‖``, for its slope g.

    A weight without a finite gradient stays where it is. Afterwards all have the memory that they
    had, and no graph of before notices.
    """
    before = [weight.data for weight in weights]
    # Autocast would go on with what it cast of other values.
    torch.clear_autocast_cache()
    try:
        for weight, slope in zip(weights, slopes, strict=True):
            if slope is not None:
                weight.data = weight.data + _shift(weight.data, slope, eps)
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data
        torch.clear_autocast_cache()


def _shift(weight: Tensor, slope: Tensor, eps: float) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    direction = ascent_direction(slope.to(wide), 'l2', tuple(range(weight.ndim)))
    shift = eps * torch.linalg.vector_norm(weight, dtype=wide) * direction
    return torch.where(shift.isfinite().all(), shift, 0).to(weight.dtype)
