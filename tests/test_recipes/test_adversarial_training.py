"""PGDTraining, FastTraining, TRADES and MART against the papers' losses in plain PyTorch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet

from adv_plugins import (
    MART,
    TRADES,
    FastTraining,
    PGDTraining,
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
