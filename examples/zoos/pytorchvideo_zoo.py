"""PyTorchVideo: its nets by their ``create_*`` functions, at a small size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from .entry import CLASSES, Entry

RESNET = dict(model_num_class=CLASSES, stem_dim_out=16, dropout_rate=0.0)
INFLATED = ((3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 1, 1))
FRAME_BY_FRAME = ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))
CLIP = (3, 8, 64, 64)


def net(module: str, function: str, **options: Any) -> nn.Module:
    from importlib import import_module

    return getattr(import_module(f'pytorchvideo.models.{module}'), function)(**options)


def mvit() -> nn.Module:
    return net(
        'vision_transformers',
        'create_multiscale_vision_transformers',
        spatial_size=64,
        temporal_size=8,
        depth=3,
        patch_embed_dim=16,
        embed_dim_mul=[[1, 2.0]],
        atten_head_mul=[[1, 2.0]],
        pool_q_stride_size=[[1, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[3, 3, 3],
        head_dropout_rate=0.0,
        head_num_classes=CLASSES,
    )


def pathways(clips: Tensor) -> list[Tensor]:
    """Every fourth frame for the slow pathway, all of them for the fast one."""
    return [clips[:, :, ::4].contiguous(), clips]


# The heads pool all of the places that the last stage has for these clips.
RESNETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    'slow': (
        partial(net, 'resnet', 'create_resnet', **RESNET, head_pool_kernel_size=(8, 2, 2)),
        CLIP,
    ),
    'c2d': (
        partial(
            net,
            'resnet',
            'create_resnet',
            **RESNET,
            stem_conv_kernel_size=(1, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=FRAME_BY_FRAME,
            head_pool_kernel_size=(4, 2, 2),
        ),
        CLIP,
    ),
    'i3d': (
        partial(
            net,
            'resnet',
            'create_resnet',
            **RESNET,
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=INFLATED,
            head_pool_kernel_size=(4, 2, 2),
        ),
        CLIP,
    ),
    'csn': (
        partial(net, 'csn', 'create_csn', **RESNET, head_pool_kernel_size=(2, 2, 2)),
        (3, 16, 64, 64),
    ),
    'r2plus1d': (
        partial(net, 'r2plus1d', 'create_r2plus1d', **RESNET, head_pool_kernel_size=(2, 2, 2)),
        CLIP,
    ),
    'x3d': (
        partial(
            net,
            'x3d',
            'create_x3d',
            input_clip_length=4,
            input_crop_size=64,
            model_num_class=CLASSES,
            dropout_rate=0.0,
            head_dim_out=64,
        ),
        (3, 4, 64, 64),
    ),
    'mvit': (mvit, CLIP),
}


def entries() -> dict[str, Entry]:
    found = {
        name: Entry(build, shape, ('taf', 'advprop')) for name, (build, shape) in RESNETS.items()
    }
    slowfast = partial(
        net,
        'slowfast',
        'create_slowfast',
        model_num_class=CLASSES,
        stem_dim_outs=(16, 2),
        dropout_rate=0.0,
        head_pool_kernel_sizes=((4, 2, 2), (16, 2, 2)),
    )
    found['slowfast'] = Entry(slowfast, (3, 16, 64, 64), ('taf', 'advprop'), feed=pathways)
    return found
