"""The config-level wrapper is the recognizer itself."""

import pytest
import torch
from helpers import build_recognizer, data_samples, slowonly_config

from adv_plugins import TAF
from adv_plugins.core.conversion import get_adversary, is_adversarial
from adv_plugins.core.norm import dual_norms

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
from helpers import runner_config
from mmengine.registry import MODELS
from mmengine.runner import Runner

RECIPE = dict(type='TAF', eps=6 / 255, step_size=2 / 255)


def wrapped(**changes):
    return dict(type='AdversarialModel', model={**slowonly_config(), **changes}, recipe=RECIPE)


def test_it_is_the_recognizer_converted():
    model = build_recognizer(wrapped())
    plain = build_recognizer(slowonly_config())
    assert isinstance(model, type(plain)) and list(model.state_dict()) == list(plain.state_dict())
    assert get_adversary(model).recipe == TAF(eps=6 / 255, step_size=2 / 255)
    losses = model(torch.randn(2, 1, 3, 4, 32, 32), data_samples([0, 1]), mode='loss')
    assert 'adv_loss_cls' in losses


@pytest.mark.parametrize('hooks', [[], [dict(type='AdversarialHook')]])
@pytest.mark.parametrize('norm', ['BN3d', 'SyncBN'])
def test_trains_in_a_runner(tmp_path, hooks, norm):
    """Every parameter is in one group, and SyncBN's reversal does not drop the auxiliary norms."""
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
    build_recognizer(slowonly_config()).load_state_dict(checkpoint['state_dict'], strict=True)


def test_two_recipes_are_one_too_many(tmp_path):
    config = runner_config(tmp_path, custom_hooks=[dict(type='TAFHook')], max_epochs=1)
    config.model = wrapped()
    with pytest.raises(ValueError, match='leave one out'):
        Runner.from_cfg(config).train()


def test_ready_module_is_converted_in_place():
    module = build_recognizer(slowonly_config())
    model = MODELS.build(dict(type='AdversarialModel', model=module, recipe='taf'))
    assert model is module and is_adversarial(model)


def test_auxiliary_parameters_move_to_the_groups_of_their_clean_parameters(tmp_path):
    """The optimizer is built after the conversion, and looks at names: bias, not adv_bias."""
    config = runner_config(tmp_path, custom_hooks=[dict(type='AdversarialHook')], max_epochs=1)
    config.model = wrapped()
    config.optim_wrapper.paramwise_cfg = dict(bias_decay_mult=0.0)
    runner = Runner.from_cfg(config)
    runner.train()
    decay = {
        id(value): group['weight_decay']
        for group in runner.optim_wrapper.optimizer.param_groups
        for value in group['params']
    }
    assert set(decay) == {id(value) for value in runner.model.parameters()}
    for norm in dual_norms(runner.model):
        assert decay[id(norm.adv_bias)] == decay[id(norm.bias)]
        assert decay[id(norm.adv_weight)] == decay[id(norm.weight)]
