"""Runs that train nothing adversarial, although a recipe was announced, are told."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet, build_recognizer, data_samples, slowonly_config

from adv_plugins import (
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
)


def told(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        run()
    return [str(w.message) for w in caught if 'units of the input' not in str(w.message)]


OPTIMIZERS = {
    'SGD': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    'SGD, foreach': lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
    'SGD, fused': lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    'Adam': lambda p: torch.optim.Adam(p, foreach=False),
    'AdamW, foreach': lambda p: torch.optim.AdamW(p, foreach=True),
    'AdamW, fused': lambda p: torch.optim.AdamW(p, fused=True),
}


def train(clips, make_optimizer, early, steps=6, accumulate=1, **options):
    net = Conv3dNet()
    optimizer = make_optimizer(net.parameters()) if early else None
    make_adversarial(net, eps=0.1, **options)
    optimizer = optimizer or make_optimizer(net.parameters())
    for step in range(steps):
        net.adversarial_loss(*clips)['loss'].backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize('kind', OPTIMIZERS)
@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('interval', [1, 3])
def test_an_optimizer_older_than_the_conversion_is_told_once(clips, kind, accumulate, interval):
    options = dict(accumulate=accumulate, interval=interval)
    messages = told(lambda: train(clips, OPTIMIZERS[kind], early=True, **options))
    assert len(messages) == 1 and 'built before make_adversarial' in messages[0]
    assert not told(lambda: train(clips, OPTIMIZERS[kind], early=False, **options))


def test_the_advice_in_the_message_works(clips):
    net = Conv3dNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    make_adversarial(net, eps=0.1)
    (message,) = told(lambda: train(clips, OPTIMIZERS['SGD'], early=True))
    eval(
        message[message.index('optimizer.add_param_group') :], dict(optimizer=optimizer, model=net)
    )

    def run():
        for _ in range(3):
            net.adversarial_loss(*clips)['loss'].backward()
            optimizer.step()

    assert not told(run)


def test_frozen_norms_and_shared_norms_are_no_news(clips):
    assert not told(lambda: train(clips, OPTIMIZERS['SGD'], early=True, dual_bn=False))
    net = Conv3dNet()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    make_adversarial(net, eps=0.1)

    def run():
        for _ in range(3):
            net.adversarial_loss(*clips)['loss'].backward()
            optimizer.step()

    assert not told(run)


def test_a_loop_that_calls_only_the_model_is_told_once(clips):
    net = make_adversarial(Conv3dNet())

    def run():
        for _ in range(9):
            F.cross_entropy(net(clips[0]), clips[1]).backward()

    (message,) = told(run)
    assert 'model.adversarial_loss(inputs, target)' in message


def test_inference_and_steps_are_no_news(clips):
    net = make_adversarial(Conv3dNet(), interval=100)

    def run():
        with torch.no_grad():
            for _ in range(4):
                net.train()(clips[0])
        for _ in range(4):
            net.eval()(clips[0])
        for _ in range(4):
            net.train().adversarial_loss(*clips)
            net(clips[0])
        other = make_adversarial(Conv3dNet())
        for _ in range(4):
            other(other.perturb(*clips))

    assert not told(run)


def test_a_recognizer_whose_loss_is_called_past_the_step_is_told():
    model = make_adversarial(build_recognizer(slowonly_config()).train())
    inputs, samples = torch.randn(2, 1, 3, 4, 32, 32), data_samples([0, 1])

    def run(**mode):
        for _ in range(5):
            (model(inputs, samples, **mode) if mode else model.loss(inputs, samples))

    (message,) = told(run)
    assert "mode='loss'" in message
    make_adversarial(model := build_recognizer(slowonly_config()).train())
    assert not told(lambda: run(mode='loss'))


def test_an_adversarial_weight_of_zero_is_no_news(clips):
    assert not told(lambda: train(clips, OPTIMIZERS['SGD'], early=False, adv_weight=0.0))


def test_one_of_two_optimizers_that_is_too_old_is_told(clips):
    net = torch.nn.ModuleList([Conv3dNet(), Conv3dNet()])
    net.forward = lambda x: net[0](x) + net[1](x)
    early = torch.optim.SGD(net[0].parameters(), lr=0.1)
    make_adversarial(net, eps=0.1)
    late = torch.optim.SGD(net[1].parameters(), lr=0.1)

    def run(*optimizers):
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            net.adversarial_loss(*clips)['loss'].backward()
            for optimizer in optimizers:
                optimizer.step()

    (message,) = told(lambda: run(early, late))
    assert 'built before make_adversarial' in message


@pytest.mark.parametrize(
    ('options', 'pattern'),
    [
        (dict(begin=5), 'iteration 5 is the first'),
        (dict(begin=3, interval=4), 'iteration 4 is the first'),
        (dict(begin=1, end=3, interval=4), 'no iteration is adversarial'),
    ],
)
def test_a_run_that_begins_clean_is_told_when_it_will_not_be(clips, options, pattern):
    net = make_adversarial(Conv3dNet(), eps=0.1, steps=1, **options)
    (message,) = told(lambda: [net.adversarial_loss(*clips) for _ in range(3)])
    assert pattern in message


def test_a_run_that_is_resumed_after_the_last_attack_is_told(clips):
    nets = [make_adversarial(Conv3dNet(), eps=0.1, steps=1, end=2) for _ in range(2)]
    assert not told(lambda: [nets[0].adversarial_loss(*clips) for _ in range(3)])
    load_adversarial_state_dict(nets[1], adversarial_state_dict(nets[0]))
    (message,) = told(lambda: [nets[1].adversarial_loss(*clips) for _ in range(3)])
    assert 'no iteration from here on' in message and 'end=2' in message


def test_a_train_step_that_calls_neither_forward_nor_loss_is_told():
    model = build_recognizer(slowonly_config()).train()
    kind = type(model)

    class OwnStep(kind):
        def train_step(self, data, optim_wrapper):
            features, _ = self.extract_feat(data)
            self.cls_head(features).sum().backward()
            return {}

    model.__class__ = OwnStep
    make_adversarial(model)
    data = torch.randn(2, 1, 3, 4, 32, 32)
    (message,) = told(lambda: [model.train_step(data, None) for _ in range(5)])
    assert "mode='loss'" in message


def test_a_resumed_run_between_two_attacks_is_no_news(clips):
    net = make_adversarial(Conv3dNet(), eps=0.1, interval=4)
    state = adversarial_state_dict(net)
    state['adversary.iteration'] = torch.tensor(6)
    load_adversarial_state_dict(net, state)
    assert not told(lambda: net.adversarial_loss(*clips))
