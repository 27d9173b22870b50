"""FeatureInference: a deployable FeatureTransformer, from stored features to probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .feature_preprocessor import FeaturePreprocessor, frame_mask
from .feature_transformer import FeatureTransformer


class FeatureInference(nn.Module):
    """A deployable :class:`FeatureTransformer` that maps stored features to probabilities.

    It includes the data preprocessor's steps for padded batches, so that ``torch.export`` and ONNX
    produce one self-contained graph for every batch size and length.

    Args:
        model (FeatureTransformer): The model, with a :class:`FeaturePreprocessor`. It is switched
            to evaluation mode.

    Raises:
        ValueError: The model has another data preprocessor.

    Example:
        >>> inference = FeatureInference(model)
        >>> scores = inference(rgb, audio, num_frames)
        >>> program = torch.export.export(inference, **inference.export_arguments())
        >>> torch.onnx.export(inference, f='model.onnx', dynamo=True,
        ...                   input_names=inference.input_names, output_names=['scores'],
        ...                   **inference.export_arguments())
    """

    def __init__(self, model: FeatureTransformer) -> None:
        super().__init__()
        if not isinstance(model.data_preprocessor, FeaturePreprocessor):
            raise ValueError(
                'FeatureInference repeats a FeaturePreprocessor, but data_preprocessor is of type '
                f'{type(model.data_preprocessor).__name__}; write data_preprocessor=None'
            )
        self.model = model
        self.eval()

    @property
    def input_names(self) -> list[str]:
        """Names of the arguments: the modalities in the model's order, then ``num_frames``."""
        return [*self.model.modalities, 'num_frames']

    def forward(self, *inputs: Tensor) -> Tensor:
        """Classify a padded batch.

        Args:
            *inputs (Tensor): For each modality, in the model's order, features (B, T, D), uint8
                or floating point; then the number of valid frames, integers (B,).

        Returns:
            Tensor: Probabilities (B, num_classes).
        """
        *features, num_frames = inputs
        preprocessor = self.model.data_preprocessor
        mask = frame_mask(num_frames, features[0].shape[1])
        names = list(self.model.modalities)
        values = {
            name: preprocessor.dequantize(value)
            for name, value in zip(names, features, strict=True)
        }
        fused = self.model.encode(preprocessor.normalize(values), dict.fromkeys(names, mask))
        return self.model.cls_head(fused).sigmoid()

    def export_arguments(self, dtype: torch.dtype = torch.uint8) -> dict[str, Any]:
        """Arguments for ``torch.export.export`` and ``torch.onnx.export``.

        Args:
            dtype (torch.dtype): Data type of the features that the exported graph will take.
                Defaults to ``torch.uint8``.

        Returns:
            dict: ``args``, a batch to trace with, and ``dynamic_shapes``.
        """
        device = next(self.parameters()).device
        batch, length = torch.export.Dim('batch'), torch.export.Dim('length')
        features = [
            torch.zeros(2, 3, width, dtype=dtype, device=device)
            for width in self.model.modalities.values()
        ]
        shapes = [{0: batch, 1: length} for _ in features]
        num_frames = torch.tensor([3, 2], device=device)
        return dict(args=(*features, num_frames), dynamic_shapes={'inputs': (*shapes, {0: batch})})
