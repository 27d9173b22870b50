"""The PCA of the features, scaled to the range of YouTube-8M's quantiser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureProjection:
    """A PCA whose components are scaled to the range of YouTube-8M's quantiser.

    Args:
        mean (np.ndarray): Shape (D,), float32.
        matrix (np.ndarray): Shape (D, K), float32.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Project features (T, D) to (T, K)."""
        return (features - self.mean) @ self.matrix


def fit_projection(features: np.ndarray, num_components: int) -> FeatureProjection:
    """Fit the PCA.

    The standard deviation falls from 1 in the first component to 0.4 in most, so that frames have
    about the norm of YouTube-8M's. The sign of a component makes its largest weight positive.
    Components beyond the rank of the features are 0.

    Args:
        features (np.ndarray): Shape (N, D), with D of at least ``num_components``.
        num_components (int): Components to keep, ``K``.

    Returns:
        FeatureProjection: The projection.
    """
    # scikit-learn's PCA rounds differently: in float64 each of its exact solvers changed a byte of
    # 189 million in 13 samples, which would make another version of every sample.
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), 4096):
        centered = features[start : start + 4096] - mean
        covariance += centered.T @ centered
    variances, axes = np.linalg.eigh(covariance / len(features))
    variances, axes = variances[::-1][:num_components], axes[:, ::-1][:, :num_components]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    # With fewer frames than components some axes are rounding errors: these are dropped. Axes of
    # little variance are not amplified.
    meaningful = variances > 1e-9 * variances[0]
    deviations = np.sqrt(np.maximum(variances, 1e-5 * variances[0]))
    targets = 0.4 + 0.6 * np.exp(-10 * np.arange(num_components) / num_components)
    matrix = axes * (meaningful * targets / deviations)
    return FeatureProjection(mean.astype(np.float32), matrix.astype(np.float32))
