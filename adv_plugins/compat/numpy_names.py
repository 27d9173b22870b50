"""Names that numpy removed and that MMAction2, mmcv and mmpretrain still use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from .installed import mentions

_METRICS = 'evaluation/metrics'
# The name, what stands in for it, and the files that use it by package.
_REMOVED: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ('Inf', 'inf', (('mmaction', 'datasets/transforms/pose_transforms.py'),)),
    ('NAN', 'nan', (('mmaction', 'evaluation/functional/ava_evaluation/metrics.py'),)),
    (
        'in1d',
        'isin',
        (
            ('mmaction', f'{_METRICS}/multimodal_metric.py'),
            ('mmpretrain', f'{_METRICS}/retrieval.py'),
        ),
    ),
    ('trapz', 'trapezoid', (('mmaction', 'evaluation/functional/accuracy.py'),)),
    ('float', 'float64', (('mmcv', 'ops/pixel_group.py'),)),
)


def numpy_names() -> bool:
    """Give numpy back the names that the OpenMMLab packages use and numpy no longer has.

    Upstream: MMAction2 1.2.0 and mmpretrain 1.2.0 use ``np.Inf`` and ``np.NAN``, removed in numpy
    2.0, and ``np.in1d`` and ``np.trapz``, removed in 2.4; mmcv's operators use ``np.float``,
    removed in 1.24. PoseC3D's pipeline, the retrieval metrics and the metrics of temporal
    localisation end in an ``AttributeError``.

    A name that numpy has, or that no installed package uses, is left alone.

    Returns:
        bool: True if numpy was given a name.
    """
    used = {
        name: instead
        for name, instead, files in _REMOVED
        if any(mentions(package, file, f'np.{name}') for package, file in files)
    }
    if not used:
        return False
    import numpy as np

    with warnings.catch_warnings():
        # Before a name is removed, asking for it may warn.
        warnings.simplefilter('ignore')
        missing = {name: instead for name, instead in used.items() if not hasattr(np, name)}
    for name, instead in missing.items():
        value = getattr(np, instead)
        setattr(np, name, _flat(value) if name == 'in1d' else value)
    return bool(missing)


def _flat(isin: Callable[..., Any]) -> Callable[..., Any]:
    """``np.in1d``, which flattened its first argument, from ``np.isin``, which does not."""

    def in1d(ar1: Any, ar2: Any, *args: Any, **kwargs: Any) -> Any:
        return isin(ar1, ar2, *args, **kwargs).ravel()

    return in1d
