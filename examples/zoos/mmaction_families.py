"""MMAction2's recognition families: a stock config each, at a small size.

The models are those of the stock configs. Only sizes that cost time are cut, norms that the
config freezes are trained, dropout and stochastic depth are off, so that runs can be compared, and
labels are not blended, which TAF refuses.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import mmaction
import mmaction.models  # noqa: F401
import torch
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

CONFIGS = Path(mmaction.__file__).parent / '.mim/configs/recognition'
CLASSES = 6


def data_samples(labels: Any) -> list[ActionDataSample]:
    """Data samples as the stock pipelines pack them."""
    return [ActionDataSample().set_gt_label(int(label)) for label in labels]


class Family(NamedTuple):
    """A stock config, what of its model is cut, and the clips it is fed."""

    config: str
    layer: str
    shape: tuple[int, ...]
    changes: dict[str, Any] = {}
    needs: str = ''


FRAMES = (2, 4, 3, 32, 32)
CLIP = (2, 1, 3, 8, 32, 32)
SHORT = dict(num_segments=4)
DEPTH18 = dict(depth=18, pretrained=None)
FAMILIES = {
    'c2d': Family(
        'c2d/c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb',
        'layer4',
        CLIP,
        dict(backbone=DEPTH18, cls_head=dict(in_channels=512)),
    ),
    'c3d': Family(
        'c3d/c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb',
        'conv5b',
        # Its fully connected layers know this size alone.
        (2, 1, 3, 16, 112, 112),
    ),
    'csn': Family(
        'csn/ircsn_ig65m-pretrained-r50-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 16, 64, 64),
        dict(backbone=dict(norm_eval=False)),
    ),
    'i3d': Family(
        'i3d/i3d_imagenet-pretrained-r50-nl-gaussian_8xb8-32x2x1-100e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 16, 64, 64),
    ),
    'mvit': Family(
        'mvit/mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb',
        'blocks.14',
        (2, 1, 3, 8, 64, 64),
        dict(backbone=dict(spatial_size=64, temporal_size=8)),
    ),
    'omnisource': Family(
        'omnisource/slowonly_r50_8xb16-8x8x1-256e_imagenet-kinetics400-rgb',
        'layer4',
        CLIP,
        dict(
            backbone=dict(layers=[1, 1, 1, 1]),
            cls_head=dict(image_classes=CLASSES, video_classes=CLASSES),
        ),
    ),
    'r2plus1d': Family(
        'r2plus1d/r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 16, 64, 64),
        dict(backbone=dict(depth=18)),
    ),
    'slowfast': Family(
        'slowfast/slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb',
        'slow_path.layer4',
        (2, 1, 3, 16, 64, 64),
    ),
    'slowonly': Family(
        'slowonly/slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 4, 32, 32),
    ),
    'swin': Family(
        'swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb',
        'layers.3',
        (2, 1, 3, 8, 64, 64),
    ),
    'tanet': Family(
        'tanet/tanet_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
    ),
    'timesformer divided': Family(
        'timesformer/timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb',
        'transformer_layers.layers.10',
        CLIP,
        dict(backbone=dict(img_size=32)),
    ),
    'timesformer joint': Family(
        'timesformer/timesformer_jointST_8xb8-8x32x1-15e_kinetics400-rgb',
        'transformer_layers.layers.10',
        CLIP,
        dict(backbone=dict(img_size=32)),
    ),
    'timesformer space only': Family(
        'timesformer/timesformer_spaceOnly_8xb8-8x32x1-15e_kinetics400-rgb',
        'transformer_layers.layers.10',
        CLIP,
        dict(backbone=dict(img_size=32)),
    ),
    'tin': Family(
        'tin/tin_imagenet-pretrained-r50_8xb6-1x1x8-40e_sthv1-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
        needs='mmcv._ext',
    ),
    'tpn slowonly': Family(
        'tpn/tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb',
        'layer4',
        CLIP,
        dict(neck=dict(aux_head_cfg=dict(out_channels=CLASSES))),
    ),
    'tpn tsm': Family(
        'tpn/tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb',
        'layer4',
        # Its neck knows eight frames alone.
        (2, 8, 3, 32, 32),
        dict(neck=dict(aux_head_cfg=dict(out_channels=CLASSES))),
    ),
    'trn': Family(
        'trn/trn_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv1-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(partial_bn=False), cls_head=SHORT),
    ),
    'tsm': Family(
        'tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
    ),
    'tsm mobilenetv2': Family(
        'tsm/tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb',
        'conv2',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
    ),
    'tsm mobileone': Family(
        'tsm/tsm_imagenet-pretrained-mobileone-s4_8xb16-1x1x16-50e_kinetics400-rgb',
        'stage4',
        FRAMES,
        dict(backbone=dict(SHORT, init_cfg=None), cls_head=SHORT),
        needs='mmpretrain',
    ),
    'tsn': Family('tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-50e_sthv2-rgb', 'layer4', FRAMES),
    'uniformer': Family(
        'uniformer/uniformer-small_imagenet1k-pre_16x4x1_kinetics400-rgb',
        'blocks4.2',
        (2, 1, 3, 8, 64, 64),
    ),
    'uniformerv2 base': Family(
        'uniformerv2/uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics400-rgb',
        'transformer.resblocks.11',
        CLIP,
        dict(backbone=dict(input_resolution=32)),
    ),
    'uniformerv2 large': Family(
        'uniformerv2/uniformerv2-large-p14-res224_clip-kinetics710-pre_u8_kinetics400-rgb',
        'transformer.resblocks.5',
        (2, 1, 3, 8, 28, 28),
        dict(backbone=dict(input_resolution=28, layers=6, return_list=[2, 3, 4, 5])),
    ),
    'videomae': Family(
        'videomae/vit-base-p16_videomae-k400-pre_16x4x1_kinetics-400',
        'blocks.11',
        CLIP,
        dict(backbone=dict(img_size=32, num_frames=8)),
    ),
    'videomaev2': Family(
        'videomaev2/vit-small-p16_videomaev2-vit-g-dist-k710-pre_16x4x1_kinetics-400',
        'blocks.11',
        CLIP,
        dict(backbone=dict(img_size=32, num_frames=8)),
    ),
    'x3d': Family('x3d/x3d_s_13x6x1_facebook-kinetics400-rgb', 'conv5', (2, 1, 3, 4, 64, 64)),
}


def build(family: Family) -> nn.Module:
    """The stock model with random weights, none of them exactly zero."""
    config = Config.fromfile(CONFIGS / f'{family.config}.py')
    changes = copy.deepcopy(family.changes)
    backbone = changes.setdefault('backbone', {})
    for option in ('pretrained', 'pretrained2d', 'clip_pretrained'):
        if option in config.model.backbone or option == 'pretrained2d' and 'TSM' in str(backbone):
            backbone[option] = None if option == 'pretrained' else False
    changes.setdefault('cls_head', {}).update(
        {} if config.model.type == 'RecognizerOmni' else dict(num_classes=CLASSES, topk=(1, 2))
    )
    config.merge_from_dict(dict(model=changes))
    config.model.data_preprocessor.pop('blending', None)
    init_default_scope('mmaction')
    model = MODELS.build(config.model).train()
    for value in model.parameters():
        if not value.detach().count_nonzero():
            # Layers that start at zero would hide what is in front of them.
            nn.init.normal_(value, std=0.02)
    for module in model.modules():
        # Stochastic depth cuts the way from some clips' CAM to their class scores.
        for option in ('p', 'drop_prob'):
            if hasattr(module, option):
                setattr(module, option, 0.0)
    return model


def losses_of(model: nn.Module, inputs: Tensor, samples: list) -> dict[str, Tensor]:
    """What the Runner asks a model for, summed as it sums them."""
    if type(model).__name__.endswith('RecognizerOmni'):
        images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        sources = (
            dict(inputs=inputs, data_samples=samples),
            dict(inputs=images, data_samples=data_samples([0, 2, 5])),
        )
        losses = model(*sources, mode='loss')
    else:
        losses = model(inputs, samples, mode='loss')
    return losses
