"""Scenes of OrderedDigits: a digit that moves over a photo, drawn from a seed and rendered."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .digit_images import load_glyphs, load_photos

_CROSS, _LIFT, _APPROACH, _SWAP, _TURN, _LONG_TERM = range(6)
_GLYPH_SIDE = 8
_NOISE = 6


@dataclass(frozen=True)
class Scene:
    """Everything that both members of a class pair share for one draw.

    The arrays over time hold one entry for each of the ``T`` frames, in the order of the first
    member of the pair.

    Args:
        glyphs (np.ndarray): Shape (2, 8, 8), opacity in [0, 1]. The second glyph is shown only
            where ``which`` is 1.
        which (np.ndarray): Shape (T,), index into ``glyphs``.
        x (np.ndarray): Shape (T,), centre of the glyph as a fraction of the width.
        y (np.ndarray): Shape (T,), centre of the glyph as a fraction of the height, downwards.
        side (np.ndarray): Shape (T,), side of the glyph's square as a fraction of the frame.
        angle (np.ndarray): Shape (T,), degrees, counterclockwise on the screen.
        color (np.ndarray): Shape (3,), RGB in [0, 255].
        background (np.ndarray): Shape (size, size, 3), float32 RGB in [0, 255], the static
            distractor included.
        noise (np.ndarray): Shape (T, size, size, 3), int8 grey levels. It belongs to its frame
            and moves with it when the frames are reordered.
    """

    glyphs: np.ndarray
    which: np.ndarray
    x: np.ndarray
    y: np.ndarray
    side: np.ndarray
    angle: np.ndarray
    color: np.ndarray
    background: np.ndarray
    noise: np.ndarray


def draw_scene(
    rng: np.random.Generator, pair: int, glyph_indices: np.ndarray, num_frames: int, size: int
) -> Scene:
    """Draw the scene that both members of a pair of classes share.

    Args:
        rng (np.random.Generator): Where the random numbers come from.
        pair (int): Index of the pair, 0 to 5.
        glyph_indices (np.ndarray): Indices of the handwritten digits that may be shown.
        num_frames (int): Frames of the scene, ``T``.
        size (int): Height and width of a frame in pixels.

    Returns:
        Scene: The scene in the frame order of the pair's first member.
    """
    glyphs = _draw_glyphs(rng, pair, glyph_indices)
    which, x, y, side, angle = _draw_trajectory(rng, pair, num_frames)
    background, color = _draw_background(rng, glyph_indices, size)
    shape = (num_frames, size, size, 3)
    noise = rng.integers(-_NOISE, _NOISE, size=shape, dtype=np.int8, endpoint=True)
    return Scene(glyphs, which, x, y, side, angle, color, background, noise)


def _draw_glyphs(rng: np.random.Generator, pair: int, glyph_indices: np.ndarray) -> np.ndarray:
    """Two glyphs: a zero and a one for the pair that swaps them, else any glyph twice."""
    images, targets = load_glyphs()
    if pair != _SWAP:
        return np.repeat(images[[rng.choice(glyph_indices)]], 2, axis=0)
    shown = targets[glyph_indices]
    return np.stack([images[rng.choice(glyph_indices[shown == digit])] for digit in (0, 1)])


def _draw_background(
    rng: np.random.Generator, glyph_indices: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A photo crop with a static distractor, and a colour that stands out from it."""
    photo = load_photos()[rng.integers(2)]
    side = int(rng.integers(size, 4 * size))
    top = rng.integers(photo.shape[0] - side + 1)
    left = rng.integers(photo.shape[1] - side + 1)
    crop = photo[top : top + side, left : left + side]
    background = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    # Lower contrast than the photo's leaves room for a colour that differs from all of it.
    background = background.mean() + 0.3 * (background.astype(np.float32) - background.mean())
    color = _contrasting_color(rng, background)
    images, _ = load_glyphs()
    distractor = _place_glyph(
        images[rng.choice(glyph_indices)],
        *rng.uniform(0.1, 0.9, size=2),
        rng.uniform(0.2, 0.3),
        rng.uniform(-40, 40),
        size,
    )
    distractor = rng.uniform(0.4, 0.9) * distractor[..., None]
    background += distractor * (_contrasting_color(rng, background) - background)
    return background, color


def _contrasting_color(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A random dark colour for a bright background, a bright colour for a dark one."""
    if background.mean() > 110:
        return rng.uniform(0, 50, size=3).astype(np.float32)
    return rng.uniform(190, 255, size=3).astype(np.float32)


def _draw_trajectory(rng: np.random.Generator, pair: int, num_frames: int) -> tuple:
    """``which, x, y, side, angle`` of a pair's first member (see ``Scene``).

    Every quantity first gets a value with a slow drift that does not depend on the class; then
    the motion of the pair replaces the one quantity that it concerns.
    """
    phase = np.linspace(0, 1, num_frames) ** rng.uniform(0.75, 1.35)
    which = np.zeros(num_frames, dtype=int)
    x, y = (rng.uniform(0.35, 0.65) + rng.uniform(-0.08, 0.08) * (phase - 0.5) for _ in range(2))
    side = rng.uniform(0.38, 0.52) * (1 + rng.uniform(-0.1, 0.1) * (phase - 0.5))
    angle = rng.uniform(-15, 15) + rng.uniform(-12, 12) * (phase - 0.5)
    if pair == _CROSS:
        x = _travel(rng, phase)
    elif pair == _LIFT:
        y = 1 - _travel(rng, phase)
    elif pair == _APPROACH:
        side = rng.uniform(0.25, 0.32) * rng.uniform(2, 2.8) ** phase
    elif pair == _SWAP:
        which[num_frames // 2 :] = 1
    elif pair == _TURN:
        angle = rng.uniform(-180, 180) + rng.uniform(100, 170) * phase
    else:
        y = 1 - _travel(rng, _lift_then_hold(num_frames))
    return which, x, y, side, angle


def _travel(rng: np.random.Generator, phase: np.ndarray) -> np.ndarray:
    """Positions that rise with ``phase`` from a random start to a random end."""
    start, extent = rng.uniform(0.18, 0.3), rng.uniform(0.45, 0.55)
    return start + extent * phase


def _lift_then_hold(num_frames: int) -> np.ndarray:
    """Heights in [0, 1]: a quarter of the frames at rest, a quarter on the way up, half held."""
    quarter = num_frames // 4
    ascent = np.linspace(0, 1, quarter + 2)[1:-1]
    held = np.ones(num_frames - 2 * quarter)
    return np.concatenate([np.zeros(quarter), ascent, held])


def frame_order(label: int, num_frames: int) -> np.ndarray:
    """The order in which a class shows the frames of its pair's scene.

    Args:
        label (int): Class index, 0 to 11.
        num_frames (int): Frames of a clip, ``T``.

    Returns:
        np.ndarray: Shape (T,), a permutation of ``0 .. T-1``: the identity for the first member
        of a pair, the reverse for the second, except that 'lift then drop' moves half of the
        resting frames of 'lift then hold' to its end.
    """
    order = np.arange(num_frames)
    if label % 2 == 0:
        return order
    if label // 2 != _LONG_TERM:
        return order[::-1]
    rests = num_frames // 4
    first = (rests + 1) // 2
    return np.concatenate([order[:first], order[rests:], order[first:rests]])


def render_scene(scene: Scene) -> np.ndarray:
    """Draw the frames of a scene in the order of its pair's first member.

    Args:
        scene (Scene): What to draw.

    Returns:
        np.ndarray: Shape (T, size, size, 3), uint8 RGB.
    """
    size = scene.background.shape[0]
    alpha = np.stack(
        [
            _place_glyph(scene.glyphs[which], x, y, side, angle, size)
            for which, x, y, side, angle in zip(
                scene.which, scene.x, scene.y, scene.side, scene.angle, strict=True
            )
        ]
    )
    frames = scene.background + alpha[..., None] * (scene.color - scene.background)
    frames += scene.noise
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _place_glyph(
    glyph: np.ndarray, x: float, y: float, side: float, angle: float, size: int
) -> np.ndarray:
    """Opacity map (size, size) of a glyph at a position, scale and angle (see ``Scene``)."""
    scale = side * size / _GLYPH_SIDE
    center = (_GLYPH_SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((center, center), angle, scale)
    matrix[:, 2] += (x * size - 0.5 - center, y * size - 0.5 - center)
    alpha = cv2.warpAffine(glyph, matrix, (size, size), flags=cv2.INTER_CUBIC)
    return np.clip(alpha, 0, 1)
