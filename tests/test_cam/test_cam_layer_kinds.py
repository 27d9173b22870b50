"""Kinds of models whose last outputs look like maps and are none, or are read in a rare way."""

from __future__ import annotations

import pytest
import torch
from helpers import looked_at
from torch import nn

from adv_plugins import make_adversarial
from adv_plugins.core.conversion import get_adversary

CLIP, FRAMES = (2, 3, 8, 32, 32), (2, 8, 3, 32, 32)


def stage(a, b, stride):
    return nn.Sequential(nn.Conv3d(a, b, 3, stride, 1, bias=False), nn.BatchNorm3d(b), nn.ReLU())


class OverFrames(nn.Module):
    """A 2-D net for each frame, its pooled features, and what follows them."""

    def __init__(self, rest=None, pooled=None):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)
        )
        self.pooled, self.rest, self.fc = pooled, rest, nn.Linear(16, 5)

    def forward(self, x):
        maps = self.cnn(x.flatten(0, 1)).relu().mean((2, 3), keepdim=True)
        if self.pooled is not None:
            maps = self.pooled(maps)
        frames = maps.flatten(1).unflatten(0, x.shape[:2])
        if isinstance(self.rest, nn.Conv1d):
            frames = self.rest(frames.transpose(1, 2)).transpose(1, 2)
        elif self.rest is not None:
            frames = self.rest(frames)
            frames = frames[0] if isinstance(frames, tuple) else frames
        return self.fc(frames.mean(1))


class Stages(nn.Module):
    def __init__(self, *strides):
        super().__init__()
        widths = [3, 8, 16, 16, 16][: len(strides) + 1]
        for number, stride in enumerate(strides, 1):
            setattr(self, f's{number}', stage(*widths[number - 1 : number + 1], stride))
        self.count, self.fc = len(strides), nn.Linear(widths[-1], 5)

    def forward(self, x):
        for number in range(self.count):
            x = getattr(self, f's{number + 1}')(x)
        return self.fc(x.mean((2, 3, 4)))


class Last(Stages):
    """Channels come last in its clips."""

    def forward(self, x):
        return super().forward(x.permute(0, 4, 1, 2, 3))


class Mirrored(Stages):
    def forward(self, x):
        return super().forward(x.flip(-1))


class Parts(Stages):
    """The first and the second half of the clip in turn."""

    def forward(self, x):
        return super().forward(x[:, :, :4]) + super().forward(x[:, :, 4:])


class Pooled(Stages):
    """A convolution of means, as some heads have."""

    def __init__(self):
        super().__init__(2, (1, 2, 2))
        self.pre, self.fc = nn.Conv3d(16, 32, 1), nn.Linear(32, 5)

    def forward(self, x):
        x = self.s2(self.s1(x)).mean((3, 4), keepdim=True)
        return self.fc(self.pre(x).relu().mean((2, 3, 4)))


class Pyramid(Stages):
    """The scores come from every stage: only the first is common to all paths."""

    def __init__(self):
        super().__init__(2, (1, 2, 2), (1, 2, 2))
        self.fc = nn.Linear(40, 5)

    def forward(self, x):
        means = []
        for part in (self.s1, self.s2, self.s3):
            x = part(x)
            means.append(x.mean((2, 3, 4)))
        return self.fc(torch.cat(means, 1))


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return x * self.factor


class TimeFirst(nn.Module):
    """Its last map is (T, B, H, W, C)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.fc = nn.Conv3d(3, 16, (1, 4, 4), (1, 4, 4)), Affine(), None
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.norm(self.stem(x).permute(2, 0, 3, 4, 1)).mean((0, 2, 3)))


class Alias(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(stage(3, 8, 2), stage(8, 16, 1))
        self.layer4, self.fc = self.parts[1], nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.layer4(self.parts[0](x)).mean((2, 3, 4)))


def transformer():
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)


FOUND = {
    'frames of an LSTM': (lambda: OverFrames(nn.LSTM(16, 16, batch_first=True)), FRAMES, 'cnn'),
    'frames of a Transformer': (lambda: OverFrames(transformer()), FRAMES, 'cnn'),
    'frames of a convolution': (
        lambda: OverFrames(nn.Conv1d(16, 16, 3, 1, 1)),
        (2, 16, 3, 32, 32),
        'cnn',
    ),
    'a norm of means': (lambda: OverFrames(pooled=nn.BatchNorm2d(16)), FRAMES, 'cnn'),
    'a convolution of means': (Pooled, CLIP, 's2'),
    'a last map without time': (lambda: Stages(2, 2, 2), (2, 3, 8, 64, 64), 's2'),
    'clips with channels last': (lambda: Last(2, 1), (2, 8, 32, 32, 3), 's2'),
    'mirrored clips': (lambda: Mirrored(2, (1, 2, 2)), CLIP, 's2'),
}


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('kind', FOUND)
def test_the_map_is_found(kind, seed):
    make, shape, layer = FOUND[kind]
    torch.manual_seed(seed)
    model = make_adversarial(make(), 'taf')
    looked_at(model, torch.randn(shape), torch.tensor([1, 3]))
    found = get_adversary(model).attacker.layer
    assert found.name == layer
    assert found.layout == ('(b t) c h w' if layer == 'cnn' else 'b c t h w')


@pytest.mark.parametrize(('count', 'frames'), [(4, 4), (8, 4), (2, 8)])
def test_time_before_the_batch(count, frames):
    model = make_adversarial(TimeFirst(), 'taf')
    looked_at(model, torch.randn(count, 3, frames, 32, 32), torch.arange(count) % 5)
    found = get_adversary(model).attacker.layer
    assert (found.name, found.layout) == ('norm', 't b h w c')


def test_a_module_of_two_names():
    model = make_adversarial(Alias(), 'taf')
    model.adversarial_loss(torch.randn(CLIP), torch.tensor([1, 3]))
    assert get_adversary(model).attacker.layer.name == 'layer4'


@pytest.mark.parametrize(
    ('make', 'options', 'message'),
    [
        (Pyramid, {}, "choose a branch: write cam_layer='s3'"),
        (lambda: Parts(2, 1), {}, "write cam_layer='s2'[.]"),
        (lambda: Parts(2, 1), dict(cam_layer='s2'), 'is called 2 times'),
        (
            lambda: Stages((1, 2, 2), (1, 2, 2)),
            dict(cam_layer='s2', cam_layout='b t c h w'),
            "'b c t h w' is right",
        ),
        (lambda: Stages(2, 1), dict(cam_layout='b c t h w'), 'write its cam_layer'),
        (lambda: Stages(2, 2, 2), dict(cam_layer='s3'), "without a time axis.*'s2' is right"),
    ],
)
def test_what_is_told(make, options, message):
    torch.manual_seed(0)
    model = make_adversarial(make(), 'taf', **options)
    with pytest.raises(ValueError, match=message):
        model.adversarial_loss(torch.randn(2, 3, 8, 64, 64), torch.tensor([1, 3]))


@pytest.mark.parametrize('option', ['cam_layer', 'cam_layout'])
@pytest.mark.parametrize('value', [3, ['s3']])
def test_names_are_strings(option, value):
    with pytest.raises(ValueError, match=f'{option}=.*must be a string'):
        make_adversarial(Stages(2, 1), 'taf', **{option: value})
