"""Plain classifiers: units, loss functions, outputs."""

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet
from torch import nn

from adv_plugins import Recipe, make_adversarial

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def perturbation(inputs, **options):
    torch.manual_seed(0)
    net = make_adversarial(
        Conv3dNet().eval(),
        Recipe(objective='TrainingLoss', eps=8 / 255, step_size=8 / 255),
        **options,
    )
    return net.perturb(inputs, torch.zeros(len(inputs), dtype=torch.long)) - inputs


def test_eps_is_in_pixels_where_the_normalisation_is_known():
    std = torch.tensor(STD)
    mean = torch.tensor(MEAN)
    inputs = (0.5 - mean.view(3, 1, 1, 1)).expand(2, 3, 4, 6, 6) / std.view(3, 1, 1, 1)
    sizes = perturbation(inputs, mean=MEAN, std=STD).abs().amax(dim=(0, 2, 3, 4))
    torch.testing.assert_close(sizes * std, torch.full((3,), 8 / 255), rtol=1e-5, atol=1e-6)


def test_same_attack_in_255_units():
    inputs = torch.rand(2, 3, 4, 6, 6)
    ones = perturbation(inputs, mean=0.5, std=0.25)
    many = perturbation(inputs, mean=127.5, std=63.75, value_range=(0, 255))
    torch.testing.assert_close(ones, many)


def test_units_of_the_input_otherwise_and_no_clamp():
    inputs = torch.rand(2, 3, 4, 6, 6)
    delta = perturbation(inputs)
    torch.testing.assert_close(delta.abs().amax(), torch.tensor(8 / 255))
    assert (inputs + delta).min() < 0


def test_value_range_clamps():
    inputs = torch.rand(2, 3, 4, 6, 6).round()
    perturbed = inputs + perturbation(inputs, value_range=(0, 1))
    assert perturbed.min() >= 0 and perturbed.max() <= 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
            r'value_range=\(0, 255\)',
        ),
        (dict(std=0.0), 'must be positive'),
        (dict(value_range=(1, 0)), 'smallest, largest'),
    ],
)
def test_normalisation_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make_adversarial(Conv3dNet(), **options)


def test_wrong_number_of_channels(clips):
    net = make_adversarial(Conv3dNet(), mean=[0.5, 0.5], std=[0.5, 0.5])
    with pytest.raises(ValueError, match=r'view\(3, 1, 1\)'):
        net.adversarial_loss(*clips)


def test_loss_fn_is_trained_and_attacked(clips):
    inputs = clips[0]
    target = torch.rand(5, 6).round()
    net = make_adversarial(Conv3dNet(), loss_fn=F.binary_cross_entropy_with_logits)
    clean = F.binary_cross_entropy_with_logits(net(inputs), target)
    losses = net.adversarial_loss(inputs, target)
    torch.testing.assert_close(losses['clean_loss'], clean)
    assert losses['adv_loss'] > losses['clean_loss']
    torch.testing.assert_close(losses['loss'], losses['clean_loss'] + losses['adv_loss'])
    with pytest.raises(ValueError, match="reduction='mean'"):
        make_adversarial(
            Conv3dNet(), loss_fn=nn.CrossEntropyLoss(reduction='none')
        ).adversarial_loss(*clips)


def test_output_with_logits(clips):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(Conv3dNet):
        def forward(self, x):
            return Output(super().forward(x))

    make_adversarial(Wrapped(), 'taf').adversarial_loss(*clips)['loss'].backward()


def test_torchvision_video_resnet():
    video = pytest.importorskip('torchvision.models.video', reason='needs adv_plugins[mmaction]')
    net = make_adversarial(video.r3d_18(num_classes=4), 'taf', mean=0.45, std=0.225)
    losses = net.adversarial_loss(torch.randn(2, 3, 16, 32, 32), torch.tensor([0, 3]))
    losses['loss'].backward()
    assert net.layer4[0].conv1[1].adv_weight.grad.abs().sum() > 0
