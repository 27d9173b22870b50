"""The contracts of the step on a plain classifier: parity, cost, hygiene, right gradients."""

import copy
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from helpers import Conv3dNet, ConvCounter, assert_same, default_tier, looked_at, snapshot
from torch import nn
from torch.utils.checkpoint import checkpoint

from adv_plugins import (
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    Objective,
    PGDTraining,
    Recipe,
    TemporalCAM,
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.core import norm
from adv_plugins.core.autograd import graph_nodes
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.norm import ADVERSARIAL, CLEAN, auxiliary_parameters
from adv_plugins.core.randomness import private_random
from adv_plugins.core.step import Step
from adv_plugins.functional import temporal_cam, temporal_cam_loss

RECIPES = {
    'TAF': TAF(),
    'TAF, K=3 from a random start': TAF(steps=3, random_start=True),
    'TAF, N=2, half of the batch': TAF(num_frames=2, fraction=0.5),
    'TAF, first order, shared norms': TAF(second_order=False, dual_bn=False),
    'CEAugmentation': CEAugmentation(),
    'AdvProp': AdvProp(),
    'PGDTraining': PGDTraining(steps=2),
    'FastTraining': FastTraining(check_interval=1),
    'TRADES': TRADES(steps=2),
    'MART': MART(steps=2),
    'weights too': AdvProp(steps=1, weight_eps=0.05),
    'cross-entropy, l2': Recipe(objective='cross_entropy', eps=1.0, step_size=1.0, norm='l2'),
}


@pytest.fixture(
    params=default_tier(lambda name: name not in ('FastTraining', 'MART', 'weights too'), RECIPES)
)
def recipe(request):
    return RECIPES[request.param]


@pytest.mark.parametrize(
    ('recipe', 'counts'),
    [
        # forwards, backwards that compute no parameter gradient, full backwards
        (TAF(), (2, 1, 2)),
        (TAF(steps=3), (4, 3, 2)),
        (TAF(random_start=True), (3, 1, 2)),
        (CEAugmentation(), (2, 0, 2)),
        (CEAugmentation(steps=3), (4, 2, 2)),
        (AdvProp(), (7, 5, 2)),
        (Recipe(objective='CrossEntropy', eps=1, step_size=1), (2, 1, 2)),
        # A clean loss without a weight has no backward.
        (TAF(alpha=0), (2, 1, 1)),
        (CEAugmentation(alpha=0), (2, 1, 1)),
        (AdvProp(clean_weight=0, steps=2), (4, 2, 1)),
        # Where nothing reads the clean record, there is no clean forward: 2K + 3.
        (PGDTraining(steps=3), (4, 3, 1)),
        (PGDTraining(steps=3, random_start=False), (4, 3, 1)),
        (TRADES(steps=3), (5, 3, 2)),
        (MART(steps=3), (5, 3, 2)),
        # With perturbed weights everything but the attack is done twice.
        (CEAugmentation(weight_eps=0.01), (4, 0, 4)),
        (TAF(weight_eps=0.01), (4, 1, 4)),
        (PGDTraining(steps=2, weight_eps=0.01), (4, 2, 2)),
        (TRADES(steps=2, weight_eps=0.01), (6, 2, 4)),
    ],
    ids=lambda value: str(value)[:30],
)
def test_cost_in_forwards_and_backwards(clips, recipe, counts):
    net = looked_at(make_adversarial(Conv3dNet(), recipe), *clips)
    with ConvCounter(net.layer4[0].weight.shape) as counter:
        net.adversarial_loss(*clips)['loss'].backward()
    assert (counter.forwards, counter.input_only, counter.full) == counts


def test_clean_path_is_the_plain_model_when_the_adversarial_weight_is_zero(clips):
    plain = Conv3dNet(dropout=0.3)
    net = make_adversarial(copy.deepcopy(plain), TAF(alpha=1.0))
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (plain, net)]
    torch.manual_seed(1)
    for _ in range(3):
        state = torch.get_rng_state()
        optimizers[0].zero_grad()
        F.cross_entropy(plain(clips[0]), clips[1]).backward()
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        optimizers[1].zero_grad()
        net.adversarial_loss(*clips)['loss'].backward()
        assert torch.equal(torch.get_rng_state(), after)
        for (name, value), other in zip(plain.named_parameters(), net_clean(net), strict=True):
            assert torch.equal(value.grad, other.grad), name
        for optimizer in optimizers:
            optimizer.step()
    for (name, value), other in zip(
        plain.state_dict().items(), net.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def net_clean(net):
    return [value for name, value in net.named_parameters() if 'adv_' not in name]


def straightforward(net, recipe, inputs, labels):
    """The step written down plainly: everything in one graph, one backward, for K=1."""
    adversary = get_adversary(net)
    x = inputs.clone().requires_grad_()
    features = []
    handle = net.layer4.register_forward_hook(lambda _m, _i, out: features.append(out))
    logits = net(x)
    handle.remove()
    clean = F.cross_entropy(logits, labels)
    with private_random(inputs.device, adversary.schedule.stream()):
        if recipe.objective.is_training_loss:
            value = clean
        else:
            shift = torch.randint(1, logits.shape[1], labels.shape)
            target = torch.where(
                logits.argmax(1) == labels, (labels + shift) % logits.shape[1], labels
            )
            ce = F.cross_entropy(logits, target, reduction='sum')
            (slope,) = torch.autograd.grad(ce, features[0], create_graph=True)
            cam = temporal_cam(features[0].transpose(1, 2), slope.transpose(1, 2))
            value = temporal_cam_loss(cam).sum()
        (direction,) = torch.autograd.grad(value, x, retain_graph=True)
        x_adv = inputs + recipe.step_size * direction.sign()
        with adversary.attacker.path.use(ADVERSARIAL):
            adversarial = F.cross_entropy(net(x_adv), labels)
    return recipe.clean_weight * clean + recipe.adv_weight * adversarial


@pytest.mark.parametrize('recipe', [TAF(eps=0.5, step_size=0.25), CEAugmentation()], ids=str)
def test_gradients_are_those_of_the_straightforward_sum(clips, recipe):
    net = make_adversarial(Conv3dNet(dropout=0.3), recipe)
    plain_sum = copy.deepcopy(net)
    state = torch.get_rng_state()
    losses = net.adversarial_loss(*clips)
    (2.5 * losses['loss']).backward()
    torch.set_rng_state(state)
    total = straightforward(plain_sum, recipe, *clips)
    (2.5 * total).backward()
    torch.testing.assert_close(losses['loss'], total)
    for (name, value), other in zip(net.named_parameters(), plain_sum.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)
    for (name, value), other in zip(net.named_buffers(), plain_sum.buffers(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize('dtype', [None, torch.float16])
@pytest.mark.parametrize('recipe', [TAF(alpha=0), CEAugmentation(alpha=0)], ids=['TAF', 'CE'])
def test_without_a_clean_weight_only_adversarial_samples_train(clips, recipe, dtype):
    x, y = clips
    net = make_adversarial(Conv3dNet(), recipe)
    plain = remove_adversarial(copy.deepcopy(net))
    moved = net.perturb(x, y) if dtype is None else None
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        losses = net.adversarial_loss(x, y)
    losses['loss'].backward()
    for clean, auxiliary in auxiliary_parameters(net):
        # As a loss of weight 0 leaves them, and DistributedDataParallel too.
        assert torch.equal(clean.grad, torch.zeros_like(clean))
        assert auxiliary.grad.abs().sum() > 0
    assert net.bn1.running_mean.abs().sum() > 0, 'the clean statistics are those of the data'
    if dtype is None:
        F.cross_entropy(plain(moved), y).backward()
        torch.testing.assert_close(net.fc.weight.grad, plain.fc.weight.grad)


class Tempered(nn.Module):
    """A loss with a parameter of its own, which is none of the model's."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, logits, labels):
        return F.cross_entropy(logits * self.temperature, labels)


@pytest.mark.parametrize('alpha', [1.0, 0.7])
@pytest.mark.parametrize('recipe', [TAF, CEAugmentation], ids=['TAF', 'CEAugmentation'])
def test_a_loss_trains_its_own_parameters(clips, recipe, alpha):
    """Whatever the clean loss depends on gets its gradient, inside of the model or not."""
    loss_fn = Tempered()
    net = make_adversarial(
        Conv3dNet(), recipe(alpha=alpha, eps=0, step_size=0, dual_bn=False), loss_fn=loss_fn
    )
    plain = remove_adversarial(copy.deepcopy(net))
    net.adversarial_loss(*clips)['loss'].backward()
    found = loss_fn.temperature.grad.clone()
    loss_fn.temperature.grad = None
    loss_fn(plain(clips[0]), clips[1]).backward()
    torch.testing.assert_close(found, loss_fn.temperature.grad)


@pytest.mark.parametrize('begin', [0, 1])
@pytest.mark.parametrize('recipe', [CEAugmentation, AdvProp], ids=lambda kind: kind.__name__)
def test_a_loss_may_reach_what_was_computed_before_the_step(clips, recipe, begin):
    """A teacher's scores with their graph, a scale that several losses share."""
    teacher, log_scale = nn.Linear(3, 6), nn.Parameter(torch.tensor(0.5))

    def loss_fn(logits, target):
        return F.cross_entropy(logits * target['scale'], target['scores'])

    def run(loss_of):
        scores = teacher(clips[0].mean(dim=(2, 3, 4))).softmax(dim=1)
        loss_of(clips[0], {'scores': scores, 'scale': log_scale.exp()}).backward()
        found = [value.grad for value in (log_scale, *teacher.parameters())]
        for value in (log_scale, *teacher.parameters()):
            value.grad = None
        return found

    recipe = recipe(eps=0, step_size=0, dual_bn=False, begin=begin)
    net = make_adversarial(Conv3dNet(), recipe, loss_fn=loss_fn)
    plain = remove_adversarial(copy.deepcopy(net))
    for step in range(2):
        share = 1.0 if step < begin else recipe.clean_weight + recipe.adv_weight
        found = run(lambda x, y: net.adversarial_loss(x, y)['loss'])
        expected = run(lambda x, y: loss_fn(plain(x), y))
        for value, other in zip(found, expected, strict=True):
            torch.testing.assert_close(value, share * other)


@pytest.mark.parametrize('recipe', [TAF(), CEAugmentation()], ids=['TAF', 'CEAugmentation'])
def test_hooks_on_parameters_run_once(clips, recipe):
    net = make_adversarial(Conv3dNet(), recipe)
    hooked = copy.deepcopy(net)
    calls = []
    for value in hooked.parameters():
        value.register_hook(lambda grad: calls.append(None) or grad * 0.5)
    for model in (net, hooked):
        model.adversarial_loss(*clips)['loss'].backward()
    assert len(calls) == len(list(hooked.parameters()))
    for value, halved in zip(net.parameters(), hooked.parameters(), strict=True):
        torch.testing.assert_close(halved.grad, value.grad * 0.5)


@pytest.mark.parametrize('begin', [0, 5])
def test_a_second_derivative_of_the_step_is_an_error(clips, begin):
    """The clean gradients were taken ahead: Hessian optimizers would take them for constants."""
    net = make_adversarial(Conv3dNet(), TAF(begin=begin))
    loss = net.adversarial_loss(*clips)['loss']
    with pytest.raises(RuntimeError, match='create_graph=True'):
        loss.backward(create_graph=True)


def test_validation_moves_neither_the_schedule_nor_the_norms(clips):
    net = make_adversarial(Conv3dNet(), TAF(interval=2)).eval()
    schedule = get_adversary(net).schedule
    with torch.no_grad():
        for _ in range(3):
            assert 'adv_loss' in net.adversarial_loss(*clips)
    assert (schedule.iteration, schedule.adversarial_steps, schedule.started) == (0, 0, False)
    assert not schedule.rehearsed
    net.train()
    active = ['adv_loss' in net.adversarial_loss(*clips) for _ in range(2)]
    with torch.no_grad():
        net.eval().adversarial_loss(*clips)
    net.train()
    active += ['adv_loss' in net.adversarial_loss(*clips) for _ in range(2)]
    assert active == [True, False, True, False]
    assert (schedule.iteration, schedule.adversarial_steps, schedule.started) == (4, 2, True)


def test_two_micro_batches_accumulate(clips):
    net = make_adversarial(Conv3dNet().eval(), TAF(begin=0))
    inputs, labels = clips
    parts = []
    for part in (slice(0, 2), slice(2, 5)):
        net.zero_grad()
        net.adversarial_loss(inputs[part], labels[part])['loss'].backward()
        parts.append([value.grad.clone() for value in net.parameters()])
        get_adversary(net).schedule.go_to(0)
    net.zero_grad()
    for part in (slice(0, 2), slice(2, 5)):
        net.adversarial_loss(inputs[part], labels[part])['loss'].backward()
        get_adversary(net).schedule.go_to(0)
    for value, first, second in zip(net.parameters(), *parts, strict=True):
        torch.testing.assert_close(value.grad, first + second)


def test_nothing_is_left_behind(clips, recipe):
    net = Conv3dNet()
    net.bn1.eval()
    net.stem.weight.requires_grad_(False)
    make_adversarial(net, recipe)
    net(clips[0]).sum().backward()
    net.adversarial_loss(*clips)
    inputs, labels = clips[0].clone(), clips[1].clone()
    before = snapshot(net)
    losses = net.adversarial_loss(inputs, labels)
    after = snapshot(net)
    for statistics in ('state', 'auxiliary'):
        del before[statistics], after[statistics]
    assert_same(before, after)
    assert torch.equal(inputs, clips[0]) and torch.equal(labels, clips[1])
    assert not inputs.requires_grad and losses['loss'].requires_grad
    assert get_adversary(net).attacker.path.now() == (CLEAN, True)


def test_perturb_changes_nothing_at_all(clips, recipe):
    net = make_adversarial(Conv3dNet(dropout=0.3), recipe)
    net.adversarial_loss(*clips)['loss'].backward()
    for mode in (True, False):
        net.train(mode)
        before = snapshot(net)
        with torch.no_grad():
            adversarial = net.perturb(*clips)
        assert_same(before, snapshot(net))
        assert adversarial.shape == clips[0].shape and adversarial.dtype == clips[0].dtype
        assert not adversarial.requires_grad and (adversarial != clips[0]).any()
        assert torch.equal(adversarial, net.perturb(*clips)), 'the private stream stood still'
    with torch.inference_mode():
        assert torch.equal(net.perturb(*clips), adversarial)


@pytest.mark.parametrize('fails_at', [1, 2])
@pytest.mark.parametrize('call', ['adversarial_loss', 'perturb'])
def test_exception_at_any_forward_leaves_nothing_behind(clips, fails_at, call):
    net = make_adversarial(Conv3dNet(), TAF(steps=2))
    net.adversarial_loss(*clips)['loss'].backward()
    before = snapshot(net)
    forwards = []

    def explode(_module, _inputs):
        forwards.append(None)
        if len(forwards) == fails_at:
            raise OSError('boom')

    handle = net.fc.register_forward_pre_hook(explode)
    with pytest.raises(OSError, match='boom'):
        getattr(net, call)(*clips)
    handle.remove()
    after = snapshot(net)
    # The clean forward itself has updated its statistics, as the plain model's would.
    if call == 'adversarial_loss':
        del before['state'], after['state']
    assert_same(before, after)
    assert get_adversary(net).attacker.path.now() == (CLEAN, True)


def test_memory_stays_flat_over_a_thousand_iterations():
    net = make_adversarial(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), AdvProp(steps=2))
    x, y = torch.randn(6, 4), torch.randint(4, (6,))
    alive = []
    for _ in range(1000):
        loss = net.adversarial_loss(x, y)['loss']
        loss.backward()
        alive.append(weakref.ref(loss))
    del loss
    assert sum(ref() is not None for ref in alive) == 0
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize('recipe', [r for r in RECIPES.values() if r.dual_bn], ids=str)
def test_clean_statistics_never_see_an_adversarial_sample(clips, recipe):
    plain = Conv3dNet()
    net = make_adversarial(copy.deepcopy(plain), recipe)
    for _ in range(3):
        plain(clips[0])
        net.adversarial_loss(*clips)
    for (name, value), other in zip(plain.named_buffers(), net_buffers(net), strict=True):
        assert torch.equal(value, other), name
    # K + 1 forwards or more, one update each
    assert net.bn1.adv_num_batches_tracked == 3


def net_buffers(net):
    return [value for name, value in net.named_buffers() if 'adv_' not in name]


def test_adversarial_statistics_never_see_a_clean_sample(clips):
    """With inputs the attack cannot reach (eps=0) both agree; with a huge ball they part."""
    for eps in (0.0, 50.0):
        recipe = Recipe(objective='TrainingLoss', eps=eps, step_size=eps)
        net = make_adversarial(Conv3dNet(), recipe)
        x_adv = net.perturb(*clips)
        net.adversarial_loss(*clips)
        reference = Conv3dNet()
        reference.load_state_dict(net.state_dict())
        reference.bn1.reset_running_stats()
        reference(x_adv)
        torch.testing.assert_close(net.bn1.adv_running_mean, reference.bn1.running_mean)
        same = torch.equal(net.bn1.adv_running_mean, net.bn1.running_mean)
        assert same == (eps == 0)


def test_auxiliary_norms_leave_the_clean_ones_when_the_schedule_begins(clips):
    net = make_adversarial(Conv3dNet(), TAF(begin=2))
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        losses = net.adversarial_loss(*clips)
        assert set(losses) == {'loss'}
        losses['loss'].backward()
        optimizer.step()
    trained = net.bn1.weight.detach().clone()
    assert not torch.equal(net.bn1.adv_weight, trained)
    net.adversarial_loss(*clips)
    assert torch.equal(net.bn1.adv_weight, trained)


def test_schedule(clips):
    net = make_adversarial(Conv3dNet(), TAF(begin=2, end=7, interval=2))
    active = ['adv_loss' in net.adversarial_loss(*clips) for _ in range(9)]
    assert active == [False, False, True, False, True, False, True, False, False]


def test_rehearsal_leaves_no_trace(clips):
    """The first, clean-only iteration walks the adversarial path without a trace."""
    plain = Conv3dNet(dropout=0.3)
    net = make_adversarial(copy.deepcopy(plain), AdvProp(begin=5))
    state = torch.get_rng_state()
    F.cross_entropy(plain(clips[0]), clips[1]).backward()
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    calls = []
    handle = net.fc.register_forward_hook(lambda *_: calls.append(None))
    net.adversarial_loss(*clips)['loss'].backward()
    assert len(calls) == 1 + 7, 'rehearsed once'
    assert torch.equal(after, torch.get_rng_state())
    net.adversarial_loss(*clips)
    assert len(calls) == 1 + 7 + 1
    handle.remove()
    for (name, value), other in zip(plain.named_parameters(), net_clean(net), strict=True):
        assert torch.equal(value.grad, other.grad), name
    assert net.bn1.adv_num_batches_tracked == 0


def test_fraction_of_the_batch(clips):
    """The rest of the batch is neither attacked nor walked; two samples at least."""
    for recipe, expected in (
        (TAF(fraction=0.6), [5, 3]),
        (TAF(fraction=0.01), [5, 2]),
        (TAF(fraction=0.4, steps=2), [5, 2, 2]),
        (AdvProp(fraction=0.4, steps=2), [5, 2, 2, 2]),
    ):
        seen = []
        net = looked_at(make_adversarial(Conv3dNet(), recipe), *clips)
        net.fc.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(len(out)))
        net.adversarial_loss(*clips)['loss'].backward()
        assert seen == expected
    net = make_adversarial(
        Conv3dNet(), CEAugmentation(fraction=0.4), loss_fn=lambda out, y: out[:, y['class']].mean()
    )
    with pytest.raises(TypeError, match='fraction=1.0'):
        net.adversarial_loss(clips[0], {'class': 1})


def test_sample_alone_is_sample_in_the_batch(clips):
    net = make_adversarial(
        Conv3dNet().eval(), Recipe(objective='CrossEntropy', eps=0.3, step_size=0.1, steps=3)
    )
    inputs, labels = clips
    together = net.perturb(inputs, labels)
    alone = torch.cat([net.perturb(x[None], y[None]) for x, y in zip(inputs, labels, strict=True)])
    torch.testing.assert_close(together, alone)


def test_stronger_attacks_gain_more(clips):
    net = Conv3dNet().eval()

    def gain(**options):
        options = {'objective': 'CrossEntropy', 'eps': 0.3, 'step_size': 0.3, **options}
        adversarial = make_adversarial(copy.deepcopy(net), Recipe(**options)).perturb(*clips)
        return F.cross_entropy(net(adversarial), clips[1]).item()

    random = gain(random_start=True, step_size=0.0)
    assert gain(steps=20, step_size=0.06) >= gain() > random


def test_non_finite_sample_stays_clean_and_is_counted(clips):
    inputs, labels = clips
    net = make_adversarial(Conv3dNet().eval(), TAF())
    inputs[1, 0, 0, 0, 0] = float('inf')
    adversarial = net.perturb(inputs, labels)
    assert torch.equal(adversarial[1], inputs[1]) and (adversarial[0] != inputs[0]).any()
    assert net.adversarial_loss(inputs, labels)['adv_nonfinite'] == 1


class Checkpointed(Conv3dNet):
    """As the parent, the last stage recomputed in backward."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        x = self.bn1(self.stem(x)).relu()
        x = checkpoint(self.layer4, x, use_reentrant=self.reentrant)
        return self.fc(x.mean(dim=(2, 3, 4)))


@pytest.mark.parametrize(
    'recipe',
    [
        TAF(cam_layer='bn1'),
        CEAugmentation(steps=2),
        PGDTraining(steps=2),
        TRADES(steps=1, dual_bn=True),
        CEAugmentation(weight_eps=0.1),
        TRADES(steps=1, dual_bn=True, weight_eps=0.1),
    ],
    ids=str,
)
def test_checkpointed_gradients_are_the_plain_ones(clips, recipe):
    """Recomputed forwards take the branch they took the first time."""
    torch.manual_seed(3)
    net = make_adversarial(Conv3dNet(), recipe)
    get_adversary(net).schedule.started = True
    for name, value in net.named_parameters():
        if 'adv_' in name:
            value.data.uniform_(0.5, 1.5)
    saving = Checkpointed(reentrant=False)
    saving.load_state_dict(net.state_dict())
    make_adversarial(saving, recipe)
    load_adversarial_state_dict(saving, adversarial_state_dict(net))
    for model in (net, saving):
        model.adversarial_loss(*clips)['loss'].backward()
    for (name, value), other in zip(net.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)


def test_many_checkpointed_steps_before_one_backward(clips, monkeypatch):
    """As many as are recorded: a step is one, however many its attack has."""
    monkeypatch.setattr(norm, '_RECORDED', 8)
    net, saving = Conv3dNet(), Checkpointed(reentrant=False)
    saving.load_state_dict(net.state_dict())
    for model in (net, saving):
        make_adversarial(model, AdvProp(steps=10))
        get_adversary(model).schedule.started = True
        model.layer4[1].adv_weight.data.fill_(2.0)
        sum(model.adversarial_loss(*clips)['loss'] for _ in range(8)).backward()
    for (name, value), other in zip(net.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)


def test_plain_forward_between_step_and_backward(clips):
    """An accuracy or a feature read in between does not change what is recomputed."""
    net, saving = Conv3dNet(), Checkpointed(reentrant=False)
    saving.load_state_dict(net.state_dict())
    for model in (net, saving):
        make_adversarial(model, 'taf')
        get_adversary(model).schedule.started = True
        model.bn1.adv_weight.data.fill_(2.0)
        model.layer4[1].adv_weight.data.fill_(2.0)
        loss = model.adversarial_loss(*clips)['loss']
        model(clips[0])
        loss.backward()
    for (name, value), other in zip(net.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, msg=name)


def test_plain_step_after_an_adversarial_one_is_recomputed_on_the_clean_path(clips):
    """A user's own forward between adversarial steps, with activation checkpointing."""
    net = make_adversarial(Checkpointed(reentrant=False), 'taf')
    net.adversarial_loss(*clips)['loss'].backward()
    net.zero_grad()
    before = net.layer4[1].adv_num_batches_tracked.clone()
    F.cross_entropy(net(clips[0]), clips[1]).backward()
    assert net.layer4[1].adv_weight.grad is None
    assert net.layer4[1].adv_num_batches_tracked == before


@pytest.mark.parametrize('begin', [0, 10])
def test_reentrant_checkpointing_is_refused_at_the_first_call(clips, begin):
    net = make_adversarial(Checkpointed(reentrant=True), CEAugmentation(begin=begin))
    with pytest.raises(RuntimeError, match='use_reentrant=False'):
        net.adversarial_loss(*clips)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_trains_under_autocast(clips, dtype):
    """bf16 takes eager gradients, fp16 keeps the graph for the trainer's scaler."""
    net = make_adversarial(Conv3dNet(), TAF())
    with torch.autocast('cpu', dtype=dtype):
        loss = net.adversarial_loss(*clips)['loss']
    (loss * 1024).backward()
    assert all(value.grad.isfinite().all() for value in net.parameters())
    assert net.stem.weight.grad.dtype == torch.float32


def test_two_steps_under_one_autocast_take_their_gradients_ahead(clips):
    """Autocast hands the second one casts of the weights that the first has made."""
    net = make_adversarial(Conv3dNet(), CEAugmentation())
    with torch.autocast('cpu', torch.bfloat16):
        losses = [net.adversarial_loss(*clips)['loss'] for _ in range(2)]
    for loss in losses:
        names = [type(node).__name__ for node in graph_nodes(loss)]
        assert names.count('InjectGradientsBackward') == 1
    sum(losses).backward()


class HalfInside(Conv3dNet):
    """As the parent, under an autocast of its own, as accelerate wraps a forward."""

    def forward(self, x):
        with torch.autocast('cpu', torch.float16):
            return super().forward(x).float()


@pytest.mark.parametrize('recipe', [TAF(), CEAugmentation()], ids=['TAF', 'CEAugmentation'])
def test_fp16_inside_of_the_forward_waits_for_the_scale_too(clips, recipe):
    net, inside = Conv3dNet(), HalfInside()
    inside.load_state_dict(net.state_dict())
    for model in (net, inside):
        # A small loss, whose gradients need the scale.
        make_adversarial(model, recipe, loss_fn=lambda *a: 1e-6 * F.cross_entropy(*a))
    for _ in range(2):
        with torch.autocast('cpu', torch.float16):
            loss = net.adversarial_loss(*clips)['loss']
        for model, value in ((net, loss), (inside, inside.adversarial_loss(*clips)['loss'])):
            model.zero_grad()
            (value * 2.0**16).backward()
        for (name, value), other in zip(net.named_parameters(), inside.parameters(), strict=True):
            torch.testing.assert_close(value.grad, other.grad, msg=name)
    assert net.stem.weight.grad.abs().sum() > 0
    net.eval(), inside.eval()
    with torch.autocast('cpu', torch.float16):
        expected = net.perturb(*clips)
    assert torch.equal(inside.perturb(*clips), expected)


def test_validation_first_leaves_budget_and_rehearsal_to_training(clips):
    net = make_adversarial(Conv3dNet(), CEAugmentation(begin=1, budget=1.25))
    with torch.no_grad():
        losses = net.adversarial_loss(clips[0][:1], clips[1][:1])
    assert set(losses) == {'loss'} and get_adversary(net).recipe.budget == 1.25
    net.adversarial_loss(*clips)['loss'].backward()
    assert get_adversary(net).schedule.rehearsed and get_adversary(net).recipe.budget is None


@pytest.fixture
def fitted(clips):
    """A model whose loss is small, as its gradient then is."""
    net = Conv3dNet()
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(clips[0]), clips[1]).backward()
        optimizer.step()
    assert F.cross_entropy(net(clips[0]), clips[1]) < 2e-3
    return net


@pytest.mark.parametrize('recipe', [TAF(), CEAugmentation()], ids=['TAF', 'CEAugmentation'])
def test_fp16_attack_agrees_with_fp32_on_a_fitted_model(clips, fitted, recipe):
    """Where the loss is small its gradient underflows unless it is scaled."""
    net = make_adversarial(fitted, recipe)
    full = (net.perturb(*clips) - clips[0]).sign()
    with torch.autocast('cpu', dtype=torch.float16):
        low = (net.perturb(*clips) - clips[0]).sign()
    assert (full == low).float().mean() > 0.97


def test_an_fp16_attack_of_its_own_agrees_as_well(clips, fitted):
    moves = [
        make_adversarial(copy.deepcopy(fitted), AdvProp(steps=1, attack_dtype=dtype)).perturb(
            *clips
        )
        - clips[0]
        for dtype in (None, 'float16')
    ]
    # Without the scale it is 0.95 to 0.97.
    assert (moves[0].sign() == moves[1].sign()).float().mean() > 0.99


def test_replaced_norms_are_noticed(clips):
    net = make_adversarial(Conv3dNet(), TAF())
    net.bn1 = nn.BatchNorm3d(8)
    with pytest.raises(RuntimeError, match='make_adversarial last'):
        net.adversarial_loss(*clips)


def test_norms_added_after_the_conversion_are_noticed(clips):
    net = make_adversarial(Conv3dNet(), 'taf')
    net.fc = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6))
    with pytest.raises(RuntimeError, match=r'fc\.0 was added after make_adversarial'):
        net.adversarial_loss(*clips)
    # What nothing trains may stay plain.
    net.fc[0].requires_grad_(False)
    net.adversarial_loss(*clips)['loss'].backward()


@pytest.mark.parametrize('part', ['bn1', 'fc'])
def test_norms_that_come_in_mid_run_are_noticed(clips, part):
    net = make_adversarial(Conv3dNet(), 'taf')
    net.adversarial_loss(*clips)['loss'].backward()
    if part == 'bn1':
        net.bn1 = nn.BatchNorm3d(8)
    else:
        net.fc = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6))
    with pytest.raises(RuntimeError, match=rf'{part}.* was added after make_adversarial'):
        net.adversarial_loss(*clips)


def test_a_budget_for_targets_that_cannot_be_parted_names_another_way(clips):
    net = make_adversarial(
        Conv3dNet(), CEAugmentation(budget=1.25), loss_fn=lambda z, y: F.cross_entropy(z, y['y'])
    )
    with pytest.raises(TypeError, match='interval=4 in place of budget'):
        net.adversarial_loss(clips[0], {'y': clips[1]})


@pytest.mark.parametrize(
    ('options', 'batch', 'message'),
    [
        (dict(num_frames=5), {}, 'num_frames=4'),
        (dict(cam_layer='fc'), {}, 'cam_layout'),
        (dict(cam_layer='bn2'), {}, "cam_layer='bn1'"),
        (dict(cam_layout='b t (h w) c'), {}, 'does not fit the shape'),
        (dict(), dict(labels=torch.rand(5, 6).softmax(1)), 'mixup'),
        (dict(), dict(inputs=torch.zeros(5, 3, 4, 6, 6, dtype=torch.uint8)), 'float'),
        (dict(), dict(inputs=torch.randn(5, 3, 1, 6, 6)), 'without a time axis'),
        (dict(begin=9), dict(inputs=torch.randn(5, 3, 1, 6, 6)), 'without a time axis'),
        (dict(begin=9), dict(labels=torch.rand(5, 6).softmax(1)), 'mixup'),
    ],
)
def test_bad_input_is_one_clear_error_at_the_first_call(clips, options, batch, message):
    inputs, labels = batch.get('inputs', clips[0]), batch.get('labels', clips[1])
    with pytest.raises((ValueError, TypeError), match=message):
        net = make_adversarial(Conv3dNet(), TAF(**options))
        before = snapshot(net)
        try:
            net.adversarial_loss(inputs, labels)
        finally:
            after = snapshot(net)
            for name in ('state',):
                del before[name], after[name]
            assert_same(before, after)


def test_inputs_that_want_a_gradient_are_refused(clips):
    net = make_adversarial(Conv3dNet(), 'taf')
    net.adversarial_loss(*clips)
    with pytest.raises(ValueError, match=r'inputs\.detach'):
        net.adversarial_loss(clips[0].requires_grad_(), clips[1])


def test_column_of_labels_will_do(clips):
    def loss_fn(logits, target):
        return F.cross_entropy(logits, target.squeeze(1))

    net = make_adversarial(Conv3dNet(), 'taf', loss_fn=loss_fn)
    assert net.adversarial_loss(clips[0], clips[1][:, None])['loss'].isfinite()


def test_layer_outside_of_the_forward_pass(clips):
    net = Conv3dNet()
    net.spare = nn.Conv3d(3, 3, 1)
    make_adversarial(net, TAF(cam_layer='spare'))
    with pytest.raises(ValueError, match='takes no part in the forward pass'):
        net.adversarial_loss(*clips)


def test_soft_labels_do_for_the_training_loss(clips):
    net = make_adversarial(Conv3dNet(), CEAugmentation())
    losses = net.adversarial_loss(clips[0], torch.rand(5, 6).softmax(1))
    assert losses['loss'].isfinite()


@pytest.mark.parametrize('recipe', ['pgdtraining', 'trades'])
def test_a_random_start_without_a_gradient_to_follow_is_told(clips, recipe):
    """As where the classifier starts at zero: the model would train on noise."""
    net = Conv3dNet()
    torch.nn.init.zeros_(net.fc.weight)
    make_adversarial(net, recipe, steps=2)
    with pytest.warns(UserWarning, match='left all samples where they started'):
        net.adversarial_loss(*clips)


def test_an_objective_that_finds_no_layer_says_how():
    class Features(Objective):
        needs_features = True

        def targets(self, record):
            return None

        def __call__(self, record, targets):
            return record.features.flatten(1).sum(dim=1)

    net = make_adversarial(Conv3dNet(), Recipe(objective=Features(), eps=0.1))
    with pytest.raises(
        NotImplementedError, match='derive it from adv_plugins.cam.FeatureObjective'
    ):
        net.adversarial_loss(torch.randn(2, 3, 4, 8, 8), torch.tensor([0, 1]))


def test_samples_without_a_gradient_are_counted_and_told_once_if_they_are_all(clips):
    """As where stochastic depth has cut the way from the attacked features to the scores."""

    class Cut(Conv3dNet):
        kept = 0

        def forward(self, x):
            way = (torch.arange(len(x)) < self.kept).view(-1, 1, 1, 1, 1)
            return super().forward(torch.where(way, x, x.detach()))

    net = make_adversarial(Cut().eval(), 'ceaugmentation')
    with pytest.warns(UserWarning, match='moved no sample'):
        assert net.adversarial_loss(*clips)['adv_unmoved'] == 5
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert net.adversarial_loss(*clips)['adv_unmoved'] == 5
        net.kept = 3
        assert net.adversarial_loss(*clips)['adv_unmoved'] == 2
        for options in (dict(eps=0.0), dict(step_size=0.0)):
            make_adversarial(
                Cut(), 'ceaugmentation', value_range=(-9, 9), **options
            ).adversarial_loss(*clips)


@pytest.mark.parametrize('recipe', ['taf', 'ceaugmentation', 'advprop'])
def test_attack_at_a_smaller_scale(recipe):
    """The attack sees small frames; what it finds is one step a region, and stays in the ball."""
    torch.manual_seed(0)
    model = Conv3dNet().train()
    options = dict(eps=0.1, step_size=0.1, steps=2, attack_scale=0.5)
    make_adversarial(model, recipe, value_range=(0, 1), clamp=False, **options)
    x, y = torch.rand(2, 3, 4, 8, 8), torch.tensor([0, 1])
    looked_at(model, x, y)
    sizes = []
    handle = model.stem.register_forward_hook(lambda m, args, out: sizes.append(args[0].shape[-1]))
    plain = copy.deepcopy(model)
    losses = model.adversarial_loss(x, y)
    handle.remove()
    assert sizes == [8, 4, 4, 8]
    losses['loss'].backward()
    remove_adversarial(plain)
    wanted = F.cross_entropy(plain(x), y) * (1.0 if recipe == 'advprop' else 0.7)
    torch.testing.assert_close(losses['clean_loss'], wanted.detach(), rtol=0, atol=0)

    delta = model.eval().perturb(x, y) - x
    assert delta.abs().amax() <= 0.1 + 1e-6
    regions = rearrange(delta, 'b c t (h i) (w j) -> b c t h w (i j)', i=2, j=2)
    assert (regions - regions[..., :1]).abs().amax() < 1e-6
    assert (delta.abs() > 0.09).float().mean() > 0.5


def test_a_scale_changes_nothing_where_the_model_sees_means():
    """Of a model that reads the mean of each frame the gradient is the same at any scale."""

    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 5)

        def forward(self, x):
            return self.fc(x.mean(dim=(3, 4)).flatten(1))

    torch.manual_seed(0)
    x, y = torch.rand(3, 3, 4, 8, 8), torch.tensor([0, 1, 2])
    found = []
    for scale in (1.0, 0.5, 0.25):
        torch.manual_seed(0)
        model = make_adversarial(
            Means().eval(), 'art', eps=0.5, dual_bn=False, attack_scale=scale, steps=2
        )
        found.append(model.perturb(x, y))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_a_scale_needs_frames():
    model = make_adversarial(nn.Linear(4, 3), 'art', attack_scale=0.5)
    with pytest.raises(ValueError, match='attack_scale=1'):
        model.adversarial_loss(torch.rand(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r'attack_scale=0 must lie in \(0, 1\]'):
        TAF(attack_scale=0)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('recipe', ['taf', 'ceaugmentation', 'advprop'])
def test_attack_in_low_precision(clips, recipe, dtype):
    """The forwards that only the attack needs; both losses are those of the full precision."""
    seen = []
    net = Conv3dNet().train()
    net.stem.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    model = make_adversarial(copy.deepcopy(net), recipe, steps=2, attack_dtype=dtype)
    looked_at(model, *clips)
    start = copy.deepcopy(model)
    seen.clear()
    losses = model.adversarial_loss(*clips)
    low, full = getattr(torch, dtype), torch.float32
    attack = [low, low] if recipe == 'advprop' else [low]
    assert seen == [full, *attack, full]
    losses['loss'].backward()
    assert all(value.grad.dtype is full for value in model.parameters())
    moved = start.perturb(*clips)
    assert moved.dtype is full
    solver = get_adversary(start).recipe.solver
    assert 0 < (moved - clips[0]).abs().max() <= solver.threat.eps * (1 + 1e-6)


@pytest.mark.parametrize('own', ['bfloat16', 'float16'])
@pytest.mark.parametrize('around', [torch.bfloat16, torch.float16])
def test_attack_precision_inside_another(clips, own, around):
    """torch keeps the weights that a block of autocast has converted, whatever their dtype."""
    seen = []
    net = Conv3dNet().train()
    net.stem.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    model = make_adversarial(net, 'advprop', steps=2, attack_dtype=own)
    with torch.autocast('cpu', around):
        losses = model.adversarial_loss(*clips)
    losses['loss'].backward()
    assert seen == [around, getattr(torch, own), getattr(torch, own), around]


@pytest.mark.parametrize('steps', [1, 3])
def test_perturb_is_the_attack_of_training_in_low_precision(clips, steps):
    """Its first gradient is the attack's own, where that does not start at the clean graph."""
    net = make_adversarial(Conv3dNet(), AdvProp(steps=steps, attack_dtype='bfloat16'))
    net.adversarial_loss(*clips)
    fed = []
    net.stem.register_forward_pre_hook(lambda module, args: fed.append(args[0].detach()))
    moved = copy.deepcopy(net).perturb(*clips)
    fed.clear()
    net.adversarial_loss(*clips)
    assert torch.equal(fed[-1], moved)


@pytest.mark.parametrize('recipe', [TAF, CEAugmentation])
def test_attack_dtype_without_a_forward_of_the_attack_is_an_error(recipe):
    with pytest.raises(ValueError, match="attack_dtype='bfloat16'.*steps=2"):
        recipe(attack_dtype='bfloat16')
    for options in (dict(steps=2), dict(attack_scale=0.5), dict(random_start=True)):
        recipe(attack_dtype='bfloat16', **options)


def test_attack_dtype_is_one_of_two():
    with pytest.raises(ValueError, match="attack_dtype='half'.*bfloat16"):
        TAF(attack_dtype='half')


@pytest.mark.parametrize('recipe', [TAF(alpha=0.6), AdvProp(steps=1)], ids=['TAF', 'AdvProp'])
def test_the_total_is_the_sum_of_its_parts(clips, recipe):
    """clean_weight · L(clean) + adv_weight · L(adversarial), and the trainer is given that sum."""
    net = make_adversarial(Conv3dNet(), recipe)
    adversary = get_adversary(net)
    result = Step(adversary.attacker, recipe)(Batch(clips[0]), clips[1], seed=1)
    assert result.clean_loss == recipe.clean_weight * result.clean.loss
    assert result.adv_loss == recipe.adv_weight * result.adversarial.loss
    assert result.total == result.clean_loss + result.adv_loss
    assert adversary.adapter.report(result, recipe)['loss'] is result.total


def test_every_step_draws_anew(clips):
    """The private stream is of seed and iteration: a step that is repeated draws as before."""
    labels, starts = [], []

    class Noted(TemporalCAM):
        def targets(self, record):
            labels.append(super().targets(record))
            return labels[-1]

    recipe = Recipe(objective=Noted(), eps=0.1, step_size=0.0, random_start=True)
    net, inputs = make_adversarial(Conv3dNet(), recipe), clips[0]
    predicted = net(inputs).argmax(dim=1)
    for iteration in (0, 1, 0):
        get_adversary(net).schedule.go_to(iteration)
        starts.append(net.perturb(inputs, predicted) - inputs)
        net.adversarial_loss(inputs, predicted)
    # What perturb has drawn is what the step then draws.
    wrong = [labels[i : i + 2] for i in range(0, 6, 2)]
    assert all(torch.equal(*pair) for pair in wrong)
    for first, second, repeated in (starts, [pair[0] for pair in wrong]):
        assert torch.equal(first, repeated) and not torch.equal(first, second)


class InPlace(Conv3dNet):
    """Works on its input in place, before anything else, as its plain twin does out of place."""

    def __init__(self, inplace, kind='subtract'):
        super().__init__()
        self.inplace, self.kind = inplace, kind

    def forward(self, x):
        if self.kind == 'activate':
            x = nn.functional.relu(x - 0.0 if not self.inplace else x, inplace=self.inplace)
        elif self.kind == 'write':
            x = x if self.inplace else x.clone()
            x[:, :, :1] = 0
        elif self.kind == 'edit':
            x = x.pop('clip').sub_(0.5) if self.inplace else x['clip'] - 0.5
        else:
            x = x.sub_(0.5).div_(2) if self.inplace else (x - 0.5) / 2
        return super().forward(x)


@pytest.mark.parametrize('recipe', ['taf', 'advprop', 'art'])
@pytest.mark.parametrize('kind', ['subtract', 'activate', 'write', 'edit'])
def test_models_that_work_in_place_train_as_those_that_do_not(clips, recipe, kind):
    x, y = clips
    given = {'clip': x, 'length': torch.tensor([4] * len(x))} if kind == 'edit' else x
    before = copy.deepcopy(given)
    runs = []
    for inplace in (True, False):
        torch.manual_seed(0)
        model = make_adversarial(InPlace(inplace, kind), recipe, eps=0.1, steps=2)
        losses = model.adversarial_loss(given, y)
        losses['loss'].backward()
        moved = model.perturb(given, y)
        values = [*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)]
        runs.append([*values, *(moved.values() if kind == 'edit' else [moved])])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
    same = given == x if kind != 'edit' else given['clip'] == before['clip']
    assert same.all() and (kind != 'edit' or list(given) == list(before))


def test_loss_that_edits_the_labels_gets_its_own_each_time(clips):
    def from_one(scores, labels):
        return nn.functional.cross_entropy(scores, labels.sub_(1))

    x, y = clips
    plain, edits = Conv3dNet(), Conv3dNet()
    edits.load_state_dict(plain.state_dict())
    make_adversarial(plain, 'art', eps=0.5)
    make_adversarial(edits, 'art', eps=0.5, loss_fn=from_one)
    given = y + 1
    for _ in range(2):
        loss = edits.adversarial_loss(x, given)['loss']
        assert torch.equal(loss, plain.adversarial_loss(x, y)['loss'])
    assert torch.equal(given, y + 1)


@pytest.mark.parametrize('recipe', ['taf', 'advprop', 'art'])
def test_under_inference_mode(clips, recipe):
    """As Lightning calls validation: with tensors that were made there."""
    model = make_adversarial(Conv3dNet(), recipe, eps=0.1).eval()
    with torch.no_grad():
        expected = model.adversarial_loss(*clips)
    moved = model.perturb(*clips)
    with torch.inference_mode():
        x, y = (value.clone() for value in clips)
        losses = model.adversarial_loss(x, y)
        assert torch.equal(model.perturb(x, y), moved)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[name], value) for name, value in expected.items())
    assert get_adversary(model).schedule.iteration == 0
    model.train().adversarial_loss(*clips)['loss'].backward()
