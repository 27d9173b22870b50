"""Where the feature maps F' of each family of recognizers are, and what their axes mean.

The temporal CAM (taf.txt eq. 2) belongs to the last place where every frame has a map of its own
and the class scores are computed from it: the last stage of a convolutional backbone, the last
block of a Transformer that averages its tokens, the last block but one of a Transformer that reads
a class token, as the other tokens of its last block reach no class score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

# By the class of the backbone: the layer below it, where -1 is the last entry of a list, and the
# axes of what it returns, where their number does not tell.
FAMILIES: dict[str, tuple[str, str | None]] = {
    'C3D': ('conv5b', None),
    'MViT': ('blocks.-2', 'b 1+(t h w) c'),
    'OmniResNet': ('layer4', None),
    'ResNet3dSlowFast': ('slow_path.layer4', None),
    'SwinTransformer3D': ('layers.-1', 'b t h w c'),
    'TimeSformer': ('transformer_layers.layers.-2', 'b 1+(h w t) c'),
    'UniFormer': ('blocks4.-1', None),
    'UniFormerV2': ('transformer.resblocks.-1', '1+(h w) (b t) c'),
    'VisionTransformer': ('blocks.-1', 'b (t h w) c'),
    'X3D': ('conv5', None),
}
# What backbones of stages call the list of their stages' names.
STAGES = ('res_layers', 'stages', 'layers')


def find_cam_layer(model: nn.Module) -> str:
    """The dotted name of the layer whose output is F'.

    Args:
        model (nn.Module): A recognizer with a ``backbone``.

    Returns:
        str: The name.

    Raises:
        ValueError: It is not known; the message says to write ``cam_layer``.
    """
    backbone = getattr(model, 'backbone', None)
    for layer in _candidates(model, backbone):
        found = _resolve(backbone, layer)
        if found is not None:
            return f'backbone.{found}'
    kind = type(model if backbone is None else backbone).__name__
    raise ValueError(
        f'the CAM layer of {kind} is not known; name its last stage, e.g. '
        "cam_layer='backbone.layer4', and if its axes are not those of a convolution, "
        "cam_layout='b (t h w) c; t=8 h=14'"
    )


def feature_map(model: nn.Module, layer: str, output: Any, clip: Tensor) -> tuple[Any, str | None]:
    """The feature map in what a layer returned, and the layout of its axes.

    Args:
        model (nn.Module): A recognizer with a ``backbone``.
        layer (str): The dotted name of the layer.
        output (Any): What it returned: the map, or tokens with their grid (t, h, w).
        clip (Tensor): The batch, (..., H, W), which tells how many patches there are.

    Returns:
        tuple[Any, str | None]: The map and its axes as an einops pattern, see
        :func:`~adv_plugins.core.capture.to_frames`; None where their number tells, or where they
        are known for other layers of this backbone alone.
    """
    grid = None
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
        # MViT's blocks, which pool their tokens, say how many are left.
        output, grid = output
    if not isinstance(output, Tensor):
        return output, None
    layout = _layout(model, layer, output)
    if layout is None or '(h' not in layout and 'h w)' not in layout:
        return output, layout
    if grid is None:
        convolutions = (nn.Conv2d, nn.Conv3d)
        embedding = next(m for m in model.backbone.modules() if isinstance(m, convolutions))
        grid = (clip.shape[-2] // embedding.stride[-2], clip.shape[-1] // embedding.stride[-1])
    return output, f'{layout}; h={grid[-2]} w={grid[-1]}'


def _candidates(model: nn.Module, backbone: nn.Module | None) -> Iterator[str]:
    """Names of layers below the backbone that its kind may have, the likeliest first."""
    source = getattr(model, 'backbone_from', '')
    if source == 'timm':
        yield from (entry['module'] for entry in list(backbone.feature_info)[-1:])
    elif source == 'torchvision':
        # The part of a torchvision model that Recognizer2D calls.
        yield from ('features', 'layer4')
    else:
        if _family(backbone):
            yield FAMILIES[_family(backbone)][0]
        for attribute in STAGES:
            names = getattr(backbone, attribute, None)
            if isinstance(names, list) and names and isinstance(names[-1], str):
                yield names[-1]


def _family(backbone: nn.Module | None) -> str:
    names = (kind.__name__ for kind in type(backbone).__mro__)
    return next((name for name in names if name in FAMILIES), '')


def _resolve(backbone: nn.Module | None, layer: str) -> str | None:
    """The name with list entries counted from the front; None where there is no such layer."""
    module, names = backbone, []
    for name in layer.split('.'):
        children = dict(module.named_children()) if module is not None else {}
        if name.startswith('-') and len(children) >= -int(name):
            name = list(children)[int(name)]
        module = children.get(name)
        names.append(name)
    return None if module is None else '.'.join(names)


def _layout(model: nn.Module, layer: str, output: Tensor) -> str | None:
    backbone = model.backbone
    if getattr(model, 'backbone_from', '') in ('timm', 'torchvision'):
        if output.ndim == 3:
            return f'(b t) {getattr(backbone, "num_prefix_tokens", 0)}+(h w) c'
        said = f'{getattr(model, "feature_shape", "")} {getattr(backbone, "output_fmt", "")}'
        return '(b t) h w c' if 'NHWC' in said else None
    family = _family(backbone)
    stage, layout = FAMILIES.get(family, ('', None))
    if not re.fullmatch(rf'backbone\.{re.escape(stage.rsplit(".", 1)[0])}\.\d+', layer):
        return None
    if family == 'TimeSformer' and backbone.attention_type == 'space_only':
        return '(b t) 1+(h w) c'
    if family == 'MViT' and not backbone.with_cls_token:
        return 'b (t h w) c'
    return layout
