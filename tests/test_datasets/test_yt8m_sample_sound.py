"""The sounds of YT8MSample: pitch, loudness, ticks and clicks follow the motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the sample draws the digits of scikit-learn')

from adv_plugins.datasets.digit_scenes import frame_order
from adv_plugins.datasets.ordered_digits import CLASSES, OrderedDigits
from adv_plugins.datasets.yt8m_sample import SAMPLE_RATE, VERTICALS, event_sound
from adv_plugins.datasets.yt8m_sample.sound import _BACKGROUNDS, _drums, _phase


def event(label: int, draw: int = 0, length: int = 10) -> np.ndarray:
    """The sound of one event, a row a second."""
    scene = OrderedDigits(num_frames=length, lazy_init=True).scene(label // 2, draw)
    return event_sound(scene, frame_order(label, length), 300.0).reshape(length, -1)


def peak_frequencies(seconds: np.ndarray) -> np.ndarray:
    """The strongest frequency of each second, in Hz."""
    return np.abs(np.fft.rfft(seconds * np.hanning(SAMPLE_RATE))).argmax(axis=1)


def loudness(seconds: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(seconds**2, axis=1))


@pytest.mark.parametrize('draw', [0, 1, 2])
def test_pitch_follows_the_height(draw: int) -> None:
    rising = peak_frequencies(event(CLASSES.index('lift'), draw))
    falling = peak_frequencies(event(CLASSES.index('put down'), draw))
    assert (np.diff(rising) > 0).all()
    assert rising[-1] > 1.5 * rising[0]
    assert (np.diff(falling) < 0).all()
    np.testing.assert_allclose(falling[::-1], rising, rtol=0.06)


def test_pitch_is_the_formula_of_the_height() -> None:
    source = OrderedDigits(num_frames=10, lazy_init=True)
    # Hardly any motion up or down, so that each second has one pitch.
    scene = source.scene(0, 3)
    heard = peak_frequencies(event_sound(scene, np.arange(10), 300.0).reshape(10, -1))
    np.testing.assert_allclose(heard, 300 * 4 ** (1 - scene.y), rtol=0.02)


def test_loudness_follows_the_size() -> None:
    approach = loudness(event(CLASSES.index('approach')))
    away = loudness(event(CLASSES.index('move away')))
    assert (np.diff(approach) > 0).all()
    assert (np.diff(away) < 0).all()
    side = OrderedDigits(num_frames=10, lazy_init=True).scene(2, 0).side
    # A second averages over the way to its neighbours.
    np.testing.assert_allclose(approach[1:-1] / approach[1], (side[1:-1] / side[1]) ** 2, rtol=0.05)


def test_drop_sounds_different_from_hold() -> None:
    hold = peak_frequencies(event(CLASSES.index('lift then hold')))
    drop = peak_frequencies(event(CLASSES.index('lift then drop')))
    assert hold[-1] > 1.5 * hold[0]
    assert drop[-1] == pytest.approx(drop[0], rel=0.05)


def test_a_click_marks_the_change_of_digit_and_ticks_the_turn() -> None:
    scene = OrderedDigits(num_frames=10, lazy_init=True).scene(
        CLASSES.index('zero then one') // 2, 0
    )
    scene = replace(scene, angle=np.zeros(10), which=(np.arange(10) >= 3).astype(int))
    for order in (np.arange(10), np.arange(10)[::-1]):
        with_click = event_sound(scene, order, 300.0)
        still = event_sound(replace(scene, which=np.zeros(10, int)), order, 300.0)
        second = int(np.flatnonzero(np.diff(scene.which[order]))[0]) + 1
        difference = np.abs(with_click - still)
        assert difference[: second * SAMPLE_RATE].max() < 1e-5
        assert difference[second * SAMPLE_RATE :][: SAMPLE_RATE // 10].max() > 1
    turn = OrderedDigits(num_frames=10, lazy_init=True).scene(CLASSES.index('turn left') // 2, 0)
    ticks = event_sound(turn, np.arange(10), 300.0) - event_sound(
        replace(turn, angle=np.zeros(10)), np.arange(10), 300.0
    )
    heard = loudness(ticks.reshape(10, -1)) > 0.01
    expected = np.diff(np.floor(turn.angle / 45), prepend=np.floor(turn.angle[0] / 45)) != 0
    np.testing.assert_array_equal(heard, expected)
    assert expected.sum() >= 2


def test_a_long_tone_stays_in_tune_and_does_not_jump() -> None:
    """Closed form: the phase after n samples of f Hz is 2 pi f n / rate."""
    frequencies = np.full(4000, 440.7)
    wave = np.sin(_phase(frequencies))
    time = np.arange(len(wave)) / SAMPLE_RATE
    np.testing.assert_allclose(wave, np.sin(2 * np.pi * 440.7 * time), atol=1e-4)


def test_backgrounds_sound_like_their_names() -> None:
    spectra = {}
    names = (*VERTICALS['Music'], *VERTICALS['Noise'])
    for name, make in zip(names, _BACKGROUNDS, strict=True):
        assert make.__name__ == f'_{name}'
        wave = make(np.random.default_rng(0), 12)
        assert wave.shape == (12 * SAMPLE_RATE,)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        spectra[name] = np.mean(np.abs(np.fft.rfft(wave.reshape(12, -1))) ** 2, axis=0)
    hertz = np.arange(SAMPLE_RATE // 2 + 1)
    center = {name: (hertz * s).sum() / s.sum() for name, s in spectra.items()}
    assert center['hiss'] > 4000
    assert center['wind'] < 1000
    # A hum is its harmonics, and nothing between them.
    peaks = np.argsort(spectra['hum'])[-3:]
    assert set(peaks % 100) == {0} or set(peaks % 120) == {0}
    assert 110 < np.argmax(spectra['drone']) < 410
    assert np.argmax(spectra['arpeggio']) > 200
    beats = _drums(np.random.default_rng(0), 12).reshape(-1, 1600)
    assert loudness(beats).max() > 5 * loudness(beats).min()
