"""Looking at clips: what is shown is what the model saw, and nothing of the model is changed."""

import copy
import importlib.util
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

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

from adv_plugins import make_adversarial
from adv_plugins.core.attention import capture_attention
from adv_plugins.core.recipe import CEAugmentation
from adv_plugins.visualization import frame_attention, gradcam
from adv_plugins.visualization.clip_pictures import (
    contact_sheet,
    enlarge,
    evenly_spread,
    magnify,
    overlay,
    side_by_side,
    to_rgb,
    write_mp4,
)
from adv_plugins.visualization.clips import (
    Look,
    look,
    middle_view,
    recipe_attack,
    spread,
    upsample,
)
from adv_plugins.visualization.token_attention import frame_attention_map, video_attention

REPOSITORY = Path(__file__).resolve().parents[2]
LABELS = [1, 4]
EPS = 8
WEAK = CEAugmentation(eps=EPS / 255, step_size=EPS / 255)


def clips_of(model, shape):
    """Pixels, and the same as they leave the model's own data preprocessor."""
    pixels = torch.randint(256, shape, dtype=torch.uint8)
    data = dict(inputs=list(pixels), data_samples=data_samples(LABELS[: shape[0]]))
    data = model.data_preprocessor(data, False)
    return pixels, data['inputs'], data['data_samples']


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
        assert moved.attention.sum() == pytest.approx(1, abs=1e-5)
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
        (lambda m, i, s: look(m, i, s, cam_of='logits'), ValueError, "'label' or 'predicted'"),
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


def a_look(length, height=24, width=32, attacked=True):
    """Frames of random colours, evidence that moves, a perturbation of +-5 grey levels."""
    random = np.random.default_rng(length)
    frames = random.integers(256, size=(length, height, width, 3), dtype=np.uint8)
    cam = random.random((length, height, width), dtype=np.float32)
    cam *= np.linspace(1, 2, length, dtype=np.float32)[:, None, None]
    shares = cam.sum((1, 2)) / cam.sum()
    seen = Look(frames, cam, shares, label=1, predicted=1, score=0.934, cam_class=1)
    if not attacked:
        return seen
    added = random.choice([-5.0, 5.0], size=frames.shape).astype(np.float32)
    moved = (frames + added).clip(0, 255).astype(np.uint8)
    adversarial = replace(
        seen, frames=moved, cam=cam[::-1], attention=shares[::-1], predicted=0, score=0.512
    )
    return replace(seen, adversarial=adversarial, perturbation=added)


NAMES = ['pull', 'push']


def test_overlay():
    frames = np.zeros((2, 1, 2, 3), np.uint8)
    frames[0, 0, 0] = (255, 0, 0)
    frames[1] = 200
    cam = np.array([[[0, 2]], [[4, 0]]], np.float32)
    grey = overlay(frames, cam, alpha=0)
    assert (grey[0, 0, 0] == 76).all() and (grey[1] == 200).all() and (grey[0, 0, 1] == 0).all()
    colours = overlay(frames, cam, alpha=1)
    # The ends of the colour map, whatever the pixels are; one scale for both frames.
    assert colours[1, 0, 0].tolist() == [252, 255, 164]
    assert colours[0, 0, 0].tolist() == colours[1, 0, 1].tolist() == [0, 0, 4]
    assert colours[0, 0, 1].tolist() == [188, 55, 84]
    half = overlay(frames, cam)
    np.testing.assert_allclose(half, (grey.astype(float) + colours) / 2, atol=1)
    assert (overlay(frames, 0 * cam, alpha=1) == [0, 0, 4]).all()
    with pytest.raises(ValueError, match='alpha=1.5'):
        overlay(frames, cam, 1.5)
    with pytest.raises(ValueError, match=r'\(2, 1, 2\)'):
        overlay(frames, cam[:, :, :1])
    with pytest.raises(ValueError, match='uint8 RGB.*float64'):
        overlay(frames / 255, cam)


def test_magnified_perturbation():
    still, factor = magnify(np.zeros((2, 3, 3, 3), np.float32))
    assert factor == 1 and (still == 128).all()
    shown, factor = magnify(np.array([-4.0, 0.0, 4.0]).repeat(9).reshape(1, 3, 3, 3))
    assert factor == 31 and set(shown.flat) == {128 - 124, 128, 128 + 124}
    sparse = np.zeros((1, 20, 20, 3))
    sparse[0, 0, 0, 0] = 2
    shown, factor = magnify(sparse)
    assert factor == 63 and shown[0, 0, 0].tolist() == [254, 128, 128]
    assert magnify(np.full((1, 2, 2, 3), 200.0))[1] == 1


@pytest.mark.parametrize('attacked', [True, False])
@pytest.mark.parametrize('length', [1, 8, 40])
def test_contact_sheet(length, attacked):
    clip = a_look(length, attacked=attacked)
    figure = contact_sheet(clip, NAMES)
    *pictures, bars = figure.axes
    frames = list(range(8)) if length == 8 else evenly_spread(length, 16)
    assert len(frames) == min(length, 16)

    shown = {axes.get_ylabel().split('\n')[0]: axes for axes in pictures}
    expected = {'clean': clip.frames, 'CAM of clean': overlay(clip.frames, clip.cam)}
    if attacked:
        moved = clip.adversarial
        expected['adversarial'] = moved.frames
        expected['CAM of adversarial'] = overlay(moved.frames, moved.cam)
        expected['perturbation'] = (128 + 25 * clip.perturbation).astype(np.uint8)
        assert '×25' in shown['perturbation'].get_ylabel()
    assert list(shown) == list(expected)
    for name, axes in shown.items():
        (image,) = axes.get_images()
        columns = np.split(image.get_array(), len(frames), axis=1)
        for column, frame in zip(columns, frames, strict=True):
            # A pixel of white on both sides.
            np.testing.assert_array_equal(column[:, 1:-1], expected[name][frame])
        # Columns are above their bars.
        assert axes.get_xlim() == bars.get_xlim() == (-0.5, len(frames) - 0.5)
        assert axes.get_position().intervalx.tolist() == bars.get_position().intervalx.tolist()

    clips = [clip, clip.adversarial] if attacked else [clip]
    assert len(bars.containers) == len(clips)
    for container, seen in zip(bars.containers, clips, strict=True):
        np.testing.assert_array_equal(
            [bar.get_height() for bar in container], seen.attention[frames]
        )
        middles = [bar.get_x() + bar.get_width() / 2 for bar in container]
        np.testing.assert_allclose(middles, range(len(frames)), atol=0.21)
    (even,) = bars.get_lines()
    assert even.get_linestyle() == '--' and set(even.get_ydata()) == {1 / length}
    assert [tick.get_text() for tick in bars.get_xticklabels()] == [str(f) for f in frames]
    assert bars.get_xlabel() == 'frame' + (' (16 of 40 are shown)' if length == 40 else '')
    title = ' '.join(figure.get_suptitle().split())
    verdict = ' adversarial: pull (0.51) ✗' if attacked else ''
    assert title == f'label: push clean: push (0.93) ✓{verdict}'


def test_labels_stay_on_the_page():
    """Long names are cut, and no text leaves the figure or covers a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = ['Pushing something so that it falls off the table', 'Pretending to put it into a box']
    for length in (2, 8):
        figure = contact_sheet(a_look(length), names)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        page = figure.bbox
        for axes in figure.axes:
            box = axes.yaxis.label.get_window_extent(renderer)
            assert box.x0 >= page.x0 and box.x1 <= axes.bbox.x0
        title = figure._suptitle.get_window_extent(renderer)
        assert title.x0 >= 0 and title.x1 <= page.x1 and title.y1 <= page.y1
        assert title.y0 >= figure.axes[0].bbox.y1


def test_figures_are_not_kept():
    from matplotlib import pyplot

    page = to_rgb(contact_sheet(a_look(4)))
    assert page.dtype == np.uint8 and page.ndim == 3 and page.shape[2] == 3
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize('attacked', [True, False])
def test_side_by_side(attacked):
    clip = a_look(5, attacked=attacked)
    film = side_by_side(clip, NAMES)
    count = 5 if attacked else 2
    assert film.dtype == np.uint8 and len(film) == 5
    assert film.shape[1] % 2 == film.shape[2] % 2 == 0
    # 24 x 32 pixels become 240 x 320.
    assert film.shape[2] == count * 326 + 6
    panels = [film[:, 66:306, 6 + 326 * i : 326 + 326 * i] for i in range(count)]
    expected = [clip.frames, overlay(clip.frames, clip.cam)]
    if attacked:
        expected += [
            clip.adversarial.frames,
            overlay(clip.adversarial.frames, clip.adversarial.cam),
        ]
        expected += [magnify(clip.perturbation)[0]]
    for panel, frames in zip(panels, expected, strict=True):
        np.testing.assert_array_equal(panel, enlarge(frames, 10))
    # Captions stand still, and of the bars one column after the other is lit.
    assert (film[:, :66] == film[0, :66]).all() and (film[0, :66] < 100).any()
    yellow = (film[:, 306:] == (255, 224, 138)).all(-1)
    middles = [np.nonzero(strip)[1].mean() for strip in yellow]
    steps = np.diff(middles)
    assert (steps > 0.9 * (film.shape[2] - 90) / 5).all() and np.ptp(steps) < 0.05 * steps.mean()


def smooth_clip(length, height, width):
    rows, columns = np.mgrid[:height, :width]
    frames = [
        np.stack([255 * columns / width, 255 * rows / height, 0 * rows + 30 * t], axis=-1)
        for t in range(length)
    ]
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize(('size', 'scale', 'written'), [((30, 41), None, 8), ((33, 47), 1, 1)])
def test_mp4(tmp_path, size, scale, written):
    av = pytest.importorskip('av', reason='needs adv_plugins[data]')
    frames = smooth_clip(7, *size)
    write_mp4(tmp_path / 'clip.mp4', frames, fps=2.5, scale=scale)
    with av.open(str(tmp_path / 'clip.mp4')) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == Fraction(5, 2)
        # What browsers play.
        assert (stream.codec_context.name, stream.pix_fmt) == ('h264', 'yuv420p')
        decoded = np.stack([x.to_ndarray(format='rgb24') for x in container.decode(stream)])
    large = frames.repeat(written, 1).repeat(written, 2)
    height, width = large.shape[1:3]
    assert decoded.shape == (7, height + height % 2, width + width % 2, 3)
    difference = np.abs(decoded[:, :height, :width].astype(float) - large)
    assert difference.mean() < 3
    # The order of frames and colours is seen by that bound.
    assert np.abs(decoded[:, :height, :width].astype(float) - large[::-1]).mean() > 10
    assert np.abs(decoded[:, :height, :width].astype(float) - large[..., ::-1]).mean() > 10


def test_mp4_errors(tmp_path, monkeypatch):
    frames = smooth_clip(2, 8, 8)
    for options, message in ((dict(scale=0), 'scale=0'), (dict(fps=0), 'fps=0')):
        with pytest.raises(ValueError, match=message):
            write_mp4(tmp_path / 'clip.mp4', frames, **options)
    for wrong in (frames[0], frames[..., :2], frames.astype(float), frames[:0]):
        with pytest.raises(ValueError, match=r'uint8 RGB of the shape \(T, H, W, 3\)'):
            write_mp4(tmp_path / 'clip.mp4', wrong)
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r'adv_plugins\[data\]'):
        write_mp4(tmp_path / 'clip.mp4', frames)
    assert not list(tmp_path.iterdir())


def test_enlarged_as_far_as_needed():
    assert enlarge(np.zeros((1, 224, 300, 3), np.uint8)).shape == (1, 224, 300, 3)
    assert enlarge(np.zeros((1, 223, 300, 3), np.uint8)).shape == (1, 446, 600, 3)
    assert enlarge(np.zeros((1, 300, 30, 3), np.uint8)).shape == (1, 2400, 240, 3)


def test_evenly_spread():
    assert evenly_spread(8, 2) == [2, 6]
    assert evenly_spread(3, 16) == [0, 1, 2]
    assert evenly_spread(32, 16) == list(range(1, 32, 2))
    assert evenly_spread(480, 1) == [240]


def slow_frame_map(weights, frame_of_query, frame_of_key, count):
    """Token by token; None is the frame of a class token."""
    sums = torch.zeros(count, count, dtype=torch.float64)
    for q, row in zip(frame_of_query, weights.double(), strict=True):
        for k, weight in zip(frame_of_key, row, strict=True):
            if q is not None and k is not None:
                sums[q, k] += weight
    return sums / sums.sum(1, keepdim=True)


def tokens(count, places, class_token=False, frames_first=True):
    order = [t for t in range(count) for _ in range(places)]
    if not frames_first:
        order = list(range(count)) * places
    return [None] * class_token + order


@pytest.mark.parametrize('class_token', [False, True])
@pytest.mark.parametrize('frames_first', [False, True])
def test_from_tokens_to_frames(class_token, frames_first):
    # Keys may be pooled in space, as in MViT.
    queries = tokens(3, 4, class_token, frames_first)
    keys = tokens(3, 2, class_token, frames_first)
    weights = torch.randn(2, len(queries), len(keys)).softmax(-1)
    maps = frame_attention_map(weights, 3, class_token, frames_first)
    for found, given in zip(maps, weights, strict=True):
        torch.testing.assert_close(found.double(), slow_frame_map(given, queries, keys, 3))
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3))


def test_other_tokens_are_told():
    weights = torch.ones(1, 13, 13)
    with pytest.raises(ValueError, match=r'\(1, 13, 13\).*num_frames=4'):
        frame_attention_map(weights, 4)
    with pytest.raises(ValueError, match=r'beside a class token of num_frames=5'):
        frame_attention_map(weights, 5, class_token=True)
    with pytest.raises(ValueError, match=r'\(B, Q, K\)'):
        frame_attention_map(weights[0], 13)


@pytest.mark.parametrize(
    ('name', 'count', 'options'),
    [
        ('mvit', 4, dict(class_token=True)),
        ('timesformer divided', 8, {}),
        ('timesformer joint', 8, dict(class_token=True, frames_first=False)),
        ('uniformer', 4, {}),
        ('videomae', 4, {}),
    ],
)
def test_attention_of_video_transformers(name, count, options):
    model = build(FAMILIES[name]).eval()
    _, inputs, samples = clips_of(model, FAMILIES[name].shape)
    before = snapshot(model)
    found = video_attention(model, inputs, samples)
    assert_same(before, snapshot(model))
    assert found.shape == (2, count, count) and not found.requires_grad
    torch.testing.assert_close(found.sum(-1), torch.ones(2, count))

    with torch.no_grad(), capture_attention(model) as maps:
        model(inputs, samples, mode='loss')
    if 'divided' in name:
        # The spatial maps are told by their tokens: a class token and four places.
        temporal = [entry.weights for entry in maps if entry.weights.shape[1:] == (8, 8)]
        assert len(temporal) == len(maps) / 2 == 12
        layers = [weights.reshape(2, -1, 8, 8).mean(1).double() for weights in temporal]
    else:
        layers = []
        for entry in maps:
            extra = options.get('class_token', False)
            orders = [
                tokens(count, (size - extra) // count, **options)
                for size in entry.weights.shape[1:]
            ]
            layers.append(
                torch.stack([slow_frame_map(clip, *orders, count) for clip in entry.weights])
            )
    torch.testing.assert_close(found.double(), torch.stack(layers).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['swin', 'timesformer space only', 'uniformerv2 base'])
def test_attention_without_an_axis_of_frames_is_told(name):
    model = build(FAMILIES[name]).eval()
    _, inputs, samples = clips_of(model, FAMILIES[name].shape)
    kind = type(model.backbone).__name__
    with pytest.raises(ValueError, match=f'{kind} has no axis of frames.*VisionTransformer'):
        video_attention(model, inputs, samples)


@pytest.fixture(scope='module')
def example():
    file = REPOSITORY / 'examples' / 'cam_videos.py'
    spec = importlib.util.spec_from_file_location('cam_videos', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example(example, tmp_path, capsys):
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    av = pytest.importorskip('av', reason='needs adv_plugins[data]')
    import mmaction.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmaction')
    file = REPOSITORY / 'mm_configs/baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'
    model = MODELS.build(Config.fromfile(file).model)
    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    arguments = [str(file), str(checkpoint), '--out', str(tmp_path / 'out'), '--num-videos', '2']
    example.main([*arguments, '--recipe', 'CEAugmentation', '--eps', '4/255'])
    names = [f'video_{index:05d}.{kind}' for index in (120, 360) for kind in ('mp4', 'png')]
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == names
    assert all(name in capsys.readouterr().out for name in names[:1])
    with av.open(str(tmp_path / 'out' / names[0])) as container:
        assert len(list(container.decode(video=0))) == 8

    state = model.state_dict()
    state.pop('cls_head.fc_cls.bias')
    torch.save(dict(state_dict=state), checkpoint)
    with pytest.raises(
        SystemExit, match='does not fit the config: 1 weights.*cls_head.fc_cls.bias'
    ):
        example.main(arguments)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--recipe', 'tuf'], "'TAF'"),
        (['--eps', 'much'], '--eps much'),
        (['--eps', '-1'], 'eps'),
        (['--num-videos', '0'], '--num-videos must be 1'),
        (['--fps', '0'], '--fps more than 0'),
    ],
)
def test_example_tells_what_does_not_fit(example, capsys, options, message):
    with pytest.raises(SystemExit):
        example.parse_args(['config.py', 'epoch_1.pth', '--out', 'out', *options])
    assert message in capsys.readouterr().err
