"""The images that scikit-learn carries: handwritten digits, with their split, and two photos."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import numpy as np

# Decides which glyph belongs to which split. It is no option: with another value the "unseen"
# glyphs of one run would be the training glyphs of the next.
_SPLIT_SEED = 1797


@lru_cache(maxsize=1)
def load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Glyphs (1797, 8, 8) as float32 opacity in [0, 1], and the digits they show."""
    digits = _sklearn_datasets().load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def glyph_indices(split: str) -> np.ndarray:
    """Indices of the handwritten digits that a split may show.

    Args:
        split (str): 'train' or 'val'.

    Returns:
        np.ndarray: Sorted indices into ``sklearn.datasets.load_digits().images``. The two
        splits are disjoint and hold half of every digit each.
    """
    _, targets = load_glyphs()
    rng = np.random.default_rng(_SPLIT_SEED)
    parts = []
    for digit in range(10):
        shuffled = rng.permutation(np.flatnonzero(targets == digit))
        half = len(shuffled) // 2
        parts.append(shuffled[:half] if split == 'train' else shuffled[half:])
    return np.sort(np.concatenate(parts))


@lru_cache(maxsize=1)
def load_photos() -> tuple[np.ndarray, ...]:
    """The two photos of scikit-learn, (427, 640, 3) in uint8 RGB."""
    datasets = _sklearn_datasets()
    try:
        return tuple(datasets.load_sample_images().images)
    except ImportError as error:
        raise ImportError(
            'OrderedDigits reads the photos of scikit-learn with Pillow, which is not '
            'installed: pip install "adv_plugins[data]"'
        ) from error


def _sklearn_datasets() -> ModuleType:
    """``sklearn.datasets``, imported late because scikit-learn is an optional dependency."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            'OrderedDigits draws the handwritten digits of scikit-learn, which is not '
            'installed: pip install "adv_plugins[data]"'
        ) from error
    return sklearn.datasets
