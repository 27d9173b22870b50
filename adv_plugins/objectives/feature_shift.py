"""Moving what a layer computes, whatever the model is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.adapter import Adapter
from ..core.batch import Batch, per_sample
from ..core.capture import FeatureLayer, find_module, tensors_of
from ..core.norm import NormPath
from ..core.objectives import Objective, register_objective
from ..core.record import Record


@dataclass(frozen=True)
class _Output:
    """The output of a layer."""

    name: str
    layout: None = None
    fused: frozenset[str] = frozenset()

    def pick(self, output: Any) -> list[Tensor]:
        """The tensors in it."""
        return tensors_of(output)

    def __str__(self) -> str:
        return f'FeatureShift: moves the output of {self.name}'


@register_objective
@dataclass(frozen=True, kw_only=True, repr=False)
class FeatureShift(Objective):
    """How far the output of a layer moves from the clean one, in ℓ2 for each sample.

    It needs neither labels nor class scores. Its gradient is zero at the clean input, so write
    ``random_start=True``.

    Args:
        layer (str): Dotted name of the layer, with the samples outermost in its output: (B, ...),
            or (B·T, ...) with the frames of a sample in a row. Of several tensors the first counts.

    Example:
        >>> Recipe(objective=FeatureShift(layer='backbone'), eps=8 / 255, random_start=True)
    """

    layer: str

    needs_features: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def check(self, adapter: Adapter) -> None:
        """Raise a ValueError with similar names if there is no such layer."""
        find_module(adapter.model, self.layer, 'layer')

    def find_layer(
        self, adapter: Adapter, batch: Batch, target: Any, path: NormPath
    ) -> FeatureLayer:
        """The layer that is named."""
        return _Output(self.layer)

    def targets(self, record: Record) -> Tensor:
        """The clean features, shape (B, D)."""
        return self._features(record).detach()

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """One value per sample, shape (B,)."""
        assert targets is not None
        length: Tensor = torch.linalg.vector_norm(self._features(record) - targets, dim=1)
        return length

    def _features(self, record: Record) -> Tensor:
        """The features of each sample, shape (B, D), at least in float32."""
        tensors = record.features
        if not tensors or len(tensors[0]) % record.batch_size:
            got = f'returns {tuple(tensors[0].shape)}' if tensors else 'returns no tensor'
            raise ValueError(
                f'layer={self.layer!r} {got} in a forward of {record.batch_size} samples; name a '
                'layer with the samples outermost in its output'
            )
        values = per_sample(tensors[0], record.batch_size).flatten(1)
        return values.to(torch.promote_types(values.dtype, torch.float32))
