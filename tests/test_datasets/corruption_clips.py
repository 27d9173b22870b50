"""Clips for the tests of the corruptions, and what is needed to corrupt them."""

from __future__ import annotations

from importlib.util import find_spec

import cv2
import numpy as np
import pytest

pytest.importorskip('mmcv', reason='VideoCorruption is a transform of mmcv')

from adv_plugins.datasets.corruptions import CORRUPTIONS

NOISY = ('gaussian_noise', 'impulse_noise', 'speckle_noise', 'snow')
RANDOM = (*NOISY, 'frame_drop', 'packet_loss', 'jumble', 'freeze')
NEEDS_AV = pytest.mark.skipif(find_spec('av') is None, reason="'h264' encodes with PyAV")
NAMES = [pytest.param(name, marks=NEEDS_AV if name == 'h264' else ()) for name in CORRUPTIONS]


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
