"""YT8MFrameDataset: the frame features of YouTube-8M, from its own shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from mmengine.registry import DATASETS

from ...core.checks import check_choice
from ..label_space import LabelSpace
from ..yt8m import YT8MShards
from .base import FrameFeatureDataset


@DATASETS.register_module()
class YT8MFrameDataset(FrameFeatureDataset):
    """Frame features of YouTube-8M, read from its own TFRecord shards without TensorFlow.

    Items carry ``rgb`` and ``audio`` of shape (T, 1024) and (T, 128) as stored (uint8), ``label``
    (a float32 tensor of shape (C,)), ``video_id`` and ``num_frames``, that of the longest modality.
    The modalities of a video may differ in length, and all but one may have none: each is taken as
    it is, and the log counts such videos. The data preprocessor pads each under its own mask and
    dequantises them, on the device.

    Args:
        ann_file (str | Sequence[str]): Shards: a path or glob, or a list of them, relative to
            ``data_root``. Defaults to 'train*.tfrecord'.
        data_root (str): Directory of the shards. Defaults to ''.
        label_space (LabelSpace | str | Sequence[str] | Mapping): The classes, see
            ``LabelSpace.from_config``: 'all', a vertical such as 'Finance',
            dict(type='hierarchy', num_classes=317), the path to a mapping file, ... Defaults to
            'all', the 3,862 entities.
        max_frames (int, optional): Frames after which a video is cut; None cuts nothing.
            Defaults to 300, as in YouTube-8M's own reader.
        modalities (Mapping[str, int], optional): Modalities to read, with their widths. Defaults
            to None, which means dict(rgb=1024, audio=128).
        errors (str): 'raise' stops at a record that cannot be used. With 'skip', damaged records
            and those without frames are left out of the index for good. A record that does not
            fit the options (a wrong width, a missing modality, a raw label that does not exist)
            shows only when it is read: it is logged, and the next good video takes its place, the
            same in every rank, worker and resumed run; an evaluation then counts that video
            twice. At most ``max_refetch`` records are replaced in a row. Defaults to 'raise'.
        empty_labels (str): What happens to videos without a label in the label space (for a
            small vertical, nearly all): 'keep' gives them an all-zero target, 'drop' leaves them
            out, for which the labels of all records are read at the start (about a minute for all
            of YouTube-8M). The choice changes PERR and Hit@1. Defaults to 'keep'.
        skip (int): Number of videos to leave out at the start: ``skip=N`` gives the test set what
            a validation set with ``indices=N`` leaves. Defaults to 0.
        index_dir (str, optional): Folder for the indexes of the shards, each of which is made
            once. Defaults to None, beside the shards.
        pipeline (Sequence[dict | Callable]): Transforms. Defaults to ().
        test_mode (bool): As in mmengine's ``BaseDataset``. Defaults to False.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as ``indices`` or
            ``lazy_init``.

    Raises:
        FileNotFoundError: If there are no such shards.
        ValueError: If an option is out of its range, or a record cannot be used.
        ImportError: If google-crc32c is not installed (``pip install "adv_plugins[yt8m]"``).

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> train_dataloader = dict(
        ...     batch_size=64,
        ...     num_workers=2,
        ...     sampler=dict(type='InfiniteSampler', shuffle=True),
        ...     collate_fn=dict(type='packed_collate'),
        ...     dataset=dict(
        ...         type='YT8MFrameDataset',
        ...         data_root='data/yt8m/2/frame/train',
        ...         ann_file='train*.tfrecord',
        ...         label_space='Finance',
        ...         empty_labels='drop',
        ...         pipeline=[
        ...             dict(
        ...                 type='PackActionInputs',
        ...                 collect_keys=('rgb', 'audio'),
        ...                 meta_keys=('video_id', 'num_frames'))
        ...         ]))
    """

    def __init__(
        self,
        ann_file: str | Sequence[str] = 'train*.tfrecord',
        data_root: str = '',
        label_space: LabelSpace | str | Sequence[str] | Mapping = 'all',
        max_frames: int | None = 300,
        modalities: Mapping[str, int] | None = None,
        errors: str = 'raise',
        empty_labels: str = 'keep',
        skip: int = 0,
        index_dir: str | None = None,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        check_choice('errors', errors, ('raise', 'skip'))
        self.errors = errors
        self.index_dir = index_dir
        self._reported: set[int] = set()
        super().__init__(
            ann_file=ann_file,
            label_space=LabelSpace.from_config(label_space),
            modalities=dict(rgb=1024, audio=128) if modalities is None else modalities,
            max_frames=max_frames,
            empty_labels=empty_labels,
            skip=skip,
            pipeline=pipeline,
            data_root=data_root,
            data_prefix={},
            test_mode=test_mode,
            **kwargs,
        )

    def get_data_info(self, idx: int) -> dict:
        """Read a video; with ``errors='skip'``, the next good one replaces a bad one.

        Args:
            idx (int): Position in the dataset.

        Returns:
            dict: See the class.

        Raises:
            ValueError: If the record cannot be used; the message names file and record.
        """
        if self.errors == 'raise' or not -len(self) <= idx < len(self):
            return super().get_data_info(idx)
        for position in range(idx, idx + min(self.max_refetch + 1, len(self))):
            position = position % len(self)
            try:
                return super().get_data_info(position)
            except ValueError as error:
                self._report(int(self._records[position]), error)
                last = error
        raise ValueError(
            f'More than max_refetch={self.max_refetch} records in a row cannot be used. The last: '
            f'{last}'
        ) from last

    def _join_prefix(self) -> None:
        if isinstance(self.ann_file, str):
            self.ann_file = os.path.join(self.data_root, self.ann_file)
        else:
            self.ann_file = [os.path.join(self.data_root, path) for path in self.ann_file]

    def _open(self) -> range:
        self._shards = YT8MShards(self.ann_file, self.errors, self.index_dir, log=self._log)
        return range(len(self._shards))

    def _labels(self, record: int) -> np.ndarray:
        return self._shards.labels(record)

    def _load(self, record: int) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
        example = self._shards[record]
        missing = [modality for modality in self.modalities if modality not in example]
        if missing:
            holds = ', '.join(key for key in example if key not in ('id', 'labels'))
            raise ValueError(
                f'{self._place(record)}: the record has no {missing[0]!r}, it holds {holds}: name '
                'in modalities what the shards hold.'
            )
        return example['id'], example['labels'], example

    def _lengths(self, records: Sequence[int]) -> np.ndarray:
        return self._shards.frame_counts(list(self.modalities))[np.asarray(records)]

    def _place(self, record: int, modality: str | None = None) -> str:
        path, offset = self._shards.location(record)
        return f'{path}, record at byte {offset}' + (f', {modality}' if modality else '')

    def _report(self, record: int, error: ValueError) -> None:
        """Log a bad record once in each process, instead of once in each epoch."""
        if record not in self._reported:
            self._reported.add(record)
            self._log(f'skipped, and replaced by the next video: {error}', logging.WARNING)
