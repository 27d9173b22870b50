"""The attention of video Transformers between frames, from that between tokens.

In the form of A-ART, which :func:`adv_plugins.visualization.plot_attention_maps` and
:func:`adv_plugins.visualization.attention_profile` take.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import capture_attention
from ..core.batch import Batch, per_sample
from ..core.capture import capture_output, find_module, last_output, to_frames
from .clips import middle_view, recognizer_adapter

# The attention modules that see all frames at once, by the backbone's class in MMAction2.
MODULES = {
    'MViT': r'backbone\.blocks\.\d+\.attn',
    # The second attention of a divided block is within a frame.
    'TimeSformer': r'backbone\.transformer_layers\.layers\.\d+\.attentions\.0\.attn',
    # Its first two stages are convolutions.
    'UniFormer': r'backbone\.blocks[34]\.\d+\.attn',
    'VisionTransformer': r'backbone\.blocks\.\d+\.attn',
}


def frame_attention_map(
    weights: Tensor, num_frames: int, class_token: bool = False, frames_first: bool = True
) -> Tensor:
    """Attention between frames: summed over the positions in the key frame, and averaged over the
    positions in the query frame.

    Args:
        weights (Tensor): Attention between tokens, averaged over heads, queries first, shape
            (B, Q, K): T' frames with equally many positions each, as
            :class:`adv_plugins.attention.AttentionMap` holds it.
        num_frames (int): T', the number of frames among the tokens: half as many as the clip has
            where a token covers two frames.
        class_token (bool): Whether a class token comes first. It is removed from queries and keys,
            and the remaining attention is rescaled to sum to 1. Defaults to False.
        frames_first (bool): Whether the tokens of one frame are adjacent (VideoMAE), rather than
            those of one position (TimeSformer). Defaults to True.

    Returns:
        Tensor: Shape (B, T', T'); rows sum to 1.

    Raises:
        ValueError: The tokens cannot be divided into that many frames.
    """
    extra = int(class_token)
    counts = [size - extra for size in weights.shape[1:]]
    if weights.ndim != 3 or any(count < 1 or count % num_frames for count in counts):
        tokens = 'tokens beside a class token' if class_token else 'tokens'
        raise ValueError(
            f'attention of the shape {tuple(weights.shape)} is not (B, Q, K) between {tokens} of '
            f'num_frames={num_frames} frames with equally many places each'
        )
    weights = weights[:, extra:, extra:]
    order = (num_frames, -1) if frames_first else (-1, num_frames)
    grid = weights.unflatten(2, order).unflatten(1, order)
    positions = (2, 4) if frames_first else (1, 3)
    maps = grid.sum(dim=positions)
    return maps / maps.sum(dim=2, keepdim=True)


def video_attention(model: nn.Module, inputs: Tensor, data_samples: Any) -> Tensor:
    """How much of its attention each frame of a clip gives to each frame, averaged over layers.

    For VideoMAE, TimeSformer (joint attention, or the temporal one where it is divided), UniFormer
    and MViT. Other models have no attention between all frames: Swin attends within windows,
    UniFormerV2 and TimeSformer with space-only attention attend within frames. The model stays as
    it is.

    Args:
        model (nn.Module): A recognizer in eval mode.
        inputs (Tensor): A batch of RGB clips, see :func:`adv_plugins.visualization.look`; of
            several views the middle one is used.
        data_samples (list): Their data samples.

    Returns:
        Tensor: Queries first, shape (B, T', T'), where T' is the number of frames (time steps) in
        the tokens; rows sum to 1.

    Raises:
        ValueError: The model is in training mode, or its attention has no frame axis.
        TypeError: The model is not a recognizer.

    Example:
        >>> clean = video_attention(model, inputs, data_samples)
        >>> adversarial = video_attention(model, attack(inputs, data_samples), data_samples)
        >>> plot_attention_maps({'VideoMAE': (clean[0], adversarial[0])})
    """
    if model.training:
        raise ValueError('video_attention needs a model in eval mode; call model.eval() first')
    adapter = recognizer_adapter(model)
    batch = Batch(middle_view(model, inputs))
    modules, layer = _attention_modules(model), adapter.find_cam_layer()
    if not layer:
        raise ValueError(f'it is not known where the tokens of {type(model.backbone).__name__} are')
    with (
        torch.no_grad(),
        capture_attention(model, modules) as maps,
        capture_output(find_module(model, layer, 'cam_layer')) as outputs,
    ):
        adapter.forward(batch, data_samples)
    # The layout of the last stage gives the number of frames and the order of the tokens.
    output = last_output(outputs, layer)
    features, layout = adapter.feature_map(layer, output, batch, None)
    frames = to_frames(features, batch.size, layer, layout).shape[1]
    layers = [_between_frames(entry.weights, batch.size, frames, layout or '') for entry in maps]
    return torch.stack(layers).mean(dim=0)


def _attention_modules(model: nn.Module) -> list[str]:
    """Names of the modules that attend to all frames.

    Raises:
        ValueError: There are none.
    """
    kinds = type(model.backbone).__mro__
    names = [kind.__name__ for kind in kinds if kind.__module__.split('.')[0] == 'mmaction']
    pattern = next((MODULES[name] for name in names if name in MODULES), None)
    if pattern is None or getattr(model.backbone, 'attention_type', '') == 'space_only':
        raise ValueError(
            f'the attention of {type(model.backbone).__name__} has no axis of frames over the '
            f'whole clip, as that of {", ".join(MODULES)} (joint or divided) has; for the '
            'evidence frame by frame call look'
        )
    return [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]


def _between_frames(weights: Tensor, count: int, frames: int, layout: str) -> Tensor:
    """The attention of one layer between frames, shape (B, T', T')."""
    blocks = per_sample(weights.float(), count)
    if blocks.shape[2:] == (frames, frames):
        # Divided attention: one block a position.
        return blocks.mean(dim=1)
    return frame_attention_map(blocks[:, 0], frames, '1+' in layout, ' t)' not in layout)
