"""The sound track: event sounds that follow the motion, room noise, and a background."""

from __future__ import annotations

import numpy as np

from ..digit_scenes import Scene

SAMPLE_RATE = 16_000

# Loudness in dB. The background is up to 30 dB below the events; a quarter of the videos have none.
_EVENT_DB, _BACKGROUND_DB, _ROOM_DB = (-6, 0), (-30, -8), (-45, -30)
_BACKGROUND_RATE = 0.75
# Pitch, loudness and swell change at this rate, in Hz: often enough to be heard as gliding.
_CONTROL_RATE = 100
_CONTROL_STEP = SAMPLE_RATE // _CONTROL_RATE


def event_sound(scene: Scene, order: np.ndarray, pitch: float) -> np.ndarray:
    """The sound of an event, by one rule for all motions.

    The pitch rises with the glyph's height and the loudness with its size. It ticks as the glyph
    turns through multiples of 45 degrees, and clicks when another glyph takes its place.

    Args:
        scene (Scene): The event.
        order (np.ndarray): Shape (T,), the order of its frames.
        pitch (float): Frequency in Hz of a glyph at the bottom; at the top it is four times as
            high.

    Returns:
        np.ndarray: Shape (16000 T,), float32.
    """
    centers = (np.arange(len(order) * _CONTROL_RATE) + 0.5) / _CONTROL_RATE - 0.5
    height, side = (
        np.interp(centers, np.arange(len(order)), track[order])
        for track in (1 - scene.y, scene.side)
    )
    phase = _phase(pitch * 4**height)
    tone = np.sin(phase) + np.float32(0.3) * np.sin(2 * phase)
    sound = tone * np.repeat(((side / 0.45) ** 2).astype(np.float32), _CONTROL_STEP)
    for state, frequency, gain in (
        (np.floor(scene.angle[order] / 45), 3000, 1),
        (scene.which[order], 1100, 3),
    ):
        knock = _knock(frequency, gain)
        for second in np.flatnonzero(np.diff(state)) + 1:
            sound[second * SAMPLE_RATE :][: len(knock)] += knock
    return sound


def _knock(frequency: float, gain: float) -> np.ndarray:
    """A tone that decays within a quarter of a second."""
    time = np.arange(SAMPLE_RATE // 4, dtype=np.float32) / SAMPLE_RATE
    return np.float32(gain) * np.exp(-20 * time) * np.sin(np.float32(2 * np.pi) * frequency * time)


def mix(rng: np.random.Generator, sound: np.ndarray) -> tuple[np.ndarray, set[int]]:
    """The events with the noise of the room, and with one background or none.

    Returns:
        tuple[np.ndarray, set[int]]: The waveform, and the index of the background if it has one.
    """
    sound = sound * _gain(rng, _EVENT_DB) + _white(rng, len(sound)) * _gain(rng, _ROOM_DB)
    if rng.random() >= _BACKGROUND_RATE:
        return sound, set()
    kind = int(rng.integers(len(_BACKGROUNDS)))
    background = _BACKGROUNDS[kind](rng, len(sound) // SAMPLE_RATE)
    background *= _gain(rng, _BACKGROUND_DB) / np.sqrt(np.mean(background**2))
    return sound + background, {kind}


def _gain(rng: np.random.Generator, decibels: tuple[float, float]) -> np.float32:
    return np.float32(10 ** (rng.uniform(*decibels) / 20))


def _phase(frequencies: np.ndarray, step: int = _CONTROL_STEP) -> np.ndarray:
    """The continuous phase in radians of a tone that keeps each frequency for ``step`` samples."""
    turns = np.cumsum(frequencies) * (step / SAMPLE_RATE)
    # Whole turns are dropped while in float64, as float32 would lose precision.
    start = np.concatenate([[0], turns[:-1]]) % 1
    within = (frequencies / SAMPLE_RATE)[:, None] * np.arange(step)
    return (2 * np.pi * (start[:, None] + within)).astype(np.float32).ravel()


def _white(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Uniform white noise of variance 1."""
    return (rng.random(samples, dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5)


def _colored(rng: np.random.Generator, seconds: int, exponent: float) -> np.ndarray:
    """Noise with an amplitude proportional to a power of the frequency, each second drawn anew."""
    spectrum = np.fft.rfft(_white(rng, seconds * SAMPLE_RATE).reshape(seconds, SAMPLE_RATE))
    frequencies = np.maximum(np.arange(spectrum.shape[1]), 60.0) ** exponent
    return np.fft.irfft(spectrum * frequencies.astype(np.float32)).astype(np.float32).ravel()


def _decays(seconds: int, period: int, decay: float) -> np.ndarray:
    """An envelope that starts at 1 every ``period`` samples and decays."""
    time = np.arange(seconds * SAMPLE_RATE, dtype=np.int64) % period
    return np.exp(np.arange(period, dtype=np.float32) / np.float32(-decay))[time]


def _steady(frequency: float, seconds: int) -> np.ndarray:
    return _phase(np.full(seconds * _CONTROL_RATE, frequency))


def _drone(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """A held fifth with its octave."""
    phase = _steady(rng.uniform(60, 100), seconds)
    return np.sin(2 * phase) + np.sin(3 * phase) + np.sin(4 * phase)


def _arpeggio(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Four plucked notes of a pentatonic scale a second."""
    step = SAMPLE_RATE // 4
    scale = rng.uniform(220, 330) * 2 ** (np.array([0, 3, 5, 7, 10]) / 12)
    notes = rng.choice(scale, size=4 * seconds)
    return _decays(seconds, step, 2000) * np.sin(_phase(notes, step))


def _drums(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """A bass drum with a snare on the off-beat."""
    beat = int(SAMPLE_RATE * rng.uniform(0.35, 0.6))
    bass = _decays(seconds, beat, 1000) * np.sin(_steady(60, seconds))
    snare = np.roll(_decays(seconds, beat, 500), beat // 2) * _white(rng, len(bass))
    return bass + np.float32(0.3) * snare


def _hum(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Mains hum: harmonics of twice 50 or 60 Hz."""
    phase = _steady(rng.choice([100, 120]), seconds)
    return np.sum([np.sin(k * phase) / np.float32(k) for k in range(1, 7)], axis=0)


def _hiss(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Noise of high frequencies."""
    return _colored(rng, seconds, 1)


def _wind(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Noise of low frequencies that swells every few seconds."""
    time = np.arange(seconds * _CONTROL_RATE) / _CONTROL_RATE
    swell = 1 + 0.8 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.3) * time + rng.random()))
    return np.repeat(swell.astype(np.float32), _CONTROL_STEP) * _colored(rng, seconds, -1)


# In the order of their labels.
_BACKGROUNDS = (_drone, _arpeggio, _drums, _hum, _hiss, _wind)
