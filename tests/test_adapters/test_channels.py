"""The normalisation's numbers reach the channels, wherever the model has them."""

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet, default_tier
from torch import nn

from adv_plugins import make_adversarial
from adv_plugins.core.conversion import get_adversary

MEAN, STD = (0.0, 0.1, 0.2), torch.tensor([1.0, 0.5, 0.25])
LABELS = torch.tensor([1, 3])


class Frames(nn.Module):
    """A 2-D net on each frame: (B, T, C, H, W)."""

    def __init__(self, classes=5):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)
        self.dropout, self.fc = nn.Dropout(0.1), nn.Linear(8, classes)

    def forward(self, x):
        frames = self.dropout(self.norm(x.flatten(0, -4)))
        return self.fc(self.conv(frames).mean((2, 3))).view(len(x), -1, 5).mean(1)


class Swapped(Frames):
    """(B, C, T, H, W), and blue first."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2).flip(2))


class Views(Frames):
    """(B, views, C, T, H, W)."""

    def forward(self, x):
        return super().forward(x.transpose(2, 3))


class Functional(Conv3dNet):
    def forward(self, x):
        return F.conv3d(input=x * 1, weight=self.stem.weight).mean((2, 3, 4))


class ChannelsLast(Conv3dNet):
    """(B, T, H, W, C)."""

    def forward(self, x):
        return super().forward(x.movedim(-1, 1))


CASES = [
    (Frames, (2, 3, 3, 8, 8), 2),
    (Frames, (2, 4, 3, 8, 8), 2),
    (Swapped, (2, 3, 3, 8, 8), 1),
    (Conv3dNet, (2, 3, 3, 8, 8), 1),
    (Conv3dNet, (2, 3, 4, 8, 8), 1),
    (Functional, (2, 3, 3, 8, 8), 1),
    (ChannelsLast, (2, 4, 8, 8, 3), 4),
    (Frames, (2, 3, 3, 3, 8, 8), 3),
    (Views, (2, 3, 3, 3, 8, 8), 2),
    (Views, (2, 2, 3, 4, 8, 8), 2),
    (Frames, (2, 3, 8, 8), 1),
]


@pytest.mark.parametrize(('build', 'shape', 'axis'), CASES)
@pytest.mark.parametrize('named', default_tier(lambda named: not named, [False, True]))
def test_each_channel_moves_by_its_own_step(build, shape, axis, named):
    class Named(build):
        def forward(self, clips, words):
            assert words.ndim == 2
            return super().forward(clips)

    x = torch.rand(shape)
    options = dict(steps=1, eps=0.1, step_size=0.1, clamp=False, mean=MEAN, std=STD.tolist())
    net = make_adversarial((Named if named else build)(), **options)
    inputs = dict(words=torch.ones(2, 2, dtype=torch.long), clips=x) if named else x
    net.adversarial_loss(inputs, LABELS)['loss'].backward()
    moved = net.perturb(inputs, LABELS)
    steps = ((moved['clips'] if named else moved) - x).abs()
    largest = steps.movedim(axis, 0).flatten(1).amax(1)
    torch.testing.assert_close(largest, 0.1 / STD)


def test_looking_leaves_no_trace():
    """The same step, random numbers and statistics as with the shape written out."""
    x, found = torch.rand(2, 3, 3, 8, 8), []
    for shape in ((3,), (3, 1, 1)):
        torch.manual_seed(0)
        mean, std = torch.tensor(MEAN).view(shape), STD.view(shape)
        net = make_adversarial(Frames(), mean=mean, std=std, eps=0.1)
        losses = net.adversarial_loss(x, LABELS)
        losses['loss'].backward()
        parts = [*losses.values(), *net.state_dict().values(), *(p.grad for p in net.parameters())]
        found.append([*parts, torch.get_rng_state()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_first_forward_looks_and_no_later_one(monkeypatch):
    net = make_adversarial(Frames(), mean=MEAN, std=STD, eps=0.1)
    net.adversarial_loss(torch.rand(2, 3, 3, 8, 8), LABELS)
    monkeypatch.delattr('adv_plugins.adapters.channels.ChannelFinder.__torch_function__')
    net.adversarial_loss(torch.rand(2, 3, 3, 8, 8), LABELS)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
        self.fc(torch.zeros(1, 3, 3, 8, 8))

    def forward(self, x):
        return self.fc(x)


class Early(nn.Module):
    """The frames' channels side by side, of which no one can tell which is which."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(9, 5, 3)

    def forward(self, x):
        return self.conv(x.flatten(1, 2)).mean((2, 3))


@pytest.mark.parametrize('build', [Linear, Early])
def test_what_no_convolution_tells_is_asked_for(build):
    x = torch.rand(2, 3, 3, 8, 8)
    net = make_adversarial(build(), mean=MEAN, std=STD, dual_bn=False)
    with pytest.raises(ValueError, match=r'mean=torch.tensor.*view\(3, 1, 1\)'):
        net.adversarial_loss(x, LABELS)
    shaped = STD.view(3, 1, 1)
    net = make_adversarial(build(), mean=shaped - shaped, std=shaped, dual_bn=False)
    assert torch.equal(get_adversary(net).adapter.space(x, '').scale, 1 / shaped)
    net.adversarial_loss(x, LABELS)['loss'].backward()


def test_channels_last_of_three_frames():
    """(B, 3 frames, H, W, 3 channels)."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv3d(3, 8, 3, 1, 1), nn.Linear(8, 5)

        def forward(self, x):
            return self.fc(self.conv(x.permute(0, 4, 1, 2, 3)).relu().mean((2, 3, 4)))

    options = dict(steps=1, eps=0.1, step_size=0.1, clamp=False)
    std = (1.0, 0.5, 0.25)
    model = make_adversarial(Last(), 'advprop', mean=(0.0, 0.1, 0.2), std=std, **options).eval()
    clips = torch.rand(2, 3, 8, 8, 3)
    moved = (model.perturb(clips, torch.tensor([1, 3])) - clips).abs().amax((0, 1, 2, 3))
    torch.testing.assert_close(moved, 0.1 / torch.tensor(std))
