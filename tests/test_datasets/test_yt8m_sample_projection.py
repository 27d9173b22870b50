"""The PCA of YT8MSample against scikit-learn's, and its quantisation."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the sample draws the digits of scikit-learn')

from sklearn.decomposition import PCA

from adv_plugins.datasets.yt8m import dequantize, quantize
from adv_plugins.datasets.yt8m_sample import fit_projection

STEP = 4 / 255


def test_projection_is_sklearns_pca_up_to_sign() -> None:
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((5000, 12)) * np.geomspace(3, 0.3, 12)) @ rng.random((12, 12)) + 5
    data = data.astype(np.float32)
    project = fit_projection(data, 6)
    other = PCA(6, whiten=True, svd_solver='full').fit(data.astype(np.float64))
    target = 0.4 + 0.6 * np.exp(-10 * np.arange(6) / 6)
    expected = other.transform(data) * target
    got = project(data)
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got, expected * signs, atol=2e-3)
    np.testing.assert_allclose(got.std(axis=0), target, rtol=1e-3)
    largest = np.abs(project.matrix).argmax(axis=0)
    assert (project.matrix[largest, np.arange(6)] > 0).all()


def test_components_beyond_the_rank_are_zero_and_weak_ones_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    data = np.zeros((50, 20), np.float32)
    data[:, :3] = rng.standard_normal((50, 3))
    data[:, 3] = 1e-4 * rng.standard_normal(50)
    other = rng.standard_normal((9, 20)).astype(np.float32)
    project = fit_projection(data, 10)
    assert np.isfinite(project.matrix).all()
    assert not project(other)[:, 4:].any()
    assert project(data)[:, :3].std(axis=0).min() > 0.4
    assert project(data)[:, 3].std() < 0.03


def test_quantising_costs_half_a_step_and_the_offset() -> None:
    features = np.linspace(-2, 2, 10_001, dtype=np.float32)
    error = dequantize(quantize(features)) - features - 1 / 128
    assert np.abs(error).max() <= STEP / 2 + 1e-5
