"""Corruptions: ImageNet-C's against imagecorruptions, the video ones against their definition."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('mmcv', reason='VideoCorruption is a transform of mmcv')

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope

from adv_plugins.datasets import corruptions
from adv_plugins.datasets.corruptions import (
    CORRUPTION_GROUPS,
    CORRUPTIONS,
    PAPER_CORRUPTIONS,
    SEVERITIES,
    VideoCorruption,
    corrupt,
)

NOISY = ('gaussian_noise', 'impulse_noise', 'speckle_noise', 'snow')
RANDOM = (*NOISY, 'frame_drop', 'packet_loss', 'jumble', 'freeze')
CONFIGS = Path(__file__).parents[2] / 'mm_configs'


@pytest.fixture(autouse=True)
def _needs_av(request: pytest.FixtureRequest) -> None:
    """Only 'h264' needs PyAV."""
    parameters = getattr(request.node, 'callspec', None)
    if parameters is not None and parameters.params.get('name') == 'h264':
        pytest.importorskip('av', reason="'h264' encodes with PyAV")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something like a photo: detail at all scales and pale colours, (H, W, 3) in uint8.

    One corner is white and one is black.
    """
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for sigma, colors in ((0.7, 1), (3, 1), (9, 1), (9, 3)):
        layer = rng.standard_normal((height, width, colors))
        layer = cv2.GaussianBlur(layer, (0, 0), sigma).reshape(height, width, colors)
        image += layer / layer.std()
    image = np.clip(np.rint(128 + 40 * image), 0, 255).astype(np.uint8)
    image[: height // 5, : width // 4] = 255
    image[-height // 6 :, -width // 3 :] = 0
    return image


def moving(count: int, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """A camera that pans over a photo; no two frames are alike."""
    image = photo(height, width + 3 * count, seed)
    return np.stack([image[:, 3 * t : 3 * t + width] for t in range(count)])


def clock(count: int, height: int = 32) -> np.ndarray:
    """Frames whose every pixel says which frame it is."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, height, 32, 3)
    ).copy()


def shown(frames: np.ndarray) -> np.ndarray:
    """The numbers (T,) of whole frames of a corrupted clock."""
    assert (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0].astype(int)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return np.abs(a.astype(float) - b).mean()


# ---- all of them


def test_names_by_group():
    assert sum(CORRUPTION_GROUPS.values(), ()) == CORRUPTIONS
    assert len(set(CORRUPTIONS)) == 14
    assert CORRUPTIONS[:8] == PAPER_CORRUPTIONS
    assert set(CORRUPTIONS) == {*corruptions._PER_FRAME, *corruptions._PER_CLIP}


@pytest.mark.parametrize('severity', SEVERITIES)
@pytest.mark.parametrize('name', CORRUPTIONS)
def test_a_function_of_its_arguments_alone(name: str, severity: int):
    clip = moving(8, 45, 52)
    before = clip.copy()
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first = corrupt(clip, name, severity, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(2)
    np.testing.assert_array_equal(first, corrupt(clip.copy(), name, severity, seed=3))
    np.testing.assert_array_equal(clip, before)
    assert first.shape == clip.shape and first.dtype == np.uint8
    assert first.flags.c_contiguous and not np.shares_memory(first, clip)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_only_what_is_random_depends_on_the_seed(name: str):
    clip = moving(8, 45, 52)
    results = [corrupt(clip, name, 3, seed=seed) for seed in (0, 1, 2, 2**40)]
    different = [not np.array_equal(results[0], other) for other in results[1:]]
    assert all(different) if name in RANDOM else not any(different)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_severity_is_the_order_of_strength(name: str):
    clips = [moving(16, seed=seed) for seed in range(6)]
    strength = np.mean(
        [
            [distance(corrupt(c, name, s, seed=i), c) for s in SEVERITIES]
            for i, c in enumerate(clips)
        ],
        axis=0,
    )
    assert strength[0] > 0
    if name == 'snow':
        # As published: the third level has fewer and larger flakes than the second.
        strength = np.delete(strength, 1)
    assert (np.diff(strength) > 0).all(), strength


@pytest.mark.parametrize('name', [*NOISY[:3], 'brightness', 'frame_drop', 'packet_loss'])
def test_a_higher_severity_makes_more_of_the_same_draws(name: str):
    clip = moving(8)
    strength = [distance(corrupt(clip, name, s, seed=5), clip) for s in SEVERITIES]
    assert (np.diff(strength) >= 0).all(), strength
    if name in NOISY:
        # Which pixels rise does not change.
        mild, strong = (corrupt(clip, name, s, seed=5).astype(int) - clip for s in (1, 2))
        assert not ((mild > 1) & (strong < -1)).any()


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_noise_is_drawn_for_each_frame_or_once(name: str):
    still = np.repeat(photo(40, 48)[None], 4, axis=0)
    iid, shared = (corrupt(still, name, 2, temporal=temporal) for temporal in ('iid', 'shared'))
    if name not in NOISY:
        np.testing.assert_array_equal(iid, shared)
        return
    np.testing.assert_array_equal(iid[0], shared[0])
    assert (shared == shared[0]).all()
    for t in range(1, 4):
        assert distance(iid[t], iid[0]) > 2


@pytest.mark.parametrize('name', [*PAPER_CORRUPTIONS, 'frame_drop', 'packet_loss'])
def test_later_frames_leave_earlier_ones_alone(name: str):
    clip = moving(6)
    np.testing.assert_array_equal(corrupt(clip, name, 4)[:3], corrupt(clip[:3], name, 4))


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_one_frame(name: str):
    frame = moving(1)
    corrupted = corrupt(frame, name, 5)
    assert corrupted.shape == frame.shape and not np.shares_memory(corrupted, frame)
    unchanged = np.array_equal(corrupted, frame)
    assert unchanged == (name in CORRUPTION_GROUPS['video'] and name != 'h264')


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 5),
    height=st.integers(32, 50),
    width=st.integers(32, 50),
    name=st.sampled_from(CORRUPTIONS),
    severity=st.sampled_from(SEVERITIES),
    seed=st.integers(0, 2**64),
    temporal=st.sampled_from(['iid', 'shared']),
)
def test_any_clip_keeps_its_shape(count, height, width, name, severity, seed, temporal):
    if name == 'h264':
        pytest.importorskip('av', reason="'h264' encodes with PyAV")
    clip = moving(count, width, height).swapaxes(1, 2)[:, ::-1]
    corrupted = corrupt(clip, name, severity, seed, temporal)
    assert corrupted.shape == clip.shape and corrupted.dtype == np.uint8
    assert corrupted.flags.c_contiguous
    np.testing.assert_array_equal(
        corrupted, corrupt(np.ascontiguousarray(clip), name, severity, seed, temporal)
    )


# ---- ImageNet-C


def restated(frame: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """Our version of a corruption, given the noise that imagecorruptions draws from a seed."""
    generator, legacy = np.random.default_rng(seed), np.random.RandomState(seed)
    drawn: tuple = ()
    if name == 'impulse_noise':
        drawn = generator.random(frame.shape), generator.random(frame.shape)
    elif name == 'snow':
        drawn = legacy.normal(size=frame.shape[:2]), legacy.uniform(-135, -45)
    elif name in NOISY:
        drawn = (legacy.normal(size=frame.shape),)
    return corruptions._PER_FRAME[name][0](frame, severity - 1, *drawn)


def brightened(frame: np.ndarray, severity: int) -> np.ndarray:
    """'brightness' in grey levels before they are rounded; no pixel may be black."""
    value = frame.max(axis=-1, keepdims=True).astype(float)
    return frame * np.minimum(value + 25.5 * severity, 255) / value


@pytest.mark.parametrize('size', [(224, 224), (97, 131), (33, 40)])
@pytest.mark.parametrize('name', PAPER_CORRUPTIONS)
def test_equal_to_imagecorruptions(name: str, size: tuple[int, int]):
    oracle = pytest.importorskip('imagecorruptions', reason='needs imagecorruptions-imaug')
    frame = photo(*size)
    state = np.random.get_state()
    for severity in SEVERITIES:
        np.random.seed(severity)
        options = {'seed': severity} if name == 'impulse_noise' else {}
        expected = oracle.corrupt(frame, severity, name, **options).astype(int)
        ours = restated(frame, name, severity, severity)
        if name == 'brightness':
            # The original goes through the hue, whose rounding decides where the exact value is
            # a whole number of grey levels.
            exact = brightened(np.maximum(frame, frame.max(-1, keepdims=True) == 0), severity)
            tie = np.abs(exact - np.rint(exact)) < 1e-9
            assert np.abs(ours - expected).max() <= 1, severity
            expected[tie] = ours[tie]
        np.testing.assert_array_equal(ours, expected, err_msg=str(severity))
    np.random.set_state(state)


@pytest.mark.parametrize('name', ['gaussian_blur', 'defocus_blur', 'zoom_blur', 'brightness'])
def test_frames_are_corrupted_one_by_one(name: str):
    clip = moving(3)
    for frame, corrupted in zip(clip, corrupt(clip, name, 3), strict=True):
        np.testing.assert_array_equal(corrupted, restated(frame, name, 3, 0))


@pytest.mark.parametrize('temporal', ['iid', 'shared'])
@pytest.mark.parametrize(('name', 'std'), [('gaussian_noise', 0.08 * 255), ('speckle_noise', 18)])
def test_noise_has_its_published_strength(name: str, std: float, temporal: str):
    gray = np.full((4, 128, 128, 3), 120, np.uint8)
    residual = corrupt(gray, name, 1, temporal=temporal) - 120.0
    # Rounded down, by half a grey level on average.
    assert residual.mean() == pytest.approx(-0.5, abs=0.4)
    assert residual.std() == pytest.approx(std, rel=0.01)
    flat = residual.reshape(4, -1)
    between_frames = np.corrcoef(flat)[np.triu_indices(4, 1)]
    np.testing.assert_allclose(between_frames, temporal == 'shared', atol=0.02)
    channels = np.corrcoef(residual.reshape(-1, 3).T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(channels, 0, atol=0.02)


@pytest.mark.parametrize('severity', SEVERITIES)
def test_impulse_noise_is_half_salt_half_pepper(severity: int):
    gray = np.full((4, 128, 128, 3), 120, np.uint8)
    corrupted = corrupt(gray, 'impulse_noise', severity)
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    assert (corrupted == 0).mean() == pytest.approx(share / 2, abs=0.003)
    assert (corrupted == 255).mean() == pytest.approx(share / 2, abs=0.003)
    assert set(np.unique(corrupted)) <= {0, 119, 120, 255}


def test_snow_falls_downwards_at_an_angle_of_each_frames_own():
    still = np.repeat(np.full((1, 96, 96, 3), 20, np.uint8), 6, axis=0)
    flakes = corrupt(still, 'snow', 5)[..., 0].astype(float)
    # Streaks are longer than they are wide: neighbours above are more alike than those beside.
    down = [np.corrcoef(f[4:].ravel(), f[:-4].ravel())[0, 1] for f in flakes]
    aside = [np.corrcoef(f[:, 4:].ravel(), f[:, :-4].ravel())[0, 1] for f in flakes]
    assert np.mean(down) > np.mean(aside) + 0.1
    # A frame and its half turn have the same flakes.
    np.testing.assert_array_equal(flakes, flakes[:, ::-1, ::-1])


# ---- video


@pytest.mark.parametrize('count', [1, 2, 8, 13])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_motion_blur_is_a_mean_over_a_centred_window(severity: int, count: int):
    clip = moving(count, 33, 40)
    expected = np.empty_like(clip)
    for t in range(count):
        near = [clip[s].astype(float) for s in range(count) if abs(s - t) <= severity]
        expected[t] = np.rint(sum(near) / len(near))
    np.testing.assert_array_equal(corrupt(clip, 'motion_blur', severity), expected)


@pytest.mark.parametrize('name', ['h264'])
def test_h264_loses_quality_with_severity_at_odd_sizes(name: str):
    clip = moving(8, 75, 91)
    errors = [(corrupt(clip, name, s).astype(float) - clip) ** 2 for s in SEVERITIES]
    psnr = [10 * np.log10(255**2 / error.mean()) for error in errors]
    assert psnr[0] > 24
    assert (np.diff(psnr) < -0.5).all(), psnr
    # The edges that were padded for the encoder are no worse than the rest.
    assert errors[0][:, -1].mean() < 3 * errors[0].mean()
    assert errors[0][:, :, -1].mean() < 3 * errors[0].mean()


@pytest.mark.parametrize('name', ['h264'])
def test_h264_keeps_frames_in_order_and_a_still_clip_still(name: str):
    still = np.repeat(photo(64, 64)[None], 12, axis=0)
    for severity in SEVERITIES:
        assert distance(*np.array_split(corrupt(still, name, severity), 2)) < 3
    levels = np.linspace(20, 230, 12).astype(np.uint8)
    ramp = np.broadcast_to(levels[:, None, None, None], (12, 48, 48, 3))
    means = corrupt(np.ascontiguousarray(ramp), name, 1).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, levels, atol=4)


def test_h264_does_not_depend_on_the_number_of_cores():
    pytest.importorskip('av', reason="'h264' encodes with PyAV")
    # x264 writes its settings into the stream.
    stream = b''.join(bytes(packet) for packet in corruptions._encode_h264(moving(2, 224, 224), 30))
    assert b' threads=1 ' in stream and b'crf=30.0 ' in stream


def test_h264_without_pyav_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r'adv_plugins\[data\]'):
        corrupt(moving(2), 'h264', 1)


@pytest.mark.parametrize('severity', SEVERITIES)
def test_frame_drop_repeats_the_last_frame_that_arrived(severity: int):
    lost = []
    for seed in range(20):
        numbers = shown(corrupt(clock(250), 'frame_drop', severity, seed))
        assert numbers[0] == 0
        fresh = numbers[1:] == np.arange(1, 250)
        assert (fresh | (numbers[1:] == numbers[:-1])).all()
        lost.append(1 - fresh.mean())
    # Five standard errors of a share of 20 x 249 draws.
    probability = (0.1, 0.25, 0.4, 0.55, 0.7)[severity - 1]
    assert np.mean(lost) == pytest.approx(probability, abs=0.036)


@pytest.mark.parametrize('severity', SEVERITIES)
def test_packet_loss_sticks_until_a_row_is_refreshed(severity: int):
    height = 16 * 20 + 5
    output = corrupt(clock(250, height), 'packet_loss', severity)[..., 0].astype(int)
    assert (output == output[..., :1]).all()
    assert (output[0] == 0).all()
    now = np.arange(250)[:, None, None]
    # All of it was at the same place in this frame or is what was shown before.
    assert ((output[1:] == now[1:]) | (output[1:] == output[:-1])).all()
    bands = output[:, ::16, 0]
    assert (output[:, :, 0] == np.repeat(bands, 16, axis=1)[:, :height]).all()
    # A band is right only if all its packets since the last refresh have arrived: one to four.
    probability = (0.02, 0.05, 0.1, 0.2, 0.4)[severity - 1]
    expected = 1 - np.mean([(1 - probability) ** k for k in (1, 2, 3, 4)])
    assert (bands != now[..., 0]).mean() == pytest.approx(expected, abs=0.03)
    # Without a refresh no band comes back.
    back = (bands[1:] == now[1:, 0]) & (bands[:-1] != now[:-1, 0])
    frame, band = np.nonzero(back)
    assert len(frame) and ((frame + 1 + band) % 4 == 0).all()


@pytest.mark.parametrize('count', [2, 5, 8, 16, 33])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_jumble_permutes_within_windows(severity: int, count: int):
    window = max(2, round((0.25, 0.375, 0.5, 0.75, 1)[severity - 1] * count))
    for seed in range(10):
        numbers = shown(corrupt(clock(count), 'jumble', severity, seed))
        for start in range(0, count, window):
            own = np.arange(start, min(start + window, count))
            inside = numbers[own]
            assert sorted(inside) == own.tolist()
            assert len(own) == 1 or (inside != own).all()


def test_jumble_has_every_order_without_a_fixed_frame_that_is_one_cycle():
    clip = clock(4)
    orders = {tuple(shown(corrupt(clip, 'jumble', 5, seed))) for seed in range(150)}
    assert len(orders) == 6  # (4 - 1)! cycles


@pytest.mark.parametrize('count', [2, 5, 8, 32])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_freeze_holds_the_first_frame_of_one_run(severity: int, count: int):
    length = max(2, round((0.2, 0.35, 0.5, 0.65, 0.8)[severity - 1] * count))
    starts = set()
    for seed in range(60):
        numbers = shown(corrupt(clock(count), 'freeze', severity, seed))
        start = int(np.flatnonzero(numbers != np.arange(count))[0]) - 1
        expected = np.arange(count)
        expected[start : start + length] = start
        np.testing.assert_array_equal(numbers, expected)
        starts.add(start)
    possible = count - length + 1
    assert starts <= set(range(possible))
    assert len(starts) == possible or possible > 10


# ---- in a pipeline


@pytest.fixture
def mmaction_scope() -> Iterator[None]:
    """MMAction2's transforms under their plain names, as in a config with default_scope."""
    pytest.importorskip('mmaction', reason='the pipelines are those of MMAction2')
    import mmaction.datasets  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


def digits(**corruption: Any) -> Any:
    """OrderedDigits with the stock test pipeline, corrupted after decoding."""
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    config = Config.fromfile(CONFIGS / '_base_' / 'ordered_digits.py')
    dataset = copy.deepcopy(config.val_dataloader.dataset)
    dataset.clips_per_class = 1
    if corruption:
        dataset.pipeline.insert(2, dict(type='VideoCorruption', **corruption))
    return DATASETS.build(dataset)


def results(count: int = 8, **info: Any) -> dict:
    """What a decode transform leaves behind."""
    return dict(imgs=list(moving(count, 40, 48)), modality='RGB', filename='a/b.mp4') | info


@pytest.mark.usefixtures('mmaction_scope')
@pytest.mark.parametrize('name', ['gaussian_noise', 'jumble', 'snow'])
def test_in_the_pipeline_of_ordered_digits(name: str):
    clean, corrupted = digits(), digits(name=name, severity=4)
    for index in (0, 7):
        before, after = clean[index], corrupted[index]
        assert after['inputs'].shape == before['inputs'].shape
        assert after['inputs'].dtype == before['inputs'].dtype
        assert after['data_samples'].gt_label == before['data_samples'].gt_label
        seed = zlib.crc32(f'0/0/{index}'.encode())
        frames = before['inputs'].numpy().transpose(0, 2, 3, 1)
        expected = corrupt(np.ascontiguousarray(frames), name, 4, seed)
        np.testing.assert_array_equal(after['inputs'].numpy().transpose(0, 2, 3, 1), expected)


@pytest.mark.usefixtures('mmaction_scope')
def test_the_same_from_any_number_of_workers():
    from torch.utils.data import DataLoader

    dataset = digits(name='impulse_noise', severity=2)
    loaded = []
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=list)
        loaded.append([item['inputs'].numpy() for batch in loader for item in batch])
    assert len(loaded[0]) == 12
    np.testing.assert_array_equal(*loaded)


def test_the_same_in_another_process():
    """With another seed of Python's hash."""
    code = (
        'import sys, zlib; sys.path.insert(0, sys.argv[1])\n'
        'from test_corruptions import *\n'
        'for name in RANDOM: print(zlib.crc32(corrupt(moving(8), name, 3, seed=1)))\n'
        'print(VideoCorruption("snow", 1)._clip_seed(dict(filename="x/y.mp4"), 0))'
    )
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get('PYTHONPATH')])]
    printed = subprocess.run(
        [sys.executable, '-c', code, str(Path(__file__).parent)],
        env=os.environ | {'PYTHONHASHSEED': '77', 'PYTHONPATH': os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    own = [zlib.crc32(corrupt(moving(8), name, 3, seed=1)) for name in RANDOM]
    own.append(VideoCorruption('snow', 1)._clip_seed(dict(filename='x/y.mp4'), 0))
    assert printed == [str(value) for value in own]


def test_the_frames_are_replaced_and_nothing_else():
    transform = VideoCorruption('gaussian_noise', 3, seed=5)
    before = results(img_shape=(40, 48))
    frames = [frame.copy() for frame in before['imgs']]
    for imgs in (before['imgs'], np.stack(before['imgs'])):
        after = transform(before | dict(imgs=imgs))
        assert isinstance(after['imgs'], list) and len(after['imgs']) == 8
        for frame in after['imgs']:
            assert frame.flags.c_contiguous and frame.dtype == np.uint8
            assert frame.shape == (40, 48, 3)
        assert {k: after[k] for k in after if k != 'imgs'} == {
            k: before[k] for k in before if k != 'imgs'
        }
    np.testing.assert_array_equal(before['imgs'], frames)


def test_a_video_draws_by_its_name_wherever_it_is():
    def corrupted(seed: int = 0, **info: Any) -> bytes:
        entry = results(**info)
        entry = {key: value for key, value in entry.items() if value is not None}
        return np.stack(VideoCorruption('jumble', 5, seed)(entry)['imgs']).tobytes()

    same = [
        dict(filename='data/val/7.mp4'),
        dict(filename='/mnt/other/7.mp4'),
        dict(filename='C:\\videos\\7.mp4'),
        dict(filename='7.mp4', sample_idx=3),
        dict(filename=Path('x') / '7.mp4'),
        dict(filename=None, frame_dir='frames/7.mp4/'),
    ]
    assert len({corrupted(**info) for info in same}) == 1
    other = [
        dict(filename='data/val/8.mp4'),
        dict(filename='data/val/7.mp4', seed=1),
        dict(filename=None, frame_dir='frames/7'),
        dict(filename=None, sample_idx=0),
        dict(filename=None, sample_idx=1),
    ]
    assert len({corrupted(**info) for info in [same[0], *other]}) == 6


@pytest.mark.parametrize(
    ('info', 'length'),
    [
        (dict(), 8),
        (dict(clip_len=1, num_clips=8), 8),
        (dict(clip_len=1, num_clips=4), 4),  # DenseSampleFrames with two positions
        (dict(clip_len=4, num_clips=2), 4),
        (dict(clip_len=8, num_clips=1), 8),
    ],
)
def test_each_clip_of_a_video_is_corrupted_on_its_own(info: dict, length: int):
    frames = clock(8)
    numbers = shown(np.stack(VideoCorruption('jumble', 5)(results(**info, imgs=frames))['imgs']))
    for start in range(0, 8, length):
        own = np.arange(start, start + length)
        assert sorted(numbers[own]) == own.tolist()
    still = np.repeat(photo(40, 48)[None], 8, axis=0)
    noise = VideoCorruption('gaussian_noise', 3, temporal='shared')
    noisy = noise(results(**info, imgs=still))['imgs']
    assert len({frame.tobytes() for frame in noisy}) == 8 // length


def test_built_from_a_config():
    pipeline = Compose([dict(type='VideoCorruption', name='freeze', severity=2)])
    assert len(pipeline(results())['imgs']) == 8
    built = TRANSFORMS.build(dict(type='VideoCorruption', name='freeze', severity=2, seed=4))
    text = "VideoCorruption(name='freeze', severity=2, seed=4, temporal='iid')"
    assert repr(built) == text
    assert repr(eval(text)) == text


# ---- errors


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(name='gausian noise'), "name='gausian noise' .* write 'gaussian_noise'"),
        (dict(name='Snow'), "write 'snow'"),
        (dict(name='fog'), 'fog'),
        (dict(name=None), "write 'gaussian_noise', .* 'freeze'"),
        (dict(severity=0), 'severity=0 .* 1 to 5'),
        (dict(severity=6), 'severity=6'),
        (dict(severity=True), 'severity=True'),
        (dict(severity='3'), "severity='3'"),
        (dict(severity=2.0), 'severity=2.0'),
        (dict(seed=-1), 'seed=-1'),
        (dict(seed=None), 'seed=None'),
        (dict(temporal='static'), "temporal='static' .* temporal='shared'"),
    ],
)
def test_wrong_options_are_told_when_it_is_built(options: dict, message: str):
    options = dict(name='snow', severity=3) | options
    with pytest.raises(ValueError, match=message):
        VideoCorruption(**options)
    with pytest.raises(ValueError, match=message):
        corrupt(moving(1), **options)


@pytest.mark.parametrize(
    ('frames', 'error', 'message'),
    [
        (moving(1).astype(np.float32), TypeError, 'float32'),
        (moving(1).tolist(), TypeError, 'list'),
        (moving(1)[0], ValueError, r'\(64, 64, 3\) .* frames\[None\]'),
        (moving(2)[..., 0], ValueError, r'\(2, 64, 64\) .* gray'),
        (moving(2)[..., :1], ValueError, r'\(2, 64, 64, 1\)'),
        (moving(1)[:0], ValueError, 'T of at least 1'),
        (moving(1, 31, 64), ValueError, '31 x 64 .* at least 32'),
        (moving(1, 64, 31), ValueError, '64 x 31 .* at least 32'),
    ],
)
def test_wrong_frames_are_told(frames: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        corrupt(frames, 'snow', 1)


@pytest.mark.parametrize(
    ('info', 'error', 'message'),
    [
        (dict(imgs=[]), ValueError, 'found no frames .* DecordDecode'),
        (dict(imgs=None), ValueError, 'found no frames'),
        (dict(imgs=[photo(40, 48), photo(40, 50)]), ValueError, r'one shape .* Resize'),
        (dict(imgs=[photo(40, 48)[..., 0]] * 4), ValueError, r'\(4, 40, 48\)'),
        (dict(imgs=[photo(40, 48) / 255]), TypeError, 'float64'),
        (dict(clip_len=3, num_clips=2), ValueError, '8 frames, .* clips of 3'),
        (dict(lazy=dict(flip=False)), ValueError, 'Fuse'),
    ],
)
def test_wrong_results_are_told(info: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        VideoCorruption('snow', 1)(results(**info))


def test_a_video_without_a_name_is_told():
    entry = results()
    del entry['filename']
    with pytest.raises(ValueError, match='neither filename nor frame_dir nor sample_idx'):
        VideoCorruption('snow', 1)(entry)
