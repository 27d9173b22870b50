"""The CAM layer of each family of recognizers, and the meaning of its output's axes.

The temporal CAM (TAF, eq. 2) needs the last layer whose output has one map per frame and still
determines the class scores. That is the last stage of a convolutional backbone, or the last block
of a Transformer that averages its tokens. For a Transformer with a class token it is the last block
but one, because the scores do not depend on the other tokens of the last block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..core.adapter import class_names

# Recognizers of skeletons (B, clips, persons, T, joints, coordinates) and of spectrograms
# (B, clips, channels, T, frequencies): their clips have a time axis, but no pixels.
WITHOUT_PIXELS = frozenset({'mmaction.RecognizerAudio', 'mmaction.RecognizerGCN'})
# By the class of the backbone in MMAction2: the name of the layer inside it (-1 is the last entry
# of a list), and the axes of its output, or None to infer them from their number.
FAMILIES: dict[str, tuple[str, str | None]] = {
    'C3D': ('conv5b', None),
    'MViT': ('blocks.-2', 'b 1+(t h w) c'),
    'OmniResNet': ('layer4', None),
    'ResNet3dSlowFast': ('slow_path.layer4', None),
    'RGBPoseConv3D': ('rgb_path.layer4', None),
    'SwinTransformer3D': ('layers.-1', 'b t h w c'),
    'TimeSformer': ('transformer_layers.layers.-2', 'b 1+(h w t) c'),
    'UniFormer': ('blocks4.-1', None),
    'UniFormerV2': ('transformer.resblocks.-1', '1+(h w) (b t) c'),
    'VisionTransformer': ('blocks.-1', 'b (t h w) c'),
    'X3D': ('conv5', None),
}
# Attributes under which backbones list the names of their stages.
STAGES = ('res_layers', 'stages', 'layers')


def find_cam_layer(model: nn.Module) -> str:
    """The dotted name of the layer whose output is F'.

    Args:
        model (nn.Module): A recognizer with a ``backbone``.

    Returns:
        str: The name; '' if it is not known.
    """
    backbone = getattr(model, 'backbone', None)
    for layer in () if backbone is None else _candidates(model):
        name = _resolve(backbone, layer)
        if name is not None:
            return f'backbone.{name}'
    return ''


def feature_map(
    model: nn.Module, layer: str, output: Any, clip: Tensor, layout: str | None = None
) -> tuple[Any, str | None]:
    """Pick the feature map from the output of a layer, with the layout of its axes.

    Args:
        model (nn.Module): A recognizer with a ``backbone``.
        layer (str): The dotted name of the layer.
        output (Any): The layer's output: the map, or tokens with their grid (t, h, w).
        clip (Tensor): The batch, (..., H, W), from which the number of patches follows.
        layout (str, optional): The layout given by the user. Defaults to None: determined from the
            backbone.

    Returns:
        tuple[Any, str | None]: The map and its axes as an einops pattern, see
        :func:`adv_plugins.core.capture.to_frames`; None to infer them from their number, or if
        this layer of the backbone is not a known one.

    Raises:
        ValueError: The output does not match what timm says about the layer.
    """
    backbone, size = model.backbone, clip.shape[-2:]
    grid = None
    if _family(backbone) == 'MViT' and isinstance(output, tuple):
        # Its blocks pool their tokens and return the remaining grid.
        output, grid = output
    if layout is not None:
        return output, layout
    if class_names(model) & WITHOUT_PIXELS:
        return output, _layout_without_pixels(output, clip)
    if getattr(model, 'backbone_from', '') == 'timm':
        return output, _timm_layout(backbone, layer, output, size)
    if getattr(model, 'backbone_from', '') == 'torchvision':
        return output, '(b t) h w c' if model.feature_shape == 'NHWC' else None
    layout = _layout(backbone, layer)
    if layout is None or '(' not in layout:
        return output, layout
    if grid is None:
        grid = patch_grid(backbone, size)
    return output, f'{layout}; h={grid[-2]} w={grid[-1]}'


def leading_modality(head: nn.Module | None) -> str:
    """The first modality in the loss of a head with class scores per modality; '' for others."""
    modalities: Sequence[str] = getattr(head, 'loss_components', ())
    return next(iter(modalities), '')


def patch_grid(model: nn.Module, size: Sequence[int]) -> tuple[int, int]:
    """The number of patches per frame, (rows, columns), by the stride of the patch embedding.

    The patch embedding is taken to be the model's first convolution.
    """
    convolutions = (nn.Conv2d, nn.Conv3d)
    stride = next(m for m in model.modules() if isinstance(m, convolutions)).stride
    return size[-2] // int(stride[-2]), size[-1] // int(stride[-1])


def _candidates(model: nn.Module) -> Iterator[str]:
    """Possible names of the CAM layer inside the backbone, the likeliest first."""
    backbone, source = model.backbone, getattr(model, 'backbone_from', '')
    if source == 'timm':
        yield from (entry['module'] for entry in list(backbone.feature_info)[-1:])
    elif source == 'torchvision':
        # Recognizer2D calls only this part of a torchvision model.
        yield from ('features', 'layer4')
    elif 'mmaction.RecognizerGCN' in class_names(model):
        # The graph networks call their stages differently, but all have them last.
        for name, stages in list(backbone.named_children())[-1:]:
            yield f'{name}.-1' if isinstance(stages, nn.ModuleList) else name
    elif _family(backbone):
        yield _stage(model)
    else:
        for attribute in STAGES:
            names = getattr(backbone, attribute, None)
            if isinstance(names, list) and names and isinstance(names[-1], str):
                yield names[-1]


def _family(backbone: nn.Module) -> str:
    """The backbone's class in FAMILIES; MMAction2's own only, as other packages share the names."""
    kinds = (k for k in type(backbone).__mro__ if k.__module__.split('.')[0] == 'mmaction')
    return next((kind.__name__ for kind in kinds if kind.__name__ in FAMILIES), '')


def _stage(model: nn.Module) -> str:
    """The CAM layer of the backbone's family, adjusted to the options that change it."""
    backbone = model.backbone
    family = _family(backbone)
    layer = FAMILIES[family][0]
    if family == 'MViT' and not backbone.with_cls_token:
        layer = 'blocks.-1'
    elif family == 'RGBPoseConv3D' and leading_modality(model.cls_head) == 'pose':
        layer = 'pose_path.layer3'
    elif family == 'SwinTransformer3D':
        layer = f'layers.{max(backbone.out_indices)}'
    elif family == 'UniFormerV2':
        layer = f'transformer.resblocks.{max(backbone.transformer.return_list)}'
    elif (
        family == 'VisionTransformer' and backbone.fc_norm is None and not backbone.return_feat_map
    ):
        # With use_mean_pooling=False the head reads only the first token.
        layer = 'blocks.-2'
    return layer


def _resolve(backbone: nn.Module, layer: str) -> str | None:
    """The name with its negative list indices resolved; None if there is no such layer."""
    module: nn.Module | None = backbone
    names = []
    for name in layer.split('.'):
        children = dict(module.named_children()) if module is not None else {}
        if name.startswith('-') and len(children) >= -int(name):
            name = list(children)[int(name)]
        module = children.get(name)
        names.append(name)
    return None if module is None else '.'.join(names)


def _layout(backbone: nn.Module, layer: str) -> str | None:
    """The axes of a layer in an MMAction2 backbone; known for all blocks of the family's list."""
    family = _family(backbone)
    stages, layout = FAMILIES.get(family, ('', None))
    if not re.fullmatch(rf'backbone\.{re.escape(stages.rpartition(".")[0])}\.\d+', layer):
        return None
    if family == 'TimeSformer' and backbone.attention_type == 'space_only':
        return '(b t) 1+(h w) c'
    if family == 'MViT' and not backbone.with_cls_token:
        return 'b (t h w) c'
    return layout


def _layout_without_pixels(output: Any, clip: Tensor) -> str | None:
    """The axes of a map over skeletons or spectrograms, with persons or clips for the height."""
    folded = f'(b h) c t w; h={clip.shape[-4]}'
    return {4: folded, 5: 'b h c t w'}.get(output.ndim if isinstance(output, Tensor) else 0)


def _timm_layout(backbone: nn.Module, layer: str, output: Any, size: Sequence[int]) -> str | None:
    """The axes of timm's last stage, inferred from the channels and stride in ``feature_info``."""
    info = list(backbone.feature_info)[-1]
    if layer != f'backbone.{info["module"]}' or not isinstance(output, Tensor):
        return None
    channels, stride = info['num_chs'], info['reduction']
    height, width = (length // stride for length in size)
    if output.ndim == 3 and output.shape[2] == channels and output.shape[1] >= height * width:
        # Class tokens, registers and the like come first.
        return f'(b t) {output.shape[1] - height * width}+(h w) c; h={height} w={width}'
    if output.ndim == 4 and output.shape[3] == channels != output.shape[1]:
        return '(b t) h w c'
    if output.ndim == 4 and output.shape[1] == channels:
        return None
    raise ValueError(
        f'timm says that {layer!r} of {type(backbone).__name__} has {channels} channels at '
        f'1/{stride} of the resolution, which does not fit its output {tuple(output.shape)}; name '
        "its axes with cam_layout, e.g. '(b t) h w c'"
    )
