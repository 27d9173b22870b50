"""YouTube-8M's 8-bit features to floats and back."""

from __future__ import annotations

import numpy as np


def dequantize(quantized: np.ndarray) -> np.ndarray:
    """Turn 8-bit features into the floats that YouTube-8M's starter code trains on, bit for bit.

    Args:
        quantized (np.ndarray): uint8, any shape.

    Returns:
        np.ndarray: float32 of the same shape, from -1.9921875 to 2.0078125.

    Raises:
        ValueError: If the features are not uint8.

    Source: google/youtube-8m, ``utils.Dequantize`` with -2 and 2.
    """
    quantized = np.asarray(quantized)
    if quantized.dtype != np.uint8:
        text = f'dequantize: got {quantized.dtype}, expected uint8. Use float features as they are.'
        raise ValueError(text)
    features = quantized.astype(np.float32)
    features *= np.float32(4 / 255)
    features += np.float32(4 / 512 - 2)
    return features


def quantize(features: np.ndarray) -> np.ndarray:
    """Turn floats into 8-bit features, as YouTube-8M's own extractor does.

    ``dequantize(quantize(x))`` is ``x`` clipped to [-2, 2] and shifted by 1/128, to within half a
    quantisation step.

    Args:
        features (np.ndarray): Floats without NaN, any shape.

    Returns:
        np.ndarray: uint8 of the same shape.

    Raises:
        ValueError: If a feature is NaN.

    Source: google/youtube-8m, ``extract_tfrecords_main.quantize``.
    """
    features = np.asarray(features, dtype=np.float32)
    if np.isnan(features).any():
        raise ValueError('quantize: the features contain NaN, which no byte stands for')
    steps = (np.clip(features, -2, 2) + np.float32(2)) * np.float32(255 / 4)
    return np.rint(steps).astype(np.uint8)
