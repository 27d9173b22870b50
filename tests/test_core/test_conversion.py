"""Converting in place and back: same object, same keys, right errors."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from helpers import Conv3dNet
from torch import nn

from adv_plugins import (
    TAF,
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.core.conversion import get_adversary


def test_same_object_same_keys_same_outputs(net, clips):
    plain = copy.deepcopy(net)
    assert make_adversarial(net) is net
    assert isinstance(net, Conv3dNet) and type(net).__name__ == 'AdversarialConv3dNet'
    assert list(net.state_dict()) == list(plain.state_dict())
    for mode in (True, False):
        assert torch.equal(net.train(mode)(clips[0]), plain.train(mode)(clips[0]))
    plain.load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(plain.state_dict(), strict=True)


def test_deepcopy_is_a_model_of_its_own(net, clips):
    make_adversarial(net, 'taf').adversarial_loss(*clips)
    clone = copy.deepcopy(net)
    assert get_adversary(clone).model is clone and get_adversary(net).model is net
    before = {name: value.clone() for name, value in adversarial_state_dict(net).items()}
    clone.adversarial_loss(*clips)
    for name, value in adversarial_state_dict(net).items():
        assert torch.equal(value, before[name])
    assert type(clone) is type(net)


def test_remove_gives_the_plain_model_back(net, clips):
    plain = copy.deepcopy(net)
    make_adversarial(net, 'taf')
    assert remove_adversarial(net) is net
    assert type(net) is Conv3dNet and not hasattr(net, 'perturb')
    assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [list(vars(m)) for m in net.modules()] == [list(vars(m)) for m in plain.modules()]
    assert torch.equal(net(clips[0]), plain(clips[0]))
    make_adversarial(net, 'advprop').adversarial_loss(*clips)


def test_training_goes_on_bit_for_bit_after_a_restart(clips):
    def run(net, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            net.adversarial_loss(*clips)['loss'].backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        net = make_adversarial(Conv3dNet(), 'taf', random_start=True)
        return net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    straight, optimizer = fresh()
    run(straight, optimizer, 4)
    first, optimizer = fresh()
    run(first, optimizer, 2)
    torch.manual_seed(99)
    second, new_optimizer = make_adversarial(Conv3dNet(), 'taf', random_start=True), None
    second.load_state_dict(first.state_dict())
    load_adversarial_state_dict(second, adversarial_state_dict(first))
    new_optimizer = torch.optim.SGD(second.parameters(), 0.1, momentum=0.9)
    new_optimizer.load_state_dict(optimizer.state_dict())
    run(second, new_optimizer, 2)
    for states in (lambda n: n.state_dict(), adversarial_state_dict):
        for (name, a), b in zip(states(straight).items(), states(second).values(), strict=True):
            assert torch.equal(a, b), name


def test_any_seed_can_be_saved(net):
    torch.manual_seed(2**64 - 1)
    make_adversarial(net, 'taf')
    load_adversarial_state_dict(net, adversarial_state_dict(net))
    assert get_adversary(net).schedule.seed == torch.initial_seed() % 2**63


def test_adversarial_state_holds_all_that_the_state_dict_leaves_out(net):
    make_adversarial(net, 'taf')
    state = adversarial_state_dict(net)
    everything = {n for n, _ in net.named_parameters()} | {n for n, _ in net.named_buffers()}
    assert everything == set(net.state_dict()) | {n for n in state if 'adversary.' not in n}
    assert 'bn1.adv_weight' in state and 'layer4.1.adv_running_var' in state


def test_adversarial_state_keeps_its_names_under_activation_checkpoints(net):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    before = adversarial_state_dict(make_adversarial(net, 'taf'))
    names = list(net.state_dict())
    net.layer4 = checkpoint_wrapper(net.layer4)
    assert list(net.state_dict()) == names
    assert list(adversarial_state_dict(net)) == list(before)


DAMAGE = {
    'another shape': ({'layer4.1.adv_weight': torch.zeros(3)}, 'layer4.1.adv_weight'),
    'a key too many': ({'spam': torch.zeros(1)}, 'spam'),
    'a key of another type': ({3: torch.zeros(1)}, '3'),
    'no tensor': ({'layer4.1.adv_running_var': [1.0] * 8}, 'layer4.1.adv_running_var'),
    'an array': ({'layer4.1.adv_bias': np.zeros(8)}, 'layer4.1.adv_bias'),
    'a seed of several numbers': ({'adversary.seed': torch.tensor([1, 2])}, 'adversary.seed'),
    'a started that is a number': ({'adversary.started': torch.tensor(0.5)}, 'started'),
    'an iteration that is none': ({'adversary.iteration': torch.tensor(float('nan'))}, 'iteration'),
    'a negative iteration': ({'adversary.iteration': torch.tensor(-1)}, 'iteration'),
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_damaged_adversarial_state_is_refused_whole(net, clips, kind):
    make_adversarial(net, 'taf').adversarial_loss(*clips)
    before = {name: value.clone() for name, value in adversarial_state_dict(net).items()}
    changes, message = DAMAGE[kind]
    others = {name: value + 1 for name, value in before.items() if value.dtype != torch.bool}
    with pytest.raises(ValueError, match=message):
        load_adversarial_state_dict(net, {**before, **others, **changes})
    for name, value in adversarial_state_dict(net).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('state', [None, [], 'spam', {}, 3])
def test_adversarial_state_that_is_none_is_refused(net, state):
    with pytest.raises(ValueError, match='does not fit the model; missing'):
        load_adversarial_state_dict(make_adversarial(net), state)


def test_model_that_is_a_norm_itself():
    norm = make_adversarial(nn.Sequential(nn.BatchNorm1d(3))[0])
    assert 'adv_weight' in adversarial_state_dict(norm)
    remove_adversarial(norm)
    assert type(norm) is nn.BatchNorm1d


def test_no_norms_is_one_warning(clips):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 36, 6))
    with pytest.warns(UserWarning, match='no batch normalisation') as caught:
        make_adversarial(net)
    assert len(caught) == 1
    net.adversarial_loss(*clips)['loss'].backward()


def test_layer_norms_are_doubled_on_demand(clips):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.LayerNorm(3 * 4 * 36), nn.Linear(3 * 4 * 36, 6))

    with pytest.warns(UserWarning, match='dual_ln=True gives it auxiliary LayerNorms'):
        shared = make_adversarial(net(), 'ceaugmentation')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dual = make_adversarial(net(), 'ceaugmentation', dual_ln=True)
    assert list(dual.state_dict()) == list(net().state_dict())
    assert {'1.adv_weight', '1.adv_bias'} <= set(adversarial_state_dict(dual))
    for model in (shared, dual):
        model.adversarial_loss(*clips)['loss'].backward()
    with pytest.warns(UserWarning, match='no LayerNorm: dual_ln has nothing to convert'):
        make_adversarial(Conv3dNet(), dual_ln=True)
    # The same step, but each path's gradient goes to a norm of its own.
    assert torch.allclose(shared[1].weight.grad, dual[1].weight.grad + dual[1].adv_weight.grad)
    plain = net()
    (0.7 * nn.functional.cross_entropy(plain(clips[0]), clips[1])).backward()
    assert torch.allclose(dual[1].weight.grad, plain[1].weight.grad)


@pytest.mark.parametrize(
    ('prepare', 'message'),
    [
        (make_adversarial, 'remove_adversarial'),
        (torch.compile, 'torch.compile'),
        (lambda net: net.compile() or net, 'torch.compile'),
        (nn.DataParallel, 'convert first, then wrap'),
    ],
)
def test_conversion_that_comes_too_late(net, prepare, message):
    with pytest.raises(TypeError, match=message):
        make_adversarial(prepare(net))


def test_parts_that_are_converted_wrapped_or_compiled(net):
    class FSDPModule(nn.Module):
        pass

    class FSDPConv3dNet(FSDPModule, Conv3dNet):
        pass

    with pytest.raises(TypeError, match='convert the whole model once'):
        make_adversarial(nn.Sequential(make_adversarial(Conv3dNet())))
    net.layer4.compile()
    with pytest.raises(TypeError, match='Sequential was compiled'):
        make_adversarial(net)
    with pytest.raises(TypeError, match='wrapped in FSDPConv3dNet'):
        make_adversarial(FSDPConv3dNet())


def test_failed_conversion_leaves_the_plain_model(net):
    for options in (dict(cam_layer='nope'), dict(mean=[1.0, 2.0], std=[100.0, 50.0])):
        with pytest.raises(ValueError, match='cam_layer|value_range'):
            make_adversarial(net, 'taf', **options)
        assert type(net) is Conv3dNet and type(net.bn1) is nn.BatchNorm3d
        assert len(list(net.bn1.parameters())) == 2


def tree(model):
    return {name: (type(part), list(vars(part))) for name, part in model.named_modules()}


@pytest.mark.parametrize(
    'part',
    [nn.LazyBatchNorm3d, lambda: nn.LazyConv3d(4, 1), lambda: nn.LazyLinear(3)],
    ids=['batch norm', 'convolution', 'linear'],
)
def test_lazy_part_asks_for_a_forward_and_changes_nothing(net, clips, part):
    model = nn.Sequential(nn.BatchNorm3d(3), part(), net) if part is nn.LazyBatchNorm3d else net
    model.more = part()
    before = tree(model)
    with pytest.raises(ValueError, match='lazy.*run one forward first'):
        make_adversarial(model)
    assert tree(model) == before


def test_lazy_norm_after_its_first_forward(net, clips):
    model = nn.Sequential(nn.LazyBatchNorm3d(), net)
    model(clips[0])
    assert make_adversarial(model).adversarial_loss(*clips)['adv_loss'].isfinite()


@pytest.mark.parametrize('kind', ['whole', 'scripted part', 'traced part'])
def test_scripted_norms_are_refused_and_nothing_changes(net, clips, kind):
    if kind == 'whole':
        model = torch.jit.script(nn.Sequential(nn.Linear(3, 3)))
    else:
        part = nn.Sequential(nn.BatchNorm3d(3))
        fixed = torch.jit.script(part) if kind[0] == 's' else torch.jit.trace(part, clips[0])
        model = nn.Sequential(net, fixed)
    before = tree(model)
    with pytest.raises(TypeError, match='scripted or traced'):
        make_adversarial(model)
    assert tree(model) == before


def test_scripted_part_without_norms_is_fine(net, clips):
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv3d(3, 3, 1), nn.ReLU())), net)
    make_adversarial(model, eps=0.1).adversarial_loss(*clips)['loss'].backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize('fails_at', range(3))
def test_conversion_that_fails_half_way_is_undone(net, monkeypatch, fails_at):
    """The reason is seen, and the model is what it was, wherever it failed."""
    before, count = tree(net), itertools.count()
    plain = nn.Module.register_parameter

    def register(module, name, value):
        if name.startswith('adv_') and next(count) == fails_at:
            raise KeyboardInterrupt('in the middle')
        plain(module, name, value)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match='in the middle'):
        patch.setattr(nn.Module, 'register_parameter', register)
        make_adversarial(net)
    assert tree(net) == before and len(list(net.bn1.parameters())) == 2
    make_adversarial(net)


def test_warning_as_an_error_undoes_the_conversion():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    before = tree(model)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(UserWarning, match='no batch normalisation'):
            make_adversarial(model)
    assert tree(model) == before


def test_plain_model_has_no_adversary(net):
    for call in (remove_adversarial, adversarial_state_dict):
        with pytest.raises(TypeError, match=r'make_adversarial\(model\) first'):
            call(net)


def test_compiled_after_conversion(net, clips):
    """The step stays out of the graph; the compiled call is inference and plain."""
    make_adversarial(net, TAF())
    eager = net.eval()(clips[0])
    compiled = torch.compile(net, backend='eager')
    torch.testing.assert_close(compiled(clips[0]), eager)
    assert compiled.train().adversarial_loss(*clips)['loss'].isfinite()


def test_a_model_made_under_inference_mode_is_refused_before_anything_changes():
    with torch.inference_mode():
        net = Conv3dNet()
    with pytest.raises(RuntimeError, match='outside of it'):
        make_adversarial(net)
    assert type(net) is Conv3dNet
    model = make_adversarial(Conv3dNet())
    with torch.inference_mode():
        twin = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match='outside of it'):
        twin.perturb(torch.rand(2, 3, 4, 8, 8), torch.tensor([0, 1]))


def test_conversion_under_inference_mode_trains_later():
    net, clips = Conv3dNet(), (torch.rand(4, 3, 4, 8, 8), torch.arange(4))
    with torch.inference_mode():
        make_adversarial(net, eps=0.1, steps=1)
        clips = tuple(map(torch.clone, clips))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.adversarial_loss(*clips)['loss'].backward()
    optimizer.step()


class Conditional(nn.BatchNorm2d):
    """Has its scale from a part of its own."""

    def __init__(self, channels):
        super().__init__(channels, affine=False)
        self.scale = nn.Linear(1, channels)

    def forward(self, x):
        return super().forward(x) * self.scale(torch.ones(1)).view(1, -1, 1, 1)


def test_a_norm_that_keeps_its_weight_in_a_part_is_told():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Conditional(4), nn.Flatten())
    with pytest.warns(UserWarning, match='share 1.scale.weight'):
        make_adversarial(net)
