"""MMAction2's recognizers under FSDP2, whose forward takes the step, on two gloo processes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import build_recognizer, data_samples, slowonly_config, tsm_config, two_ranks
from torch import nn

from adv_plugins import make_adversarial

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
pytest.importorskip('torch', minversion='2.13', reason='the step under FSDP2 needs it')

from test_sharding import average, mesh_of, sgd, unequal  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

CONFIGS = {'2d': lambda: tsm_config(dropout=0.0), '3d': slowonly_config}
SHAPES = {'2d': (2, 4, 3, 32, 32), '3d': (2, 1, 3, 4, 32, 32)}
RECIPES = [('taf', {}), ('taf', dict(begin=1)), ('advprop', dict(steps=2))]


def sharded(model: nn.Module) -> nn.Module:
    backbone = model.backbone
    stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    for part in (*(block for stage in stages for block in stage), model):
        fully_shard(part, mesh=mesh_of((2,)))
    return model


def train_both(rank: int, kind: str, recipe: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = build_recognizer(CONFIGS[kind]())
    one, other = (make_adversarial(copy.deepcopy(net), recipe, **options) for _ in range(2))
    sharded(other)
    optimizers = [sgd(model.parameters()) for model in (one, other)]
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + rank)
        clips = torch.rand(SHAPES[kind], generator=generator)
        samples = data_samples(torch.randint(6, (2,), generator=generator))
        for model, optimizer in zip((one, other), optimizers, strict=True):
            torch.manual_seed(step)
            model.parse_losses(model(clips, samples, mode='loss'))[0].backward()
            if model is one:
                average(model.parameters())
            optimizer.step()
            optimizer.zero_grad()
    whole = {name: value.full_tensor().detach() for name, value in other.named_parameters()}
    assert not unequal({name: value.detach() for name, value in one.named_parameters()}, whole)
    assert not unequal(dict(one.named_buffers()), dict(other.named_buffers()))
    assert not torch.equal(whole['backbone.conv1.conv.weight'], net.backbone.conv1.conv.weight)


@pytest.mark.exhaustive
@pytest.mark.parametrize('kind', CONFIGS)
@pytest.mark.parametrize(('recipe', 'options'), RECIPES, ids=str)
def test_sharded_recognizers_train_as_unsharded_ones(kind, recipe, options):
    two_ranks(train_both, kind, recipe, options)
