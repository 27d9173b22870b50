"""A Transformer that classifies videos by their frame features, and its form for deployment.

The classifier of A-ART: each modality (frames of a picture network, of a sound network, ...) goes
through its own self-attention encoder, is pooled over time, and the modalities meet in a linear
layer of multi-label logits. Masks reach everywhere: neither padding nor the other videos of a
batch change what a video gets.
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
from ..core.checks import check_choice
from .feature_preprocessor import (
    INPUT_NORMS,
    FeaturePreprocessor,
    check_mask,
    check_same_frames,
    frame_mask,
    l2_normalize_frames,
)

POSITIONS = ('sinusoidal', None)
POOLINGS = ('mean', 'max', 'attention')
FUSIONS = ('concat', 'sum')


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines that tell the positions of a sequence apart.

    Args:
        length (int): T.
        width (int): Size of an encoding.
        device (torch.device, optional): Where. Defaults to None: the CPU.

    Returns:
        Tensor: (T, width); at position t, entry 2i is sin(t / 10000^(2i / width)) and entry
        2i + 1 the cosine of the same.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.5.
    """
    rates = 10000 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


class SelfAttention(nn.Module):
    """Multi-head self-attention over the valid frames of a sequence.

    Args:
        width (int): Size of a frame's vector.
        num_heads (int): Number of heads; divides ``width``.
        dropout (float): Dropout of the attention weights in training.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Let frames (B, T, width) look at those where ``keys`` (B, T) is True."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mask = keys[:, None, None, :]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(x.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """A Transformer encoder layer with its norms after the residual sums, as in the original.

    Args:
        width (int): Size of a frame's vector.
        num_heads (int): Number of attention heads.
        mlp_ratio (float): Width of the hidden layer over ``width``.
        dropout (float): Dropout of both branches and of the attention weights.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.1.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        if hidden < 1:
            raise ValueError(
                f'mlp_ratio={mlp_ratio} leaves no hidden unit for the width {width}; write a '
                'larger one, e.g. 4'
            )
        self.attention = SelfAttention(width, num_heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Encode frames (B, T, width) that look at those where ``keys`` (B, T) is True."""
        x = self.norm1(x + self.dropout(self.attention(x, keys)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class MaskedPooling(nn.Module):
    """One vector a video from its valid frames; zeros from no frames.

    Args:
        width (int): Size of a frame's vector.
        pooling (str): ``'mean'``, ``'max'``, or ``'attention'``: a mean weighted by the softmax,
            over the frames, of a learned linear score.
    """

    def __init__(self, width: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.score = nn.Linear(width, 1) if pooling == 'attention' else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, width) over the frames where ``mask`` (B, T) is True."""
        mask = mask[..., None]
        if self.score is not None:
            # The lowest finite score instead of -inf: a video without frames must not be NaN.
            scores = self.score(x)
            lowest = torch.finfo(scores.dtype).min
            weights = scores.masked_fill(~mask, lowest).softmax(dim=1)
            return (weights * x).masked_fill(~mask, 0.0).sum(dim=1)
        if self.pooling == 'max':
            x = x.masked_fill(~mask, -torch.inf).amax(dim=1)
            return x.masked_fill(~mask.any(dim=1), 0.0)
        return x.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


@MODELS.register_module()
class FeatureTransformer(BaseModel):
    """Multi-label video classifier over named modalities of frame features.

    Trains, validates and tests in MMAction2's and mmengine's Runner as a recognizer does. It is
    fed ``dict(rgb=(B, T, 1024), rgb_mask=(B, T), audio=..., audio_mask=...)``: floating-point
    features, and masks that are True where a frame is valid; a mask that is left out means that
    all frames are. Modalities may differ in T. One that a video lacks adds nothing to it.

    Args:
        modalities (Mapping[str, int], optional): Width of a frame's features by modality.
            Defaults to None: YouTube-8M's ``dict(rgb=1024, audio=128)``.
        num_classes (int): Number of classes. Defaults to 317.
        width (int | Mapping[str, int | None], optional): Width of the encoders, to which a linear
            layer projects the features; a dict has one a modality. None keeps the features' own
            width, without a projection. Defaults to 512.
        depth (int): Encoder layers a modality. Defaults to 1.
        num_heads (int): Attention heads; must divide every width. Defaults to 8.
        mlp_ratio (float): Hidden width of the feed-forward part over the width. Defaults to 4.
        dropout (float): Dropout of the encoders. Defaults to 0.0.
        positions (str, optional): ``'sinusoidal'`` adds position encodings, None leaves the order
            of the frames out. Defaults to ``'sinusoidal'``.
        pooling (str): How frames become a video: ``'mean'``, ``'max'`` or ``'attention'``, see
            :class:`MaskedPooling`. Defaults to ``'mean'``.
        fusion (str): How the pooled modalities meet: ``'concat'`` or ``'sum'``, which needs equal
            widths. (An average of one linear classifier a modality is the linear classifier of
            the concatenation.) Defaults to ``'concat'``.
        input_norm (str, optional): ``'l2_frame'`` normalises the frames inside the model, see
            :func:`l2_normalize_frames`; attacks act before it. The modalities of a video must
            then have the same frames. Defaults to None.
        loss_cls (Mapping | nn.Module, optional): Config of a loss, or the loss, called with logits
            and targets, both (B, num_classes). Defaults to None: binary cross-entropy of the
            logits, averaged over classes and batch.
        data_preprocessor (Mapping | nn.Module, optional): Defaults to None:
            ``dict(type='FeaturePreprocessor')``.
        init_cfg (Mapping, optional): mmengine's initialisation. Defaults to None: torch's own.

    Raises:
        ValueError: An option that is unknown or does not fit the others.

    Source: Choudhary et al., Can't Fool Me: Adversarially Robust Transformer for Video
    Understanding, 2021, section 3.1: one layer of 8-head attention a modality and binary
    cross-entropy. The other options are not told there.

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

        widths = _encoder_widths(self.modalities, width)
        _check_widths(widths, num_heads, fusion)
        self.projections = nn.ModuleDict()
        self.encoders = nn.ModuleDict()
        self.poolings = nn.ModuleDict()
        for name, size in widths.items():
            own = self.modalities[name]
            keep = _given(width, name) is None
            self.projections[name] = nn.Identity() if keep else nn.Linear(own, size)
            self.encoders[name] = nn.ModuleList(
                EncoderLayer(size, num_heads, mlp_ratio, dropout) for _ in range(depth)
            )
            self.poolings[name] = MaskedPooling(size, pooling)
        self.dropout = nn.Dropout(dropout)
        fused = sum(widths.values()) if fusion == 'concat' else next(iter(widths.values()))
        self.cls_head = nn.Linear(fused, num_classes)
        self.loss_cls = _build_loss(loss_cls)

    def extract_feat(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The vector of each video that the classifier reads.

        Args:
            inputs (Mapping[str, Tensor]): ``<name>`` (B, T, D) and, optionally, ``<name>_mask``
                (B, T), for each modality.

        Returns:
            Tensor: (B, width), or (B, sum of the widths) for ``fusion='concat'``.

        Raises:
            ValueError: Modalities, shapes or masks that are not the model's.
        """
        features, masks = self._split(inputs)
        return self.encode(features, masks)

    def encode(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """:meth:`extract_feat` of inputs that are known to fit, for tracing."""
        # Padding is whatever the caller left there: nothing of it, not even NaN, may pass on.
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
        # A softmax over nothing is NaN: where all is padding, padding may look at padding.
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
        """Logits, losses or predictions, as mmengine asks for them.

        Args:
            inputs (Mapping[str, Tensor]): See :meth:`extract_feat`.
            data_samples (Sequence, optional): The videos' data samples. Defaults to None.
            mode (str): ``'tensor'``, ``'loss'`` or ``'predict'``. Defaults to ``'tensor'``.

        Returns:
            Tensor | dict | list: Logits (B, num_classes); what :meth:`loss` returns; or what
            :meth:`predict` returns.
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
        answer = self.loss if mode == 'loss' else self.predict
        return answer(inputs, data_samples)

    def loss(self, inputs: Mapping[str, Tensor], data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The training losses.

        Args:
            inputs (Mapping[str, Tensor]): See :meth:`extract_feat`.
            data_samples (Sequence): Each with a ``gt_label``: (num_classes,) with a number from 0
                to 1 a class, or the index of the only class.

        Returns:
            dict[str, Tensor]: ``loss_cls``, or the entries of the dict that ``loss_cls`` gives.

        Raises:
            ValueError: A label that is neither.
        """
        logits = self(inputs)
        targets = torch.stack([self._target(sample) for sample in data_samples]).to(logits.device)
        losses = self.loss_cls(logits, targets)
        return losses if isinstance(losses, dict) else dict(loss_cls=losses)

    def predict(self, inputs: Mapping[str, Tensor], data_samples: Sequence[Any]) -> list[Any]:
        """Write probabilities into data samples.

        Args:
            inputs (Mapping[str, Tensor]): See :meth:`extract_feat`.
            data_samples (Sequence): The videos' ``ActionDataSample``.

        Returns:
            list: The data samples, with ``pred_score`` (num_classes,), the sigmoid of the logits,
            and ``pred_label`` (1,), the class of the highest.
        """
        scores = self(inputs).float().sigmoid()
        for sample, score in zip(data_samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(dim=0, keepdim=True))
        return list(data_samples)

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


class FeatureInference(nn.Module):
    """A :class:`FeatureTransformer` from stored features to probabilities, for deployment.

    What the data preprocessor does on padded batches is inside, so that ``torch.export`` and ONNX
    give one self-contained graph for any batch size and length.

    Args:
        model (FeatureTransformer): The model, with a :class:`FeaturePreprocessor`. It is switched
            to evaluation mode.

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
        """The arguments by name: the modalities in their order, then ``num_frames``."""
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
        """What ``torch.export.export`` and ``torch.onnx.export`` need to know.

        Args:
            dtype (torch.dtype): Of the features that the exported graph will take. Defaults to
                ``torch.uint8``.

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


def _given(width: int | Mapping[str, int | None] | None, name: str) -> int | None:
    return width[name] if isinstance(width, Mapping) else width


def _encoder_widths(
    modalities: Mapping[str, int], width: int | Mapping[str, int | None] | None
) -> dict[str, int]:
    if isinstance(width, Mapping) and set(width) != set(modalities):
        raise ValueError(
            f'width has {sorted(width)}, but modalities has {sorted(modalities)}; give one width '
            'a modality, or one number for all'
        )
    widths = {}
    for name, own in modalities.items():
        given = _given(width, name)
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
        if not isinstance(value, int) or value < 1:
            raise ValueError(f'{option}={value!r} must be a whole number of 1 or more')


def _build_loss(loss_cls: Mapping[str, Any] | nn.Module | None) -> nn.Module:
    if loss_cls is None:
        return nn.BCEWithLogitsLoss()
    return loss_cls if isinstance(loss_cls, nn.Module) else MODELS.build(dict(loss_cls))
