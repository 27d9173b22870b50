"""The features of a second: what a frame looks like, and the spectrum of its sound."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .sound import SAMPLE_RATE

# Windows of the spectrum: 40 a second in 4 groups, which cover 0.97 s as VGGish's patches do.
_WINDOW, _HOP, _WINDOWS, _GROUPS, _BANDS = 512, 384, 40, 4, 64


def visual_features(frames: np.ndarray) -> np.ndarray:
    """Describe each frame by its edges, its colours, and where and what its salient object is.

    Args:
        frames (np.ndarray): Shape (T, 48, 48, 3), uint8 RGB.

    Returns:
        np.ndarray: Shape (T, 1216), float32. A row depends on its own frame alone.
    """
    count, size = frames.shape[:2]
    image = frames.astype(np.float32) / 255
    colors = image.reshape(count, 8, size // 8, 8, size // 8, 3).mean(axis=(2, 4))
    grey = image @ np.full(3, 1 / 3, dtype=np.float32)
    # The glyphs differ from the background by more than its own contrast.
    salient = np.abs(grey - np.median(grey, axis=(1, 2), keepdims=True))
    salient = np.maximum(salient - np.float32(0.15), 0)
    where = salient.reshape(count, 16, size // 16, 16, size // 16).mean(axis=(2, 4))
    what = _crop_salient(salient, 16)
    parts = [
        _edge_histograms(grey, 8, 4),
        0.3 * colors,
        _unit(where),
        _unit(what),
        _edge_histograms(what, 4, 16),
    ]
    return np.concatenate([part.reshape(count, -1) for part in parts], 1).astype(np.float32)


def _crop_salient(salient: np.ndarray, side: int, reach: int = 10) -> np.ndarray:
    """The most salient blob of each map (T, H, W), brought to one place and size.

    The blob is the window of 2 ``reach`` + 1 pixels with the greatest sum; its centre and its
    spread give the crop (T, side, side).
    """
    count, size = salient.shape[:2]
    padded = np.pad(salient, ((0, 0), (reach, reach), (reach, reach)))
    sums = np.pad(padded.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    width = 2 * reach + 1
    rows = sums[:, width:] - sums[:, :-width]
    windows = rows[:, :, width:] - rows[:, :, :-width]
    corners = np.stack(np.divmod(windows.reshape(count, -1).argmax(1), size), axis=1)
    steps = np.arange(width)
    item = np.arange(count)[:, None, None]
    y, x = ((corners[:, [axis]] + steps) for axis in (0, 1))
    window = padded[item, y[:, :, None], x[:, None, :]]
    mass = window.sum(axis=(1, 2)) + 1e-6
    profiles = np.stack([window.sum(axis=2), window.sum(axis=1)], axis=1) / mass[:, None, None]
    center = profiles @ steps
    spread = np.sqrt((profiles * (steps - center[:, :, None]) ** 2).sum(axis=(1, 2)))
    grid = np.linspace(-2, 2, side) * spread[:, None, None]
    places = corners[:, :, None] - reach + center[:, :, None] + grid
    y, x = np.moveaxis(np.clip(np.rint(places), 0, size - 1).astype(np.int64), 1, 0)
    return salient[item, y[:, :, None], x[:, None, :]]


def _edge_histograms(images: np.ndarray, cells: int, bins: int) -> np.ndarray:
    """Histograms of gradient directions, weighted by magnitude, in cells of images (T, H, W).

    Returns:
        np.ndarray: Shape (T, cells * cells * bins), square roots of shares of the whole image.
    """
    count, size = images.shape[:2]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode='edge')
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    strength = np.sqrt(dx**2 + dy**2)
    direction = np.arctan2(dy, dx) * np.float32(bins / (2 * np.pi))
    lower = np.floor(direction)
    upper_share = direction - lower
    lower = lower.astype(np.int64)
    cell = np.arange(size) // (size // cells)
    cell = (np.arange(count)[:, None, None] * cells + cell[:, None]) * cells + cell
    histogram = np.zeros(count * cells * cells * bins)
    for offset, share in ((0, 1 - upper_share), (1, upper_share)):
        place = cell * bins + (lower + offset) % bins
        histogram += np.bincount(place.ravel(), (strength * share).ravel(), len(histogram))
    histogram = histogram.reshape(count, -1)
    return np.sqrt(histogram / (histogram.sum(axis=1, keepdims=True) + 1e-6))


def _unit(maps: np.ndarray) -> np.ndarray:
    """Maps (T, H, W) scaled to norm 1; empty maps stay 0."""
    return maps / (np.sqrt(np.sum(maps**2, axis=(1, 2), keepdims=True)) + 1e-3)


def audio_features(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrum of each second, in four quarters.

    Args:
        waveform (np.ndarray): Shape (16000 T,), float32, mono at 16 kHz.

    Returns:
        np.ndarray: Shape (T, 256), float32: 64 mel bands of each quarter of a second.
    """
    seconds = waveform.reshape(-1, SAMPLE_RATE)
    windows = np.lib.stride_tricks.sliding_window_view(seconds, _WINDOW, axis=1)
    windows = windows[:, : _WINDOWS * _HOP : _HOP]
    taper = np.hanning(_WINDOW).astype(np.float32)
    features = [
        np.log(np.abs(np.fft.rfft(second * taper)) @ _mel_filters() + 0.01)
        .reshape(_GROUPS, -1, _BANDS)
        .mean(axis=1)
        for second in windows
    ]
    return np.stack(features).reshape(len(seconds), -1).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """Triangular filters (257, 64), equally spaced in mel from 125 to 7500 Hz as in VGGish."""
    low, high = 1127 * np.log1p(np.array([125, 7500]) / 700)
    edges = 700 * np.expm1(np.linspace(low, high, _BANDS + 2) / 1127)
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)[:, None]
    rise = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rise, fall), 0).astype(np.float32)
