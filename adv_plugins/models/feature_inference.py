"""FeatureInference: a deployable FeatureTransformer, from stored features to probabilities."""

from __future__ import annotations

from collections.abc import Mapping
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
                or floating point; then the number of valid frames, integers: (B,) if it holds for
                all modalities, which then have one T, or (B, modalities).

        Returns:
            Tensor: Probabilities (B, num_classes).

        Raises:
            ValueError: The numbers of frames do not fit the features, or ``input_norm``.
        """
        *features, num_frames = inputs
        preprocessor = self.model.data_preprocessor
        names = list(self.model.modalities)
        masks = self._masks(dict(zip(names, features, strict=True)), num_frames)
        values = {
            name: preprocessor.dequantize(value)
            for name, value in zip(names, features, strict=True)
        }
        fused = self.model.encode(preprocessor.normalize(values), masks)
        return self.model.probabilities(self.model.cls_head(fused))

    def _masks(self, features: Mapping[str, Tensor], num_frames: Tensor) -> dict[str, Tensor]:
        if num_frames.ndim == 1:
            length, *others = (value.shape[1] for value in features.values())
            if any(other != length for other in others):
                raise ValueError(
                    f'num_frames of the shape {tuple(num_frames.shape)} holds for all modalities, '
                    'but the features of one are longer than those of another: give num_frames '
                    f'({len(num_frames)}, {len(features)}), a column for each modality'
                )
            return dict.fromkeys(features, frame_mask(num_frames, length))
        if num_frames.shape[1:] != (len(features),):
            raise ValueError(
                f'num_frames has the shape {tuple(num_frames.shape)}: give (B,), or a column for '
                f'each of {list(features)}'
            )
        if 'l2_frame' in (self.model.input_norm, self.model.data_preprocessor.input_norm):
            raise ValueError(
                "input_norm='l2_frame' concatenates the modalities of a frame, which must be "
                'equally long: give num_frames (B,)'
            )
        columns = zip(features.items(), num_frames.unbind(1), strict=True)
        return {name: frame_mask(column, value.shape[1]) for (name, value), column in columns}

    def export_arguments(
        self, dtype: torch.dtype = torch.uint8, unequal: bool = False
    ) -> dict[str, Any]:
        """Arguments for ``torch.export.export`` and ``torch.onnx.export``.

        Args:
            dtype (torch.dtype): Data type of the features that the exported graph will take.
                Defaults to ``torch.uint8``.
            unequal (bool): Whether the graph takes modalities of unequal lengths, and with them
                ``num_frames`` of the shape (B, modalities). Defaults to False.

        Returns:
            dict: ``args``, a batch to trace with, and ``dynamic_shapes``.
        """
        device = next(self.parameters()).device
        widths = self.model.modalities
        batch, length = _size('batch'), _size('length')
        # Of lengths that are traced as equal, the graph would demand that they are.
        features = [
            torch.zeros(2, 3 + i * unequal, width, dtype=dtype, device=device)
            for i, width in enumerate(widths.values())
        ]
        lengths = [_size(f'length_{name}') if unequal else length for name in widths]
        shapes = [{0: batch, 1: length} for length in lengths]
        num_frames = torch.tensor([3, 2], device=device)
        if unequal:
            num_frames = num_frames[:, None].repeat(1, len(widths))
        return dict(args=(*features, num_frames), dynamic_shapes={'inputs': (*shapes, {0: batch})})


def _size(name: str) -> Any:
    """Any size of an axis. torch 2.6 and 2.7 do not export an axis that has no largest size."""
    return torch.export.Dim(name, max=2**31)
