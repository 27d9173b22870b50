"""The corruptions of ImageNet-C: one frame at a time, given the random numbers drawn for it.

The constants are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), one entry for each
severity, for frames in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

GAUSSIAN_NOISE_STD = (0.08, 0.12, 0.18, 0.26, 0.38)
IMPULSE_NOISE_SHARE = (0.03, 0.06, 0.09, 0.17, 0.27)
SPECKLE_NOISE_STD = (0.15, 0.2, 0.35, 0.45, 0.6)
GAUSSIAN_BLUR_SIGMA = (1, 2, 3, 4, 6)
DEFOCUS_BLUR_DISK = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
"""Radius of the disk, and sigma of the blur that softens its rim."""
ZOOM_BLUR_FACTORS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
"""End and step of the zoom factors, which start at 1."""
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and standard deviation of the flakes, their zoom, the threshold below which there is none,
radius and sigma of their motion blur, and how much of the frame is kept."""
BRIGHTNESS_SHIFT = (0.1, 0.2, 0.3, 0.4, 0.5)


def _gaussian_noise(frame: np.ndarray, level: int, noise: np.ndarray) -> np.ndarray:
    """Additive noise. ``noise`` is standard normal, (H, W, 3)."""
    return _to_uint8(frame / 255.0 + GAUSSIAN_NOISE_STD[level] * noise)


def _impulse_noise(frame: np.ndarray, level: int, hit: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """Salt and pepper in single channels. ``hit`` and ``salt`` are uniform, (H, W, 3)."""
    extreme = np.where(salt <= 0.5, np.uint8(255), np.uint8(0))
    return np.where(hit <= IMPULSE_NOISE_SHARE[level], extreme, _to_uint8(frame / 255.0))


def _speckle_noise(frame: np.ndarray, level: int, noise: np.ndarray) -> np.ndarray:
    """Noise proportional to the frame. ``noise`` is standard normal, (H, W, 3)."""
    x = frame / 255.0
    return _to_uint8(x + x * (SPECKLE_NOISE_STD[level] * noise))


def _gaussian_blur(frame: np.ndarray, level: int) -> np.ndarray:
    sigma = GAUSSIAN_BLUR_SIGMA[level]
    return _to_uint8(gaussian_filter(frame / 255.0, (sigma, sigma, 0), mode='nearest'))


def _defocus_blur(frame: np.ndarray, level: int) -> np.ndarray:
    return _to_uint8(cv2.filter2D(frame / 255.0, -1, _disk(*DEFOCUS_BLUR_DISK[level])))


def _zoom_blur(frame: np.ndarray, level: int) -> np.ndarray:
    """Mean of the frame and its zoomed versions; the first zoom factor is 1."""
    height, width = frame.shape[:2]
    end, step = ZOOM_BLUR_FACTORS[level]
    factors = np.arange(1, end, step)
    x = (frame / 255.0).astype(np.float32)
    columns = x.reshape(height, width * 3).astype(np.float64)
    # Transposed in between, so that the first axis is the one interpolated both times.
    total = np.zeros((width, height * 3), dtype=np.float32)
    for factor in factors:
        rows = _zoom_matrix(height, factor)[:height] @ columns
        rows = rows.reshape(height, width, 3).swapaxes(0, 1).reshape(width, height * 3)
        total += (_zoom_matrix(width, factor)[:width] @ rows).astype(np.float32)
    total = total.reshape(width, height, 3).swapaxes(0, 1)
    return _to_uint8((x + total) / (len(factors) + 1))


def _snow(frame: np.ndarray, level: int, noise: np.ndarray, angle: float) -> np.ndarray:
    """Flakes that fall at an angle over a paler frame. ``noise`` is standard normal, (H, W)."""
    mean, std, zoom, threshold, radius, sigma, keep = SNOW[level]
    height, width = noise.shape
    flakes = _zoom_matrix(height, zoom) @ (mean + std * noise) @ _zoom_matrix(width, zoom).T
    flakes[flakes < threshold] = 0
    flakes = _directional_blur(np.clip(flakes, 0, 1), radius, sigma, angle)[:height, :width]
    flakes = np.round(flakes * 255).astype(np.uint8) / 255.0
    x = frame.astype(np.float32) / np.float32(255)
    gray = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    pale = keep * x + (1 - keep) * np.maximum(x, gray * 1.5 + 0.5)
    return _to_uint8(pale + (flakes + flakes[::-1, ::-1])[..., None])


def _brightness(frame: np.ndarray, level: int) -> np.ndarray:
    """A higher value at the same hue and saturation: all channels are scaled by one factor."""
    shift = BRIGHTNESS_SHIFT[level]
    x = frame / 255.0
    value = x.max(axis=-1, keepdims=True)
    # In this order the largest channel becomes the new value exactly, without rounding.
    shares = np.divide(x, value, out=np.ones_like(x), where=value > 0)
    return _to_uint8(shares * np.minimum(value + shift, 1))


def _to_uint8(x: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as grey levels, rounded down as in ImageNet-C."""
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


@cache
def _disk(radius: int, rim_sigma: float) -> np.ndarray:
    """A disk of sum 1 with a soft rim."""
    reach, rim = (8, 3) if radius <= 8 else (radius, 5)
    axis = np.arange(-reach, reach + 1)
    inside = (axis**2 + axis[:, None] ** 2 <= radius**2).astype(np.float32)
    return cv2.GaussianBlur(inside / inside.sum(), (rim, rim), sigmaX=rim_sigma)


@lru_cache(maxsize=256)
def _zoom_matrix(size: int, factor: float) -> csr_array:
    """Zoom along one axis into its middle, as a matrix (at least ``size``, ``size``).

    Linear interpolation that maps the ends of the crop to the ends of the result, as
    ``scipy.ndimage.zoom`` does. For some sizes that function rounds the last coordinate to a place
    outside the crop, which leaves a black line; this one does not.
    """
    crop = int(np.ceil(size / factor))
    zoomed = round(crop * factor)
    position = np.arange(zoomed) * ((crop - 1) / (zoomed - 1))
    low = np.minimum(position.astype(int), crop - 2)
    weight = position - low
    start = (size - crop) // 2
    rows = np.tile(np.arange(zoomed), 2)
    columns = start + np.concatenate([low, low + 1])
    return csr_array((np.concatenate([1 - weight, weight]), (rows, columns)), shape=(zoomed, size))


def _directional_blur(image: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Blur an image (H, W) along one direction; its edges are repeated.

    The original calls ImageMagick; this follows the package imagecorruptions, which does not.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    direction = np.deg2rad(angle)
    down, right = (
        np.ceil(steps * component - 0.5).astype(int)
        for component in (np.sin(direction), np.cos(direction))
    )
    margin = steps[-1]
    padded = np.pad(image, margin, mode='edge')
    blurred = np.zeros_like(image)
    for weight, dy, dx in zip(weights, down + margin, right + margin, strict=True):
        blurred += weight * padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
    return blurred


def _draw_nothing(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return ()


def _draw_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return (rng.standard_normal(shape),)


def _draw_two_uniforms(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return rng.random(shape), rng.random(shape)


def _draw_flakes(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return rng.standard_normal(shape[:2]), rng.uniform(-135, -45)


PER_FRAME: dict[str, tuple[Callable[..., np.ndarray], Callable[..., tuple]]] = {
    'gaussian_noise': (_gaussian_noise, _draw_normal),
    'impulse_noise': (_impulse_noise, _draw_two_uniforms),
    'speckle_noise': (_speckle_noise, _draw_normal),
    'gaussian_blur': (_gaussian_blur, _draw_nothing),
    'defocus_blur': (_defocus_blur, _draw_nothing),
    'zoom_blur': (_zoom_blur, _draw_nothing),
    'snow': (_snow, _draw_flakes),
    'brightness': (_brightness, _draw_nothing),
}
"""For each corruption by name: the function ``(frame, level, *drawn)``, and what it draws."""
