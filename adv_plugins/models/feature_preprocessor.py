"""Turn ragged frame features into one padded float batch with masks, on the model's device.

Features are copied to the device as the stored 8-bit integers, a quarter of the bytes of float32,
and dequantised there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from ..core.batch import MASK
from ..core.checks import check_choice

INPUT_NORMS = (None, 'l2_frame')


@MODELS.register_module()
class FeaturePreprocessor(BaseDataPreprocessor):
    """Dequantise, pad and mask a batch of frame features.

    uint8 features are assumed to be YouTube-8M's: byte ``q`` means ``q * 4 / 255 + 4 / 512 - 2``,
    looked up in a float32 table, so that every device gives the same bits. Floating-point features
    keep their values, in float32. Each modality is padded with 0.0 to its longest video in the
    batch; the modalities of a video may differ in length, and one of them may have no frames.

    Args:
        input_norm (str, optional): ``'l2_frame'`` divides each frame, its modalities concatenated,
            by its L2 norm, as YouTube-8M's starter code does. Attacks then act on normalised
            features, and their eps is in these units; to attack the features as stored, set
            ``input_norm`` of the :class:`FeatureTransformer` instead. Defaults to None: no
            normalisation.
        non_blocking (bool): Whether copies to the device are asynchronous. Defaults to False.

    Source: ``utils.Dequantize`` and ``train.py`` of google/youtube-8m.

    Example:
        >>> preprocessor = FeaturePreprocessor()
        >>> rgb = [torch.zeros(t, 1024, dtype=torch.uint8) for t in (120, 300)]
        >>> inputs = preprocessor(dict(inputs=dict(rgb=rgb)))['inputs']
        >>> inputs['rgb'].shape, inputs['rgb_mask'].sum(1)
        (torch.Size([2, 300, 1024]), tensor([120, 300]))
    """

    table: Tensor

    def __init__(self, input_norm: str | None = None, non_blocking: bool = False) -> None:
        super().__init__(non_blocking=non_blocking)
        check_choice('input_norm', input_norm, INPUT_NORMS)
        self.input_norm = input_norm
        table = torch.arange(256, dtype=torch.float32) * (4 / 255) + (4 / 512 - 2)
        self.register_buffer('table', table, persistent=False)

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Turn a collated batch into the input of the model.

        Args:
            data (Mapping): ``inputs`` maps each modality to a list of (T_i, D) tensors, as
                mmengine's ``pseudo_collate`` returns, or to one (B, T, D) tensor with an optional
                boolean ``<name>_mask`` (B, T) beside it. ``data_samples`` is optional.
            training (bool): Has no effect. Defaults to False.

        Returns:
            dict: ``data`` with the ``inputs`` ``<name>`` (B, T, D), float32 and 0.0 where there is
            no frame, and ``<name>_mask`` (B, T), True where there is one.

        Raises:
            ValueError: Features are not frames of one width, a video has no frames, or its
                modalities differ in length under ``input_norm='l2_frame'``.
            TypeError: Features are neither uint8 nor floating-point tensors.
        """
        data = self.cast_data(data)
        inputs = data['inputs']
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f'inputs must map modalities to their features, got {type(inputs).__name__}; write '
                'dict(inputs=dict(rgb=..., audio=...))'
            )
        names = [name for name in inputs if not name.endswith(MASK)]
        videos = _Videos(data.get('data_samples'))
        features, masks, lengths = {}, {}, {}
        for name in names:
            batch = self._pad if isinstance(inputs[name], Sequence) else self._stacked
            features[name], masks[name], lengths[name] = batch(
                name, inputs[name], inputs.get(name + MASK), videos
            )
        self._check_lengths(lengths, videos)
        if self.input_norm == 'l2_frame':
            check_same_frames(masks)
        features = self.normalize(features)
        return {**data, 'inputs': {**features, **{n + MASK: mask for n, mask in masks.items()}}}

    def dequantize(self, features: Tensor) -> Tensor:
        """Dequantise uint8 features to float32; cast other features to float32."""
        if features.dtype is torch.uint8:
            return self.table.index_select(0, features.flatten().int()).view(features.shape)
        return features.float()

    def normalize(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Apply ``input_norm`` to features (B, T, D) of equal T."""
        return features if self.input_norm is None else l2_normalize_frames(features)

    def _pad(
        self, name: str, samples: Sequence[Tensor], mask: Any, videos: _Videos
    ) -> tuple[Tensor, Tensor, list[int]]:
        if mask is not None:
            raise ValueError(
                f'{name}{MASK} is made from the lengths of the list {name!r}; leave it out, or '
                f'pass {name!r} as one padded (B, T, D) tensor'
            )
        for i, sample in enumerate(samples):
            _check_tensor(name, sample, '(T, D)', videos[i])
            if sample.shape[1] != samples[0].shape[1]:
                raise ValueError(
                    f'{name!r} of {videos[i]} is {sample.shape[1]} wide, that of {videos[0]} '
                    f'{samples[0].shape[1]}; all videos of a batch need features of one width'
                )
        lengths = [len(sample) for sample in samples]
        # At least one row, so that a modality absent from the whole batch is still a tensor.
        rows = max(1, *lengths)
        padded = self.table.new_zeros(len(samples), rows, samples[0].shape[1])
        for row, sample in zip(padded, samples, strict=True):
            row[: len(sample)] = self.dequantize(sample)
        ends = torch.tensor(lengths, device=padded.device)
        return padded, frame_mask(ends, rows), lengths

    def _stacked(
        self, name: str, features: Tensor, mask: Tensor | None, videos: _Videos
    ) -> tuple[Tensor, Tensor, list[int]]:
        _check_tensor(name, features, '(B, T, D)', 'the batch')
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        check_mask(name, mask, features)
        padded = self.dequantize(features).masked_fill(~mask[..., None], 0.0)
        return padded, mask, mask.sum(1).tolist()

    def _check_lengths(self, lengths: Mapping[str, list[int]], videos: _Videos) -> None:
        if len({len(value) for value in lengths.values()}) != 1:
            counts = {name: len(value) for name, value in lengths.items()}
            raise ValueError(
                f'all modalities of inputs need the same number of videos, got {counts}'
            )
        for i, frames in enumerate(zip(*lengths.values(), strict=True)):
            if not any(frames):
                raise ValueError(
                    f'{videos[i]} has no frames in any of {list(lengths)}; leave it out of the '
                    'data set'
                )
            if self.input_norm == 'l2_frame' and len(set(frames)) > 1:
                raise ValueError(
                    "input_norm='l2_frame' concatenates the modalities of a frame, but "
                    f'{videos[i]} has {dict(zip(lengths, frames, strict=True))} frames; cut or '
                    'pad its modalities to one length, or write input_norm=None'
                )


class _Videos:
    """The names of the videos of a batch in error messages."""

    def __init__(self, data_samples: Any) -> None:
        self.data_samples = data_samples

    def __getitem__(self, index: int) -> str:
        name = f'sample {index} of the batch'
        if not self.data_samples:
            return name
        video_id = getattr(self.data_samples[index], 'video_id', None)
        return name if video_id is None else f'video_id={video_id!r} ({name})'


def frame_mask(num_frames: Tensor, length: int) -> Tensor:
    """A mask that is True for the first ``num_frames`` of ``length`` frames.

    Args:
        num_frames (Tensor): Number of frames of each video, integers (B,).
        length (int): Length of the mask, T.

    Returns:
        Tensor: The mask, boolean (B, T).
    """
    return torch.arange(length, device=num_frames.device) < num_frames[:, None]


def l2_normalize_frames(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide each frame, its modalities concatenated, by its L2 norm.

    As in ``tf.nn.l2_normalize``, norms below 1e-6 count as 1e-6, so that zeros stay zeros.

    Args:
        features (Mapping[str, Tensor]): The modalities, each (B, T, D) with the same B and T.

    Returns:
        dict[str, Tensor]: The modalities, normalised.
    """
    frames = F.normalize(torch.cat(list(features.values()), dim=-1), dim=-1, eps=1e-6)
    parts = frames.split([value.shape[-1] for value in features.values()], dim=-1)
    return dict(zip(features, parts, strict=True))


def check_mask(name: str, mask: Tensor, features: Tensor) -> None:
    """Raise a ValueError unless ``mask`` is a boolean mask (B, T) of features (B, T, D)."""
    if mask.dtype is not torch.bool or mask.shape != features.shape[:2]:
        raise ValueError(
            f'{name}{MASK} must be boolean {tuple(features.shape[:2])}, True where a frame is '
            f'valid, got {mask.dtype} {tuple(mask.shape)}'
        )


def check_same_frames(masks: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless the same frames are valid in all modalities."""
    first, *others = masks.values()
    if not all(torch.equal(first, other) for other in others):
        raise ValueError(
            "input_norm='l2_frame' concatenates the modalities of a frame, but the masks of "
            f'{list(masks)} differ; cut or pad the modalities of a video to one length, or write '
            'input_norm=None'
        )


def _check_tensor(name: str, features: Any, axes: str, owner: str) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(
            f'{name!r} of {owner} is of type {type(features).__name__}; pass a tensor {axes}, '
            'torch.from_numpy(...) makes one of an array'
        )
    if features.ndim != axes.count(',') + 1 or features.shape[-1] == 0:
        raise ValueError(
            f'{name!r} of {owner} has the shape {tuple(features.shape)}; frame features are {axes}'
        )
    if features.dtype is not torch.uint8 and not features.is_floating_point():
        raise TypeError(
            f'{name!r} of {owner} is {features.dtype}; features are uint8 (quantised as in '
            'YouTube-8M) or floating point'
        )
