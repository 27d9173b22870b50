"""Buffers that are no running statistics by name: no forward of an attack writes into them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from adv_plugins import adversarial_state_dict, make_adversarial
from adv_plugins.core.norm import dual_norms


class MovingNorm(nn.Module):
    """A batch norm as one writes it by hand, with names of its own."""

    def __init__(self, channels, names=('moving_mean', 'moving_var')):
        super().__init__()
        self.names = names
        self.gain = nn.Parameter(torch.ones(channels))
        for name, fill in zip(names, (0.0, 1.0), strict=True):
            self.register_buffer(name, torch.full((channels,), fill))

    def forward(self, x):
        mean, var = (getattr(self, name) for name in self.names)
        if self.training:
            dims = (0, 2, 3)
            now = x.mean(dims), x.var(dims)
            with torch.no_grad():
                for name, old, new in zip(self.names, (mean, var), now, strict=True):
                    setattr(self, name, 0.9 * old + 0.1 * new.detach())
            mean, var = now
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * self.gain.view(shape)


class Centred(nn.Module):
    """Updates a centre in place before it uses it, so that backward reads the new value."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer('centre', torch.ones(1, channels, 1, 1))

    def forward(self, x):
        if self.training:
            self.centre.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3), keepdim=True))
        return x * self.centre


class EveryOther(nn.Module):
    """Counts its calls and moves an average at every other one."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer('calls', torch.tensor(0), persistent=False)
        self.register_buffer('average', torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        if self.calls % 2:
            self.average = self.average * 0.5 + x.detach().mean()
        return x + self.average


class Functional(nn.Module):
    """Uses the statistics of a batch norm that is never called."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        bn = self.bn
        return F.batch_norm(
            x, bn.running_mean, bn.running_var, bn.weight, bn.bias, self.training, bn.momentum
        )


class Tied(nn.Module):
    """Two modules with one buffer."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.second = EveryOther(channels), EveryOther(channels)
        self.second.calls = self.first.calls

    def forward(self, x):
        return self.second(self.first(x))


def evonorm(channels):
    layers = pytest.importorskip('timm.layers', reason='needs adv_plugins[mmaction]')
    return layers.EvoNorm2dB0(channels)


KINDS = {
    'moving': MovingNorm,
    'other names': lambda channels: MovingNorm(channels, ('average', 'spread')),
    'centre': Centred,
    'every other': EveryOther,
    'functional': Functional,
    'tied': Tied,
    'EvoNorm': evonorm,
}


def build(kind):
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 4, 3), KINDS[kind](4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*parts).train()


def batch():
    return torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])


def copies(model):
    return {name: value.clone() for name, value in model.named_buffers() if '.adv_' not in name}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'options',
    [dict(steps=1), dict(steps=3, random_start=True), dict(attack_path='adversarial', steps=2)],
    ids=['K=1', 'random start', 'adversarial path'],
)
def test_steps_move_the_buffers_as_clean_forwards_do(kind, options):
    plain, (x, y) = build(kind), batch()
    model = make_adversarial(copy.deepcopy(plain), eps=0.3, **options)
    for _ in range(3):
        plain(x)
        model.adversarial_loss(x, y)['loss'].backward()
    assert_same(copies(model), copies(plain))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('training', [True, False])
def test_an_attack_alone_moves_none(kind, training):
    model, (x, y) = build(kind), batch()
    make_adversarial(model, eps=0.3, steps=2)
    before = copies(model.train(training))
    objects = {name: id(value) for name, value in model.named_buffers()}
    for _ in range(2):
        model.perturb(x, y)
    assert_same(copies(model), before)
    assert {name: id(value) for name, value in model.named_buffers()} == objects


@pytest.mark.parametrize('kind', KINDS)
def test_the_rehearsal_moves_none(kind):
    plain, (x, y) = build(kind), batch()
    model = make_adversarial(copy.deepcopy(plain), eps=0.3, steps=2, begin=5)
    plain(x)
    model.adversarial_loss(x, y)['loss'].backward()
    assert_same(copies(model), copies(plain))


def test_an_exception_puts_the_buffers_back():
    model, (x, y) = build('every other'), batch()
    make_adversarial(model, eps=0.3)
    before = dict(model.named_buffers())
    model[4].forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model.perturb(x, y)
    assert all(value is before[name] for name, value in model.named_buffers())
    assert model[1].calls == 0


def test_shared_norms_see_both_kinds_of_samples():
    """What dual_bn=False announces, in the first step as in those after it."""
    model, (x, y) = build('moving'), batch()
    model[1] = nn.BatchNorm2d(4)
    make_adversarial(model, eps=0.3, steps=2, dual_bn=False)
    for _ in range(3):
        model.adversarial_loss(x, y)
    assert model[1].num_batches_tracked == 6


@pytest.mark.parametrize('kind', ['moving', 'EvoNorm'])
def test_norms_of_other_names_are_doubled(kind):
    model, (x, y) = build(kind), batch()
    make_adversarial(model, eps=0.3)
    model.adversarial_loss(x, y)['loss'].backward()
    statistics = [n for n in adversarial_state_dict(model) if n.endswith(('_mean', '_var'))]
    assert statistics and all('adv_' in name for name in statistics)
    (norm,) = dual_norms(model)
    for name, clean, auxiliary in norm.auxiliary_pairs():
        if not isinstance(clean, nn.Parameter):
            assert not torch.equal(clean, auxiliary), name
        elif clean.grad is not None:
            assert not torch.equal(clean.grad, auxiliary.grad), name


class CentredLoss(nn.Module):
    """A loss that keeps a centre, a count of its calls and a norm."""

    def __init__(self):
        super().__init__()
        self.register_buffer('centre', torch.zeros(5))
        self.register_buffer('calls', torch.tensor(0))
        self.bn = nn.BatchNorm1d(5)

    def forward(self, logits, labels):
        self.calls += 1
        self.centre.mul_(0.9).add_(0.1 * logits.detach().mean(0))
        return F.cross_entropy(self.bn(logits) - self.centre, labels)


def test_the_state_of_a_loss_is_held_too():
    plain, loss, (x, y) = build('moving'), CentredLoss(), batch()
    own = copy.deepcopy(loss)
    model = make_adversarial(copy.deepcopy(plain), eps=0.3, steps=3, loss_fn=own)
    for _ in range(2):
        loss(plain(x), y)
        model.adversarial_loss(x, y)['loss'].backward()
    model.perturb(x, y)
    assert_same(dict(own.named_buffers()), dict(loss.named_buffers()))


class Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize('kind', ['centre', 'functional', 'moving'])
@pytest.mark.parametrize(
    'options', [dict(steps=2), dict(attack_path='clean', steps=1), dict(begin=5, steps=2)], ids=str
)
def test_what_checkpointing_repeats_moves_no_buffer_under_attack(kind, options):
    plain, (x, y) = Checkpointed(build(kind)), batch()
    model = make_adversarial(copy.deepcopy(plain), eps=0.3, **options)
    # One backward each: what is repeated in the backward of the clean part moves buffers in both.
    F.cross_entropy(plain(x), y).backward()
    model.adversarial_loss(x, y)['loss'].backward()
    assert_same(copies(model), copies(plain))


def test_a_backward_that_fails_leaves_no_copies_for_the_next_one():
    plain, (x, y) = build('centre'), batch()
    model = make_adversarial(copy.deepcopy(plain), eps=0.3)
    centre = model[1].centre
    losses = model.adversarial_loss(x, y)
    hook = model[0].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        losses['loss'].backward()
    hook.remove()
    model.adversarial_loss(x, y)['loss'].backward()
    assert model[1].centre is centre


class Late(nn.Module):
    """Registers its buffer in the first forward."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        if not hasattr(self, 'sum'):
            self.register_buffer('sum', torch.zeros(self.channels))
        self.sum += x.detach().mean((0, 2, 3))
        return x


def test_a_buffer_that_a_forward_registers_is_that_of_the_clean_forward():
    plain, (x, y) = nn.Sequential(nn.Conv2d(3, 4, 3), Late(4), nn.Flatten()), batch()
    model = make_adversarial(copy.deepcopy(plain), eps=0.3, steps=1, begin=1, dual_bn=False)
    model.perturb(x, y)
    for _ in range(2):
        plain(x)
        model.adversarial_loss(x, y)
    assert_same(copies(model), copies(plain))


class Own(Functional):
    """Follows the mode of the norm that it does not call."""

    def forward(self, x):
        bn = self.bn
        return F.batch_norm(
            x, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.training, bn.momentum
        )


def test_a_norm_that_is_unfrozen_later_is_held_from_then_on():
    plain, (x, y) = nn.Sequential(nn.Conv2d(3, 4, 3), Own(4), nn.Flatten()), batch()
    model = make_adversarial(copy.deepcopy(plain), eps=0.3, steps=2)
    model[1].bn.eval()
    model.adversarial_loss(x, y)
    model.train()
    plain(x)
    model.adversarial_loss(x, y)
    assert_same(copies(model), copies(plain))
