"""bLVNet-TAM against a network that walks through clips frame by frame."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
from helpers import build_recognizer, data_samples
from mmaction.models.backbones.resnet import Bottleneck

from adv_plugins.models import BLVNetTAM, TemporalAggregation

FRAMES = 16


@pytest.fixture(scope='module')
def model() -> BLVNetTAM:
    """With batch norms that do something, the last ones of bottlenecks included."""
    torch.manual_seed(1)
    model = BLVNetTAM(50, num_segments=FRAMES).double().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                value.uniform_(0.3, 0.9)
    return model


def unit(module, x: Tensor) -> Tensor:
    """A convolution and its batch norm."""
    y = F.conv2d(x, module.conv.weight, stride=module.conv.stride, padding=module.conv.padding)
    norm = module.bn
    return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def aggregate(tam: TemporalAggregation, frames: list[Tensor]) -> list[Tensor]:
    before, this, after = tam.weight[:, 0, :, None, None].unbind(1)
    zero = torch.zeros_like(frames[0])
    padded = [zero, *frames, zero]
    return [
        (before * padded[t] + this * padded[t + 1] + after * padded[t + 2]).relu()
        for t in range(len(frames))
    ]


def bottleneck(block, x: Tensor, branch: Tensor, stride: int) -> Tensor:
    """Before its last ReLU; ``branch`` is what the residual branch sees of ``x``."""
    conv1 = block.conv1
    if isinstance(conv1.conv, nn.Sequential):
        conv1 = copy.copy(conv1)
        conv1._modules = dict(conv=block.conv1.conv.net, bn=block.conv1.bn)
    y = unit(block.conv3, unit(block.conv2, unit(conv1, branch).relu()).relu())
    if stride == 2:
        x = F.avg_pool2d(x, 3, 2, 1)
    if x.shape[1] != y.shape[1]:
        x = unit(block.downsample[-1], x)
    return x + y


def slow_stage(stage, frames: list[Tensor], fusion_stride: int) -> list[Tensor]:
    frames = aggregate(stage.tam, frames)
    pairs = []
    for even, odd in zip(frames[::2], frames[1::2], strict=True):
        for number, block in enumerate(stage.big):
            odd = bottleneck(block, odd, odd, 2 if number == 0 else 1)
            odd = odd.relu() if number < len(stage.big) - 1 else odd
        for block in stage.little[:-1]:
            even = bottleneck(block, even, even, 1).relu()
        even = unit(stage.little[-1], even)
        rows = [i // 2 for i in range(even.shape[-2])]
        columns = [i // 2 for i in range(even.shape[-1])]
        both = (odd[..., rows, :][..., columns] + even).relu()
        both = bottleneck(stage.fusion[0], both, both, fusion_stride).relu()
        pairs += [both, both]
    return pairs


def slow_network(model: BLVNetTAM, clip: Tensor) -> Tensor:
    """One clip (T, 3, H, W), T even."""
    frames = [unit(model.conv1, frame[None]).relu() for frame in clip]
    frames = aggregate(model.stem.tam, frames)
    pairs = []
    for even, odd in zip(frames[::2], frames[1::2], strict=True):
        first, second, third = model.stem.little
        little = unit(third, unit(second, unit(first, even).relu()).relu())
        both = unit(model.stem.fusion, (unit(model.stem.big, odd) + little).relu()).relu()
        pairs += [both, both]
    for stage, stride in ((model.layer1, 2), (model.layer2, 2), (model.layer3, 1)):
        pairs = slow_stage(stage, pairs, stride)
    tam, first, *others = model.layer4
    frames = [bottleneck(first, x, x, 2).relu() for x in aggregate(tam, pairs[::2])]
    for block in others:
        branches = aggregate(block.conv1.conv.tam, frames)
        frames = [
            bottleneck(block, x, branch, 1).relu()
            for x, branch in zip(frames, branches, strict=True)
        ]
    return torch.cat(frames)


@pytest.mark.parametrize(
    ('depth', 'count', 'bottlenecks'), [(50, 25_020_142, 19), (101, 40_177_134, 38)]
)
def test_number_of_parameters(depth, count, bottlenecks):
    head = dict(type='TSMHead', num_classes=174, in_channels=2048, num_segments=4)
    backbone = dict(type='BLVNetTAM', depth=depth, num_segments=8)
    model = build_recognizer(dict(type='Recognizer2D', backbone=backbone, cls_head=head))
    model.init_weights()
    assert sum(p.numel() for p in model.parameters()) == count
    tams = [m for m in model.modules() if isinstance(m, TemporalAggregation)]
    assert len(tams) == 7
    assert sum(tam.weight.numel() for tam in tams) == 18_048
    assert [tam.num_segments for tam in tams] == [8, 8, 8, 8, 4, 4, 4]

    norms = [m.conv3.bn for m in model.modules() if isinstance(m, Bottleneck)]
    assert len(norms) == bottlenecks
    zero = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.any()]
    assert zero == norms


@pytest.mark.parametrize('size', [(32, 32), (40, 72)])
def test_network_by_frames(model, size):
    clips = torch.randn(2, FRAMES, 3, *size, dtype=torch.double)
    with torch.no_grad():
        found = model(clips.flatten(0, 1))
        expected = torch.cat([slow_network(model, clip) for clip in clips])
    assert found.shape[:2] == (FRAMES, 2048)
    torch.testing.assert_close(found, expected)


def test_reach_of_a_frame(model):
    x = torch.randn(FRAMES, 3, 32, 32, dtype=torch.double)
    other = x.clone()
    other[0] += torch.randn(3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        differs = (model(x) != model(other)).flatten(1).any(dim=1)
    # Aggregation of frames 0-1 is pair 0; of its two frames, pair 1 as well; and so on to pair 3;
    # then each of the last three blocks reaches one pair further.
    assert differs.nonzero().flatten().tolist() == list(range(7))


def test_stages_for_the_cam(model):
    assert model.res_layers == ['layer1', 'layer2', 'layer3', 'layer4']
    assert all(isinstance(getattr(model, name), nn.Module) for name in model.res_layers)


def test_the_bigger_networks_have_more_blocks():
    model = BLVNetTAM(152, beta=2)
    blocks = [(len(s.big), len(s.little) - 1) for s in (model.layer1, model.layer2, model.layer3)]
    assert blocks == [(4, 1), (11, 5), (29, 14)]
    assert len(model.layer4) - 1 == 3


def test_alpha_is_the_width_of_little_branches():
    narrow = BLVNetTAM(50, alpha=4)
    assert narrow.layer2.little[0].conv3.out_channels == 128
    assert narrow.stem.little[0].out_channels == 16
    assert narrow(torch.randn(8, 3, 32, 32)).shape == (4, 2048, 1, 1)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r'depth=18 is unknown; write depth=50 or depth=101'):
        BLVNetTAM(18)
    with pytest.raises(ValueError, match=r'alpha=3 is unknown; write alpha=1 or alpha=2'):
        BLVNetTAM(50, alpha=3)
    with pytest.raises(ValueError, match=r'beta=0 must be a whole number'):
        BLVNetTAM(50, beta=0)
    with pytest.raises(
        ValueError, match=r'num_segments=7 must be a positive even .*num_segments=8'
    ):
        BLVNetTAM(50, num_segments=7)


def test_inputs_are_checked(model):
    with pytest.raises(ValueError, match=r'num_segments=16 frames; give \(batch \* 16, C, H, W\)'):
        model(torch.zeros(8, 3, 32, 32, dtype=torch.double))


def test_norm_eval_keeps_statistics():
    for norm_eval in (False, True):
        model = BLVNetTAM(50, num_segments=2, norm_eval=norm_eval).train()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.training for norm in norms} == {not norm_eval}
        assert {norm.weight.requires_grad for norm in norms} == {True}


def test_with_cp_changes_memory_only():
    model = BLVNetTAM(50, num_segments=2, norm_eval=True, with_cp=True).train()
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    assert all(block.with_cp for block in blocks)
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    found = model(x)
    found.sum().backward()
    gradient = model.conv1.conv.weight.grad
    for block in blocks:
        block.with_cp = False
    expected = model(x)
    assert torch.equal(found, expected)
    expected = torch.autograd.grad(expected.sum(), model.conv1.conv.weight)[0]
    torch.testing.assert_close(gradient, expected)


def test_pretrained_by_its_own_names(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    restored = BLVNetTAM(50, num_segments=FRAMES, pretrained=str(tmp_path / 'own.pth'))
    restored.init_weights()
    for name, value in restored.double().state_dict().items():
        # Stored as float64, kept as float32.
        assert torch.equal(value.float(), model.state_dict()[name].float()), name


def test_trains_from_a_config():
    config = dict(
        type='Recognizer2D',
        backbone=dict(type='BLVNetTAM', depth=50, num_segments=4),
        cls_head=dict(type='TSMHead', num_classes=6, in_channels=2048, num_segments=2),
    )
    recognizer = build_recognizer(config)
    recognizer.init_weights()
    losses = recognizer.loss(torch.randn(2, 4, 3, 32, 32), data_samples([0, 5]))
    losses['loss_cls'].backward()
    assert torch.isfinite(losses['loss_cls'])
    assert all(torch.isfinite(parameter.grad).all() for parameter in recognizer.parameters())

    restored = build_recognizer(config)
    restored.load_state_dict(recognizer.state_dict(), strict=True)
    frames = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(recognizer.eval()(frames), restored.eval()(frames))
