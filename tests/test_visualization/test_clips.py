"""Looking at clips: what is recorded is what the model saw, and the model stays as it was."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    Conv3dNet,
    assert_same,
    build_recognizer,
    data_samples,
    slowonly_config,
    snapshot,
    tsm_config,
)
from test_zoo import FAMILIES, build
from video_clips import LABELS, clips_of

from adv_plugins import make_adversarial
from adv_plugins.evaluation.cam import frame_attention, gradcam
from adv_plugins.recipes import CEAugmentation
from adv_plugins.visualization.clips import look, middle_view, recipe_attack, spread, upsample
from adv_plugins.visualization.token_attention import video_attention

EPS = 8


WEAK = CEAugmentation(eps=EPS / 255, step_size=EPS / 255)


def as_frames(pixels):
    """(B, T, H, W, 3) of clips as recognizers take them."""
    if pixels.ndim == 5:
        return pixels.permute(0, 1, 3, 4, 2).numpy()
    return pixels[:, 0].permute(0, 2, 3, 4, 1).numpy()


def probabilities(model, inputs, samples):
    """What the model predicts in test mode, by a copy, which the call may change."""
    model = copy.deepcopy(model)
    model.cls_head.average_clips = 'prob'
    with torch.no_grad():
        predicted = model(inputs, copy.deepcopy(samples), mode='predict')
    return torch.stack([sample.pred_score for sample in predicted])


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('c3d', marks=pytest.mark.exhaustive),
        'i3d',
        'mvit',
        'slowfast',
        'swin',
        'tanet',
        'timesformer divided',
        'timesformer space only',
        'tpn slowonly',
        'tpn tsm',
        'tsm',
        'tsn',
        'uniformer',
        pytest.param('uniformerv2 base', marks=pytest.mark.exhaustive),
        'videomae',
        'x3d',
    ],
)
def test_families(name):
    model = build(FAMILIES[name]).eval()
    pixels, inputs, samples = clips_of(model, FAMILIES[name].shape)
    given, before = inputs.clone(), snapshot(model)
    seen = look(model, inputs, samples, recipe_attack(model, WEAK))
    assert_same(before, snapshot(model))
    assert torch.equal(inputs, given)

    scores = probabilities(model, inputs, samples)
    maps = gradcam(model, inputs, samples, torch.tensor(LABELS))
    expected = as_frames(pixels)
    assert len(seen) == len(expected) == 2
    for index, clip in enumerate(seen):
        np.testing.assert_array_equal(clip.frames, expected[index])
        size = clip.frames.shape[:3]
        large = F.interpolate(maps[index][None, None], size, mode='trilinear')[0, 0]
        np.testing.assert_allclose(clip.cam, large, rtol=1e-4, atol=1e-6)
        steps = clip.attention.reshape(maps.shape[1], -1).sum(1)
        np.testing.assert_allclose(steps, frame_attention(maps)[index], atol=1e-6)
        assert clip.attention.shape == size[:1]
        assert (clip.label, clip.cam_class) == (LABELS[index], LABELS[index])
        assert clip.predicted == scores[index].argmax()
        assert clip.score == pytest.approx(scores[index].max().item(), rel=1e-3)

        moved = clip.adversarial
        assert moved.adversarial is None and moved.perturbation is None
        assert clip.perturbation.shape == clip.frames.shape == moved.frames.shape
        assert EPS * 0.99 < np.abs(clip.perturbation).max() <= EPS + 1e-3
        sums = (clip.frames + clip.perturbation).clip(0, 255)
        assert np.abs(moved.frames - sums).max() <= 0.5 + 1e-3
        assert moved.cam.shape == size and moved.label == clip.label
        # Where no pixel is evidence, no frame has a share of it.
        total = 1 if moved.cam.any() else float('nan')
        assert moved.attention.sum() == pytest.approx(total, abs=1e-5, nan_ok=True)
    assert any((clip.cam != clip.adversarial.cam).any() for clip in seen)


def test_what_tpn_head_keeps_is_neither_used_nor_lost():
    """The classifier of its first test, and the pool of the size of its first clips."""
    model = build(FAMILIES['tpn tsm']).eval()
    _, inputs, samples = clips_of(model, (2, 8, 3, 32, 32))
    (first, _) = look(model, inputs, samples)
    assert model.cls_head.avg_pool2d is None

    model(clips_of(model, (2, 8, 3, 64, 64))[1], samples, mode='loss')
    model.cls_head.new_cls = torch.nn.Conv3d(2048, 6, 1)
    pool, before = model.cls_head.avg_pool2d, snapshot(model)
    (again, _) = look(model, inputs, samples)
    assert_same(before, snapshot(model))
    assert model.cls_head.avg_pool2d is pool and pool.kernel_size[1] == 2
    assert (again.predicted, again.score) == (first.predicted, first.score)
    np.testing.assert_array_equal(again.cam, first.cam)


@pytest.fixture(scope='module')
def tsm():
    torch.manual_seed(0)
    return build_recognizer(tsm_config()).eval()


@pytest.fixture(scope='module')
def slowonly():
    torch.manual_seed(0)
    return build_recognizer(slowonly_config()).eval()


def test_views_in_the_middle(tsm, slowonly):
    for model, shape in ((tsm, (2, 12, 3, 32, 32)), (slowonly, (2, 3, 3, 4, 32, 32))):
        pixels, inputs, samples = clips_of(model, shape)
        middle = slice(4, 8) if model is tsm else slice(1, 2)
        seen = look(model, inputs, samples, recipe_attack(model, WEAK))
        expected = look(model, inputs[:, middle], samples, recipe_attack(model, WEAK))
        for clip, alone in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(clip.frames, alone.frames)
            np.testing.assert_array_equal(clip.perturbation, alone.perturbation)
        np.testing.assert_array_equal(seen[1].frames, as_frames(pixels[:, middle])[1])


def test_all_frames_are_one_view_where_the_head_averages_them(slowonly):
    inputs = torch.randn(1, 25, 3, 8, 8)
    assert middle_view(slowonly, inputs) is not inputs
    assert torch.equal(middle_view(slowonly, inputs), inputs)


def test_frames_without_normalisation():
    config = tsm_config()
    config['data_preprocessor'] = dict(type='ActionDataPreprocessor', format_shape='NCHW')
    model = build_recognizer(config).eval()
    pixels, inputs, samples = clips_of(model, (1, 4, 3, 32, 32))
    (clip,) = look(model, inputs, samples, recipe_attack(model, WEAK))
    np.testing.assert_array_equal(clip.frames, as_frames(pixels)[0])
    assert np.abs(clip.perturbation).max() == pytest.approx(EPS, abs=1e-3)


def test_evidence_of_the_label_or_of_the_prediction(tsm):
    _, inputs, samples = clips_of(tsm, (2, 4, 3, 64, 64))
    other = lambda inputs, _: inputs.flip(0)  # noqa: E731
    for clip in look(tsm, inputs, samples, other, cam_of='predicted'):
        assert clip.cam_class == clip.predicted
        assert clip.adversarial.cam_class == clip.adversarial.predicted
    predicted = torch.tensor([look(tsm, inputs, samples)[0].predicted] * 2)
    maps = gradcam(tsm, inputs, samples, predicted)
    (clip, _) = look(tsm, inputs, samples, cam_of='predicted')
    np.testing.assert_allclose(clip.cam, upsample(maps, (4, 64, 64))[0], rtol=1e-4)
    for clip in look(tsm, inputs, samples, other):
        assert clip.cam_class == clip.adversarial.cam_class == clip.label


def test_a_wrong_prediction_has_its_own_evidence_beside_that_of_the_label(tsm):
    _, inputs, samples = clips_of(tsm, (2, 4, 3, 64, 64))
    predicted = [clip.predicted for clip in look(tsm, inputs, samples)]
    samples[0].set_gt_label(predicted[0])
    samples[1].set_gt_label((predicted[1] + 1) % 2)
    right, wrong = look(tsm, inputs, samples, lambda inputs, _: inputs, cam_of='both')
    (_, own) = look(tsm, inputs, samples, cam_of='predicted')
    for clip in (wrong, wrong.adversarial):
        assert clip.cam_class == clip.label != clip.predicted == own.cam_class
        np.testing.assert_allclose(clip.predicted_cam, own.cam, rtol=1e-4)
        assert (clip.cam != clip.predicted_cam).any()
    assert right.predicted_cam is None and right.adversarial.predicted_cam is None
    assert all(clip.predicted_cam is None for clip in look(tsm, inputs, samples))


def test_another_layer(tsm):
    _, inputs, samples = clips_of(tsm, (2, 4, 3, 64, 64))
    labels = torch.tensor(LABELS)
    seen = look(tsm, inputs, samples, cam_layer='backbone.layer2')
    maps = gradcam(tsm, inputs, samples, labels, cam_layer='backbone.layer2')
    np.testing.assert_allclose(seen[1].cam, upsample(maps, (4, 64, 64))[1], rtol=1e-4)
    assert (seen[1].cam != look(tsm, inputs, samples)[1].cam).any()


def test_attack_is_that_of_the_deployed_model_and_the_same_every_time(tsm):
    _, inputs, samples = clips_of(tsm, (2, 4, 3, 32, 32))
    recipe = CEAugmentation(eps=EPS / 255, step_size=2 / 255, steps=2, random_start=True)
    before = snapshot(tsm)
    expected = recipe_attack(tsm, recipe)(inputs, samples)
    assert_same(before, snapshot(tsm))

    converted = make_adversarial(copy.deepcopy(tsm), 'taf')
    for name, value in converted.named_buffers():
        if 'adv_' in name:
            value.add_(1)
    torch.manual_seed(5)
    for _ in range(2):
        moved = recipe_attack(converted, recipe)(inputs, samples)
        torch.testing.assert_close(moved, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (
            lambda m, i, s: look(m, i, s, cam_of='logits'),
            ValueError,
            "cam_of='label' or cam_of='predicted' or cam_of='both'",
        ),
        (lambda m, i, s: look(m.train(), i, s), ValueError, r'model\.eval\(\)'),
        (lambda m, i, s: look(m, i[:, :, :2], s), ValueError, r'RGB clips .*\(2, 4, 2, 32, 32\)'),
        (lambda m, i, s: look(m, {'rgb': i}, s), ValueError, 'RGB clips .* got dict'),
        (lambda m, i, s: look(m, i[:, :3], s), ValueError, '3 frames .*num_segments=4'),
        (lambda m, i, s: look(m, i, s, cam_layer='backbone.layer5'), ValueError, 'layer4'),
        (lambda m, i, s: look(Conv3dNet().eval(), i, s), TypeError, 'recognizer, got Conv3dNet'),
        (lambda m, i, s: recipe_attack(m, 'tuf'), ValueError, "'TAF'"),
        (lambda m, i, s: recipe_attack(Conv3dNet(), 'taf'), TypeError, 'recognizer'),
        (lambda m, i, s: video_attention(m, i, s), ValueError, 'ResNetTSM has no axis of frames'),
        (lambda m, i, s: video_attention(m.train(), i, s), ValueError, r'model\.eval\(\)'),
    ],
)
def test_what_does_not_fit_is_told(tsm, change, error, message):
    _, inputs, samples = clips_of(tsm, (2, 4, 3, 32, 32))
    try:
        with pytest.raises(error, match=message):
            change(tsm, inputs, samples)
    finally:
        tsm.eval()


def test_soft_labels_are_told(tsm):
    _, inputs, _ = clips_of(tsm, (2, 4, 3, 32, 32))
    samples = data_samples(LABELS)
    for sample in samples:
        sample.set_gt_label(torch.full((6,), 1 / 6))
    with pytest.raises(ValueError, match='a look at a clip needs one hard label'):
        look(tsm, inputs, samples)


def test_upsampling():
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 1, 0, 1] = 16
    large = upsample(maps, (4, 4, 4))[0]
    # Linear between the middles of the cells, constant outside of them.
    steps = torch.tensor([0, 0.25, 0.75, 1])
    expected = 16 * torch.einsum('t,h,w->thw', steps, steps.flip(0), steps)
    torch.testing.assert_close(large, expected)
    torch.testing.assert_close(upsample(maps, (2, 2, 2)), maps)


def test_shares_of_frames():
    shares = spread(np.array([[0.25, 0.75], [1.0, 0.0]]), 4)
    np.testing.assert_allclose(shares, [[0.125, 0.125, 0.375, 0.375], [0.5, 0.5, 0, 0]], atol=1e-7)
    # A step and a half: the frame in the middle belongs to both.
    np.testing.assert_allclose(spread(np.array([[0.4, 0.6]]), 3)[0], [4 / 15, 1 / 3, 0.4])
    same = np.array([[0.1, 0.2, 0.7]])
    np.testing.assert_allclose(spread(same, 3), same, rtol=1e-6)
