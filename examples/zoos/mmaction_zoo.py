"""MMAction2: its recognition families and its skeleton families, by their stock configs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from .entry import CLASSES, Entry

# By family: what of ST-GCN's config is changed. CTR-GCN is one of MMAction2's projects, which no
# wheel holds.
SKELETONS: dict[str, dict[str, Any]] = {
    'stgcn': dict(graph_cfg=dict(layout='coco', mode='stgcn_spatial')),
    '2s-agcn': dict(
        type='AAGCN', graph_cfg=dict(layout='coco', mode='spatial'), gcn_attention=False
    ),
    'stgcn++': dict(
        graph_cfg=dict(layout='coco', mode='spatial'),
        gcn_adaptive='init',
        gcn_with_res=True,
        tcn_type='mstcn',
    ),
}


def frames(clips: Tensor) -> Tensor:
    """(B, T, C, H, W), as 2-D recognizers take clips."""
    return clips.transpose(1, 2).contiguous()


def one_view(clips: Tensor) -> Tensor:
    """(B, 1, C, T, H, W), as 3-D recognizers take clips."""
    return clips[:, None]


def skeletons(clips: Tensor) -> Tensor:
    """(B, 1, persons, T, joints, C) from (B, C, T, persons, joints)."""
    return clips.permute(0, 3, 2, 4, 1)[:, None].contiguous()


def build(name: str) -> nn.Module:
    from . import mmaction_families as families

    return families.build(families.FAMILIES[name])


def build_skeleton(name: str) -> nn.Module:
    from mmengine.registry import MODELS, init_default_scope

    from . import mmaction_families  # noqa: F401 (registers the models)

    init_default_scope('mmaction')
    return MODELS.build(
        dict(
            type='RecognizerGCN',
            data_preprocessor=dict(type='ActionDataPreprocessor'),
            backbone=dict(
                dict(type='STGCN', base_channels=16, num_stages=4, inflate_stages=[3]),
                down_stages=[3],
                **SKELETONS[name],
            ),
            cls_head=dict(type='GCNHead', num_classes=CLASSES, in_channels=32),
        )
    )


def samples(labels: Tensor) -> list[Any]:
    from .mmaction_families import data_samples

    return data_samples(labels)


def losses(model: nn.Module, inputs: Tensor, target: list[Any]) -> dict[str, Tensor]:
    from .mmaction_families import losses_of

    return losses_of(model, inputs, target)


def entries() -> dict[str, Entry]:
    from .mmaction_families import FAMILIES

    entry: Callable[..., Entry] = partial(Entry, target=samples, losses=losses)
    found = {}
    for name, family in FAMILIES.items():
        if family.needs and find_spec(family.needs) is None:
            continue
        (*_, a, b, height, width) = family.shape
        recognizer2d = len(family.shape) == 5
        shape = (b, a, height, width) if recognizer2d else (a, b, height, width)
        feed = frames if recognizer2d else one_view
        found[name] = entry(partial(build, name), shape, ('taf', 'advprop'), feed=feed)
    for name in SKELETONS:
        shape = (3, 16, 2, 17)
        found[name] = entry(
            partial(build_skeleton, name), shape, ('taf', 'advprop'), feed=skeletons
        )
    return found
