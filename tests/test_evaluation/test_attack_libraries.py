"""The attacks and DeepFool against foolbox and torchattacks, on a small net over images."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins.core.threat import InputSpace
from adv_plugins.evaluation.attacks import APGD, FGSM, PGD, Attack, Square
from adv_plugins.evaluation.deepfool import deepfool

PIXELS = InputSpace(1.0, 0.0, 1.0)
EPS = 0.03
EPS_L2 = 0.5

Images = tuple[nn.Module, Tensor, Tensor]


def small_net(gain: float) -> nn.Sequential:
    """Five classes; the more gain, the more curved are the boundaries between them."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(288, 5),
    )
    with torch.no_grad():
        net[0].weight.mul_(gain)
        net[2].weight.mul_(gain)
    return net


@pytest.fixture(scope='module')
def trained() -> Images:
    """A net that tells five noisy patterns apart, and 60 images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        patterns = torch.rand(5, 3, 16, 16)
        labels = torch.arange(300) % 5
        x = 0.5 + 0.3 * (patterns[labels] - 0.5) + 0.15 * torch.randn(300, 3, 16, 16)
        x = x.clamp(0, 1)
        net = small_net(3)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()
        # Double precision: a sign does not hang on the order of a sum.
        net, x = net.double().eval(), x.double()
    right = net(x).argmax(1) == labels
    assert right.double().mean() > 0.8
    return net, x[right][:60], labels[right][:60]


@pytest.fixture
def torchattacks() -> Any:
    return pytest.importorskip('torchattacks', reason='compares with torchattacks')


@pytest.fixture
def foolbox() -> Any:
    return pytest.importorskip('foolbox', reason='compares with foolbox')


def ours(attack: Attack, images: Images) -> Tensor:
    net, x, labels = images
    return attack(lambda x, index: net(x), x, labels, PIXELS, seed=torch.arange(len(x)))


def foolbox_attack(foolbox: Any, attack: Any, images: Images, eps: float) -> Tensor:
    net, x, labels = images
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device='cpu')
    return attack(model, x, labels, epsilons=eps)[1]


def left_right(images: Images, adversarial: Tensor) -> int:
    net, _, labels = images
    return int((net(adversarial).argmax(1) == labels).sum())


def chosen(images: Images, iterates: list[Tensor]) -> Tensor:
    """Of all iterates, the first that fools the net, or else the one with the highest loss."""
    net, x, labels = images
    best, loss, fooled = x.clone(), F.cross_entropy(net(x), labels, reduction='none'), labels < 0
    for points in iterates:
        logits = net(points)
        value = F.cross_entropy(logits, labels, reduction='none')
        wrong = logits.argmax(1) != labels
        better = ~fooled & (wrong | (value > loss))
        best[better], loss = points[better], torch.where(better, value, loss)
        fooled |= wrong
    return best


def assert_partly_fooled(images: Images, adversarial: Tensor) -> None:
    assert 5 < left_right(images, adversarial) < 55, 'nothing is seen where all or none is fooled'


# ---- steps along the gradient


def test_fgsm_equals_torchattacks(trained: Images, torchattacks: Any) -> None:
    net, x, labels = trained
    expected = torchattacks.FGSM(net, eps=EPS)(x, labels)
    result = ours(FGSM(eps=EPS), trained)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert_partly_fooled(trained, result)
    assert ((result == 0) | (result == 1)).any(), 'no pixel was clipped'


@pytest.mark.parametrize(('norm', 'eps'), [('linf', EPS), ('l2', EPS_L2)])
def test_fgsm_equals_foolbox(trained: Images, foolbox: Any, norm: str, eps: float) -> None:
    kinds = dict(
        linf=foolbox.attacks.LinfFastGradientAttack, l2=foolbox.attacks.L2FastGradientAttack
    )
    expected = foolbox_attack(foolbox, kinds[norm](), trained, eps)
    result = ours(FGSM(eps=eps, norm=norm), trained)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert_partly_fooled(trained, result)


def test_pgd_keeps_the_best_iterate_of_torchattacks(trained: Images, torchattacks: Any) -> None:
    net, x, labels = trained
    iterates = [
        torchattacks.PGD(net, eps=EPS, alpha=0.01, steps=steps, random_start=False)(x, labels)
        for steps in range(1, 9)
    ]
    result = ours(PGD(eps=EPS, steps=8, step_size=0.01), trained)
    torch.testing.assert_close(result, chosen(trained, iterates), rtol=0, atol=1e-6)
    assert left_right(trained, result) == left_right(trained, iterates[-1])
    assert_partly_fooled(trained, result)


@pytest.mark.parametrize(('norm', 'eps', 'size'), [('linf', EPS, 0.01), ('l2', EPS_L2, 0.3)])
def test_pgd_keeps_the_best_iterate_of_foolbox(
    trained: Images, foolbox: Any, norm: str, eps: float, size: float
) -> None:
    kinds = dict(linf=foolbox.attacks.LinfPGD, l2=foolbox.attacks.L2PGD)
    iterates = [
        foolbox_attack(
            foolbox,
            kinds[norm](abs_stepsize=size, steps=steps, random_start=False),
            trained,
            eps,
        )
        for steps in range(1, 9)
    ]
    result = ours(PGD(eps=eps, norm=norm, steps=8, step_size=size), trained)
    torch.testing.assert_close(result, chosen(trained, iterates), rtol=0, atol=1e-6)
    assert_partly_fooled(trained, result)


@pytest.mark.parametrize('loss', ['ce', 'dlr'])
@pytest.mark.parametrize(('norm', 'eps'), [('linf', EPS), ('l2', EPS_L2)])
def test_apgd_leaves_as_many_as_torchattacks(
    trained: Images, torchattacks: Any, norm: str, eps: float, loss: str
) -> None:
    net, x, labels = trained
    theirs = torchattacks.APGD(
        net, norm=norm.capitalize(), eps=eps, steps=50, n_restarts=1, loss=loss
    )(x, labels)
    result = ours(APGD(eps=eps, norm=norm, steps=50, loss=loss), trained)
    assert_partly_fooled(trained, result)
    assert abs(left_right(trained, result) - left_right(trained, theirs)) <= 1


# ---- scores alone


def test_square_leaves_about_as_many_as_torchattacks(trained: Images, torchattacks: Any) -> None:
    net, x, labels = trained
    frozen = copy.deepcopy(net).requires_grad_(False)  # It writes into the scores.
    theirs = torchattacks.Square(frozen, eps=0.1, n_queries=120)(x, labels)
    result = ours(Square(eps=0.1, queries=120), trained)
    assert_partly_fooled(trained, result)
    # Both are random: a tenth of the images.
    assert abs(left_right(trained, result) - left_right(trained, theirs)) <= 6


# ---- the distance to the boundary


def sizes(perturbation: Tensor) -> Tensor:
    return perturbation.flatten(1).norm(dim=1)


@pytest.fixture
def curved() -> Images:
    """Images so far from black and white that no library clips them, with their predictions."""
    net, x = small_net(10).double().eval(), 0.3 + 0.4 * torch.rand(40, 3, 16, 16).double()
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize('overshoot', [0.0, 0.02])
def test_deepfool_equals_foolbox(curved: Images, foolbox: Any, overshoot: float) -> None:
    net, x, _ = curved
    theirs = foolbox_attack(
        foolbox, foolbox.attacks.L2DeepFoolAttack(overshoot=overshoot), curved, None
    )
    result = deepfool(net, x, overshoot=overshoot)
    assert result.success.all() and result.iterations.max() > 1
    torch.testing.assert_close(x + result.perturbation, theirs, rtol=0, atol=1e-6)


def test_deepfool_goes_as_far_as_torchattacks(curved: Images, torchattacks: Any) -> None:
    net, x, labels = curved
    theirs = sizes(torchattacks.DeepFool(net, steps=50, overshoot=0.02)(x, labels) - x)
    result = deepfool(net, x)
    difference = sizes(result.perturbation) - theirs
    # Its steps are shorter by the 1e-4 of the paper's code, and may fall short by that.
    assert (difference.abs() <= 1.02e-4 * result.iterations * 1.01).all()
