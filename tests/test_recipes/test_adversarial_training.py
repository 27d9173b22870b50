"""PGDTraining, FastTraining, TRADES and MART against the papers' losses in plain PyTorch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet, build_recognizer, data_samples, slowonly_config
from torch import nn

from adv_plugins import (
    KL,
    MART,
    TRADES,
    FastTraining,
    PGDTraining,
    PredictionKL,
    Recipe,
    make_adversarial,
)
from adv_plugins.core.conversion import get_adversary

EPS, STEP = 0.1, 0.04
RECIPES = {
    'PGDTraining': PGDTraining(eps=EPS, step_size=STEP, steps=3),
    'FastTraining': FastTraining(eps=EPS),
    'TRADES': TRADES(eps=EPS, step_size=STEP, steps=3),
    'MART': MART(eps=EPS, step_size=STEP, steps=3),
}


def pgd(model, x, delta, steps, step_size, loss_of):
    """Signed ascent from x + delta, in training mode; leaves the statistics alone."""
    model = copy.deepcopy(model)
    for _ in range(steps):
        point = (x + delta).requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(model(point)), point)
        delta = (delta + step_size * slope.sign()).clamp(-EPS, EPS)
    return x + delta


def pgd_training(model, x, y, start):
    moved = pgd(model, x, start, 3, STEP, lambda z: F.cross_entropy(z, y))
    return F.cross_entropy(model(moved), y)


def fast_training(model, x, y, start):
    moved = pgd(model, x, start, 1, 1.25 * EPS, lambda z: F.cross_entropy(z, y))
    return F.cross_entropy(model(moved), y)


def trades(model, x, y, start):
    clean = model(x)
    fixed = clean.softmax(1).detach()
    moved = pgd(
        model, x, start, 3, STEP, lambda z: F.kl_div(z.log_softmax(1), fixed, reduction='sum')
    )
    robust = F.kl_div(model(moved).log_softmax(1), clean.softmax(1), reduction='batchmean')
    return F.cross_entropy(clean, y) + 6 * robust


def mart(model, x, y, start):
    p = model(x).softmax(1)
    moved = pgd(model, x, start, 3, STEP, lambda z: F.cross_entropy(z, y))
    q = model(moved).softmax(1)
    rows = torch.arange(len(y))
    total = 0.0
    for i in rows:
        wrong = max(q[i, k] for k in range(q.shape[1]) if k != y[i])
        boosted = -q[i, y[i]].log() - (1 - wrong).log()
        divergence = sum(p[i, k] * (p[i, k] / q[i, k]).log() for k in range(q.shape[1]))
        total = total + boosted + 5 * divergence * (1 - p[i, y[i]])
    return total / len(y)


PLAIN = {
    'PGDTraining': pgd_training,
    'FastTraining': fast_training,
    'TRADES': trades,
    'MART': mart,
}


@pytest.mark.parametrize('name', RECIPES)
def test_the_loss_is_the_papers_in_value_gradients_and_statistics(name):
    """Three steps of SGD with momentum, on a net with batch norms, in float64."""
    plain = Conv3dNet().double()
    with torch.no_grad():
        # Scores that differ, so that predictions are neither right nor wrong for all.
        plain.fc.weight.mul_(4)
    model = make_adversarial(copy.deepcopy(plain), RECIPES[name])
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (plain, model)]
    y = torch.randint(NUM_CLASSES, (5,))
    for _ in range(3):
        x = torch.randn(5, 3, 4, 6, 6).double()
        start = first_point(model, x, y) - x
        losses = model.adversarial_loss(x, y)
        losses['loss'].backward()
        expected = PLAIN[name](plain, x, y, start)
        expected.backward()
        torch.testing.assert_close(losses['loss'], expected)
        for (key, value), own in zip(plain.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(own.grad, value.grad, msg=key)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for (key, value), own in zip(plain.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(own, value, msg=key)


def first_point(model, x, y):
    """Where the attack of the next step starts: what an attack without any step length returns."""
    twin = copy.deepcopy(model)
    attacker = get_adversary(twin).attacker
    attacker.recipe = type(attacker.recipe)(
        objective=attacker.recipe.objective, eps=EPS, step_size=0.0, random_start=True
    )
    return twin.perturb(x, y)


class Centred(Conv3dNet):
    """Subtracts a moving average of its inputs from them."""

    def __init__(self):
        super().__init__()
        self.register_buffer('centre', torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean()
        return super().forward(x - self.centre)


@pytest.mark.parametrize('begin', [0, 2])
def test_without_a_clean_forward_the_step_is_a_plain_one_on_the_perturbed_inputs(clips, begin):
    """All buffers move as there, and none in the attack or in the rehearsal of a later begin."""
    plain = Centred()
    model = make_adversarial(copy.deepcopy(plain), PGDTraining(steps=2, begin=begin))
    for step in range(4):
        x = clips[0] if step < begin else model.perturb(*clips)
        F.cross_entropy(plain(x), clips[1]).backward()
        model.adversarial_loss(*clips)['loss'].backward()
    for (name, value), own in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own.grad, value.grad, msg=name)
    for (name, value), own in zip(plain.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(own, value, msg=name)
    assert model.bn1.num_batches_tracked == 4


@pytest.mark.parametrize('name', ['TRADES', 'MART'])
def test_a_part_of_the_batch_and_a_second_clean_forward(clips, name):
    """The terms compare the part with its own predictions; ``recompute`` changes nothing."""
    grads, seen = [], []
    for options in (dict(fraction=0.4), dict(fraction=0.4, recompute=True)):
        torch.manual_seed(0)
        kind = dict(TRADES=TRADES, MART=MART)[name]
        model = make_adversarial(Conv3dNet(dropout=0.3).double(), kind(steps=1, **options))
        losses = model.adversarial_loss(clips[0].double(), clips[1])
        losses['loss'].backward()
        grads.append([value.grad for value in model.parameters()])
        seen.append(losses['loss'].detach())
    torch.testing.assert_close(*seen)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_an_infinite_adversarial_loss_without_a_weight_counts_for_nothing(clips):
    """TRADES has no use for L(x'), which may overflow where the predictions do not."""
    plain = Conv3dNet().eval()
    clean = plain(clips[0]).detach()

    def loss_fn(scores, labels):
        return F.cross_entropy(scores, labels) + (0 if torch.equal(scores, clean) else torch.inf)

    model = make_adversarial(copy.deepcopy(plain), TRADES(steps=1), loss_fn=loss_fn)
    losses = model.adversarial_loss(*clips)
    losses['loss'].backward()
    assert losses['adv_loss'] == 0 and losses['loss'].isfinite()
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_an_infinite_adversarial_loss_of_a_recognizer_counts_for_nothing_either():
    model = build_recognizer(slowonly_config())
    loss, calls = model.cls_head.loss_cls.forward, []

    def overflowing(*args, **kwargs):
        calls.append(None)
        value = loss(*args, **kwargs)
        return value if len(calls) == 1 else value + torch.inf

    model.cls_head.loss_cls.forward = overflowing
    make_adversarial(model, TRADES(steps=1))
    logged = model(torch.randn(2, 1, 3, 4, 32, 32), data_samples([0, 1]), mode='loss')
    total, _ = model.parse_losses(logged)
    total.backward()
    assert len(calls) == 3 and logged['adv_loss_cls'] == 0 and total.isfinite()
    assert all(value.grad.isfinite().all() for value in model.parameters())


class Plain(nn.Module):
    """Returns something else than class scores."""

    def __init__(self, *shape):
        super().__init__()
        self.fc, self.shape = nn.Linear(4, math.prod(shape)), shape

    def forward(self, x):
        return self.fc(x).view(-1, *self.shape)


def distance(output, target):
    return (output - target).square().mean()


@pytest.mark.parametrize('begin', [0, 5])
@pytest.mark.parametrize('kind', [TRADES, MART])
def test_without_class_scores_or_hard_labels_there_is_one_clear_error(kind, begin):
    x, hard = torch.randn(3, 4), torch.tensor([0, 1, 2])
    maps = make_adversarial(Plain(2, 6), kind(begin=begin), loss_fn=distance)
    with pytest.raises(ValueError, match=r'needs logits of the shape \(batch, classes\)'):
        maps.adversarial_loss(x, torch.randn(3, 2, 6))
    scores = make_adversarial(Plain(5), kind(begin=begin))
    mixed, several = torch.rand(3, 5).softmax(1), torch.tensor([[1.0, 1, 0, 0, 0]] * 3)
    if kind is TRADES:
        # Blended labels still say that classes exclude each other.
        scores.adversarial_loss(x, mixed)['loss'].backward()
        message = 'samples have several labels; write multilabel=True'
    else:
        with pytest.raises(ValueError, match='switch off label blending'):
            scores.adversarial_loss(x, mixed)
        message = 'switch off label blending'
    model = make_adversarial(Plain(5), kind(begin=begin), loss_fn=nn.BCEWithLogitsLoss())
    with pytest.raises(ValueError, match=message):
        model.adversarial_loss(x, several)
    scores.adversarial_loss(x, hard)['loss'].backward()


def test_a_single_score_is_one_label_of_its_own():
    x, y = torch.randn(3, 4), torch.tensor([[1.0], [0.0], [1.0]])
    model = make_adversarial(Plain(1), TRADES(steps=1), loss_fn=nn.BCEWithLogitsLoss())
    with pytest.raises(ValueError, match='a single score; write multilabel=True'):
        model.adversarial_loss(x, y)
    model = make_adversarial(
        Plain(1), TRADES(steps=1, multilabel=True), loss_fn=nn.BCEWithLogitsLoss()
    )
    assert model.adversarial_loss(x, y)['prediction_kl'] > 0


def test_samples_that_the_loss_leaves_out_count_in_none_of_marts_terms(clips):
    x, y = clips[0], clips[1].clone()
    y[1] = -100
    kept = torch.tensor([0, 2, 3, 4])
    net = make_adversarial(Conv3dNet().eval(), MART(steps=1, random_start=False))
    part = copy.deepcopy(net)
    torch.testing.assert_close(
        net.adversarial_loss(x, y)['loss'], part.adversarial_loss(x[kept], y[kept])['loss']
    )


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: TRADES(beta=-1), 'beta=-1.0 must be finite and not negative; .* beta=6'),
        (lambda: MART(beta='nan'), "beta='nan' must be a finite number"),
        (
            lambda: TRADES(random_start=False),
            r'objective=KL\(\) has no gradient at the clean input',
        ),
        (lambda: Recipe(objective='KL', eps=1), 'write random_start=True'),
        (lambda: PredictionKL(weight=-1), 'weight=-1 must be finite'),
        (lambda: PredictionKL(misclassified=True, multilabel=True), 'write one of them'),
        (lambda: FastTraining(check_interval=0), 'check_interval=0 must be an integer, at least 1'),
        (lambda: FastTraining(steps=2), 'steps'),
    ],
)
def test_bad_options(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_defaults_of_adversarial_training():
    for recipe in (PGDTraining(), TRADES(), MART()):
        assert (recipe.eps, recipe.step_size, recipe.steps) == (8 / 255, 2 / 255, 10)
        assert recipe.random_start and not recipe.dual_bn and recipe.norm == 'linf'
    fast = FastTraining()
    assert (fast.eps, fast.step_size, fast.steps) == (8 / 255, 10 / 255, 1)
    assert (fast.clean_weight, fast.adv_weight, fast.runs_clean) == (0, 1, False)
    assert FastTraining(eps='4/255').step_size == 5 / 255
    assert TRADES().objective == KL() and TRADES().regularizers == (PredictionKL(weight=6.0),)
    assert (TRADES().clean_weight, TRADES().adv_weight) == (1, 0)
    assert (MART().clean_weight, MART().adv_weight, MART().regularizers[1].weight) == (0, 1, 5)
