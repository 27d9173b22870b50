"""torchvision: a model of each classification family, and its video models at a small size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins.core.conversion import is_adversarial

from .entry import CLASSES, Entry, Losses

# The model of each family, and its height and width: the last stage has at least 2 x 2 places.
IMAGES = {
    'alexnet': 96,
    'convnext_tiny': 64,
    'densenet121': 64,
    'efficientnet_b0': 64,
    'efficientnet_v2_s': 64,
    'mnasnet0_5': 64,
    'mobilenet_v2': 64,
    'mobilenet_v3_small': 64,
    'regnet_y_400mf': 64,
    'resnet18': 64,
    'shufflenet_v2_x0_5': 64,
    'squeezenet1_1': 64,
    'swin_t': 64,
    'swin_v2_t': 64,
    'vgg11_bn': 64,
    'vit_b_32': 64,
}
# These two have auxiliary classifiers, which their papers train with this weight.
AUXILIARY = {'googlenet': (64, 0.3), 'inception_v3': (299, 0.4)}


def image_model(name: str, size: int, **options: Any) -> nn.Module:
    """A model of the registry."""
    from torchvision.models import get_model

    if name.startswith('vit'):
        options['image_size'] = size
    return get_model(name, weights=None, num_classes=CLASSES, **options)


def maxvit() -> nn.Module:
    """Those of the registry ask for 224 x 224."""
    from torchvision.models.maxvit import MaxVit

    return MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=2,
        block_channels=[16, 32, 48, 64],
        block_layers=[1, 1, 1, 1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )


def auxiliary_loss(weight: float, output: Any, target: Tensor) -> Tensor:
    """The loss of all classifiers of a model; in eval mode there is the main one alone."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, target)
    main, *others = (F.cross_entropy(scores, target) for scores in output if scores is not None)
    return main + weight * sum(others)


def losses_by(loss_fn: Callable[..., Tensor], model: nn.Module, inputs: Any, target: Any) -> Losses:
    """The losses of a classifier under a loss of its own."""
    if is_adversarial(model):
        return model.adversarial_loss(inputs, target)
    return {'loss': loss_fn(model(inputs), target)}


def s3d() -> nn.Module:
    from torchvision.models.video import s3d

    model = s3d(num_classes=CLASSES)
    # Its own pool asks for 7 x 7 places.
    model.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)
    return model


def swin3d() -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=24,
        depths=[1, 2, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=[4, 3, 3],
        num_classes=CLASSES,
    )


def mvit(second_version: bool) -> nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        (1, 16, 32, [1, 1, 1], [1, 4, 4]),
        (2, 32, 32, [1, 2, 2], [1, 2, 2]),
        (2, 32, 32, [1, 1, 1], [1, 2, 2]),
    ]
    return MViT(
        spatial_size=(64, 64),
        temporal_size=8,
        residual_pool=second_version,
        residual_with_cls_embed=False,
        rel_pos_embed=second_version,
        proj_after_attn=second_version,
        num_classes=CLASSES,
        block_setting=[
            MSBlockConfig(heads, a, b, [3, 3, 3], [3, 3, 3], q, kv) for heads, a, b, q, kv in blocks
        ],
    )


def resnet3d(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, num_classes=CLASSES)


VIDEOS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    'r3d_18': (partial(resnet3d, 'r3d_18'), (3, 16, 32, 32)),
    'mc3_18': (partial(resnet3d, 'mc3_18'), (3, 4, 32, 32)),
    'r2plus1d_18': (partial(resnet3d, 'r2plus1d_18'), (3, 16, 32, 32)),
    's3d': (s3d, (3, 16, 64, 64)),
    'mvit_v1': (partial(mvit, False), (3, 8, 64, 64)),
    'mvit_v2': (partial(mvit, True), (3, 8, 64, 64)),
    'swin3d': (swin3d, (3, 8, 96, 96)),
}


def entries() -> dict[str, Entry]:
    found = {
        name: Entry(partial(image_model, name, size), (3, size, size), ('advprop',))
        for name, size in IMAGES.items()
    }
    found['maxvit'] = Entry(maxvit, (3, 64, 64), ('advprop',))
    for name, (size, weight) in AUXILIARY.items():
        loss_fn = partial(auxiliary_loss, weight)
        found[name] = Entry(
            partial(image_model, name, size, init_weights=False),
            (3, size, size),
            ('advprop',),
            losses=partial(losses_by, loss_fn),
            options=dict(loss_fn=loss_fn),
        )
    for name, (build, shape) in VIDEOS.items():
        found[name] = Entry(build, shape, ('taf', 'advprop'))
    return found
