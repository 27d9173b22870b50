"""Corrupting a clip: the names, and one function for all of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np

from ...core.checks import is_integer, near_names
from .per_clip import PER_CLIP
from .per_frame import PER_FRAME

CORRUPTION_GROUPS = {
    'noise': ('gaussian_noise', 'impulse_noise', 'speckle_noise'),
    'blur': ('gaussian_blur', 'defocus_blur', 'zoom_blur'),
    'weather': ('snow', 'brightness'),
    'video': ('motion_blur', 'h264', 'frame_drop', 'packet_loss', 'jumble', 'freeze'),
}
"""Names of the corruptions by group. Those of 'video' act on the order and motion of frames."""
CORRUPTIONS = tuple(name for names in CORRUPTION_GROUPS.values() for name in names)
"""All names, in the order of their groups."""
PAPER_CORRUPTIONS = tuple(name for name in CORRUPTIONS if name not in CORRUPTION_GROUPS['video'])
"""The eight of ImageNet-C."""
SEVERITIES = (1, 2, 3, 4, 5)
TEMPORAL = ('iid', 'shared')

_MIN_SIZE = 32


def corrupt(
    frames: np.ndarray, name: str, severity: int, seed: int = 0, temporal: str = 'iid'
) -> np.ndarray:
    """Corrupt a clip.

    The result depends on the arguments alone: no global random state is read or changed. All
    severities of a corruption draw the same random numbers (a higher severity makes the same noise
    stronger, and loses the same frames and more), so that two severities differ by their strength
    and not by chance. Where a corruption treats frames one by one, the first frames of a clip do
    not depend on how many follow.

    Args:
        frames (np.ndarray): Shape (T, H, W, 3), uint8 RGB, H and W at least 32. Not changed.
        name (str): One of ``CORRUPTIONS``.
        severity (int): 1 to 5.
        seed (int): At least 0. Defaults to 0.
        temporal (str): Whether the noise of 'gaussian_noise', 'impulse_noise' and
            'speckle_noise' and the flakes of 'snow' are drawn anew for each frame, ``'iid'``, or
            once for the clip, ``'shared'``. The other corruptions ignore it. Defaults to
            ``'iid'``.

    Returns:
        np.ndarray: A new array of the same shape and type.

    Raises:
        ImportError: For 'h264' without PyAV.
        TypeError: If the frames are not an array of uint8.
        ValueError: If an argument is not as described.

    Example:
        >>> for name in PAPER_CORRUPTIONS:
        ...     corrupted = corrupt(frames, name, severity=3)
    """
    check_options(name, severity, seed, temporal)
    _check_frames(frames)
    frames = np.ascontiguousarray(frames)
    rng = np.random.default_rng([zlib.crc32(name.encode()), int(seed)])
    level = int(severity) - 1
    if name in PER_CLIP:
        return PER_CLIP[name](frames, level, rng)
    corrupt_frame, draw = PER_FRAME[name]
    corrupted = np.empty_like(frames)
    draws = _draw_for_frames(draw, rng, frames.shape[1:], len(frames), temporal)
    # Frame by frame everything fits into the cache, which is faster than the whole clip at once,
    # and a long clip needs no more memory than a short one.
    for target, frame, drawn in zip(corrupted, frames, draws, strict=True):
        target[...] = corrupt_frame(frame, level, *drawn)
    return corrupted


def _draw_for_frames(
    draw: Callable[..., tuple],
    rng: np.random.Generator,
    shape: tuple[int, ...],
    count: int,
    temporal: str,
) -> Iterator[tuple]:
    """The random numbers for each of ``count`` frames of a shape (H, W, 3)."""
    if temporal == 'shared':
        return repeat(draw(rng, shape), count)
    return (draw(rng, shape) for _ in range(count))


def _check_frames(frames: object) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise TypeError(
            f'frames must be a numpy array of uint8 in [0, 255], got {kind}: corrupt them before '
            'they are normalised, or write np.clip(np.rint(frames), 0, 255).astype(np.uint8).'
        )
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(
            f'frames of shape {frames.shape} must be (T, H, W, 3), RGB and with T of at least 1: '
            'write frames[None] for one frame, np.repeat(frames[..., None], 3, -1) for gray ones.'
        )
    if min(frames.shape[1:3]) < _MIN_SIZE:
        raise ValueError(
            f'frames of {frames.shape[1]} x {frames.shape[2]} pixels are too small: H and W must '
            f'be at least {_MIN_SIZE}. Enlarge them first, for example by Resize.'
        )


def check_options(name: object, severity: object, seed: object, temporal: object) -> None:
    """Raise a ``ValueError`` that says what to write unless :func:`corrupt` takes the options."""
    if name not in CORRUPTIONS:
        spelled = name.lower().replace(' ', '_') if isinstance(name, str) else ''
        choices = ' or '.join(map(repr, near_names(spelled, CORRUPTIONS) or CORRUPTIONS))
        raise ValueError(f'name={name!r} is no corruption: write {choices}.')
    if not is_integer(severity) or severity not in SEVERITIES:
        raise ValueError(
            f'severity={severity!r} must be an integer from 1 to 5: write for example severity=3, '
            'and leave the corruption out for clean frames.'
        )
    if not is_integer(seed) or seed < 0:
        raise ValueError(f'seed={seed!r} must be an integer of at least 0: write for example 0.')
    if temporal not in TEMPORAL:
        raise ValueError(
            f"temporal={temporal!r} is unknown: write temporal='iid' for noise drawn "
            "anew for each frame, or temporal='shared' for the same in all frames."
        )
