"""Temporal aggregation against loops over frames; the network around it against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
import torchvision
from helpers import build_recognizer, tsm_config
from mmengine.optim import build_optim_wrapper

from adv_plugins.models import ResNetTAM, TemporalAggregation


def slow_aggregation(weight: Tensor, clip: Tensor) -> Tensor:
    """One clip (T, C, H, W) with a weight (C, 1, r), sum by sum."""
    reach = weight.shape[2] // 2
    frames = []
    for t in range(len(clip)):
        total = torch.zeros_like(clip[t])
        for tap in range(weight.shape[2]):
            if 0 <= t + tap - reach < len(clip):
                total = total + weight[:, 0, tap, None, None] * clip[t + tap - reach]
        frames.append(total.clamp(min=0))
    return torch.stack(frames)


def aggregations(model: nn.Module) -> list[TemporalAggregation]:
    return [m for m in model.modules() if isinstance(m, TemporalAggregation)]


def keep_frames(model: nn.Module) -> None:
    """Make all aggregations the identity of what is not negative."""
    for tam in aggregations(model):
        nn.init.zeros_(tam.weight)
        nn.init.ones_(tam.weight[..., tam.weight.shape[2] // 2])


def changed_frames(module, frames: int, at: int, shape: tuple[int, ...]) -> list[int]:
    """The frames of the output that differ when one frame of the input does."""
    x = torch.randn(frames, *shape, dtype=torch.double)
    other = x.clone()
    other[at] += torch.randn(shape, dtype=torch.double)
    with torch.no_grad():
        differs = (module(x) != module(other)).flatten(1).any(dim=1)
    return differs.nonzero().flatten().tolist()


def test_number_of_parameters():
    head = dict(type='TSMHead', num_classes=174, in_channels=2048, num_segments=8)
    backbone = dict(type='ResNetTAM', depth=50)
    model = build_recognizer(dict(type='Recognizer2D', backbone=backbone, cls_head=head))
    assert sum(p.numel() for p in model.parameters()) == 23_903_918
    found = aggregations(model)
    assert len(found) == 16
    assert sum(p.numel() for tam in found for p in tam.parameters()) == 39_360


@pytest.mark.parametrize('kernel_size', [1, 3, 5, 11])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_aggregation_by_frames(kernel_size, layout):
    tam = TemporalAggregation(6, 4, kernel_size).double()
    clips = torch.randn(3, 4, 6, 5, 2, dtype=torch.double)
    x = clips.flatten(0, 1).to(memory_format=layout).requires_grad_()
    found = tam(x)
    expected = torch.cat([slow_aggregation(tam.weight, clip) for clip in x.unflatten(0, (3, 4))])
    torch.testing.assert_close(found, expected)

    cotangent = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad(found, [x, tam.weight], cotangent),
        torch.autograd.grad(expected, [x, tam.weight], cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_aggregation_is_a_depthwise_convolution_over_time():
    tam = TemporalAggregation(6, 4)
    frames = torch.randn(8, 6, 3, 3)
    conv = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0), groups=6, bias=False)
    conv.weight.data.copy_(tam.weight[..., None, None])
    expected = conv(frames.unflatten(0, (2, 4)).transpose(1, 2)).relu()
    torch.testing.assert_close(tam(frames), expected.transpose(1, 2).flatten(0, 1))


def test_the_frame_alone_is_a_relu():
    tam = TemporalAggregation(6, 4)
    keep_frames(tam)
    x = torch.randn(8, 6, 3, 3)
    assert torch.equal(tam(x), x.relu())


def test_inputs_are_left_as_they_are():
    tam = TemporalAggregation(6, 4)
    x = torch.randn(8, 6, 3, 3)
    before = x.clone()
    tam(x).zero_()
    assert torch.equal(x, before)


def test_two_derivatives():
    tam = TemporalAggregation(2, 3, 3).double()
    x = torch.randn(6, 2, 2, 1, dtype=torch.double, requires_grad=True)

    def aggregate(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(tam, dict(weight=weight), (x,))

    assert torch.autograd.gradcheck(aggregate, (x, tam.weight))
    assert torch.autograd.gradgradcheck(aggregate, (x, tam.weight))


def test_initialisation():
    tam = TemporalAggregation(2048, 8)
    assert tam.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.05)
    assert abs(tam.weight.mean().item()) < 0.002


def test_weights_follow_the_precision_of_the_frames():
    tam = TemporalAggregation(6, 4)
    x = torch.randn(8, 6, 3, 3)
    with torch.autocast('cpu', torch.bfloat16):
        found = tam(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), tam(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize('wrong', [0, 2, -1, 3.0])
def test_kernel_sizes_are_checked(wrong):
    for build in (lambda: TemporalAggregation(6, 4, wrong), lambda: ResNetTAM(18, 4, wrong)):
        with pytest.raises(ValueError, match=rf'kernel_size={wrong!r} must be a positive odd .*3'):
            build()


def test_the_kernel_size_is_that_of_all_aggregations():
    assert {tam.kernel_size for tam in aggregations(ResNetTAM(18, tam_kernel_size=5))} == {(5,)}


def test_frames_reach_one_further_each_block():
    model = ResNetTAM(18, num_segments=20).double()
    model.eval()
    assert changed_frames(model.layer1[0], 20, 9, (64, 5, 5)) == [8, 9, 10]
    assert changed_frames(model.layer1, 20, 9, (64, 5, 5)) == [7, 8, 9, 10, 11]
    # Eight blocks.
    assert changed_frames(model, 20, 9, (3, 32, 32)) == list(range(1, 18))


def test_clips_do_not_mix():
    tam = TemporalAggregation(6, 4).double()
    assert changed_frames(tam, 8, 3, (6, 5, 5)) == [2, 3]
    assert changed_frames(tam, 8, 4, (6, 5, 5)) == [4, 5]


@pytest.mark.parametrize('depth', [18, 50])
def test_the_other_path_sees_the_frames_as_they_come(depth):
    model = ResNetTAM(depth, num_segments=4)
    model.eval()
    for block in (model.layer2[0], model.layer2[1]):
        nn.init.zeros_((block.conv2 if depth == 18 else block.conv3).bn.weight)
        x = torch.randn(4, block.conv1.in_channels, 6, 6)
        expected = x if block.downsample is None else block.downsample(x)
        assert torch.equal(block(x.clone()), expected.relu())


@pytest.mark.parametrize('depth', [18, 50])
def test_without_its_neighbours_a_frame_has_torchvisions_features(depth, tmp_path):
    image = getattr(torchvision.models, f'resnet{depth}')(weights=None)
    for value in image.state_dict().values():
        if value.ndim == 1:
            value.copy_(torch.rand_like(value) + 0.5)
    torch.save(image.state_dict(), tmp_path / 'image.pth')
    model = ResNetTAM(
        depth, num_segments=2, out_indices=(0, 3), pretrained=str(tmp_path / 'image.pth')
    )
    own = [tam.weight.clone() for tam in aggregations(model)]
    model.init_weights()
    assert all(torch.equal(a, b.weight) for a, b in zip(own, aggregations(model), strict=True))

    keep_frames(model)
    model.eval()
    image.eval()
    frames = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        first = image.layer1(image.maxpool(image.relu(image.bn1(image.conv1(frames)))))
        last = image.layer4(image.layer3(image.layer2(first)))
        found = model(frames)
    torch.testing.assert_close(found[0], first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], last, rtol=1e-4, atol=1e-4 * last.abs().max().item())


def test_the_optimizer_of_tsm_takes_all_parameters():
    config = tsm_config()
    config['backbone'] = dict(type='ResNetTAM', depth=18, num_segments=4)
    model = build_recognizer(config)
    optimizer = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.01),
            constructor='TSMOptimWrapperConstructor',
            paramwise_cfg=dict(fc_lr5=True),
        ),
    ).optimizer
    given = [id(p) for group in optimizer.param_groups for p in group['params']]
    assert sorted(given) == sorted(id(p) for p in model.parameters())
