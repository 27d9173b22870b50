"""Attention of video Transformers from frame to frame, out of that from token to token.

In the form of a-art.txt: what :func:`~adv_plugins.visualization.plot_attention_maps` and
:func:`~adv_plugins.visualization.attention_profile` take.
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

# By the class of the backbone in MMAction2: its attention modules, with all frames in each call.
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
    """Attention between frames: the sum over the places of the key frame, and the mean over the
    places of the query frame.

    Args:
        weights (Tensor): Attention between tokens, averaged over heads, queries first, shape
            (B, Q, K): T' frames with equally many places each, as
            :class:`~adv_plugins.attention.AttentionMap` holds it.
        num_frames (int): T', the frames that the tokens are of: half as many as those of the clip
            for tubelets of two frames.
        class_token (bool): Whether a class token comes first. It is left out of queries and keys,
            and the other keys share all attention. Defaults to False.
        frames_first (bool): Whether all tokens of a frame are next to each other (VideoMAE), and
            not all tokens of a place (TimeSformer). Defaults to True.

    Returns:
        Tensor: Shape (B, T', T'); rows sum to 1.

    Raises:
        ValueError: The tokens are not those of so many frames.
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
    places = (2, 4) if frames_first else (1, 3)
    maps = grid.sum(dim=places)
    return maps / maps.sum(dim=2, keepdim=True)


def video_attention(model: nn.Module, inputs: Tensor, data_samples: Any) -> Tensor:
    """How much of its attention each frame of a clip gives to each frame, mean over layers.

    For VideoMAE, TimeSformer (joint attention, or the temporal one where it is divided), UniFormer
    and MViT. The frames of the others cannot be told apart: Swin attends within windows,
    UniFormerV2 and TimeSformer with space-only attention within frames. Nothing of the model is
    changed.

    Args:
        model (nn.Module): A recognizer in eval mode.
        inputs (Tensor): A batch of RGB clips, see :func:`~adv_plugins.visualization.look`; of
            several views the one in the middle is looked at.
        data_samples (list): Their data samples.

    Returns:
        Tensor: Queries first, shape (B, T', T'), where T' is the number of frames that the model
        tells apart; rows sum to 1.

    Raises:
        ValueError: The model is in training mode, or its attention has no frame axis.
        TypeError: The model is no recognizer.

    Example:
        >>> clean = video_attention(model, inputs, data_samples)
        >>> moved = video_attention(model, attack(inputs, data_samples), data_samples)
        >>> plot_attention_maps({'VideoMAE': (clean[0], moved[0])})
    """
    if model.training:
        raise ValueError('video_attention looks at a model in eval mode; call model.eval() first')
    adapter = recognizer_adapter(model)
    batch = Batch(middle_view(model, inputs))
    modules, layer = _attention_modules(model), adapter.find_cam_layer()
    with (
        torch.no_grad(),
        capture_attention(model, modules) as maps,
        capture_output(find_module(model, layer, 'cam_layer')) as outputs,
    ):
        adapter.forward(batch, data_samples)
    # The last stage tells how many frames there are, and how its tokens are ordered.
    output = last_output(outputs, layer)
    features, layout = adapter.feature_map(layer, output, batch, None)
    frames = to_frames(features, batch.size, layer, layout).shape[1]
    found = [_between_frames(entry.weights, batch.size, frames, layout or '') for entry in maps]
    return torch.stack(found).mean(dim=0)


def _attention_modules(model: nn.Module) -> list[str]:
    """The modules that attend to all frames.

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
    """One layer's attention, (B, T', T')."""
    blocks = per_sample(weights.float(), count)
    if blocks.shape[2:] == (frames, frames):
        # Divided attention: the frames of one place at a time.
        return blocks.mean(dim=1)
    return frame_attention_map(blocks[:, 0], frames, '1+' in layout, ' t)' not in layout)
