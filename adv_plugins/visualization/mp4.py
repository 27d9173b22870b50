"""Clips as .mp4 files, large enough to watch."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import replacing

Frames = NDArray[np.uint8]
"""A clip, uint8 RGB, shape (T, H, W, 3)."""

SHORT_SIDE = 224
"""Pixels of the short side below which a clip is too small to watch."""


def write_mp4(path: str | Path, frames: Frames, fps: float = 8, scale: int | None = None) -> None:
    """Write a clip as an .mp4 file that browsers play: H.264, colours at half the resolution.

    Args:
        path (str | Path): The file to write. Its folder is created where it is missing.
        frames (ndarray): The frames, uint8 RGB, shape (T, H, W, 3). A last row or column is
            repeated where H or W is odd.
        fps (float): Frames per second. Defaults to 8.
        scale (int, optional): Side of the square as which each pixel is drawn. Defaults to None:
            the smallest at which the short side has 224 pixels or more.

    Raises:
        ValueError: A shape, type or option is not as described.
        ImportError: PyAV is missing.
    """
    check_frames(frames)
    if fps <= 0:
        raise ValueError(f'fps={fps} must be more than 0')
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'videos are written with PyAV; install it with: pip install "adv_plugins[data]"'
        ) from error
    frames = even_sides(enlarge(frames, scale))
    options = {'movflags': 'faststart'}
    # By its name, since FFmpeg reads it again to move the index to the front.
    with (
        replacing(path) as file,
        av.open(file.name, 'w', format='mp4', options=options) as container,
    ):
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream('libx264', rate=rate, options={'crf': '16'})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def enlarge(frames: Frames, scale: int | None = None) -> Frames:
    """A clip with each pixel drawn as a square.

    Args:
        frames (ndarray): Shape (T, H, W, 3).
        scale (int, optional): Side of the square. Defaults to None: the smallest at which the
            short side of the clip has 224 pixels or more.

    Returns:
        ndarray: Shape (T, scale * H, scale * W, 3).

    Raises:
        ValueError: ``scale`` is less than 1.
    """
    if scale is None:
        scale = -(-SHORT_SIDE // min(frames.shape[1:3]))
    if scale < 1:
        raise ValueError(f'scale={scale} must be 1 or more; a clip can only be enlarged')
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def even_sides(frames: Frames) -> Frames:
    """A clip with an even height and width, which H.264 needs: edges are repeated."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')


def check_frames(frames: Frames) -> None:
    """Raise a ValueError unless ``frames`` is a clip, uint8 RGB, shape (T, H, W, 3)."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(
            f'frames must be uint8 RGB of the shape (T, H, W, 3), got {frames.dtype} {frames.shape}'
        )
