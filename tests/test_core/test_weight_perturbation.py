"""weight_eps: against adversarial weight perturbation written down plainly, and without a trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet, assert_same, snapshot, two_ranks
from torch import distributed as dist
from torch import nn

from adv_plugins import TAF, TRADES, AdvProp, CEAugmentation, PGDTraining, make_adversarial
from adv_plugins.core import weights as weights_module
from adv_plugins.core.conversion import get_adversary

GAMMA = 0.05
SHARED = dict(dual_bn=False, weight_eps=GAMMA)
RECIPES = {
    'PGDTraining': PGDTraining(eps=0.1, step_size=0.05, steps=2, weight_eps=GAMMA),
    'TRADES': TRADES(eps=0.1, step_size=0.05, steps=2, weight_eps=GAMMA),
    'TRADES, recompute': TRADES(eps=0.1, steps=2, weight_eps=GAMMA, recompute=True),
    'CE': CEAugmentation(eps=0.1, step_size=0.1, **SHARED),
    'TAF': TAF(eps=0.1, step_size=0.1, **SHARED),
}


def total(model, recipe, x, moved, y):
    """The recipe's loss at the model's weights, the clean forward first."""
    if recipe.name == 'PGDTraining':
        return F.cross_entropy(model(moved), y)
    clean, adversarial = model(x), model(moved)
    if recipe.name == 'TRADES':
        robust = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction='batchmean')
        return F.cross_entropy(clean, y) + 6 * robust
    return 0.7 * F.cross_entropy(clean, y) + 0.3 * F.cross_entropy(adversarial, y)


def plain_step(model, recipe, x, moved, y):
    """The loss and its gradients at the worse weights; the statistics of the forwards before."""
    worse = copy.deepcopy(model)
    total(model, recipe, x, moved, y).backward()
    with torch.no_grad():
        for here, there in zip(model.parameters(), worse.parameters(), strict=True):
            if here.ndim > 1:
                there += GAMMA * here.norm() * here.grad / here.grad.norm()
    loss = total(worse, recipe, x, moved, y)
    loss.backward()
    for here, there in zip(model.parameters(), worse.parameters(), strict=True):
        here.grad = there.grad
    return loss


@pytest.mark.parametrize('name', RECIPES)
def test_training_is_the_plain_one(name):
    """Several steps of SGD with momentum, in float64: losses, weights and statistics."""
    recipe = RECIPES[name]
    plain = Conv3dNet().double()
    model = make_adversarial(copy.deepcopy(plain), recipe)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (plain, model)]
    y = torch.randint(NUM_CLASSES, (5,))
    for _ in range(3):
        x = torch.randn(5, 3, 4, 6, 6).double()
        moved = model.perturb(x, y)
        losses = model.adversarial_loss(x, y)
        losses['loss'].backward()
        torch.testing.assert_close(losses['loss'], plain_step(plain, recipe, x, moved, y))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for (key, value), own in zip(
        plain.state_dict().items(), model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(own, value, msg=key)


def test_the_parts_are_those_at_the_worse_weights(clips):
    recipe = TRADES(steps=1, weight_eps=0.2)
    models = [make_adversarial(Conv3dNet(), TRADES(steps=1)), make_adversarial(Conv3dNet(), recipe)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        get_adversary(model).schedule.reseed(0)
    here, there = (model.adversarial_loss(*clips) for model in models)
    parts = there['clean_loss'] + there['adv_loss'] + there['loss_prediction_kl']
    torch.testing.assert_close(parts, there['loss'].detach())
    assert there['loss'] > here['loss'], 'worse, along the gradient'
    assert not any(value.requires_grad for name, value in there.items() if name != 'loss')


@pytest.mark.parametrize('kind', [AdvProp, PGDTraining, TRADES])
def test_both_evaluations_draw_alike(clips, kind):
    """At almost the same weights the loss is almost the same, dropout or not, of a part or not."""
    losses = []
    for eps in (0.0, 1e-9):
        torch.manual_seed(1)
        model = make_adversarial(
            Conv3dNet(dropout=0.5), kind(steps=1, random_start=True, fraction=0.6, weight_eps=eps)
        )
        for _ in range(2):
            losses.append(model.adversarial_loss(*clips)['loss'].detach())
    torch.testing.assert_close(losses[:2], losses[2:])
    assert losses[0] != losses[1]


def trained(recipe, clips):
    """A net after a step of SGD with momentum, and its optimizer."""
    torch.manual_seed(0)
    model = make_adversarial(Conv3dNet(), recipe)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.adversarial_loss(*clips)['loss'].backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize('fails_at', [None, 1, 2, 3, 4, 5])
def test_weights_buffers_gradients_and_optimizer_stay(clips, fails_at):
    """On success, and on an exception in any of the five forwards of a step."""
    model, optimizer = trained(AdvProp(steps=1, weight_eps=GAMMA), clips)
    places = [value.data_ptr() for value in model.parameters()]
    versions = [value._version for value in model.parameters()]
    state, before, forwards = copy.deepcopy(optimizer.state_dict()), snapshot(model), []
    parameters = [value.detach().clone() for value in model.parameters()]

    def explode(*_):
        forwards.append(None)
        if len(forwards) == fails_at:
            raise OSError('boom')

    handle = model.fc.register_forward_pre_hook(explode)
    if fails_at is None:
        model.adversarial_loss(*clips)
        assert len(forwards) == 5
    else:
        with pytest.raises(OSError, match='boom'):
            model.adversarial_loss(*clips)
    handle.remove()
    after = snapshot(model)
    for moved in ('state', 'auxiliary'):
        # Statistics are those of the forwards at w.
        del before[moved], after[moved]
    assert_same(before, after)
    assert [value.data_ptr() for value in model.parameters()] == places
    assert [value._version for value in model.parameters()] == versions
    for value, old in zip(model.parameters(), parameters, strict=True):
        assert torch.equal(value, old)
    for one, other in zip(
        optimizer.state_dict()['state'].values(), state['state'].values(), strict=True
    ):
        assert torch.equal(one['momentum_buffer'], other['momentum_buffer'])


def test_statistics_are_those_of_one_clean_and_one_adversarial_forward(clips):
    recipe = AdvProp(steps=1, weight_eps=GAMMA)
    model, still = (make_adversarial(Conv3dNet(), r) for r in (recipe, AdvProp(steps=1)))
    still.load_state_dict(model.state_dict())
    for net in (model, still):
        get_adversary(net).schedule.reseed(0)
        net.adversarial_loss(*clips)
    for (name, value), other in zip(model.named_buffers(), still.buffers(), strict=True):
        assert torch.equal(value, other), name
    assert model.bn1.adv_num_batches_tracked == model.bn1.num_batches_tracked == 1


def test_a_later_begin_is_rehearsed_without_a_trace(clips):
    plain = Conv3dNet()
    model = make_adversarial(copy.deepcopy(plain), PGDTraining(steps=1, begin=3, weight_eps=GAMMA))
    F.cross_entropy(plain(clips[0]), clips[1]).backward()
    model.adversarial_loss(*clips)['loss'].backward()
    for (name, value), own in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(own, value) and torch.equal(own.grad, value.grad), name
    for (name, value), own in zip(plain.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(own, value), name


def test_a_graph_of_before_goes_on(clips):
    """Another loss of the same weights, added to that of the step."""
    net = Conv3dNet().eval()
    model = make_adversarial(copy.deepcopy(net), PGDTraining(steps=1, weight_eps=GAMMA))
    other = F.cross_entropy(model(clips[0]), clips[1])
    loss = model.adversarial_loss(*clips)['loss']
    grads = [
        torch.autograd.grad(v, list(model.parameters()), retain_graph=True) for v in (other, loss)
    ]
    (other + loss).backward()
    for value, *parts in zip(model.parameters(), *grads, strict=True):
        torch.testing.assert_close(value.grad, sum(parts))


def test_autocast_does_not_go_on_with_the_weights_of_before(clips):
    """It keeps what it has cast, by the parameter, until the trainer's block ends."""
    found = []
    for cached in (True, False):
        torch.manual_seed(0)
        model = make_adversarial(Conv3dNet(), PGDTraining(steps=1, weight_eps=0.5))
        with torch.autocast('cpu', torch.bfloat16, cache_enabled=cached):
            loss = model.adversarial_loss(*clips)['loss']
            after = model(clips[0])
        loss.backward()
        found.append([loss.detach(), after, *(value.grad for value in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


class Spare(Conv3dNet):
    """Has a layer that the loss does not reach, and one whose gradient overflows."""

    def __init__(self):
        super().__init__()
        self.spare, self.steep = nn.Linear(2, 2), nn.Linear(1, 1, bias=False)

    def forward(self, x):
        nothing = self.steep.weight * 0
        return super().forward(x) + nothing.sqrt().clamp(max=1e9).sum()


def test_a_weight_without_a_finite_gradient_stays(clips):
    model = make_adversarial(Spare(), PGDTraining(steps=1, weight_eps=GAMMA))
    loss = model.adversarial_loss(*clips)['loss']
    assert loss.isfinite()
    loss.backward()
    assert model.spare.weight.grad is None and model.fc.weight.grad.isfinite().all()


class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, logits, labels):
        return F.cross_entropy(logits * self.temperature, labels)


def test_a_parameter_of_the_loss_is_trained_too(clips):
    loss_fn = OwnLoss()
    model = make_adversarial(Conv3dNet(), PGDTraining(steps=1, weight_eps=GAMMA), loss_fn=loss_fn)
    model.adversarial_loss(*clips)['loss'].backward()
    assert loss_fn.temperature.grad.abs() > 0


def test_averages_and_copies_of_a_trained_model(clips):
    model, _ = trained(AdvProp(steps=1, weight_eps=GAMMA), clips)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    twin = copy.deepcopy(model)
    losses = [net.adversarial_loss(*clips)['loss'] for net in (model, twin)]
    torch.testing.assert_close(*losses)
    for value, other in zip(model.parameters(), average.module.parameters(), strict=True):
        assert torch.equal(value, other)


def frozen():
    net = Conv3dNet()
    for value in net.parameters():
        value.requires_grad_(value.ndim == 1)
    return net


@pytest.mark.parametrize('begin', [0, 5])
def test_frozen_weights_are_an_error(clips, begin):
    model = make_adversarial(frozen(), PGDTraining(weight_eps=GAMMA, begin=begin))
    with pytest.raises(
        ValueError, match='those of AdversarialConv3dNet are frozen; write weight_eps=0'
    ):
        model.adversarial_loss(*clips)


@pytest.mark.parametrize('begin', [0, 5])
def test_fp16_is_an_error(clips, begin):
    model = make_adversarial(Conv3dNet(), PGDTraining(weight_eps=GAMMA, begin=begin))
    with (
        torch.autocast('cpu', torch.float16),
        pytest.raises(ValueError, match='fp16.*train in bfloat16, or write weight_eps=0'),
    ):
        model.adversarial_loss(*clips)


def test_a_loss_that_reaches_what_was_computed_before_is_an_error(clips):
    scale = nn.Parameter(torch.tensor(0.5)).exp()
    model = make_adversarial(
        Conv3dNet(),
        PGDTraining(weight_eps=GAMMA),
        loss_fn=lambda z, y: F.cross_entropy(z * scale, y),
    )
    with pytest.raises(ValueError, match='graph from before the step'):
        model.adversarial_loss(*clips)


def test_sharded_weights_are_an_error(clips, monkeypatch):
    monkeypatch.setattr(weights_module, 'is_sharded', lambda _: True)
    model = make_adversarial(Conv3dNet(), PGDTraining(weight_eps=GAMMA))
    with pytest.raises(TypeError, match='is sharded; write weight_eps=0'):
        model.adversarial_loss(*clips)


@pytest.mark.parametrize('value', [-0.1, float('nan'), 'much'])
def test_weight_eps_is_a_length(value):
    with pytest.raises(ValueError, match='weight_eps='):
        PGDTraining(weight_eps=value)
    assert PGDTraining(weight_eps='0.01').weight_eps == 0.01


class Loss(nn.Module):
    """What DistributedDataParallel has to wrap of a plain classifier."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, y):
        return self.model.adversarial_loss(x, y)['loss']


def rank_of_two(rank):
    torch.manual_seed(0)
    net = Conv3dNet()
    x, y = torch.randn(8, 3, 4, 6, 6), torch.randint(NUM_CLASSES, (8,))
    part = slice(4 * rank, 4 * rank + 4)
    recipe = PGDTraining(eps=0.1, steps=1, weight_eps=GAMMA)
    alone = make_adversarial(copy.deepcopy(net), recipe)
    alone.adversarial_loss(x[part], y[part])['loss'].backward()
    model = make_adversarial(net, recipe)
    wrapped = nn.parallel.DistributedDataParallel(Loss(model))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapped(x[part], y[part]).backward()
    for value, own in zip(model.parameters(), alone.parameters(), strict=True):
        dist.all_reduce(own.grad)
        torch.testing.assert_close(value.grad, own.grad / 2)
    optimizer.step()
    wrapped(x[part], y[part]).backward()
    optimizer.step()
    for value in model.parameters():
        copies = [torch.empty_like(value) for _ in range(2)]
        dist.all_gather(copies, value.detach())
        assert torch.equal(*copies)


@pytest.mark.exhaustive
def test_two_processes_each_perturb_by_their_own_gradient_and_stay_alike():
    two_ranks(rank_of_two)
