"""Image weights load in full or not at all; MMAction2's options mean what they mean there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
import timm
import torchvision
from helpers import build_recognizer, data_samples, tsm_config
from mmaction.models.backbones.resnet import ResNet
from mmengine.logging import MMLogger
from mmengine.registry import MODELS

from adv_plugins.models import ResNetGST, ResNetTAM

BACKBONES = pytest.mark.parametrize('backbone', [ResNetGST, ResNetTAM])


@pytest.fixture(scope='module')
def resnet18() -> dict[str, Tensor]:
    """Random weights and statistics by torchvision's names."""
    torch.manual_seed(1)
    weights = torchvision.models.resnet18(weights=None).state_dict()
    for name, value in weights.items():
        if value.ndim == 1:
            weights[name] = torch.rand_like(value) + 0.5
    return weights


def save(path, checkpoint) -> str:
    torch.save(checkpoint, path / 'image.pth')
    return str(path / 'image.pth')


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(model: nn.Module, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@BACKBONES
def test_wrappers_prefix_and_classifier_do_not_matter(backbone, resnet18, tmp_path):
    without_classifier = {k: v for k, v in resnet18.items() if not k.startswith('fc.')}
    old = {k: v for k, v in resnet18.items() if not k.endswith('num_batches_tracked')}
    model = backbone(18, pretrained=save(tmp_path, resnet18))
    model.init_weights()
    expected = states(model)
    for checkpoint in (
        without_classifier,
        old,
        dict(state_dict=resnet18, epoch=3),
        dict(model={f'module.{k}': v for k, v in resnet18.items()}),
        timm_weights('resnet18', resnet18),
    ):
        for parameter in list(model.state_dict()):
            if 'tam.' not in parameter and 'spatiotemporal.' not in parameter:
                model.state_dict()[parameter].zero_()
        save(tmp_path, checkpoint)
        model.init_weights()
        assert_equal_states(model, {**expected, **counters(model)})


def counters(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in states(model).items() if k.endswith('num_batches_tracked')}


def timm_weights(name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values under the names of a timm model, which must be the same."""
    own = timm.create_model(name, pretrained=False).state_dict()
    return {name: values[name] for name in own}


@BACKBONES
def test_every_batch_norm_is_loaded_in_full(backbone, resnet18, tmp_path):
    model = backbone(18, pretrained=save(tmp_path, resnet18))
    model.init_weights()
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 20
    for name, norm in norms.items():
        image = name.replace('downsample.bn', 'downsample.1')
        image = image.replace('conv1.bn', 'bn1').replace('conv2.bn', 'bn2')
        for key in ('weight', 'bias', 'running_mean', 'running_var'):
            assert torch.equal(norm.state_dict()[key], resnet18[f'{image}.{key}']), name


@BACKBONES
@pytest.mark.parametrize(
    ('depth', 'source', 'wrong'),
    [
        (18, 'resnet18d', r'missing: conv1\.weight.*unknown: .*conv1\.0\.weight'),
        (18, 'resnet34', r'unknown: .*layer1\.2'),
        (34, 'resnet18', r'missing: .*layer1\.2'),
        (
            50,
            'resnext50_32x4d',
            r'176 of another shape: layer1\.0\.bn1\.bias \(128,\), not \(64,\)',
        ),
    ],
)
def test_other_networks_are_an_error_and_nothing_of_them_is_loaded(
    backbone, depth, source, wrong, tmp_path
):
    weights = timm.create_model(source, pretrained=False).state_dict()
    model = backbone(depth, pretrained=save(tmp_path, weights))
    before = states(model)
    with pytest.raises(ValueError, match=rf'(?s)pretrained=.*not a ResNet-{depth} .*{wrong}'):
        model.init_weights()
    assert_equal_states(model, before)


@BACKBONES
def test_image_weights_are_for_three_channels(backbone, resnet18, tmp_path):
    model = backbone(18, in_channels=10, pretrained=save(tmp_path, resnet18))
    with pytest.raises(
        ValueError, match=r'1 of another shape: conv1\.weight .*, not \(64, 10, 7, 7\)'
    ):
        model.init_weights()


@BACKBONES
def test_stages_that_are_left_out_are_not_missed(backbone, resnet18, tmp_path):
    model = backbone(
        18,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        pretrained=save(tmp_path, resnet18),
    )
    model.init_weights()
    assert torch.equal(model.layer2[1].conv2.bn.bias, resnet18['layer2.1.bn2.bias'])


@BACKBONES
def test_one_line_says_what_was_loaded(backbone, resnet18, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger, 'info', lambda self, line: lines.append(line))
    path = save(tmp_path, resnet18)
    backbone(18, pretrained=path).init_weights()
    (line,) = lines
    # 20 convolutions, and 4 tensors of each of 20 batch norms.
    assert f'{backbone.__name__} loaded all 100 tensors of {path}' in line


@BACKBONES
def test_a_checkpoint_of_the_backbone_itself(backbone, tmp_path):
    source = backbone(18)
    path = save(tmp_path, source.state_dict())
    model = backbone(18, pretrained=path, torchvision_pretrain=False)
    model.init_weights()
    assert_equal_states(model, states(source))


@BACKBONES
def test_options_are_checked(backbone):
    with pytest.raises(ValueError, match=r'depth=20 is unknown; write depth=18 or .*depth=152'):
        backbone(20)
    for wrong in (0, -8, 2.0, '8'):
        with pytest.raises(ValueError, match=rf'num_segments={wrong!r} .*write .*num_segments=8'):
            backbone(18, num_segments=wrong)


@BACKBONES
def test_inputs_are_checked(backbone):
    model = backbone(18, num_segments=4)
    for shape in ((6, 3, 16, 16), (1, 3, 4, 16, 16)):
        with pytest.raises(
            ValueError, match=r'num_segments=4 frames; give \(batch \* 4, C, H, W\)'
        ):
            model(torch.zeros(shape))


@BACKBONES
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(norm_eval=True),
        dict(partial_bn=True),
        dict(frozen_stages=0),
        dict(frozen_stages=2),
        dict(frozen_stages=1, partial_bn=True),
    ],
)
def test_options_freeze_what_they_freeze_in_a_resnet(backbone, options):
    model, stock = backbone(18, **options), ResNet(18, **options)
    model.train()
    stock.train()

    def norms(net):
        return [
            (m.training, m.weight.requires_grad)
            for m in net.modules()
            if isinstance(m, nn.BatchNorm2d)
        ]

    assert norms(model) == norms(stock)
    for name in ('conv1', 'layer1', 'layer2', 'layer3', 'layer4'):
        frozen = not next(getattr(stock, name).parameters()).requires_grad
        convs = [
            parameter
            for key, parameter in getattr(model, name).named_parameters()
            if '.bn.' not in key and not key.startswith('bn.')
        ]
        assert convs
        assert all(parameter.requires_grad != frozen for parameter in convs)


@BACKBONES
def test_with_cp_changes_memory_only(backbone):
    options = dict(num_segments=2, norm_eval=True)
    model, stored = backbone(50, with_cp=True, **options), backbone(50, **options)
    stored.load_state_dict(model.state_dict())
    model.train()
    stored.train()
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    found, expected = model(x), stored(x)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for a, b in zip(model.parameters(), stored.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@BACKBONES
def test_stages_for_a_temporal_pyramid(backbone):
    model = backbone(18, num_segments=4, out_indices=(2, 3))
    outputs = model(torch.randn(8, 3, 64, 64))
    assert isinstance(outputs, tuple)
    assert [tuple(y.shape) for y in outputs] == [(8, 256, 4, 4), (8, 512, 2, 2)]
    assert model.res_layers == ['layer1', 'layer2', 'layer3', 'layer4']


@BACKBONES
def test_strides_and_norms_are_the_users(backbone):
    model = backbone(18, strides=(1, 2, 2, 1), norm_cfg=dict(type='GN', num_groups=8))
    assert model(torch.randn(8, 3, 32, 32)).shape == (8, 512, 2, 2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@BACKBONES
def test_trains_from_a_config(backbone):
    config = tsm_config()
    config['backbone'] = dict(type=backbone.__name__, depth=18, num_segments=4)
    recognizer = build_recognizer(config)
    recognizer.init_weights()
    assert type(recognizer.backbone) is backbone
    losses = recognizer.loss(torch.randn(2, 4, 3, 32, 32), data_samples([0, 5]))
    losses['loss_cls'].backward()
    assert torch.isfinite(losses['loss_cls'])
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in recognizer.parameters())

    restored = build_recognizer(config)
    restored.load_state_dict(recognizer.state_dict(), strict=True)
    frames = torch.randn(1, 4, 3, 32, 32)
    assert torch.equal(recognizer.eval()(frames), restored.eval()(frames))


@BACKBONES
def test_is_registered_in_the_root(backbone):
    assert MODELS.module_dict[backbone.__name__] is backbone
