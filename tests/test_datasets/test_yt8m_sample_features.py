"""The features of YT8MSample: against slow versions, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the sample draws the digits of scikit-learn')

from adv_plugins.datasets.yt8m_sample import (
    SAMPLE_RATE,
    SampleRenderer,
    audio_features,
    visual_features,
)
from adv_plugins.datasets.yt8m_sample.features import _crop_salient, _edge_histograms


def test_a_frame_is_described_without_its_neighbours() -> None:
    video = SampleRenderer('train').render(1)
    seen, heard = visual_features(video.frames), audio_features(video.waveform)
    assert seen.shape == (len(video.frames), 1216)
    assert heard.shape == (len(video.frames), 256)
    assert seen.dtype == heard.dtype == np.float32
    order = np.random.default_rng(0).permutation(len(seen))
    waveform = video.waveform.reshape(len(seen), -1)[order].ravel()
    np.testing.assert_allclose(visual_features(video.frames[order]), seen[order], atol=1e-6)
    np.testing.assert_allclose(audio_features(waveform), heard[order], atol=1e-6)
    np.testing.assert_allclose(visual_features(video.frames[3:4]), seen[3:4], atol=1e-6)


def test_edge_histograms_agree_with_a_loop_over_pixels() -> None:
    image = np.random.default_rng(0).random((8, 8))
    expected = np.zeros((2, 2, 4))
    for y in range(8):
        for x in range(8):
            dy = image[min(y + 1, 7), x] - image[max(y - 1, 0), x]
            dx = image[y, min(x + 1, 7)] - image[y, max(x - 1, 0)]
            turn = (np.degrees(np.arctan2(dy, dx)) % 360) / 90
            share = turn % 1
            expected[y // 4, x // 4, int(turn) % 4] += np.hypot(dx, dy) * (1 - share)
            expected[y // 4, x // 4, (int(turn) + 1) % 4] += np.hypot(dx, dy) * share
    expected = np.sqrt(expected.ravel() / expected.sum())
    got = _edge_histograms(image[None], 2, 4)[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_crop_of_a_blob_does_not_depend_on_its_place() -> None:
    blob = np.random.default_rng(0).random((12, 12)).astype(np.float32)
    maps = np.zeros((3, 48, 48), np.float32)
    for i, (y, x) in enumerate([(10, 10), (25, 12), (30, 28)]):
        maps[i, y : y + 12, x : x + 12] = blob
    maps[2, 2, 2] = 0.5
    crops = _crop_salient(maps, 16)
    assert crops[0].max() > 0.9
    np.testing.assert_array_equal(crops[1], crops[0])
    np.testing.assert_array_equal(crops[2], crops[0])
    # An empty map, and a blob in the corner, are no error.
    maps[:] = 0
    maps[1, :5, 43:] = 1
    crops = _crop_salient(maps, 16)
    assert not crops[0].any()
    assert crops[1].any()


def test_the_crop_of_a_blob_does_not_depend_on_its_size() -> None:
    steps = np.arange(48)
    y, x = (steps - 22)[:, None], steps - 25
    maps = np.stack([np.exp(-((y**2 + x**2 / 2) / (2 * sd**2))) for sd in (1.5, 3)])
    crops = _crop_salient(maps.astype(np.float32), 16)
    # To the rounding of places to pixels.
    assert np.abs(crops[0] - crops[1]).mean() < 0.08


def test_a_tone_is_loudest_in_its_mel_band() -> None:
    for frequency in (300, 1000, 4000):
        time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
        wave = np.sin(2 * np.pi * frequency * time).astype(np.float32)
        wave[: SAMPLE_RATE // 2] = 0
        features = audio_features(wave).reshape(2, 4, 64)
        low, high, here = (2595 * np.log10(1 + hz / 700) for hz in (125, 7500, frequency))
        band = 65 * (here - low) / (high - low) - 1
        assert np.abs(features[1].argmax(axis=1) - band).max() < 1
        np.testing.assert_allclose(features[0, :1], np.log(0.01), atol=1e-4)
        assert features[0, 3].argmax() == features[1, 0].argmax()
