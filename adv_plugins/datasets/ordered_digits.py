"""OrderedDigits: short clips whose classes differ only in the order of their frames.

An offline stand-in for Something-Something. Real handwritten digits move over crops of real
photos, and the twelve classes come in six pairs. The two members of a pair show the same frames
in another order, so a model that ignores the order of frames is at chance inside every pair.
Clips are rendered in memory from a seed: no file is written and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..core.checks import check_choice, is_integer
from .digit_images import glyph_indices, load_photos
from .digit_scenes import Scene, draw_scene, frame_order, render_scene

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


@DATASETS.register_module()
class OrderedDigits(BaseDataset):
    """Twelve ordered motions of handwritten digits over photos, in six pairs.

    The pairs are left to right / right to left, lift / put down, approach / move away, zero then
    one / one then zero, turn left / turn right, and the long-term pair lift then hold / lift then
    drop. For one draw both members share glyph, photo crop, colours and trajectory, and the
    frames of one are exactly a permutation of the frames of the other. The splits share no
    handwritten glyph.

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
        # A missing scikit-learn or Pillow is reported here, not in a data loader worker.
        self._glyph_indices = glyph_indices(split)
        load_photos()
        super().__init__(ann_file='', pipeline=list(pipeline), test_mode=test_mode, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the clips without rendering them.

        Returns:
            list[dict]: ``label`` and ``draw`` of each clip. The clips of a pair with the same draw
            share a scene.
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
        return draw_scene(rng, pair, self._glyph_indices, self.num_frames, self.size)


def _check_arguments(
    split: str, clips_per_class: int, num_frames: int, size: int, seed: int
) -> None:
    """Raise a ``ValueError`` that says what to write unless the arguments can be rendered."""
    check_choice('split', split, SPLITS)
    if not is_integer(clips_per_class) or clips_per_class < 1:
        raise ValueError(
            f'clips_per_class={clips_per_class!r} must be an integer of at least 1: write for '
            'example clips_per_class=30, or leave it out for 30 (train) or 40 (val).'
        )
    if not is_integer(num_frames) or num_frames < 8 or num_frames % 2:
        raise ValueError(
            f'num_frames={num_frames!r} must be an even integer of at least 8, so that each half '
            'of a clip can show its own glyph: write for example num_frames=8 or num_frames=16.'
        )
    if not is_integer(size) or not 32 <= size <= 64:
        raise ValueError(
            f'size={size!r} must be an integer from 32 to 64 pixels: write for example size=48, '
            'and enlarge frames with the Resize transform.'
        )
    if not is_integer(seed) or seed < 0:
        raise ValueError(
            f'seed={seed!r} must be an integer of at least 0: write for example seed=0.'
        )
