"""The attention map of one call of one module."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..core.batch import per_sample


@dataclass
class AttentionMap:
    """The attention probabilities of one call of one module.

    Args:
        name (str): Dotted name of the module; ``''`` for the model itself.
        weights (Tensor): The attention of each query to each key, before dropout and averaged over
            heads; shape (N, Q, K), at least float32, with its graph. N is the batch, as outermost
            axis, times whatever the module folds into it (windows, frames, positions). Rows sum to
            1, except for a query whose keys are all masked: its row is zero if PyTorch computes
            the softmax (``F.scaled_dot_product_attention`` and fused layers), and NaN if the
            module computes it.
        valid (Tensor, optional): Shape (N, K), bool: the keys that at least one query may attend
            to. Defaults to None: all of them.
    """

    name: str
    weights: Tensor
    valid: Tensor | None = None

    def per_sample(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Group the map by sample, with the mask of valid frames.

        Returns:
            tuple[Tensor, Tensor | None]: Weights of shape (count, W, Q, K), float32, and the mask
            of shape (count, W, K), or None if all keys are valid or queries and keys are not the
            same frames.
        """
        weights = per_sample(self.weights.float(), count)
        square = weights.shape[-1] == weights.shape[-2]
        # In cross-attention the mask of the keys says nothing about the queries.
        mask = None if self.valid is None or not square else per_sample(self.valid, count)
        return weights, mask

    def detach(self) -> AttentionMap:
        """The same map without its graph."""
        return replace(self, weights=self.weights.detach())

    def take(self, index: Tensor, batch_size: int) -> AttentionMap:
        """The map of the samples at ``index`` of a batch."""
        weights, valid = (
            None if part is None else per_sample(part, batch_size)[index].flatten(0, 1)
            for part in (self.weights, self.valid)
        )
        assert weights is not None
        return replace(self, weights=weights, valid=valid)
