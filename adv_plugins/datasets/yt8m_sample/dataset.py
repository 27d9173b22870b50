"""The dataset that configs name; it makes its shards on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from mmengine.registry import DATASETS

from ...core.checks import check_choice
from ..features import YT8MFrameDataset
from .classes import sample_label_space
from .folder import checked_sizes, write_sample
from .video import SPLITS, checked_seed


@DATASETS.register_module()
class YT8MSample(YT8MFrameDataset):
    """An embedded stand-in for YouTube-8M: 28 classes, about 3.6 labels and 17 frames a video.

    The 12 motions of ``OrderedDigits`` can only be told by the order of the frames; lifts and
    approaches can also be heard. The 10 digits can only be seen. Of the 6 background sounds, a
    video has at most one. The verticals are Paths, Changes, Digits, Music and Noise. The training
    videos share no handwritten glyph with the others.

    The shards are made on first use, in about a minute on two cores, once for all processes of
    the machine. They are made again if ``sizes`` or ``seed`` differ from those of the folder, so
    give all datasets of a config the same values, or each its own ``data_root``.

    Args:
        split (str): 'train', 'validate' or 'test'. Defaults to 'train'.
        data_root (str): Folder for the shards, which must hold nothing else. Defaults to
            'data/yt8m_sample'.
        sizes (Mapping[str, int], optional): Videos of each split. Defaults to None, which means
            dict(train=2000, validate=300, test=600).
        seed (int): Chooses the videos, never the split of the glyphs. Defaults to 0.
        pipeline (Sequence[dict | Callable]): Transforms of the items of ``YT8MFrameDataset``.
            Defaults to ().
        **kwargs: Further arguments of ``YT8MFrameDataset``, such as ``max_frames``.

    Raises:
        ImportError: If scikit-learn or google-crc32c is not installed.
        ValueError: If an argument is out of its range.
        FileExistsError: If ``data_root`` holds something else.

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> train_dataloader = dict(
        ...     batch_size=64,
        ...     num_workers=0,
        ...     sampler=dict(type='InfiniteSampler', shuffle=True),
        ...     collate_fn=dict(type='pseudo_collate'),
        ...     dataset=dict(
        ...         type='YT8MSample',
        ...         split='train',
        ...         pipeline=[
        ...             dict(
        ...                 type='PackActionInputs',
        ...                 collect_keys=('rgb', 'audio'),
        ...                 meta_keys=('video_id', 'num_frames'))
        ...         ]))
    """

    def __init__(
        self,
        split: str = 'train',
        data_root: str = 'data/yt8m_sample',
        sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        **kwargs,
    ) -> None:
        check_choice('split', split, SPLITS)
        self.split = split
        self.sizes = checked_sizes(sizes)
        self.seed = checked_seed(seed)
        super().__init__(
            ann_file=f'{split}*.tfrecord',
            data_root=data_root,
            label_space=sample_label_space(),
            pipeline=pipeline,
            **kwargs,
        )

    def _open(self) -> np.ndarray:
        write_sample(self.data_root, self.sizes, self.seed)
        return super()._open()
