"""Heatmaps, heatmaps beside frames, and spectrograms: every recipe, and which map TAF means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NUM_CLASSES, build_recognizer, data_samples, slowonly_config, tsm_config
from torch import Tensor, nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

import mmaction
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS

from adv_plugins import make_adversarial
from adv_plugins.adapters.cam_layers import feature_map, find_cam_layer
from adv_plugins.adapters.mmaction import RecognizerAdapter
from adv_plugins.core.capture import capture_output, to_frames

CONFIGS = Path(mmaction.__file__).parent / '.mim/configs'
POSEC3D = 'skeleton/posec3d/slowonly_r50_8xb16-u48-240e_ntu60-xsub-keypoint'
RGBPOSE = 'skeleton/posec3d/rgbpose_conv3d/rgbpose_conv3d'
AUDIO = {
    'resnet': 'recognition_audio/resnet/tsn_r18_8xb320-64x1x1-100e_kinetics400-audio-feature',
    'resnet audio': (
        'recognition_audio/audioonly/audioonly_r50_8xb160-64x1x1-100e_kinetics400-audio-feature'
    ),
}
RECIPES = ('taf', 'ceaugmentation', 'advprop')
pytestmark = pytest.mark.filterwarnings('ignore:.*units of the input')


def model_config(path: str) -> Any:
    return Config.fromfile(CONFIGS / f'{path}.py').model


def rgbpose_config(**head: Any) -> Any:
    """The stock recognizer with narrow stages of one block."""
    model = model_config(RGBPOSE)
    model.backbone.rgb_pathway.update(base_channels=8, stage_blocks=(1, 1, 1, 1))
    model.backbone.pose_pathway.update(base_channels=4, stage_blocks=(1, 1, 1))
    model.cls_head.update(num_classes=NUM_CLASSES, in_channels=(256, 64), **head)
    return model


def frames_and_heatmaps(count: int) -> tuple[dict[str, Tensor], list]:
    inputs = dict(imgs=torch.randn(count, 1, 3, 4, 32, 32))
    inputs['heatmap_imgs'] = torch.rand(count, 1, 17, 16, 8, 8)
    return inputs, data_samples([i % NUM_CLASSES for i in range(count)])


def audio(kind: str) -> nn.Module:
    model = model_config(AUDIO[kind])
    if kind == 'resnet audio':
        model.backbone.base_channels = 8
        model.cls_head.in_channels = 256
    model.cls_head.num_classes = NUM_CLASSES
    return build_recognizer(model)


def take_step(model: nn.Module, *batch: Any) -> dict[str, Tensor]:
    """The losses of a training step in which every parameter takes part."""
    losses = model(*batch, mode='loss')
    assert all(value.isfinite().all() for value in losses.values())
    assert not losses['adv_unmoved']
    model.parse_losses(losses)[0].backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)
    return losses


@pytest.mark.parametrize('recipe', RECIPES)
def test_posec3d(recipe):
    config = model_config(POSEC3D)
    config.backbone.update(stage_blocks=(1, 1, 1), base_channels=8)
    config.cls_head.update(num_classes=NUM_CLASSES, in_channels=128)
    model = build_recognizer(config)
    assert find_cam_layer(model) == 'backbone.layer3'
    clips, samples = torch.rand(2, 1, 17, 8, 16, 16), data_samples([1, 4])
    adapter = RecognizerAdapter(model)
    assert list(adapter.clip_axes(clips, '')) == [(3, 4, 5)]
    take_step(make_adversarial(model, recipe, eps=0.1, step_size=0.1), clips, samples)
    moved = model.perturb(clips, samples) - clips
    torch.testing.assert_close(moved.abs().amax(), torch.tensor(0.1))


def test_pipeline_of_posec3d():
    draw = np.random.default_rng(0)
    video = dict(
        frame_dir='0',
        label=1,
        start_index=0,
        modality='Pose',
        total_frames=20,
        img_shape=(60, 80),
        original_shape=(60, 80),
        keypoint=draw.uniform(10, 50, (2, 20, 17, 2)).astype(np.float32),
        keypoint_score=draw.uniform(0.5, 1, (2, 20, 17)).astype(np.float32),
    )
    for part in ('train', 'val'):
        pipeline = Compose(Config.fromfile(CONFIGS / f'{POSEC3D}.py')[f'{part}_pipeline'])
        heatmaps = pipeline(dict(video))['inputs']
        assert heatmaps.shape[:3] == (1, 17, 48) and 0 < heatmaps.max() <= 1


@pytest.mark.parametrize('count', [2, NUM_CLASSES], ids=['two clips', 'as many as classes'])
@pytest.mark.parametrize('recipe', RECIPES)
def test_frames_beside_heatmaps(recipe, count):
    """The attack of TAF is on the scores of the frames, which both modalities reach."""
    model = build_recognizer(rgbpose_config())
    assert find_cam_layer(model) == 'backbone.rgb_path.layer4'
    inputs, samples = frames_and_heatmaps(count)
    given = {name: value.clone() for name, value in inputs.items()}
    make_adversarial(model, recipe, eps=0.1, step_size=0.1)
    losses = take_step(model, inputs, samples)
    assert {'rgb_loss_cls', 'pose_loss_cls'} <= losses.keys()
    assert {'adv_rgb_loss_cls', 'adv_pose_loss_cls'} <= losses.keys()
    moved = model.perturb(inputs, samples)
    for name, value in inputs.items():
        assert torch.equal(value, given[name]), 'the inputs stay the caller’s'
        assert (moved[name] != value).flatten(1).any(dim=1).all()
    heat = (moved['heatmap_imgs'] - inputs['heatmap_imgs']).abs().amax()
    torch.testing.assert_close(heat, torch.tensor(0.1))


def test_the_first_modality_in_the_loss_leads():
    model = build_recognizer(rgbpose_config(loss_components=['pose', 'rgb']))
    assert find_cam_layer(model) == 'backbone.pose_path.layer3'
    take_step(make_adversarial(model, 'taf', eps=0.1, step_size=0.1), *frames_and_heatmaps(2))


def test_scores_of_two_clips_a_video_are_told():
    model = make_adversarial(build_recognizer(rgbpose_config()), 'taf')
    inputs, samples = frames_and_heatmaps(2)
    inputs = {name: value.expand(-1, 2, *value.shape[2:]) for name, value in inputs.items()}
    with pytest.raises(ValueError, match='4 scores for 2 videos.*one clip'):
        model(inputs, samples, mode='loss')


class FramesAndHeatmaps(torch.utils.data.Dataset):
    """Four videos of both modalities, as the stock pipeline packs them."""

    metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = torch.randint(256, (1, 3, 4, 32, 32), dtype=torch.uint8)
        inputs = dict(imgs=frames, heatmap_imgs=torch.rand(1, 17, 16, 8, 8))
        return dict(inputs=inputs, data_samples=data_samples([index])[0])


def test_hook_trains_on_frames_and_heatmaps(train):
    DATASETS.register_module(module=FramesAndHeatmaps, force=True)
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(type='FramesAndHeatmaps', _scope_='mmengine'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )
    runner = train(
        model=rgbpose_config(),
        train_dataloader=loader,
        max_epochs=1,
        custom_hooks=[dict(type='TAFHook')],
    )
    logged = runner.message_hub.log_scalars
    assert np.isfinite(logged['train/adv_pose_loss_cls'].data[0]).all()
    assert logged['train/adv_unmoved'].current() == 0


@pytest.mark.parametrize('kind', AUDIO)
@pytest.mark.parametrize('recipe', RECIPES)
def test_spectrograms(recipe, kind):
    model = audio(kind)
    sounds, samples = torch.randn(2, 1, 1, 64, 80), data_samples([1, 4])
    make_adversarial(model, recipe, eps=0.1, step_size=0.1)
    with pytest.warns(UserWarning, match='units of the input.*no pixels: choose eps by this ratio'):
        take_step(model, sounds, samples)
    moved = model.perturb(sounds, samples) - sounds
    torch.testing.assert_close(moved.abs().amax(), torch.tensor(0.1))


@pytest.mark.parametrize('kind', AUDIO)
def test_maps_of_spectrograms_have_their_time(kind):
    model = audio(kind).eval()
    layer = find_cam_layer(model)
    assert layer == 'backbone.layer4'

    def frames(sounds: Tensor) -> Tensor:
        with capture_output(model.get_submodule(layer)) as outputs, torch.no_grad():
            model(sounds)
        output, layout = feature_map(model, layer, outputs[-1], sounds)
        return to_frames(output, len(sounds), layer, layout)

    sounds = torch.randn(2, 1, 1, 256, 64)
    assert list(RecognizerAdapter(model).clip_axes(sounds, '')) == [(3, 1, 4)]
    before = frames(sounds)
    assert before.shape[3] == 1 and before.shape[1] == 4 * before.shape[4] >= 8
    for part in (slice(0, 16), slice(-16, None)):
        moved = sounds.clone()
        moved[1, ..., part, :] += 3 * torch.randn_like(moved[1, ..., part, :])
        change = (frames(moved) - before).abs().sum(dim=(2, 3, 4))
        assert not change[0].any()
        halves = change[1].unflatten(0, (2, -1)).sum(dim=1)
        assert halves.argmax() == (part.start != 0)


def test_a_sound_too_short_is_told():
    model = make_adversarial(audio('resnet'), 'taf')
    with pytest.raises(ValueError, match=r'without a time axis \(T=1\)'):
        model(torch.randn(2, 1, 1, 32, 64), data_samples([1, 4]), mode='loss')


def test_axes_of_clips_and_of_frames():
    """Three frames of three colours too: Recognizer2D has the frames in front."""
    frames, clips = torch.randn(2, 3, 3, 32, 32), torch.randn(2, 1, 3, 4, 32, 32)
    tsm = RecognizerAdapter(build_recognizer(tsm_config()))
    slow = RecognizerAdapter(build_recognizer(slowonly_config()))
    assert list(tsm.clip_axes(frames, '')) == [(1, 3, 4)]
    assert list(slow.clip_axes(clips, '')) == [(3, 4, 5)]
