"""GST against a network of 5-D convolutions over whole clips, and its inflation from images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
import timm
import torchvision
from helpers import build_recognizer

from adv_plugins.models import GroupedSpatiotemporalConv, ResNetGST

BOTH = pytest.mark.parametrize('beta', [1, 2])


def grouped(beta: int, alpha: int = 4, frames: int = 5, **options) -> GroupedSpatiotemporalConv:
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False, **options)
    return GroupedSpatiotemporalConv(conv, frames, alpha, beta).double()


def slow_grouped(conv: GroupedSpatiotemporalConv, clip: Tensor, stride: int, beta: int) -> Tensor:
    """One clip (T, 8, H, W), frame by frame and tap by tap."""
    seen, moving = (clip, clip) if beta == 1 else (clip[:, :4], clip[:, 4:])
    frames = []
    for t in range(len(clip)):
        still = F.conv2d(seen[t], conv.spatial.weight, stride=stride, padding=1)
        motion = 0
        for tap in range(3):
            if 0 <= t + tap - 1 < len(clip):
                weight = conv.spatiotemporal.weight[:, :, tap]
                motion = motion + F.conv2d(moving[t + tap - 1], weight, stride=stride, padding=1)
        frames.append(torch.cat([still, motion]))
    return torch.stack(frames)


def clip_unit(unit, x: Tensor, beta: int) -> Tensor:
    """Convolution and batch norm of clips (B, C, T, H, W), by 5-D operations alone."""
    conv = unit.conv
    if isinstance(conv, GroupedSpatiotemporalConv):
        half = x.shape[1] // 2
        still, moving = (x, x) if beta == 1 else (x[:, :half], x[:, half:])
        stride = (1, *conv.spatial.stride)
        y = torch.cat(
            [
                F.conv3d(still, conv.spatial.weight[:, :, None], None, stride, (0, 1, 1)),
                F.conv3d(moving, conv.spatiotemporal.weight, None, stride, (1, 1, 1)),
            ],
            dim=1,
        )
    else:
        y = F.conv3d(x, conv.weight[:, :, None], None, (1, *conv.stride), (0, *conv.padding))
    return F.batch_norm(y, None, None, unit.bn.weight, unit.bn.bias, training=True)


def clip_network(model: ResNetGST, x: Tensor, beta: int) -> Tensor:
    """The network as the authors have it, in training mode, on clips (B, 3, T, H, W)."""
    x = F.max_pool3d(clip_unit(model.conv1, x, beta).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            first, *others = [unit for name, unit in block.named_children() if 'conv' in name]
            y = clip_unit(first, x, beta)
            for unit in others:
                y = clip_unit(unit, y.relu(), beta)
            identity = x if block.downsample is None else clip_unit(block.downsample, x, beta)
            x = (y + identity).relu()
    return x


def changed_frames(module, frames: int, at: int, shape: tuple[int, ...]) -> list[int]:
    """The frames of the output that differ when one frame of the input does."""
    x = torch.randn(frames, *shape, dtype=torch.double)
    other = x.clone()
    other[at] += torch.randn(shape, dtype=torch.double)
    with torch.no_grad():
        differs = (module(x) != module(other)).flatten(1).any(dim=1)
    return differs.nonzero().flatten().tolist()


@pytest.mark.parametrize(('beta', 'count'), [(2, 21_035_246), (1, 29_523_182)])
def test_number_of_parameters(beta, count):
    head = dict(type='TSMHead', num_classes=174, in_channels=2048, num_segments=8)
    backbone = dict(type='ResNetGST', depth=50, alpha=4, beta=beta)
    model = build_recognizer(dict(type='Recognizer2D', backbone=backbone, cls_head=head))
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 53
    assert sum(isinstance(m, GroupedSpatiotemporalConv) for m in model.modules()) == 16


@BOTH
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('alpha', [2, 4, 8])
def test_convolution_by_frames_and_taps(beta, stride, alpha):
    conv = grouped(beta, alpha, stride=stride)
    clips = torch.randn(2, 5, 8, 6, 6, dtype=torch.double, requires_grad=True)
    found = conv(clips.flatten(0, 1))
    expected = torch.cat([slow_grouped(conv, clip, stride, beta) for clip in clips])
    torch.testing.assert_close(found, expected)
    assert conv.spatiotemporal.out_channels == 8 // alpha

    wanted = [clips, *conv.parameters()]
    cotangent = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad(found, wanted, cotangent),
        torch.autograd.grad(expected, wanted, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@BOTH
@pytest.mark.parametrize('depth', [18, 50])
def test_network_of_clips(depth, beta):
    model = ResNetGST(depth, beta=beta, num_segments=4).double()
    model.train()
    frames = torch.randn(8, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        clips = frames.unflatten(0, (2, 4)).transpose(1, 2)
        expected = clip_network(model, clips, beta).transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(model(frames), expected)


@BOTH
def test_frames_reach_one_further_each_block(beta):
    model = ResNetGST(18, beta=beta, num_segments=20).double()
    model.eval()
    assert changed_frames(model.layer1[0], 20, 9, (64, 5, 5)) == [8, 9, 10]
    assert changed_frames(model.layer1, 20, 9, (64, 5, 5)) == [7, 8, 9, 10, 11]
    # Eight blocks.
    assert changed_frames(model, 20, 9, (3, 32, 32)) == list(range(1, 18))


def test_clips_do_not_mix():
    conv = grouped(2, frames=4)
    assert changed_frames(conv, 8, 3, (8, 5, 5)) == [2, 3]
    assert changed_frames(conv, 8, 4, (8, 5, 5)) == [4, 5]


def test_frames_are_independent_without_the_spatiotemporal_part():
    model = ResNetGST(18, num_segments=6).double()
    for conv in model.modules():
        if isinstance(conv, GroupedSpatiotemporalConv):
            nn.init.zeros_(conv.spatiotemporal.weight)
    model.eval()
    assert changed_frames(model, 6, 2, (3, 32, 32)) == [2]


def test_in_a_basic_block_the_second_convolution_is_split():
    block = ResNetGST(18).layer2[0]
    assert isinstance(block.conv1.conv, nn.Conv2d)
    assert isinstance(block.conv2.conv, GroupedSpatiotemporalConv)
    assert tuple(block.conv2.conv.spatiotemporal.weight.shape) == (32, 64, 3, 3, 3)
    assert tuple(block.conv2.conv.spatial.weight.shape) == (96, 64, 3, 3)


def test_initialisation_is_kaimings_by_fan_out():
    conv = ResNetGST(50).layer4[0].conv2.conv
    for part, taps in ((conv.spatial, 9), (conv.spatiotemporal, 27)):
        expected = (2 / (part.out_channels * taps)) ** 0.5
        assert part.weight.std().item() == pytest.approx(expected, rel=0.01)


@pytest.fixture(scope='module', params=['torchvision', 'timm'])
def resnet50(request) -> dict[str, Tensor]:
    torch.manual_seed(1)
    if request.param == 'timm':
        weights = timm.create_model('resnet50', pretrained=False).state_dict()
    else:
        weights = torchvision.models.resnet50(weights=None).state_dict()
    for name, value in weights.items():
        if value.ndim == 1:
            weights[name] = torch.rand_like(value) + 0.5
    return weights


@BOTH
def test_inflation(beta, resnet50, tmp_path):
    torch.save(resnet50, tmp_path / 'image.pth')
    model = ResNetGST(50, beta=beta, num_segments=2, pretrained=str(tmp_path / 'image.pth'))
    before = model.layer3[2].conv2.conv.spatiotemporal.weight.clone()
    model.init_weights()

    unit = model.layer3[2].conv2
    filters = resnet50['layer3.2.conv2.weight']
    # Of 256: three quarters of the filters and, for beta=2, half of the channels.
    assert torch.equal(unit.conv.spatial.weight, filters[:192, : 256 // beta])
    assert torch.equal(unit.conv.spatiotemporal.weight, before)
    assert before.std() > 0
    assert torch.equal(unit.bn.running_var, resnet50['layer3.2.bn2.running_var'])
    assert torch.equal(model.conv1.conv.weight, resnet50['conv1.weight'])
    for number, name in ((1, 'conv1'), (3, 'conv3')):
        block = model.layer2[0]
        found = getattr(block, name).conv.weight
        assert torch.equal(found, resnet50[f'layer2.0.conv{number}.weight'])
    found = model.layer4[0].downsample.conv.weight
    assert torch.equal(found, resnet50['layer4.0.downsample.0.weight'])

    # What the image network computes from the channels that the spatial part sees.
    nn.init.zeros_(unit.conv.spatiotemporal.weight)
    x = torch.randn(2, 256, 6, 6)
    seen = x.clone()
    seen[:, 256 // beta :] = 0
    expected = F.conv2d(seen, filters, padding=1)
    expected[:, 192:] = 0
    torch.testing.assert_close(unit.conv(x), expected, atol=1e-4, rtol=1e-4)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r'alpha=3 is unknown; write alpha=2 or alpha=4 or'):
        ResNetGST(18, alpha=3)
    with pytest.raises(ValueError, match=r'alpha=1 is unknown'):
        ResNetGST(18, alpha=1)
    with pytest.raises(ValueError, match=r'beta=4 is unknown; write beta=1 or beta=2'):
        ResNetGST(18, beta=4)
