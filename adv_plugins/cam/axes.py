"""The axes of a feature map: how they may be read, and which reading the clip confirms.

A reading is an einops pattern, see :func:`adv_plugins.core.capture.to_frames`. It is confirmed by
changing corners of the clip: what changes early or late, above or below, left or right has to move
the map there, along that axis before all others. Large receptive fields blur this but keep the
order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor

from ..core.capture import LAYOUTS

ClipAxes = tuple[int, int, int]
"""The axes of an input that are time, height and width."""

CORNERS = ((-1, -1, -1), (-1, 1, 1), (1, -1, 1), (1, 1, -1))
"""Early or late, above or below, left or right: half of a clip's corners, each axis balanced.

A corner has half of the frames, because a pathway of the model may skip some.
"""
_SEED = 1
_SEEN = 0.01
"""The least mean shift along an axis that counts, in lengths of the axis."""
_EXTRA = 5
"""At most so many tokens before those of the places: a class token and four registers."""


def alike(clips: Tensor, axes: Collection[int]) -> Tensor:
    """The first half of the first clip along each axis, repeated over all halves and clips.

    All corners of all clips then hold the same, so that what a change of them does differs by
    where they are only.
    """
    tile = clips[:1]
    for axis in axes:
        length = clips.shape[axis]
        half = tile.narrow(axis, 0, -(-length // 2))
        tile = torch.cat([half, half], dim=axis).narrow(axis, 0, length)
    return tile.expand_as(clips).contiguous()


def change_corners(clips: Tensor, axes: ClipAxes, first: int) -> Tensor:
    """Clips in which one corner is changed each: ``CORNERS[first]`` in sample 0, and so on.

    Args:
        clips (Tensor): The clips, batch first.
        axes (tuple[int, int, int]): Their axes of time, height and width.
        first (int): The corner of sample 0; samples beyond the last corner stay as they are.
    """
    changed, patch = clips.clone(), None
    for sample, signs in zip(changed, CORNERS[first:], strict=False):
        corner = [slice(None)] * sample.ndim
        for axis, sign in zip(axes, signs, strict=True):
            length = clips.shape[axis]
            part = max(1, length // 2)
            corner[axis - 1] = slice(0, part) if sign < 0 else slice(length - part, length)
        place = sample[tuple(corner)]
        if patch is None:
            # Neither a constant nor small: a norm in the first layer would hide both.
            generator = torch.Generator().manual_seed(_SEED)
            noise = torch.randn(place.shape, generator=generator, device='cpu')
            patch = (noise.to(clips.device) * 2 * clips.float().std()).to(clips.dtype)
        place.add_(patch)
    return changed


def effects(response: Tensor) -> Tensor:
    """How far a change of the clip along each of its axes moves the map along each of its own.

    Args:
        response (Tensor): The size of the change of the map for each of ``CORNERS``, shape
            (4, T, H, W).

    Returns:
        Tensor: Rows for time, height and width of the clip, columns for those of the map, in
        lengths of the axis; shape (3, 3). NaN where a corner changes nothing.
    """
    # On the CPU: some devices have no double.
    weights = response.cpu().double()
    weights = weights / weights.sum(dim=(1, 2, 3), keepdim=True)
    centres = []
    for axis in (1, 2, 3):
        line = weights.sum(dim=[i for i in (1, 2, 3) if i != axis])
        places = torch.linspace(0, 1, line.shape[1], dtype=line.dtype, device='cpu')
        centres.append(line @ places)
    signs = torch.tensor(CORNERS, dtype=weights.dtype, device='cpu')
    return signs.T @ torch.stack(centres, dim=1) / (len(CORNERS) / 2)


def leads(moved: Tensor, grid: Sequence[int]) -> list[float]:
    """How clearly :func:`effects` confirm each axis of a reading: positive if they do.

    Args:
        moved (Tensor): The effects, shape (3, 3).
        grid (Sequence[int]): The sizes (T, H, W) of the map.

    Returns:
        list[float]: For time, height and width, the lead over the other axes, in lengths of the
        axis and in either direction; negative where another leads. NaN where a corner changes
        nothing, and infinite for an axis of size 1, which cannot move.
    """
    found = [math.inf] * 3
    own = [axis for axis, size in enumerate(grid) if size > 1]
    for axis in own:
        rest = [other for other in own if other != axis]
        others = torch.cat([moved[axis, rest], moved[rest, axis]]).abs().tolist()
        # Some models mirror the clip.
        found[axis] = abs(float(moved[axis, axis])) - max([_SEEN, *others])
    return found


def readings(shape: Sequence[int], batch_size: int, clip: Sequence[int]) -> Iterator[str]:
    """The layouts that the shape of a feature map allows, the likeliest first.

    Args:
        shape (Sequence[int]): The shape of the map.
        batch_size (int): B.
        clip (Sequence[int]): Frames, height and width of the clip. A map has no more of any, more
            than one frame and place, and places in the proportions of the clip. Only that of a
            convolution may have a single row or column, or a single channel: pooled maps are none.
    """
    frames, *size = clip
    for pattern in _PATTERNS.get(len(shape), ()):
        axes = dict(zip(re.findall(r'\([^)]*\)|\S+', pattern), shape, strict=True))
        places = next((axis for axis in axes if 'h w' in axis), None)
        grids = [(axes['h'], axes['w'])] if places is None else dict.fromkeys(_grids(*size))
        for extra in range(1 if places is None else _EXTRA + 1):
            sizes = axes if places is None else axes | {places: axes[places] - extra}
            for height, width in grids:
                known = {'b': batch_size, 'h': height, 'w': width}
                fits = height * width > 1 and height <= size[0] and width <= size[1]
                if pattern != LAYOUTS.get(len(shape)):
                    fits = fits and min(height, width, axes.get('c', 2)) > 1
                if not fits or not 2 <= _solved_time(sizes, known) <= frames:
                    continue
                if places is None:
                    yield pattern
                    continue
                marked = pattern.replace(places, f'{extra}+{places}') if extra else pattern
                yield f'{marked}; h={height} w={width}'


def extra_tokens(layout: str) -> int:
    """The number of tokens that a layout leaves out: those before the places."""
    before, plus, _ = layout.partition('+')
    return int(re.findall(r'\d+$', before)[0]) if plus else 0


def _solved_time(sizes: Mapping[str, int], known: Mapping[str, int]) -> int:
    """The number of frames at which the axes of a pattern have their sizes; 0 if there is none."""
    frames = 0
    for axis, size in sizes.items():
        names = axis.strip('()').split()
        if names == ['c']:
            continue
        count, rest = divmod(size, math.prod(known[name] for name in names if name != 't'))
        if rest or ('t' not in names and count != 1):
            return 0
        frames = count if 't' in names else frames
    return frames


def _grids(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Grids of places in the proportions of the frames, by whole strides."""
    for stride in range(1, max(height, width) + 1):
        rounded_down = max(1, height // stride), max(1, width // stride)
        rounded_up = -(-height // stride), -(-width // stride)
        yield from (rounded_down, rounded_up)


_PATTERNS: dict[int, tuple[str, ...]] = {
    3: (
        'b (t h w) c',
        'b (h w t) c',
        '(b t) (h w) c',
        '(t b) (h w) c',
        '(h w) (b t) c',
        '(h w) (t b) c',
        '(t h w) b c',
        '(b h w) t c',
        'b c (t h w)',
        '(b t) c (h w)',
    ),
    4: (
        *(f'(b t) {" ".join(axes)}' for axes in permutations('chw')),
        *(f'(t b) {" ".join(axes)}' for axes in permutations('chw')),
        'b t (h w) c',
        'b (h w) t c',
        'b c t (h w)',
        'b t c (h w)',
    ),
    5: (
        *(f'b {" ".join(axes)}' for axes in permutations('cthw')),
        *(f't b {" ".join(axes)}' for axes in permutations('chw')),
    ),
}
