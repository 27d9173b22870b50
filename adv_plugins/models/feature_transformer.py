"""A Transformer that classifies videos by their frame features, the classifier of A-ART.

Each modality (image features, sound features, ...) passes through its own self-attention encoder
and is pooled over time; a linear layer over all modalities gives the logits. Every layer
masks the padding, so that neither padding nor the other videos of a batch change an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.batch import MASK
from ..core.checks import check_choice, is_integer
from .feature_preprocessor import INPUT_NORMS, check_mask, check_same_frames, l2_normalize_frames
from .transformer_layers import EncoderLayer, MaskedPooling, sinusoidal_positions

POSITIONS = ('sinusoidal', None)
POOLINGS = ('mean', 'max', 'attention')
FUSIONS = ('concat', 'sum')


@MODELS.register_module()
class FeatureTransformer(BaseModel):
    """Video classifier over named modalities of frame features, multi-label by default.

    Trains, validates and tests in MMAction2's and mmengine's Runner as a recognizer does. Its input
    is ``dict(rgb=(B, T, 1024), rgb_mask=(B, T), audio=..., audio_mask=...)``: floating-point
    features, and masks that are True where a frame is valid. Without its mask, all frames of a
    modality are valid. Modalities may differ in T, and a video may lack a modality, which then adds
    nothing to its logits.

    Args:
        modalities (Mapping[str, int], optional): Width of a frame's features by modality.
            Defaults to None: YouTube-8M's ``dict(rgb=1024, audio=128)``.
        num_classes (int): Number of classes. Defaults to 317.
        width (int | Mapping[str, int | None], optional): Width of the encoders, to which a linear
            layer projects the features; a dict gives each modality its own. None keeps the width of
            the features, without a projection. Defaults to 512.
        depth (int): Encoder layers per modality. Defaults to 1.
        num_heads (int): Attention heads; must divide every width. Defaults to 8.
        mlp_ratio (float): Hidden width of the feed-forward part, as a multiple of the width.
            Defaults to 4.
        dropout (float): Dropout of the encoders. Defaults to 0.0.
        positions (str, optional): ``'sinusoidal'`` adds position encodings; with None the order of
            the frames does not count. Defaults to ``'sinusoidal'``.
        pooling (str): How the frames of a video are pooled: ``'mean'``, ``'max'`` or
            ``'attention'``, a mean with learned weights. Defaults to ``'mean'``.
        fusion (str): How the pooled modalities are combined: ``'concat'``, or ``'sum'``, which
            needs equal widths. (Averaging one linear classifier per modality is the same as a
            linear classifier of the concatenation.) Defaults to ``'concat'``.
        input_norm (str, optional): ``'l2_frame'`` divides each frame, its modalities
            concatenated, by its L2 norm inside the model; attacks act before it. The modalities
            of a video must then have the same frames. Defaults to None.
        multi_class (bool): Whether a video may have any number of labels; the scores are then the
            sigmoid of the logits. False: each video has one label, and the scores are the softmax
            of the logits, which add up to 1. Defaults to True.
        loss_cls (Mapping | nn.Module, optional): The loss or its config, called with logits and
            targets, both (B, num_classes). Defaults to None: binary cross-entropy of the
            logits, averaged over classes and batch, or, for ``multi_class=False``, cross-entropy.
        data_preprocessor (Mapping | nn.Module, optional): Defaults to None:
            ``dict(type='FeaturePreprocessor')``.
        init_cfg (Mapping, optional): mmengine's initialisation. Defaults to None: torch's own.

    Raises:
        ValueError: An option is unknown or does not fit the others.

    Source: Choudhary et al., Can't Fool Me: Adversarially Robust Transformer for Video
    Understanding (A-ART), 2021, section 3.1: one layer of 8-head attention per modality and binary
    cross-entropy. The paper does not state the other options.

    Example:
        >>> model = FeatureTransformer(modalities=dict(rgb=1024), num_classes=10)
        >>> model(dict(rgb=torch.randn(2, 300, 1024))).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        modalities: Mapping[str, int] | None = None,
        num_classes: int = 317,
        width: int | Mapping[str, int | None] | None = 512,
        depth: int = 1,
        num_heads: int = 8,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        positions: str | None = 'sinusoidal',
        pooling: str = 'mean',
        fusion: str = 'concat',
        input_norm: str | None = None,
        multi_class: bool = True,
        loss_cls: Mapping[str, Any] | nn.Module | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor or dict(type='FeaturePreprocessor'), init_cfg)
        check_choice('positions', positions, POSITIONS)
        check_choice('pooling', pooling, POOLINGS)
        check_choice('fusion', fusion, FUSIONS)
        check_choice('input_norm', input_norm, INPUT_NORMS)
        _check_positive(num_classes=num_classes, depth=depth, num_heads=num_heads)
        self.modalities = _modality_widths(modalities)
        self.num_classes = num_classes
        self.positions = positions
        self.fusion = fusion
        self.input_norm = input_norm
        self.multi_class = multi_class

        widths = _encoder_widths(self.modalities, width)
        _check_widths(widths, num_heads, fusion)
        self.projections = nn.ModuleDict()
        self.encoders = nn.ModuleDict()
        self.poolings = nn.ModuleDict()
        for name, size in widths.items():
            own = self.modalities[name]
            keep = _width_option(width, name) is None
            self.projections[name] = nn.Identity() if keep else nn.Linear(own, size)
            self.encoders[name] = nn.ModuleList(
                EncoderLayer(size, num_heads, mlp_ratio, dropout) for _ in range(depth)
            )
            self.poolings[name] = MaskedPooling(size, pooling)
        self.dropout = nn.Dropout(dropout)
        fused = sum(widths.values()) if fusion == 'concat' else next(iter(widths.values()))
        self.cls_head = nn.Linear(fused, num_classes)
        self.loss_cls = _build_loss(loss_cls, multi_class)

    def extract_feat(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The pooled vector of each video, the input of the classifier.

        Args:
            inputs (Mapping[str, Tensor]): ``<name>`` (B, T, D) and, optionally, ``<name>_mask``
                (B, T), for each modality.

        Returns:
            Tensor: (B, width), or (B, sum of the widths) for ``fusion='concat'``.

        Raises:
            ValueError: Modalities, shapes or masks do not fit the model.
        """
        features, masks = self._split(inputs)
        return self.encode(features, masks)

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """:meth:`extract_feat` without checks of the inputs, for tracing."""
        # Padding may hold anything, even NaN, and must not reach any output.
        features = {
            name: value.masked_fill(~masks[name][..., None], 0.0)
            for name, value in features.items()
        }
        if self.input_norm == 'l2_frame':
            features = l2_normalize_frames(features)
        pooled = [self._pool(name, features[name], masks[name]) for name in self.modalities]
        if self.fusion == 'sum':
            return torch.stack(pooled).sum(dim=0)
        return torch.cat(pooled, dim=-1)

    def _pool(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        x = self.projections[name](x)
        if self.positions == 'sinusoidal':
            x = x + sinusoidal_positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        x = self.dropout(x)
        # A softmax over no keys is NaN, so a video without frames attends to its padding.
        keys = mask | ~mask.any(dim=1, keepdim=True)
        for layer in self.encoders[name]:
            x = layer(x, keys)
        return self.poolings[name](x, mask)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        data_samples: Sequence[Any] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Logits, losses or predictions, by mmengine's ``mode``.

        Args:
            inputs (Mapping[str, Tensor]): See :meth:`extract_feat`.
            data_samples (Sequence, optional): The videos' data samples. Defaults to None.
            mode (str): ``'tensor'``, ``'loss'`` or ``'predict'``. Defaults to ``'tensor'``.

        Returns:
            Tensor | dict | list: Logits (B, num_classes), or what :meth:`loss` or :meth:`predict`
            returns.

        Raises:
            RuntimeError: The mode is unknown.
            ValueError: The mode needs data samples.
        """
        if mode == 'tensor':
            return self.cls_head(self.extract_feat(inputs))
        if mode not in ('loss', 'predict'):
            raise RuntimeError(f"mode={mode!r} is not known; write 'tensor', 'loss' or 'predict'")
        if data_samples is None:
            raise ValueError(
                f'mode={mode!r} needs data_samples, got None; pass them, or take the logits of '
                "mode='tensor'"
            )
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.predict(inputs, data_samples)

    def loss(self, inputs: Mapping[str, Tensor], data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The training losses.

        Args:
            inputs (Mapping[str, Tensor]): See :meth:`extract_feat`.
            data_samples (Sequence): Each with a ``gt_label``: a number from 0 to 1 for each class,
                (num_classes,), or the index of the only class.

        Returns:
            dict[str, Tensor]: ``loss_cls``, or the dict that the loss itself returns.

        Raises:
            ValueError: A label is neither.
        """
        logits = self(inputs)
        targets = torch.stack([self._target(sample) for sample in data_samples]).to(logits.device)
        losses = self.loss_cls(logits, targets)
        return losses if isinstance(losses, dict) else dict(loss_cls=losses)

    def predict(self, inputs: Mapping[str, Tensor], data_samples: Sequence[Any]) -> list[Any]:
        """Write the probabilities of the classes into the data samples.

        Args:
            inputs (Mapping[str, Tensor]): See :meth:`extract_feat`.
            data_samples (Sequence): The videos' ``ActionDataSample``.

        Returns:
            list: The data samples, with ``pred_score`` (num_classes,), the probabilities, and
            ``pred_label`` (1,), the class of the highest score.
        """
        scores = self.probabilities(self(inputs).float())
        for sample, score in zip(data_samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(dim=0, keepdim=True))
        return list(data_samples)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities of the classes, from logits (B, num_classes)."""
        return logits.sigmoid() if self.multi_class else logits.softmax(dim=-1)

    def _target(self, sample: Any) -> Tensor:
        label = sample.gt_label
        count = self.num_classes
        if label.shape == (count,):
            return label.float()
        if label.numel() == 1 and not label.is_floating_point() and 0 <= int(label) < count:
            return F.one_hot(label.reshape(()).long(), count).float()
        video_id = getattr(sample, 'video_id', None)
        owner = '' if video_id is None else f' of video_id={video_id!r}'
        got = f'the value {label.item()}' if label.numel() == 1 else f'shape {tuple(label.shape)}'
        raise ValueError(
            f'gt_label{owner} is {label.dtype} of {got}, which does not fit '
            f'num_classes={count}; give 0 or 1 for each class, float ({count},), or the index of '
            f'the only class, from 0 to {count - 1}'
        )

    def _split(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        names = list(self.modalities)
        if not isinstance(inputs, Mapping):
            raise ValueError(
                f'inputs must be a dict of the modalities {names}, got {type(inputs).__name__}'
            )
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name.removesuffix(MASK) not in names]
        if missing or unknown:
            raise ValueError(
                f'inputs have {list(inputs)}, but modalities={self.modalities}; missing: '
                f'{missing}, unknown: {unknown}'
            )
        masks = {}
        for name in names:
            self._check_features(name, inputs[name], len(inputs[names[0]]))
            mask = inputs.get(name + MASK)
            if mask is None:
                mask = inputs[name].new_ones(inputs[name].shape[:2], dtype=torch.bool)
            check_mask(name, mask, inputs[name])
            masks[name] = mask
        if self.input_norm == 'l2_frame':
            check_same_frames(masks)
        return {name: inputs[name] for name in names}, masks

    def _check_features(self, name: str, features: Tensor, batch_size: int) -> None:
        width = self.modalities[name]
        shape = tuple(features.shape)
        if len(shape) != 3 or shape[0] != batch_size or shape[1] == 0 or shape[2] != width:
            raise ValueError(
                f'{name!r} has the shape {shape}, but modalities=dict({name}={width}) and a batch '
                f'of {batch_size} ask for ({batch_size}, T, {width}) with T of 1 or more'
            )
        if not features.is_floating_point():
            raise ValueError(
                f'{name!r} is {features.dtype}, the model needs floating point; pass the batch '
                'through model.data_preprocessor, which dequantises it'
            )


def _modality_widths(modalities: Mapping[str, int] | None) -> dict[str, int]:
    widths = dict(rgb=1024, audio=128) if modalities is None else dict(modalities)
    if not widths:
        raise ValueError('modalities={} is empty; name one or more, e.g. dict(rgb=1024)')
    for name, width in widths.items():
        _check_positive(**{f'modalities[{name!r}]': width})
        if name.endswith(MASK):
            raise ValueError(
                f'modalities has {name!r}, but names that end in {MASK!r} are those of masks; '
                'rename it'
            )
    return widths


def _width_option(width: int | Mapping[str, int | None] | None, name: str) -> int | None:
    return width[name] if isinstance(width, Mapping) else width


def _encoder_widths(
    modalities: Mapping[str, int], width: int | Mapping[str, int | None] | None
) -> dict[str, int]:
    if isinstance(width, Mapping) and set(width) != set(modalities):
        raise ValueError(
            f'width has {sorted(width)}, but modalities has {sorted(modalities)}; give a width '
            'for each modality, or one number for all'
        )
    widths = {}
    for name, own in modalities.items():
        given = _width_option(width, name)
        widths[name] = own if given is None else given
        _check_positive(**{f'width of {name!r}': widths[name]})
    return widths


def _check_widths(widths: Mapping[str, int], num_heads: int, fusion: str) -> None:
    for name, width in widths.items():
        if width % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the width {width} of {name!r}; write a '
                f'width that is a multiple of {num_heads}, or another num_heads'
            )
    if fusion == 'sum' and len(set(widths.values())) > 1:
        raise ValueError(
            f"fusion='sum' needs one width for all modalities, got {dict(widths)}; write a number "
            "for width, or fusion='concat'"
        )


def _check_positive(**options: Any) -> None:
    for option, value in options.items():
        if not is_integer(value) or value < 1:
            raise ValueError(f'{option}={value!r} must be a whole number of 1 or more')


def _build_loss(loss_cls: Mapping[str, Any] | nn.Module | None, multi_class: bool) -> nn.Module:
    if loss_cls is None:
        return nn.BCEWithLogitsLoss() if multi_class else nn.CrossEntropyLoss()
    return loss_cls if isinstance(loss_cls, nn.Module) else MODELS.build(dict(loss_cls))
