"""Moving what a layer computes, whatever the model is for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.batch import per_sample
from ..core.cam_layer import tensors_of
from ..core.capture import capture_output, find_module
from ..core.objectives import Objective, register_objective
from ..core.record import Record


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

    compares: ClassVar[bool] = True

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError with similar names if there is no such layer."""
        find_module(model, self.layer, 'layer')

    def record(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Capture the outputs of the layer."""
        return capture_output(model.get_submodule(self.layer))

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
        tensors = tensors_of(record.features[-1]) if record.features else []
        if not tensors or len(tensors[0]) % record.batch_size:
            got = f'returns {tuple(tensors[0].shape)}' if tensors else 'gave no tensor'
            raise ValueError(
                f'layer={self.layer!r} {got} in a forward of {record.batch_size} samples; name a '
                'layer that runs, with the samples outermost in its output'
            )
        values = per_sample(tensors[0], record.batch_size).flatten(1)
        return values.to(torch.promote_types(values.dtype, torch.float32))
