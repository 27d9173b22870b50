"""A clean forward more in place of a clean graph: all but the cost is as with the graph."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet, ConvCounter, assert_same, snapshot
from torch import nn
from torch.utils.checkpoint import checkpoint

from adv_plugins import (
    TAF,
    AdvProp,
    AttentionFrobenius,
    CEAugmentation,
    Recipe,
    Regularizer,
    make_adversarial,
)


class Everything(Conv3dNet):
    """Attention, dropout, norms, a buffer that the forward moves and reads, and a late one."""

    def __init__(self, saving=False):
        super().__init__(dropout=0.3)
        self.saving = saving
        self.register_buffer('scale', torch.ones(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        self.scale.mul_(0.9)
        if not hasattr(self, 'calls'):
            self.register_buffer('calls', torch.tensor(0))
        self.calls += 1
        x = self.bn1(self.stem(x)).relu()
        x = checkpoint(self.layer4, x, use_reentrant=False) if self.saving else self.layer4(x)
        tokens = self.dropout(x.mean(dim=(3, 4)).transpose(1, 2))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.fc((tokens + mixed).mean(1) * self.scale)


class Pairing(Regularizer):
    """Reads logits and losses."""

    name = 'pairing'
    weight = 0.5

    def __call__(self, clean, adversarial):
        gap = (clean.logits.softmax(1) - adversarial.logits.softmax(1)).square().sum()
        return gap + (clean.loss - adversarial.loss) ** 2 + clean.losses['loss']


BOTH = dict(regularizers=[AttentionFrobenius(weight=2.0), Pairing()])
RECIPES = {
    'TAF': TAF(eps=0.1, step_size=0.1, cam_layer='layer4', **BOTH),
    'CE': CEAugmentation(eps=0.1, step_size=0.1, **BOTH),
    'shared norms': CEAugmentation(eps=0.1, step_size=0.1, dual_bn=False, **BOTH),
    'K=3 from a random start': AdvProp(eps=0.1, step_size=0.1, steps=3, random_start=True, **BOTH),
    'part': CEAugmentation(eps=0.1, step_size=0.1, fraction=0.6, **BOTH),
    'only adversarial': CEAugmentation(eps=0.1, step_size=0.1, alpha=0, dual_bn=False, **BOTH),
    'only the term': AdvProp(clean_weight=0, adv_weight=0, eps=0.1, **BOTH),
    'cross-entropy': Recipe(objective='CrossEntropy', norm='l2', eps=1.0, **BOTH),
}


def changed(recipe, **options):
    return Recipe(**{**vars(recipe), **options})


def recomputed(recipe):
    return changed(recipe, recompute=True)


def trained(model, recipe, clips, steps=3):
    """The model after a few steps, and what they have logged."""
    torch.manual_seed(1)
    make_adversarial(model, recipe)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    logged = []
    for _ in range(steps):
        logged.append(model.adversarial_loss(*clips))
        optimizer.zero_grad()
        (2.0 * logged[-1]['loss']).backward()
        optimizer.step()
    logged.append({'rng': torch.get_rng_state()})
    return [{name: value.detach() for name, value in losses.items()} for losses in logged]


def assert_trained_alike(model, recipe, clips):
    kept = copy.deepcopy(model)
    expected, found = trained(kept, recipe, clips), trained(model, recomputed(recipe), clips)
    torch.testing.assert_close(found, expected)
    for name, value in kept.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value, msg=name)
    for name, value in kept.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, msg=name)
        torch.testing.assert_close(model.get_parameter(name).grad, value.grad, msg=name)


@pytest.mark.parametrize('recipe', RECIPES.values(), ids=RECIPES)
def test_it_trains_as_with_the_graph(clips, recipe):
    """Losses, gradients, statistics, other buffers and the random stream, over several steps."""
    assert_trained_alike(Everything(), recipe, clips)


@pytest.mark.parametrize('name', ['CE', 'shared norms'])
def test_checkpointed_layers_train_as_with_the_graph(clips, name):
    """They repeat their forward, and move their statistics, in the backward of either loss."""
    assert_trained_alike(Everything(saving=True), RECIPES[name], clips)


def test_frozen_layers_stay_frozen(clips):
    """Without a gradient of the inputs, what they compute has no graph in the second forward."""
    model = Everything()
    for part in (model.stem, model.bn1, model.layer4, model.attention):
        part.requires_grad_(False)
    assert_trained_alike(model, RECIPES['CE'], clips)


def test_the_term_reaches_the_parameters_through_the_clean_record(clips):
    """Else the tests above would compare nothing."""
    grads = []
    for term in (Pairing, OneSided):
        options = dict(eps=0.1, step_size=0.1, regularizers=[term()], recompute=True)
        torch.manual_seed(0)
        net = make_adversarial(Everything(), CEAugmentation(**options))
        net.adversarial_loss(*clips)['loss'].backward()
        grads.append(net.stem.weight.grad)
    assert (grads[0] - grads[1]).abs().max() > 1e-3


class OneSided(Pairing):
    """The same with a constant clean record."""

    def __call__(self, clean, adversarial):
        constant = copy.copy(clean)
        constant.drop_graph()
        return super().__call__(constant, adversarial)


@pytest.mark.parametrize(
    ('name', 'counts'),
    # Forwards, backwards that compute no parameter gradient, full backwards.
    [('CE', (3, 1, 2)), ('K=3 from a random start', (6, 3, 2)), ('only adversarial', (3, 1, 2))],
)
def test_the_cost_is_one_forward(clips, name, counts):
    net = make_adversarial(Everything(), recomputed(RECIPES[name]))
    net.adversarial_loss(*clips)['loss'].backward()
    with ConvCounter(net.layer4[0].weight.shape) as counter:
        net.adversarial_loss(*clips)['loss'].backward()
    assert (counter.forwards, counter.input_only, counter.full) == counts


def test_nothing_is_left_behind(clips):
    net = make_adversarial(Everything(), recomputed(RECIPES['part']))
    net.adversarial_loss(*clips)['loss'].backward()
    before = snapshot(net)
    net.adversarial_loss(*clips)
    after = snapshot(net)
    # The forward draws dropout masks, and moves statistics.
    for moved in ('state', 'auxiliary', 'rng'):
        del before[moved], after[moved]
    assert_same(before, after)


def test_a_failing_second_forward_leaves_nothing_behind(clips):
    """All is as after a step that succeeds, whose losses nobody differentiates."""
    net = make_adversarial(Everything(), recomputed(RECIPES['CE']))
    net.adversarial_loss(*clips)
    found = []
    for model, fails_at in ((copy.deepcopy(net), None), (net, 3)):
        calls = []

        def explode(_module, _inputs, calls=calls, fails_at=fails_at):
            calls.append(None)
            if len(calls) == fails_at:
                raise OSError('boom')

        torch.manual_seed(1)
        handle = model.fc.register_forward_pre_hook(explode)
        with pytest.raises(OSError, match='boom') if fails_at else nullcontext():
            model.adversarial_loss(*clips)
        handle.remove()
        found.append(snapshot(model))
    assert len(calls) == 3
    assert_same(*found)


@pytest.mark.parametrize('begin', [0, 5])
def test_fp16_keeps_the_graph_and_says_so_once(clips, begin):
    recipe = CEAugmentation(begin=begin, recompute=True, regularizers=[Pairing()])
    net = make_adversarial(Conv3dNet(), recipe)
    with torch.autocast('cpu', torch.float16):
        with pytest.warns(UserWarning, match='recompute=True has no effect.*fp16'):
            net.adversarial_loss(*clips)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            loss = net.adversarial_loss(*clips)['loss']
    (loss * 1024).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_bf16_recomputes(clips):
    recipe = changed(RECIPES['CE'], regularizers=[Pairing()])
    grads = []
    for each in (recipe, recomputed(recipe)):
        torch.manual_seed(0)
        net = make_adversarial(Conv3dNet(), each)
        with ConvCounter(net.layer4[0].weight.shape) as counter:
            with torch.autocast('cpu', torch.bfloat16):
                loss = net.adversarial_loss(*clips)['loss']
            loss.backward()
        grads.append(net.stem.weight.grad)
    assert counter.forwards == 3
    torch.testing.assert_close(grads[1], grads[0], rtol=0.02, atol=1e-3)


def test_a_graph_from_before_the_step_is_kept(clips):
    """The weight is computed once, outside of the step, so its graph can be passed once only."""
    recipe = CEAugmentation(recompute=True, regularizers=[Pairing()])
    net = make_adversarial(Conv3dNet(), recipe)
    scale = nn.Parameter(torch.ones(()))
    shared = scale.exp()
    handle = net.fc.register_forward_hook(lambda _m, _i, out: out * shared)
    with pytest.warns(UserWarning, match='recompute=True has no effect'):
        net.adversarial_loss(*clips)['loss'].backward()
    handle.remove()
    assert scale.grad.abs() > 0


def test_a_rehearsal_leaves_no_trace(clips):
    plain = Everything()
    recipe = CEAugmentation(eps=0.1, begin=5, recompute=True, **BOTH)
    net = make_adversarial(copy.deepcopy(plain), recipe)
    for model, loss_of in (
        (plain, lambda: F.cross_entropy(plain(clips[0]), clips[1])),
        (net, lambda: net.adversarial_loss(*clips)['loss']),
    ):
        torch.manual_seed(1)
        loss_of().backward()
        model.rng = torch.get_rng_state()
    assert torch.equal(plain.rng, net.rng)
    for name, value in plain.named_parameters():
        assert torch.equal(net.get_parameter(name).grad, value.grad), name
    for name, value in plain.named_buffers():
        assert torch.equal(net.get_buffer(name), value), name


class Fickle(Conv3dNet):
    """Gives one more value every time."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return F.pad(super().forward(x), (0, self.calls))


def test_a_forward_that_differs_is_a_clear_error(clips):
    class Mean(Pairing):
        def __call__(self, clean, adversarial):
            return (clean.logits[:, :NUM_CLASSES] - adversarial.logits[:, :NUM_CLASSES]).mean()

    net = make_adversarial(Fickle(), AdvProp(regularizers=[Mean()], recompute=True))
    with pytest.raises(RuntimeError, match='ran once more.*write recompute=False'):
        net.adversarial_loss(*clips)


class Counting(Conv3dNet):
    """Gives larger scores every time."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.calls * super().forward(x)


def test_a_forward_with_other_values_is_a_clear_error(clips):
    net = make_adversarial(Counting(), AdvProp(regularizers=[Pairing()], recompute=True))
    with pytest.raises(RuntimeError, match='gave the loss .* when it ran once more'):
        net.adversarial_loss(*clips)


def test_without_a_regularizer_there_is_no_graph_to_save():
    with pytest.raises(ValueError, match='recompute=True is for regularizers'):
        CEAugmentation(recompute=True)
