"""OrderedDigits: short clips whose classes differ only in the order of their frames.

An offline stand-in for Something-Something. Real handwritten digits move over crops of real
photos, and the twelve classes come in six pairs. The two members of a pair show the same frames
in another order, so a model that ignores the order of frames is at chance inside every pair.
Clips are rendered in memory from a seed: no file is written and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

SPLITS = ('train', 'val')
CLASSES = (
    'left to right',
    'right to left',
    'lift',
    'put down',
    'approach',
    'move away',
    'zero then one',
    'one then zero',
    'turn left',
    'turn right',
    'lift then hold',
    'lift then drop',
)
_CROSS, _LIFT, _APPROACH, _SWAP, _TURN, _LONG_TERM = range(6)
_GLYPH_SIDE = 8
_NOISE = 6
# Fixes which glyph belongs to which split. It is not an option: with another value the "unseen"
# glyphs of one run would be the training glyphs of the next.
_SPLIT_SEED = 1797


@dataclass(frozen=True)
class Scene:
    """Everything both members of a class pair share for one draw.

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
        noise (np.ndarray): Shape (T, size, size, 3), int8 grey levels. It belongs to the frame
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


def glyph_indices(split: str) -> np.ndarray:
    """Indices of the handwritten digits that a split may show.

    Args:
        split (str): 'train' or 'val'.

    Returns:
        np.ndarray: Sorted indices into ``sklearn.datasets.load_digits().images``. The two
        splits are disjoint and hold half of every digit each.
    """
    _, targets = _load_glyphs()
    rng = np.random.default_rng(_SPLIT_SEED)
    parts = []
    for digit in range(10):
        shuffled = rng.permutation(np.flatnonzero(targets == digit))
        half = len(shuffled) // 2
        parts.append(shuffled[:half] if split == 'train' else shuffled[half:])
    return np.sort(np.concatenate(parts))


@DATASETS.register_module()
class OrderedDigits(BaseDataset):
    """Twelve ordered motions of handwritten digits over photos, in six pairs.

    The pairs are left to right / right to left, lift / put down, approach / move away, zero then
    one / one then zero, turn left / turn right, and the long-term pair lift then hold / lift then
    drop. For one draw both members share glyph, photo crop, colours and trajectory, and the
    frames of one are exactly a permutation of the frames of the other. No handwritten glyph is in
    both splits.

    Sample every frame once (``num_clips=num_frames`` in ``SampleFrames``): sampling fewer would
    pick different frames from the two members of a pair.

    Args:
        split (str): 'train' or 'val'. Defaults to 'train'.
        clips_per_class (int, optional): Number of clips of each class. Defaults to None, which
            means 30 for 'train' and 40 for 'val'.
        num_frames (int): Frames of a clip, an even number of at least 8. Defaults to 8.
        size (int): Height and width of a frame in pixels, 32 to 64. Defaults to 48.
        seed (int): Chooses the scenes, never the split of the glyphs. Defaults to 0.
        pipeline (Sequence[dict | Callable]): Transforms. Items carry ``array`` of shape
            (T, H, W, 3) in uint8 RGB, ``total_frames``, ``start_index``, ``modality`` and
            ``label``, as ``SampleFrames`` and ``ArrayDecode`` take them. Defaults to ().
        test_mode (bool): As in mmengine's ``BaseDataset``. Defaults to False.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as ``indices`` or
            ``lazy_init``.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an argument is out of its range.

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> train_dataloader = dict(
        ...     batch_size=16,
        ...     num_workers=0,
        ...     sampler=dict(type='DefaultSampler', shuffle=True),
        ...     dataset=dict(
        ...         type='OrderedDigits',
        ...         split='train',
        ...         pipeline=[
        ...             dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8),
        ...             dict(type='ArrayDecode'),
        ...             dict(type='FormatShape', input_format='NCHW'),
        ...             dict(type='PackActionInputs'),
        ...         ]))
    """

    METAINFO = {
        'classes': CLASSES,
        'pairs': ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
        'long_term': (10, 11),
        'flip_label_map': {0: 1, 1: 0, 8: 9, 9: 8},
    }

    def __init__(
        self,
        split: str = 'train',
        clips_per_class: int | None = None,
        num_frames: int = 8,
        size: int = 48,
        seed: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        if clips_per_class is None:
            clips_per_class = 30 if split == 'train' else 40
        _check_arguments(split, clips_per_class, num_frames, size, seed)
        self.split = split
        self.clips_per_class = clips_per_class
        self.num_frames = num_frames
        self.size = size
        self.seed = seed
        # A missing scikit-learn or Pillow should be told here, not in a data loader worker.
        self._glyph_indices = glyph_indices(split)
        _load_photos()
        super().__init__(ann_file='', pipeline=list(pipeline), test_mode=test_mode, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the clips without rendering them.

        Returns:
            list[dict]: ``label`` and ``draw`` of every clip. Clips of one pair and one draw share
            a scene.
        """
        return [
            dict(label=label, draw=draw)
            for label in range(len(CLASSES))
            for draw in range(self.clips_per_class)
        ]

    def get_data_info(self, idx: int) -> dict:
        """Render one clip.

        Args:
            idx (int): Index of the clip.

        Returns:
            dict: What ``SampleFrames`` and ``ArrayDecode`` need, see ``pipeline``.
        """
        info = super().get_data_info(idx)
        info['array'] = self.render(info['label'], info['draw'])
        info['total_frames'] = self.num_frames
        info['start_index'] = 0
        info['modality'] = 'RGB'
        return info

    def render(self, label: int, draw: int) -> np.ndarray:
        """Render the clip of a class for a draw.

        Args:
            label (int): Class index, 0 to 11.
            draw (int): Number of the scene. The same draw gives both members of a pair the same
                scene.

        Returns:
            np.ndarray: Shape (T, size, size, 3), uint8 RGB.
        """
        frames = render_scene(self.scene(label // 2, draw))
        return frames[frame_order(label, self.num_frames)]

    def scene(self, pair: int, draw: int) -> Scene:
        """Draw the scene that both members of a pair share.

        Args:
            pair (int): Index of the pair, 0 to 5.
            draw (int): Number of the scene.

        Returns:
            Scene: The scene in the frame order of the pair's first member.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), draw, pair])
        glyphs = self._draw_glyphs(rng, pair)
        which, x, y, side, angle = _draw_trajectory(rng, pair, self.num_frames)
        background, color = self._draw_background(rng)
        shape = (self.num_frames, self.size, self.size, 3)
        noise = rng.integers(-_NOISE, _NOISE, size=shape, dtype=np.int8, endpoint=True)
        return Scene(glyphs, which, x, y, side, angle, color, background, noise)

    def _draw_glyphs(self, rng: np.random.Generator, pair: int) -> np.ndarray:
        """Two glyphs: a zero and a one for the pair that swaps them, else any glyph twice."""
        images, targets = _load_glyphs()
        if pair != _SWAP:
            return np.repeat(images[[rng.choice(self._glyph_indices)]], 2, axis=0)
        mine = targets[self._glyph_indices]
        return np.stack(
            [images[rng.choice(self._glyph_indices[mine == digit])] for digit in (0, 1)]
        )

    def _draw_background(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A photo crop with a static distractor, and a colour that stands out from it."""
        size = self.size
        photo = _load_photos()[rng.integers(2)]
        side = int(rng.integers(size, 4 * size))
        top = rng.integers(photo.shape[0] - side + 1)
        left = rng.integers(photo.shape[1] - side + 1)
        crop = photo[top : top + side, left : left + side]
        background = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
        # Less than the photo's contrast leaves room for a colour that differs from all of it.
        background = background.mean() + 0.3 * (background.astype(np.float32) - background.mean())
        color = _contrasting_color(rng, background)
        images, _ = _load_glyphs()
        distractor = _place_glyph(
            images[rng.choice(self._glyph_indices)],
            *rng.uniform(0.1, 0.9, size=2),
            rng.uniform(0.2, 0.3),
            rng.uniform(-40, 40),
            size,
        )
        distractor = rng.uniform(0.4, 0.9) * distractor[..., None]
        background += distractor * (_contrasting_color(rng, background) - background)
        return background, color


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


def _contrasting_color(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A random dark colour for a bright background, a bright one for a dark background."""
    if background.mean() > 110:
        return rng.uniform(0, 50, size=3).astype(np.float32)
    return rng.uniform(190, 255, size=3).astype(np.float32)


def _draw_trajectory(rng: np.random.Generator, pair: int, num_frames: int) -> tuple:
    """``which, x, y, side, angle`` of a pair's first member (see ``Scene``).

    Every quantity first gets a value that says nothing about the class, with a slow drift, and
    the pair's motion then replaces the one quantity that it is about.
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
    """Positions that go up with ``phase`` from a random start to a random end."""
    start, extent = rng.uniform(0.18, 0.3), rng.uniform(0.45, 0.55)
    return start + extent * phase


def _lift_then_hold(num_frames: int) -> np.ndarray:
    """Heights in [0, 1]: a quarter of the frames at rest, a quarter on the way up, half held."""
    quarter = num_frames // 4
    ascent = np.linspace(0, 1, quarter + 2)[1:-1]
    held = np.ones(num_frames - 2 * quarter)
    return np.concatenate([np.zeros(quarter), ascent, held])


@lru_cache(maxsize=1)
def _load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Glyphs (1797, 8, 8) as float32 opacity in [0, 1], and the digits they show."""
    digits = _sklearn_datasets().load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


@lru_cache(maxsize=1)
def _load_photos() -> tuple[np.ndarray, ...]:
    """The two photos of scikit-learn, (427, 640, 3) in uint8 RGB."""
    datasets = _sklearn_datasets()
    try:
        return tuple(datasets.load_sample_images().images)
    except ImportError as error:
        raise ImportError(
            'OrderedDigits reads the photos of scikit-learn with Pillow, which is not '
            'installed: pip install "adv_plugins[data]"'
        ) from error


def _sklearn_datasets():
    """``sklearn.datasets``, imported late because scikit-learn is an optional dependency."""
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError(
            'OrderedDigits draws the handwritten digits of scikit-learn, which is not '
            'installed: pip install "adv_plugins[data]"'
        ) from error
    return sklearn.datasets


def _check_arguments(
    split: str, clips_per_class: int, num_frames: int, size: int, seed: int
) -> None:
    """Raise a ``ValueError`` that says what to write instead."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: write split='train' or split='val'.")
    if not _is_int(clips_per_class) or clips_per_class < 1:
        raise ValueError(
            f'clips_per_class={clips_per_class!r} must be an integer of at least 1: write for '
            'example clips_per_class=30, or leave it out for 30 (train) or 40 (val).'
        )
    if not _is_int(num_frames) or num_frames < 8 or num_frames % 2:
        raise ValueError(
            f'num_frames={num_frames!r} must be an even integer of at least 8, so that each half '
            'of a clip can show its own glyph: write for example num_frames=8 or num_frames=16.'
        )
    if not _is_int(size) or not 32 <= size <= 64:
        raise ValueError(
            f'size={size!r} must be an integer from 32 to 64 pixels: write for example size=48, '
            'and enlarge frames with the Resize transform.'
        )
    if not _is_int(seed) or seed < 0:
        raise ValueError(
            f'seed={seed!r} must be an integer of at least 0: write for example seed=0.'
        )


def _is_int(value: object) -> bool:
    """Whether a value is an integer, which a boolean in a config is not meant to be."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
