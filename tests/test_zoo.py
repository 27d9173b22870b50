"""TAF, CEAugmentation and AdvProp on every recognition family of MMAction2, at a small size.

The models are those of the stock configs. Only sizes that cost time are cut, norms that the
config freezes are trained, dropout and stochastic depth are off, so that runs can be compared, and
labels are not blended, which TAF refuses.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import data_samples, default_tier
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

import mmaction
import mmaction.models  # noqa: F401
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from adv_plugins import AdvProp, CEAugmentation, make_adversarial, remove_adversarial
from adv_plugins.adapters import cam_layers
from adv_plugins.adapters.cam_layers import find_cam_layer
from adv_plugins.core.conversion import get_adversary
from adv_plugins.recipes import TAF

CONFIGS = Path(mmaction.__file__).parent / '.mim/configs/recognition'
PAGE = Path(__file__).resolve().parents[1] / 'adv_plugins/adapters/README.md'
CLASSES = 6
RECIPES = {
    'TAF': TAF(eps=8 / 255, step_size=8 / 255),
    'CEAugmentation': CEAugmentation(eps=8 / 255, step_size=8 / 255),
    'AdvProp': AdvProp(steps=1, step_size=4 / 255),
}


class Family(NamedTuple):
    """A stock config, what of its model is cut, and the clips it is fed."""

    config: str
    layer: str
    shape: tuple[int, ...]
    changes: dict[str, Any] = {}
    needs: str = ''


FRAMES = (2, 4, 3, 32, 32)
CLIP = (2, 1, 3, 8, 32, 32)
SHORT = dict(num_segments=4)
DEPTH18 = dict(depth=18, pretrained=None)
FAMILIES = {
    'c2d': Family(
        'c2d/c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb',
        'layer4',
        CLIP,
        dict(backbone=DEPTH18, cls_head=dict(in_channels=512)),
    ),
    'c3d': Family(
        'c3d/c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb',
        'conv5b',
        # Its fully connected layers know this size alone.
        (2, 1, 3, 16, 112, 112),
    ),
    'csn': Family(
        'csn/ircsn_ig65m-pretrained-r50-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 16, 64, 64),
        dict(backbone=dict(norm_eval=False)),
    ),
    'i3d': Family(
        'i3d/i3d_imagenet-pretrained-r50-nl-gaussian_8xb8-32x2x1-100e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 16, 64, 64),
    ),
    'mvit': Family(
        'mvit/mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb',
        'blocks.14',
        (2, 1, 3, 8, 64, 64),
        dict(backbone=dict(spatial_size=64, temporal_size=8)),
    ),
    'omnisource': Family(
        'omnisource/slowonly_r50_8xb16-8x8x1-256e_imagenet-kinetics400-rgb',
        'layer4',
        CLIP,
        dict(
            backbone=dict(layers=[1, 1, 1, 1]),
            cls_head=dict(image_classes=CLASSES, video_classes=CLASSES),
        ),
    ),
    'r2plus1d': Family(
        'r2plus1d/r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 16, 64, 64),
        dict(backbone=dict(depth=18)),
    ),
    'slowfast': Family(
        'slowfast/slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb',
        'slow_path.layer4',
        (2, 1, 3, 16, 64, 64),
    ),
    'slowonly': Family(
        'slowonly/slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb',
        'layer4',
        (2, 1, 3, 4, 32, 32),
    ),
    'swin': Family(
        'swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb',
        'layers.3',
        (2, 1, 3, 8, 64, 64),
    ),
    'tanet': Family(
        'tanet/tanet_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
    ),
    'timesformer divided': Family(
        'timesformer/timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb',
        'transformer_layers.layers.10',
        CLIP,
        dict(backbone=dict(img_size=32)),
    ),
    'timesformer joint': Family(
        'timesformer/timesformer_jointST_8xb8-8x32x1-15e_kinetics400-rgb',
        'transformer_layers.layers.10',
        CLIP,
        dict(backbone=dict(img_size=32)),
    ),
    'timesformer space only': Family(
        'timesformer/timesformer_spaceOnly_8xb8-8x32x1-15e_kinetics400-rgb',
        'transformer_layers.layers.10',
        CLIP,
        dict(backbone=dict(img_size=32)),
    ),
    'tin': Family(
        'tin/tin_imagenet-pretrained-r50_8xb6-1x1x8-40e_sthv1-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
        needs='mmcv._ext',
    ),
    'tpn slowonly': Family(
        'tpn/tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb',
        'layer4',
        CLIP,
        dict(neck=dict(aux_head_cfg=dict(out_channels=CLASSES))),
    ),
    'tpn tsm': Family(
        'tpn/tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb',
        'layer4',
        # Its neck knows eight frames alone.
        (2, 8, 3, 32, 32),
        dict(neck=dict(aux_head_cfg=dict(out_channels=CLASSES))),
    ),
    'trn': Family(
        'trn/trn_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv1-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(partial_bn=False), cls_head=SHORT),
    ),
    'tsm': Family(
        'tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb',
        'layer4',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
    ),
    'tsm mobilenetv2': Family(
        'tsm/tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb',
        'conv2',
        FRAMES,
        dict(backbone=dict(SHORT), cls_head=dict(SHORT)),
    ),
    'tsm mobileone': Family(
        'tsm/tsm_imagenet-pretrained-mobileone-s4_8xb16-1x1x16-50e_kinetics400-rgb',
        'stage4',
        FRAMES,
        dict(backbone=dict(SHORT, init_cfg=None), cls_head=SHORT),
        needs='mmpretrain',
    ),
    'tsn': Family('tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-50e_sthv2-rgb', 'layer4', FRAMES),
    'uniformer': Family(
        'uniformer/uniformer-small_imagenet1k-pre_16x4x1_kinetics400-rgb',
        'blocks4.2',
        (2, 1, 3, 8, 64, 64),
    ),
    'uniformerv2 base': Family(
        'uniformerv2/uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics400-rgb',
        'transformer.resblocks.11',
        CLIP,
        dict(backbone=dict(input_resolution=32)),
    ),
    'uniformerv2 large': Family(
        'uniformerv2/uniformerv2-large-p14-res224_clip-kinetics710-pre_u8_kinetics400-rgb',
        'transformer.resblocks.5',
        (2, 1, 3, 8, 28, 28),
        dict(backbone=dict(input_resolution=28, layers=6, return_list=[2, 3, 4, 5])),
    ),
    'videomae': Family(
        'videomae/vit-base-p16_videomae-k400-pre_16x4x1_kinetics-400',
        'blocks.11',
        CLIP,
        dict(backbone=dict(img_size=32, num_frames=8)),
    ),
    'videomaev2': Family(
        'videomaev2/vit-small-p16_videomaev2-vit-g-dist-k710-pre_16x4x1_kinetics-400',
        'blocks.11',
        CLIP,
        dict(backbone=dict(img_size=32, num_frames=8)),
    ),
    'x3d': Family('x3d/x3d_s_13x6x1_facebook-kinetics400-rgb', 'conv5', (2, 1, 3, 4, 64, 64)),
}
# TAF asks for more than the others: a layer, its axes, and a second derivative of the head. They
# follow on one family of each kind, and late on the rest but C3D, whose forwards take seconds.
KINDS = ('tsm', 'slowonly', 'videomaev2', 'omnisource')
# Of these dear ones the default tests look at the layer alone; each has a cheaper relative.
DEAR = (
    'c3d',
    'csn',
    'r2plus1d',
    'timesformer joint',
    'timesformer space only',
    'tpn slowonly',
    'uniformerv2 large',
)
CASES = default_tier(
    lambda case: case[0] not in DEAR if case[1:] == ('TAF',) else case[0] in KINDS,
    [
        *((name, 'TAF') for name in FAMILIES),
        *((name, 'CEAugmentation', 'AdvProp') for name in FAMILIES if name != 'c3d'),
    ],
)


@pytest.mark.parametrize('name', FAMILIES)
def test_the_page_of_models_names_the_layer_of_every_family(name):
    config = Config.fromfile(CONFIGS / f'{FAMILIES[name].config}.py')
    known = cam_layers.FAMILIES.get(config.model.backbone.type)
    # In a list -1 is the last entry, whatever its number.
    layer = FAMILIES[name].layer if known is None else known[0]
    (row,) = [line for line in PAGE.read_text().splitlines() if f'`backbone.{layer}`' in line]
    said = row.lower().replace('+', 'plus')
    for sign in '() ':
        said = said.replace(sign, '')
    assert name.split()[0] in said


def build(family: Family) -> nn.Module:
    """The stock model with random weights, none of them exactly zero."""
    config = Config.fromfile(CONFIGS / f'{family.config}.py')
    changes = copy.deepcopy(family.changes)
    backbone = changes.setdefault('backbone', {})
    for option in ('pretrained', 'pretrained2d', 'clip_pretrained'):
        if option in config.model.backbone or option == 'pretrained2d' and 'TSM' in str(backbone):
            backbone[option] = None if option == 'pretrained' else False
    changes.setdefault('cls_head', {}).update(
        {} if config.model.type == 'RecognizerOmni' else dict(num_classes=CLASSES, topk=(1, 2))
    )
    config.merge_from_dict(dict(model=changes))
    config.model.data_preprocessor.pop('blending', None)
    init_default_scope('mmaction')
    model = MODELS.build(config.model).train()
    for value in model.parameters():
        if not value.detach().count_nonzero():
            # Layers that start at zero would hide what is in front of them.
            nn.init.normal_(value, std=0.02)
    for module in model.modules():
        # Stochastic depth cuts the way from some clips' CAM to their class scores.
        for option in ('p', 'drop_prob'):
            if hasattr(module, option):
                setattr(module, option, 0.0)
    return model


def batch(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, list]:
    """A batch as it leaves the model's own data preprocessor."""
    clips = list(torch.randint(256, shape, dtype=torch.uint8))
    data = dict(inputs=clips, data_samples=data_samples([1, 4]))
    data = model.data_preprocessor(data, training=True)
    return data['inputs'], data['data_samples']


def losses_of(model: nn.Module, inputs: Tensor, samples: list) -> dict[str, Tensor]:
    """What the Runner asks a model for, summed as it sums them."""
    if type(model).__name__.endswith('RecognizerOmni'):
        images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        sources = (
            dict(inputs=inputs, data_samples=samples),
            dict(inputs=images, data_samples=data_samples([0, 2, 5])),
        )
        losses = model(*sources, mode='loss')
    else:
        losses = model(inputs, samples, mode='loss')
    return losses


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(value for name, value in losses.items() if 'loss' in name)


@pytest.mark.parametrize('name', DEAR)
def test_layer_of_a_dear_family(name):
    assert find_cam_layer(build(FAMILIES[name])) == f'backbone.{FAMILIES[name].layer}'


@pytest.mark.parametrize('case', CASES, ids='-'.join)
@pytest.mark.filterwarnings('ignore:.*has no batch normalisation')
def test_family(case):
    name, *recipes = case
    family = FAMILIES[name]
    if family.needs and importlib.util.find_spec(family.needs) is None:
        pytest.skip(f'needs {family.needs}')
    plain = build(family)
    assert find_cam_layer(plain) == f'backbone.{family.layer}'
    inputs, samples = batch(plain, family.shape)
    before = copy.deepcopy(plain.state_dict())

    torch.manual_seed(1)
    total(losses_of(plain, inputs, samples)).backward()
    reached = {n for n, value in plain.named_parameters() if value.grad is not None}
    after = copy.deepcopy(plain.state_dict())

    for recipe in map(RECIPES.get, recipes):
        plain.load_state_dict(before)
        model = make_adversarial(plain, recipe)
        model.zero_grad()
        torch.manual_seed(1)
        losses = losses_of(model, inputs, samples)
        assert any(key.startswith('adv_loss') for key in losses)
        assert all(value.isfinite().all() for value in losses.values())
        total(losses).backward()
        assert reached == {n for n, value in model.named_parameters() if value.grad is not None} - {
            n for n, _ in model.named_parameters() if '.adv_' in n
        }

        state = model.state_dict()
        statistics = [n for n in state if n.endswith(('running_mean', 'running_var', 'tracked'))]
        assert all(torch.equal(state[n], after[n]) for n in statistics), 'clean statistics moved'
        adversary = get_adversary(model)
        means = [b for n, b in model.named_buffers() if n.endswith('adv_running_mean')]
        assert bool(means) == bool(statistics) and (not means or any(b.any() for b in means))

        moved = model.perturb(inputs, samples) - inputs
        std = model.data_preprocessor.std.min()
        assert 0 < moved.abs().max() <= recipe.eps * 255 / std * (1 + 1e-5)
        assert moved.flatten(1).any(dim=1).all(), 'every clip is attacked'
        assert adversary.schedule.adversarial_steps >= 1

        torch.optim.SGD(model.parameters(), lr=0.01).step()
        state = remove_adversarial(model).state_dict()
        changed = [n for n in reached if not torch.equal(state[n], before[n])]
        assert len(changed) > 0.9 * len(reached)
        build(family).load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    'name',
    default_tier(
        ['swin', 'uniformer'].__contains__,
        ['mvit', 'swin', 'timesformer joint', 'uniformer', 'videomaev2'],
    ),
)
def test_dual_layer_norms(name):
    """Every LayerNorm has entries for the adversarial path, which that path alone trains."""
    plain = build(FAMILIES[name])
    keys = list(plain.state_dict())
    norms = [n for n, module in plain.named_modules() if isinstance(module, nn.LayerNorm)]
    batch_norms = any('running_mean' in key for key in keys)
    recipe = TAF(eps=8 / 255, step_size=8 / 255, dual_ln=True, dual_bn=batch_norms)
    model = make_adversarial(plain, recipe)
    assert list(model.state_dict()) == keys
    parameters = dict(model.named_parameters())
    for clean_weight in (True, False):
        model.zero_grad()
        losses = losses_of(model, *batch(model, FAMILIES[name].shape))
        wanted = [k for k in losses if 'loss' in k and k.startswith('adv_') != clean_weight]
        sum(losses[key] for key in wanted).backward()
        for norm in norms:
            clean, adv = (parameters[f'{norm}.{prefix}weight'].grad for prefix in ('', 'adv_'))
            mine, other = (clean, adv) if clean_weight else (adv, clean)
            assert mine.any() and (other is None or not other.any()), norm
    remove_adversarial(model)
    assert list(model.state_dict()) == keys
