"""Where the feature maps are and what their axes mean, against the models' own reshapes."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from helpers import NUM_CLASSES, build_recognizer, data_samples, slowonly_config, tsm_config
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from adv_plugins import TAF, make_adversarial
from adv_plugins.adapters.cam_layers import feature_map, find_cam_layer
from adv_plugins.core.capture import capture_output, to_frames
from adv_plugins.visualization import gradcam

HEAD = dict(num_classes=NUM_CLASSES, in_channels=24)
VIT = dict(
    type='VisionTransformer',
    img_size=32,
    patch_size=8,
    embed_dims=24,
    depth=2,
    num_heads=2,
    num_frames=8,
)
MVIT = dict(type='MViT', arch=dict(embed_dims=24, num_layers=3, num_heads=1, downscale_indices=[1]))
UNIFORMERV2 = dict(
    type='UniFormerV2',
    input_resolution=32,
    patch_size=8,
    width=24,
    layers=2,
    heads=2,
    t_size=4,
    return_list=[0, 1],
    n_layers=2,
    n_dim=24,
    n_head=2,
    mlp_dropout=[0.0, 0.0],
    clip_pretrained=False,
)


def timesformer(attention_type: str) -> dict[str, Any]:
    return dict(
        type='TimeSformer',
        num_frames=4,
        img_size=32,
        patch_size=8,
        embed_dims=24,
        num_heads=2,
        num_transformer_layers=2,
        attention_type=attention_type,
    )


def swin() -> dict[str, Any]:
    arch = dict(embed_dims=6, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
    return dict(type='SwinTransformer3D', arch=arch, patch_size=(2, 4, 4), window_size=(2, 2, 2))


def recognizer(
    backbone: dict[str, Any], head: str = 'TimeSformerHead', **options: Any
) -> nn.Module:
    config = dict(
        type='Recognizer3D',
        backbone=backbone,
        cls_head=dict(type=head, **{**HEAD, **options}),
        data_preprocessor=dict(type='ActionDataPreprocessor', format_shape='NCTHW'),
    )
    return build_recognizer(config).eval()


def image_recognizer(backbone: dict[str, Any], width: int) -> nn.Module:
    config = dict(
        type='Recognizer2D',
        backbone=backbone,
        cls_head=dict(
            type='TSNHead', num_classes=NUM_CLASSES, in_channels=width, dropout_ratio=0.0
        ),
        data_preprocessor=dict(type='ActionDataPreprocessor', format_shape='NCHW'),
    )
    return build_recognizer(config)


def frames(model: nn.Module, clip: Tensor, layer: str | None = None) -> tuple[Tensor, Any]:
    """The map at a layer as (B, T, C, H, W), and what the backbone returned."""
    layer = layer or find_cam_layer(model)
    with capture_output(model.get_submodule(layer)) as outputs, torch.no_grad():
        result = model.backbone(clip)
    output, layout = feature_map(model, layer, outputs[-1], clip)
    return to_frames(output, len(clip), layer, layout), result


def test_tokens_of_videomae_are_the_feature_map_it_can_return():
    model = recognizer({**VIT, 'return_feat_map': True})
    clip = torch.randn(2, 3, 8, 32, 48)
    found, result = frames(model, clip)
    # The model's own (B, C, T, H, W), behind its last norm.
    norm = model.backbone.norm
    assert found.shape == (2, 8 // 2, 24, 4, 6)
    expected = result.transpose(1, 2)
    assert torch.equal(norm(found.movedim(2, -1)).movedim(-1, 2), expected)


@pytest.mark.parametrize('cls_token', [True, False])
def test_tokens_of_mvit_are_the_feature_map_it_returns(cls_token):
    model = recognizer(
        {**MVIT, 'with_cls_token': cls_token, 'output_cls_token': cls_token}, 'MViTHead'
    )
    clip = torch.randn(2, 3, 8, 32, 48)
    # The last block, to compare with what comes behind it.
    found, ((*patches, _), *_) = frames(model, clip, 'backbone.blocks.2')
    expected = patches[0] if cls_token else frames(model, clip, 'backbone.blocks.2')[1][0]
    (norm,) = [m for n, m in model.backbone.named_children() if n.startswith('norm')]
    assert found.shape[1] == 4
    normed = norm(found.movedim(2, -1)).movedim(-1, 2)
    assert torch.allclose(normed, expected.transpose(1, 2), atol=1e-5)


def test_tokens_of_swin_are_the_feature_map_it_returns():
    model = recognizer(swin(), 'I3DHead', in_channels=48)
    clip = torch.randn(2, 3, 8, 64, 96)
    found, result = frames(model, clip)
    normed = model.backbone.norm3(found.movedim(2, -1)).movedim(-1, 2)
    assert torch.equal(normed, result.transpose(1, 2)) and found.shape == (2, 4, 48, 2, 3)


TOKENS = {
    'divided': timesformer('divided_space_time'),
    'joint': timesformer('joint_space_time'),
    'space only': timesformer('space_only'),
    'uniformerv2': UNIFORMERV2,
}


def most_moved(model: nn.Module, clip: Tensor, layer: str | None, place: tuple) -> list[int]:
    """The (b, t, h, w) of the map that moves most with one patch of one frame of one clip."""
    before, _ = frames(model, clip, layer)
    moved = clip.clone()
    moved[place] += 3 * torch.randn_like(moved[place])
    after, _ = frames(model, moved, layer)
    distance = (after - before).norm(dim=2)
    assert (distance[1 - place[0]] < 1e-5).all(), 'another clip has moved'
    return torch.stack(torch.unravel_index(distance.argmax(), distance.shape)).tolist()


@pytest.mark.parametrize('backbone', TOKENS.values(), ids=list(TOKENS))
def test_tokens_of_class_token_models_are_where_their_patches_are(backbone):
    model = recognizer(backbone)
    clip = torch.randn(2, 3, 4, 32, 32)
    patch = (1, slice(None), 2, slice(8, 16), slice(24, 32))
    assert frames(model, clip)[0].shape == (2, 4, 24, 4, 4)
    assert most_moved(model, clip, None, patch) == [1, 2, 1, 3]


def test_first_token_is_a_class_token_without_mean_pooling():
    """The last block's other tokens are read by nobody then."""
    model = recognizer({**VIT, 'use_mean_pooling': False})
    assert find_cam_layer(model) == 'backbone.blocks.0'


def test_options_that_move_the_last_stage():
    uniformer = recognizer({**UNIFORMERV2, 'layers': 3})
    assert find_cam_layer(uniformer) == 'backbone.transformer.resblocks.1'
    assert find_cam_layer(recognizer({**swin(), 'out_indices': (2,)})) == 'backbone.layers.2'
    mvit = {**MVIT, 'with_cls_token': False, 'output_cls_token': False}
    assert find_cam_layer(recognizer(mvit, 'MViTHead')) == 'backbone.blocks.2'


def test_axes_of_other_layers_are_not_guessed():
    """Swin embeds its patches with the channels in front, and has them last in its stages."""
    model, clip = recognizer(swin(), 'I3DHead', in_channels=48), torch.randn(2, 3, 8, 64, 96)
    found, _ = frames(model, clip, 'backbone.patch_embed')
    assert found.shape == (2, 4, 6, 16, 24)
    with pytest.raises(ValueError, match='whose axes are unknown; .*cam_layout'):
        frames(recognizer(VIT), torch.randn(2, 3, 8, 32, 32), 'backbone.blocks.1.norm1')


def test_a_class_token_has_no_place_in_the_map():
    tokens = torch.arange(2 * 9.0).view(2, 9, 1)
    found = to_frames(tokens, 2, 'blocks.0', 'b 1+(t h w) c; h=2 w=2')
    assert torch.equal(found.flatten(), tokens[:, 1:].flatten())
    with pytest.raises(ValueError, match='does not fit the shape'):
        to_frames(tokens, 2, 'blocks.0', 'b (t h w) c; h=2 w=2')
    with pytest.raises(ValueError, match='does not fit the shape'):
        to_frames(tokens, 2, 'blocks.0', 'b (t h w) c 1+(x y)')


def test_silent_layer_is_told():
    """The tokens of the last block of a class-token model reach no class score."""
    model = recognizer(timesformer('divided_space_time')).train()
    batch = torch.randn(2, 1, 3, 4, 32, 32), data_samples([0, 1])
    layer = 'backbone.transformer_layers.layers.1'
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*no batch normalisation')
        make_adversarial(model, 'taf', cam_layer=layer)
    with pytest.warns(UserWarning, match=f'moved no sample.*{layer}'):
        model(*batch, mode='loss')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(*batch, mode='loss')


@pytest.mark.parametrize(
    ('backbone', 'layer', 'shape'),
    [
        (dict(type='timm.resnet18'), 'layer4', (2, 4, 512, 2, 2)),
        (dict(type='timm.efficientnet_b0'), 'blocks.6', (2, 4, 320, 2, 2)),
        (
            dict(type='timm.vit_tiny_patch16_224', img_size=64),
            'blocks.11',
            (2, 4, 192, 4, 4),
        ),
        (
            dict(type='timm.swin_tiny_patch4_window7_224', img_size=64, feature_shape='NHWC'),
            'layers.3',
            (2, 4, 768, 2, 2),
        ),
        (dict(type='torchvision.resnet18'), 'layer4', (2, 4, 512, 2, 2)),
        (dict(type='torchvision.mobilenet_v3_small'), 'features', (2, 4, 576, 2, 2)),
        pytest.param(
            dict(type='torchvision.swin_t', feature_shape='NHWC'),
            'features',
            (2, 4, 768, 2, 2),
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_backbones_of_timm_and_torchvision(backbone, layer, shape):
    # EfficientNet has one more 1x1 convolution behind its stages.
    model = image_recognizer(backbone, 1280 if 'efficientnet' in backbone['type'] else shape[2])
    assert find_cam_layer(model) == f'backbone.{layer}'
    clip, samples = torch.randn(2, 4, 3, 64, 64), data_samples([0, 1])
    model.loss(clip, samples)  # Recognizer2D learns the shape of the features in its first forward
    model.eval()
    before = image_map(model, layer, clip)
    assert before.shape == shape
    moved = clip.clone()
    corner = moved[1, 2, :, : 64 // shape[3], -64 // shape[4] :]
    corner += 3 * torch.randn_like(corner)
    distance = (image_map(model, layer, moved) - before).norm(dim=2)
    assert distance.flatten(2).any(dim=2).nonzero().tolist() == [[1, 2]], 'one frame has moved'
    if shape[3:] == (4, 4) or 'swin' in backbone['type']:
        # Tokens; those of convolutions see about the whole of so small a frame.
        place = torch.unravel_index(distance.argmax(), distance.shape)
        assert [int(axis) for axis in place] == [1, 2, 0, shape[4] - 1]
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*no batch normalisation')
        make_adversarial(model.train(), TAF(eps=8 / 255))
    losses = model(clip, samples, mode='loss')
    assert all(value.isfinite() for value in losses.values()) and losses['adv_ratio'] > 0


def image_map(model: nn.Module, layer: str, clip: Tensor) -> Tensor:
    """The map of an image backbone at a layer as (B, T, C, H, W)."""
    with capture_output(model.get_submodule(f'backbone.{layer}')) as outputs, torch.no_grad():
        model.extract_feat(clip)
    output, layout = feature_map(model, f'backbone.{layer}', outputs[-1], clip)
    return to_frames(output, len(clip), layer, layout)


def test_axes_that_timm_does_not_tell_are_told_by_the_channels():
    """VOLO's last stage has its channels last and does not say so; MViT's are not the map's."""
    model = image_recognizer(dict(type='timm.volo_d1_224', img_size=64), 384)
    clip = torch.randn(2, 4, 3, 64, 64)
    assert image_map(model, 'network.4', clip).shape == (2, 4, 384, 4, 4)
    model.backbone.feature_info[-1]['num_chs'] = 100
    with pytest.raises(ValueError, match='does not fit its output .*cam_layout'):
        image_map(model, 'network.4', clip)
    make_adversarial(model, 'taf', cam_layout='(b t) h w c', eps=8 / 255)
    assert model(clip, data_samples([0, 1]), mode='loss')['adv_ratio'] > 0


def test_what_the_user_says_of_the_axes_stands():
    """Of tokens that come with their grid, too."""
    model = recognizer(MVIT, 'MViTHead')
    clip, layer = torch.randn(2, 3, 8, 32, 48), 'backbone.blocks.0'
    with capture_output(model.get_submodule(layer)) as outputs:
        model.backbone(clip)
    found = feature_map(model, layer, outputs[-1], clip, 'b 1+(w h t) c; t=4 h=2')
    assert torch.equal(found[0], outputs[-1][0]) and found[1] == 'b 1+(w h t) c; t=4 h=2'


def test_pairs_are_no_tokens_with_their_grid():
    model = build_recognizer(tsm_config(num_segments=4, out_indices=(2, 3)))
    pair = (torch.randn(8, 256, 2, 2), torch.randn(8, 512, 2, 2))
    output, layout = feature_map(model, 'backbone', pair, torch.randn(2, 4, 3, 32, 32))
    with pytest.raises(ValueError, match='returns a tuple'):
        to_frames(output, 2, 'backbone', layout)


def test_no_name_is_known_of_an_unknown_backbone():
    model = build_recognizer(slowonly_config())
    model.backbone = nn.Sequential(nn.Conv3d(3, 8, 1))
    assert find_cam_layer(model) == ''
    model.backbone = nn.Sequential()
    model.backbone.res_layers = []
    assert find_cam_layer(model) == ''


def test_no_name_is_known_of_a_class_token_model_of_one_block():
    backbone = {**timesformer('joint_space_time'), 'num_transformer_layers': 1}
    assert find_cam_layer(recognizer(backbone)) == ''


def test_pictures_find_the_same_maps():
    model = recognizer(VIT)
    clip = torch.randn(2, 1, 3, 8, 32, 48)
    maps = gradcam(model, clip, data_samples([0, 1]), torch.tensor([0, 1]))
    assert maps.shape == (2, 4, 4, 6)


def test_stages_named_in_a_list():
    assert find_cam_layer(build_recognizer(tsm_config())) == 'backbone.layer4'
    model = build_recognizer(tsm_config())
    stock = copy.copy(model.backbone.res_layers)
    model.backbone.res_layers = stock[:-1]
    assert find_cam_layer(model) == 'backbone.layer3'
