"""The corruptions of ImageNet-C against imagecorruptions and against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_clips import NOISY, moving, photo

from adv_plugins.datasets.corruptions import PAPER_CORRUPTIONS, SEVERITIES, corrupt
from adv_plugins.datasets.corruptions.per_frame import PER_FRAME


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
    return PER_FRAME[name][0](frame, severity - 1, *drawn)


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
