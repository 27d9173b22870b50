"""How far two attention maps are apart (A-ART, sections 2.2 and 3.2.2), as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_frobenius(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Distance of two attention maps, ``||A - A_adv||_F``, not squared (A-ART, section 2.2).

    Args:
        a (Tensor): Attention maps, averaged over heads, shape (B, T, T); or (B, W, T, T) for W
            blocks (windows, frames) of attention per sample, which count as one matrix.
        b (Tensor): The maps to compare with, same shape.
        mask (Tensor, optional): Boolean, True for valid frames, shape (B, T) or (B, W, T). Only
            entries with a valid query and a valid key count. Defaults to None: all are valid.

    Returns:
        Tensor: One norm per sample, shape (B,), with gradient 0 where both maps are equal.

    Raises:
        ValueError: Shapes do not fit.
    """
    if a.shape != b.shape or a.ndim < 3:
        raise ValueError(
            'attention_frobenius takes two maps of one shape (B, T, T), got '
            f'{tuple(a.shape)} and {tuple(b.shape)}'
        )
    difference = (a - b).masked_fill(~_valid_block(a, mask), 0)
    distance: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1)
    return distance


def attention_mse(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of two maps over their valid entries (A-ART, section 3.2.2).

    Args:
        a (Tensor): Attention maps, shaped as in :func:`attention_frobenius`.
        b (Tensor): The maps to compare with.
        mask (Tensor, optional): True for valid frames. Defaults to None: all are valid.

    Returns:
        Tensor: One mean per sample, shape (B,); 0 for a sample without a valid frame.
    """
    entries = _valid_block(a, mask).expand(a.shape).flatten(1).sum(dim=1)
    return attention_frobenius(a, b, mask).square() / entries.clamp(min=1)


def _valid_block(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Where both query and key are valid, broadcastable to the maps."""
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=maps.device)
    if mask.shape != maps.shape[:-1] or maps.shape[-1] != maps.shape[-2]:
        raise ValueError(
            f'a mask of the shape {tuple(mask.shape)} does not fit square maps '
            f'{tuple(maps.shape)}; it needs one entry per frame: {tuple(maps.shape[:-1])}'
        )
    return mask.unsqueeze(-1) & mask.unsqueeze(-2)
