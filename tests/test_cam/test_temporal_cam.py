"""Objectives on real records: labels, layouts, orders of differentiation."""

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet
from torch import nn

from adv_plugins import (
    TAF,
    Objective,
    Recipe,
    TemporalCAM,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.randomness import private_random
from adv_plugins.core.record import Record
from adv_plugins.functional import temporal_cam, temporal_cam_loss


def objective_at(net, inputs, labels, targets):
    """The temporal loss of a batch on the clean path, in eval mode."""
    adversary = get_adversary(net)
    record = adversary.attacker.forward(Batch(inputs).leaves(), labels)
    return adversary.recipe.objective(record, targets).detach()


def test_label_is_wrong_for_right_clips_and_right_for_wrong_ones():
    labels = torch.arange(6).repeat(50)
    logits = 10.0 * F.one_hot(labels, 6)
    logits[::2] = logits[::2].roll(1, dims=1)
    targets = TemporalCAM().targets(Record({}, torch.zeros(()), logits, labels, len(labels)))
    assert torch.equal(targets[::2], labels[::2])
    assert (targets[1::2] != labels[1::2]).all() and targets[1::2].unique().numel() == 6


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_small_steps_raise_the_temporal_loss_of_every_clip(clips, norm):
    """Against fixed labels; a random step of the same length does not."""
    inputs, labels = clips
    net = Conv3dNet().eval()
    size = 0.01 if norm == 'linf' else 0.3
    make_adversarial(net, TAF(norm=norm, eps=size, step_size=size / 10, steps=10))
    adversary = get_adversary(net)
    with private_random(inputs.device, adversary.schedule.stream()):
        record = adversary.attacker.forward(Batch(inputs).leaves(), labels)
        targets = net._adversary.recipe.objective.targets(record)
    before = objective_at(net, inputs, labels, targets)
    gain = objective_at(net, net.perturb(inputs, labels), labels, targets) - before
    noise = size * torch.randn_like(inputs).sign()
    if norm == 'l2':
        noise *= size / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    random_gain = objective_at(net, inputs + noise, labels, targets) - before
    assert (gain > 0).all() and gain.mean() > 2 * random_gain.abs().mean()


@pytest.mark.parametrize('second_order', [True, False])
def test_gradient_of_the_inputs_by_the_order_of_differentiation(clips, second_order):
    inputs, labels = clips
    net = make_adversarial(Conv3dNet().eval(), TAF(second_order=second_order))
    adversary = get_adversary(net)
    batch = Batch(inputs).leaves()
    record = adversary.attacker.forward(batch, labels)
    objective = adversary.recipe.objective(record, labels).sum()
    (ours,) = torch.autograd.grad(objective, batch.values[''])

    x = inputs.clone().requires_grad_()
    features = net.layer4(net.bn1(net.stem(x)).relu())
    loss = F.cross_entropy(net.fc(features.mean(dim=(2, 3, 4))), labels, reduction='sum')
    (slope,) = torch.autograd.grad(loss, features, create_graph=True)
    slope = slope if second_order else slope.detach()
    cam = temporal_cam(features.transpose(1, 2), slope.transpose(1, 2))
    (expected,) = torch.autograd.grad(temporal_cam_loss(cam).sum(), x)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('second_order', [True, False])
def test_cam_of_the_score_agrees_with_captum_in_value_and_input_gradient(clips, second_order):
    """Its LayerGradCam explains the class score. It pools the gradient over all axes but the
    channels, and here the gradient is the same in all frames."""
    attr = pytest.importorskip('captum.attr', reason='needs adv_plugins[test]')
    inputs, labels = clips
    net = make_adversarial(Conv3dNet().eval(), TAF(cam_of='score', second_order=second_order))
    adversary = get_adversary(net)
    batch = Batch(inputs).leaves()
    record = adversary.attacker.forward(batch, labels)
    ours = adversary.recipe.objective(record, labels)
    (our_slope,) = torch.autograd.grad(ours.sum(), batch.values[''])

    x = inputs.clone().requires_grad_()
    explainer = attr.LayerGradCam(net, net.layer4)
    oracle = explainer.attribute(x, target=labels, relu_attributions=False)
    expected = temporal_cam_loss(oracle.squeeze(1))
    torch.testing.assert_close(ours, expected)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(our_slope, slope)


def test_maps_of_loss_and_score_have_opposite_signs(clips):
    """Where a clip is far from its label, so that p(ŷ) is 0, and two classes are alone."""
    inputs, _ = clips
    net = Conv3dNet(num_classes=2).eval()
    net.fc.bias.data = torch.tensor([60.0, 0.0])
    labels = torch.ones(len(inputs), dtype=torch.long)
    # Both classes have opposite weights: the loss at ŷ is then minus twice the score of ŷ.
    net.fc.weight.data[0] = -net.fc.weight.data[1]
    found = {}
    for cam_of in ('loss', 'score'):
        make_adversarial(net, TAF(cam_of=cam_of))
        found[cam_of] = objective_at(net, inputs, labels, labels)
        remove_adversarial(net)
    # The map turned upside down: what was at the minimum is at the maximum.
    torch.testing.assert_close(found['loss'], 1 - found['score'])


class TokenNet(nn.Module):
    """Tokens (B, T·H·W, C), as video transformers have them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.block = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 6)

    def forward(self, x):
        tokens = self.block(self.embed(x.flatten(2).transpose(1, 2)).relu())
        return self.fc(tokens.relu().mean(1))


@pytest.mark.filterwarnings('ignore:TokenNet has no batch normalisation')
def test_tokens_are_frames_by_a_layout(clips):
    inputs, labels = clips
    net = TokenNet()
    make_adversarial(net, TAF(cam_layer='block', cam_layout='b (t h w) c; t=4 h=6'))
    losses = net.adversarial_loss(inputs, labels)
    assert losses['adv_nonfinite'] == 0 and losses['loss'].isfinite()
    tokens = net.block(net.embed(inputs.flatten(2).transpose(1, 2)).relu())
    objective = net._adversary.recipe.objective
    logits = net.fc(tokens.relu().mean(1))
    record = Record(
        {}, None, logits, labels, 5, features=tokens, layer='block', layout=objective.cam_layout
    )
    maps = tokens.transpose(1, 2).reshape(5, 8, 4, 6, 6)
    (slope,) = torch.autograd.grad(
        F.cross_entropy(record.logits, labels, reduction='sum'), tokens, retain_graph=True
    )
    slope = slope.transpose(1, 2).reshape(5, 8, 4, 6, 6)
    expected = temporal_cam_loss(temporal_cam(maps.transpose(1, 2), slope.transpose(1, 2)))
    torch.testing.assert_close(objective(record, labels), expected)


def test_objective_of_ones_own(clips):
    class Confidence(Objective):
        def targets(self, record):
            return record.hard_labels('Confidence')

        def __call__(self, record, targets):
            return record.logits.softmax(1).gather(1, targets[:, None])[:, 0]

    inputs, labels = clips
    net = make_adversarial(
        Conv3dNet().eval(), Recipe(objective=Confidence(), eps=0.2, step_size=0.02, steps=10)
    )
    more, less = (
        net(x).softmax(1).gather(1, labels[:, None]) for x in (net.perturb(inputs, labels), inputs)
    )
    assert (more > less).all()
