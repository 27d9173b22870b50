"""Quantisation against YouTube-8M's own formulas."""

from __future__ import annotations

import numpy as np
import pytest

from adv_plugins.datasets.yt8m import (
    dequantize,
    quantize,
)


def test_dequantize_is_the_original_bit_for_bit() -> None:
    quantized = np.arange(256, dtype=np.uint8).reshape(2, 128)
    # utils.Dequantize: scalar = (2 - -2) / 255, bias = (2 - -2) / 512 + -2, in float32.
    scale, bias = np.float32(4 / 255), np.float32(4 / 512 + -2.0)
    expected = [[np.float32(q) * scale + bias for q in row] for row in quantized]
    found = dequantize(quantized)
    assert found.dtype == np.float32 and found.tobytes() == np.array(expected, 'f4').tobytes()
    assert (found.min(), found.max()) == (-1.9921875, 2.0078125)
    with pytest.raises(ValueError, match='got float32, expected uint8'):
        dequantize(found)


def test_quantize_is_the_writers_rule() -> None:
    steps = (np.arange(511) / 2).astype(np.float32)
    features = np.concatenate(
        [
            np.random.default_rng(0).normal(size=2000).astype(np.float32) * 2,
            steps * np.float32(4 / 255) - 2,
            np.float32([-np.inf, -9, -2, 2, 9, np.inf]),
        ]
    )
    expected = [
        int(round(float((min(max(f, np.float32(-2)), np.float32(2)) + np.float32(2)) * 63.75)))
        for f in features.astype(np.float64)
    ]
    found = quantize(features)
    ties = np.abs(np.modf((np.clip(features, -2, 2).astype('f8') + 2) * 63.75)[0] - 0.5) < 1e-4
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[~ties], np.array(expected)[~ties])
    bias = dequantize(found) - np.clip(features, -2, 2) - 1 / 128
    assert np.abs(bias).max() <= 2 / 255 + 1e-6
    with pytest.raises(ValueError, match='NaN'):
        quantize(np.float32([0, np.nan]))
