"""timm's training loop, made of its own pieces (see examples/trainers/timm_loop.py)."""

from __future__ import annotations

import copy
import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('timm', reason='needs adv_plugins[trainers]')

import timm  # noqa: E402
import timm.models  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler  # noqa: E402

from adv_plugins import (  # noqa: E402
    AdvProp,
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.core.conversion import is_adversarial  # noqa: E402
from adv_plugins.core.norm import auxiliary_parameters  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/trainers'))

import timm_loop  # noqa: E402

RANDOM = AdvProp(steps=1, random_start=True, interval=2)


def small() -> nn.Module:
    """A quarter of a ResNet-18 in a tenth of its time."""
    return timm.create_model(
        'resnet18', num_classes=5, layers=(1, 1, 1, 1), channels=(8, 16, 16, 32), stem_width=8
    )


def parts(model: nn.Module) -> tuple[torch.optim.Optimizer, NativeScaler, ModelEmaV3]:
    optimizer = create_optimizer_v2(model, 'adamw', lr=2e-3, weight_decay=0.05)
    return optimizer, NativeScaler(device='cpu'), ModelEmaV3(model, decay=0.8)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_loop_learns_under_the_scaler(dtype):
    model = make_adversarial(small(), RANDOM, mean=0.5, std=0.5)
    optimizer, scaler, ema = parts(model)
    scaler._scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10)
    seen = set()
    model.conv1.register_forward_hook(lambda _m, _a, output: seen.add(output.dtype))
    data = timm_loop.batches(8, seed=1)
    losses = [
        timm_loop.train_one_epoch(model, data, optimizer, scaler, ema, dtype) for _ in range(3)
    ]
    assert seen == {dtype}
    assert losses[-1] < 0.7 * losses[0]
    assert timm_loop.validate(ema.module, timm_loop.batches(4, seed=2)) > 50
    # No step was skipped for gradients that are not finite.
    assert scaler._scaler.get_scale() == 2.0**10
    assert not torch.equal(model.bn1.weight, model.bn1.adv_weight)


def test_clean_path_is_the_plain_loop_when_the_adversarial_weight_is_zero():
    plain = small()
    model = make_adversarial(copy.deepcopy(plain), AdvProp(adv_weight=0.0, steps=1))
    data = timm_loop.batches(3, seed=1)
    averaged = []
    for net in (plain, model):
        optimizer, scaler, ema = parts(net)
        if net is plain:
            net.adversarial_loss = lambda x, y: {'loss': F.cross_entropy(plain(x), y)}
        # Unclipped: zeros among the gradients may change the last bit of their common norm.
        unclipped = functools.partial(step_without_clipping, scaler)
        timm_loop.train_one_epoch(net, data, optimizer, unclipped, ema)
        averaged.append(ema.module)
    assert same(plain, model)
    assert same(*averaged)


def step_without_clipping(scaler: NativeScaler, loss: Any, optimizer: Any, **_: Any) -> None:
    scaler(loss, optimizer)


def test_averaged_model_evaluates_as_a_plain_one():
    model = make_adversarial(small(), AdvProp(steps=1))
    optimizer, scaler, ema = parts(model)
    timm_loop.train_one_epoch(model, timm_loop.batches(2, seed=1), optimizer, scaler, ema)
    assert is_adversarial(ema.module)
    plain = small().eval()
    plain.load_state_dict(ema.module.state_dict(), strict=True)
    images = timm_loop.batches(1, seed=2)[0][0]
    with torch.no_grad():
        assert torch.equal(ema(images), plain(images))
        assert not torch.equal(ema(images), model.eval()(images))
    assert type(remove_adversarial(ema.module)) is type(plain)


def test_checkpoint_loads_strictly_into_an_untouched_model(tmp_path):
    model = make_adversarial(small(), AdvProp(steps=1))
    optimizer, scaler, ema = parts(model)
    timm_loop.train_one_epoch(model, timm_loop.batches(2, seed=1), optimizer, scaler, ema)
    saver = CheckpointSaver(
        model, optimizer, model_ema=ema, amp_scaler=scaler, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(0, metric=1.0)
    for use_ema, source in ((False, model), (True, ema.module)):
        plain = small()
        path = str(tmp_path / 'last.pth.tar')
        timm.models.load_checkpoint(plain, path, use_ema=use_ema, strict=True)
        assert same(plain, source)


def test_resumed_loop_ends_where_the_uninterrupted_one_does(tmp_path):
    """timm's own resume, and the adversarial state beside it."""
    data = timm_loop.batches(3, seed=1)

    def run(epochs: int, resume: bool = False) -> Any:
        model = make_adversarial(small(), RANDOM)
        optimizer, scaler, ema = parts(model)
        if resume:
            path = str(tmp_path / 'last.pth.tar')
            timm.models.resume_checkpoint(model, path, optimizer, scaler, log_info=False)
            load_adversarial_state_dict(model, torch.load(tmp_path / 'adversarial.pt'))
        for _ in range(epochs):
            timm_loop.train_one_epoch(model, data, optimizer, scaler, ema)
        saver = CheckpointSaver(model, optimizer, amp_scaler=scaler, checkpoint_dir=str(tmp_path))
        saver.save_checkpoint(epochs, metric=1.0)
        torch.save(adversarial_state_dict(model), tmp_path / 'adversarial.pt')
        return model

    torch.manual_seed(1)
    whole = run(2)
    torch.manual_seed(1)
    run(1)
    torch.manual_seed(7)
    resumed = run(1, resume=True)
    assert same(whole, resumed)
    states = adversarial_state_dict(whole), adversarial_state_dict(resumed)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert states[0]['adversary.iteration'] == 6


@pytest.mark.parametrize(
    ('name', 'recipe'),
    [('resnet18', AdvProp()), ('vit_tiny_patch16_224', AdvProp(dual_ln=True))],
    ids=['batch norm', 'layer norm'],
)
@pytest.mark.parametrize(
    'options',
    [dict(weight_decay=0.05), dict(weight_decay=0.05, layer_decay=0.7), dict()],
    ids=['weight decay', 'layer decay', 'one group'],
)
@pytest.mark.filterwarnings('ignore:.*no batch normalisation')
def test_every_parameter_is_in_one_group_auxiliary_beside_clean(name, recipe, options):
    model = make_adversarial(timm.create_model(name, num_classes=5), recipe)
    groups = create_optimizer_v2(model, 'adamw', lr=1e-3, **options).param_groups
    homes = {id(value): index for index, group in enumerate(groups) for value in group['params']}
    assert sum(len(group['params']) for group in groups) == len(homes)
    assert homes.keys() == {id(value) for value in model.parameters()}
    if 'layer_decay' in options:
        assert len({group['lr_scale'] for group in groups}) > 5
    pairs = list(auxiliary_parameters(model))
    assert len(pairs) > 30
    for clean, auxiliary in pairs:
        assert homes[id(clean)] == homes[id(auxiliary)]


# A minute or two where bfloat16 is slow; the other tests here have each of its parts.
@pytest.mark.exhaustive
def test_example(capsys):
    assert timm_loop.main(['--epochs', '2']) > 50
    assert 'in an untouched resnet18' in capsys.readouterr().out
