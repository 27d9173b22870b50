"""The config-level wrapper is the recognizer itself."""

import pytest
import torch
from helpers import build_recognizer, data_samples, tsm_config
from torch import nn

from adv_plugins import TAF
from adv_plugins.core.conversion import get_adversary

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
from helpers import runner_config
from mmengine.runner import Runner

RECIPE = dict(type='TAF', eps=6 / 255, step_size=2 / 255)


def wrapped(**changes):
    return dict(type='AdversarialModel', model={**tsm_config(), **changes}, recipe=RECIPE)


def test_it_is_the_recognizer_converted():
    model = build_recognizer(wrapped())
    plain = build_recognizer(tsm_config())
    assert isinstance(model, type(plain)) and list(model.state_dict()) == list(plain.state_dict())
    assert get_adversary(model).recipe == TAF(eps=6 / 255, step_size=2 / 255)
    losses = model(torch.randn(2, 4, 3, 32, 32), data_samples([0, 1]), mode='loss')
    assert 'adv_loss_cls' in losses


@pytest.mark.parametrize('hooks', [[], [dict(type='AdversarialHook')]])
@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
def test_trains_in_a_runner(tmp_path, hooks, norm):
    """Every parameter is in one group, and SyncBN's reversal does not drop the twins."""
    config = runner_config(tmp_path, custom_hooks=hooks, max_epochs=1)
    config.model = wrapped()
    config.model.model.backbone.norm_cfg = dict(type=norm, requires_grad=True)
    runner = Runner.from_cfg(config)
    runner.train()
    groups = runner.optim_wrapper.optimizer.param_groups
    ids = [id(value) for group in groups for value in group['params']]
    assert len(ids) == len(set(ids)) and set(ids) == {id(v) for v in runner.model.parameters()}
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    assert ('adversarial' in checkpoint) == bool(hooks)
    build_recognizer(tsm_config()).load_state_dict(checkpoint['state_dict'], strict=True)


def test_two_recipes_are_one_too_many(tmp_path):
    config = runner_config(tmp_path, custom_hooks=[dict(type='TAFHook')], max_epochs=1)
    config.model = wrapped()
    with pytest.raises(ValueError, match='leave one out'):
        Runner.from_cfg(config).train()


def test_ready_module():
    module = build_recognizer(tsm_config())
    assert isinstance(module, nn.Module)
    assert build_recognizer(dict(type='AdversarialModel', model=module, recipe='taf')) is not None
