"""What the datasets of frame features share: selection, checks, target and item.

An item holds an array (T, D) for each modality, in the data type in which it is stored (uint8 for
YouTube-8M: a quarter of the bytes on the way to the device), and the multi-hot target. The datasets
are map-style, so that the stock samplers shuffle all records and divide them among ranks and
workers, and they keep no Python object for each record.
"""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from mmengine.dataset import BaseDataset, force_full_init
from mmengine.logging import print_log

from ...core.checks import check_choice, is_integer
from ...progress import track
from ..label_space import LabelSpace

_DTYPES = tuple(np.dtype(name) for name in ('uint8', 'float16', 'float32'))


class FrameFeatureDataset(BaseDataset):
    """Base class of the datasets of frame features.

    Subclasses open a store of records and read them by number. ``sample_idx`` is the position of a
    video in the dataset, after ``indices`` were selected and then videos without labels dropped:
    in this order, ``indices`` select the same videos for every label space.

    Args:
        ann_file (str | Sequence[str]): See the subclass.
        label_space (LabelSpace): Gives the target.
        modalities (Mapping[str, int]): Width of each modality.
        max_frames (int, optional): Frames after which a video is cut.
        empty_labels (str): 'keep' or 'drop' videos that have no label in the label space.
        skip (int): Number of videos to leave out at the start.
        pipeline (Sequence[dict | Callable]): Transforms.
        metainfo (Mapping, optional): Further meta information.
        **kwargs: Further arguments of ``BaseDataset``.
    """

    def __init__(
        self,
        ann_file: str | Sequence[str],
        label_space: LabelSpace,
        modalities: Mapping[str, int],
        max_frames: int | None,
        empty_labels: str,
        skip: int,
        pipeline: Sequence[dict | Callable],
        metainfo: Mapping | None = None,
        **kwargs,
    ) -> None:
        _check_options(modalities, max_frames, empty_labels)
        self.label_space = label_space
        self.modalities = dict(modalities)
        self.max_frames = max_frames
        self.empty_labels = empty_labels
        self.skip = skip
        # A range for as long as possible: an array of numbers would be sent to spawned workers.
        self._records: range | np.ndarray = range(0)
        metainfo = _with_classes(metainfo or {}, label_space)
        super().__init__(ann_file, pipeline=list(pipeline), metainfo=metainfo, **kwargs)

    @abstractmethod
    def _open(self) -> range:
        """Open the store of the records and return their numbers."""

    @abstractmethod
    def _labels(self, record: int) -> np.ndarray:
        """Raw labels of a record."""

    @abstractmethod
    def _load(self, record: int) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
        """Name, raw labels and uncut, possibly memory-mapped, features of a record."""

    @abstractmethod
    def _lengths(self, records: Sequence[int]) -> np.ndarray:
        """Number of frames of records by modality, (records, modalities); -1 if it is unknown."""

    @abstractmethod
    def _place(self, record: int, modality: str | None = None) -> str:
        """The file of a record and where in it the record is, for messages."""

    def full_init(self) -> None:
        """Open the records, select ``indices``, and with 'drop' leave out videos without labels.

        Raises:
            ValueError: If ``skip`` leaves no record, or if 'drop' does.
        """
        if self._fully_initialized:
            return
        self._records = self._open()
        if not 0 <= self.skip < len(self._records):
            raise ValueError(
                f'skip={self.skip} leaves none of the {len(self._records)} videos of '
                f'{self.ann_file}; are all files there?'
            )
        self._records = self._records[self.skip :]
        if self._indices is not None:
            self._records = _take(self._records, self._indices)
        if self.empty_labels == 'drop':
            self._drop_empty()
        self._count_unequal()
        self._fully_initialized = True

    @force_full_init
    def __len__(self) -> int:
        """Number of videos."""
        return len(self._records)

    @property
    @force_full_init
    def records(self) -> Sequence[int]:
        """The numbers of the videos in the store."""
        return self._records

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep only some of the videos.

        Args:
            indices (int | Sequence[int]): Positions of the videos, or the number of first
                (negative: of last) videos.
        """
        self._records = _take(self._records, indices)

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> FrameFeatureDataset:
        """Make a dataset of some of the videos, which shares the store and the pipeline.

        Args:
            indices (int | Sequence[int]): See ``get_subset_``.

        Returns:
            FrameFeatureDataset: The subset.
        """
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    @force_full_init
    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of a video, for ``ClassBalancedDataset``.

        Args:
            idx (int): Position in the dataset.

        Returns:
            list[int]: Class indices.
        """
        return np.flatnonzero(self._target(int(self._records[idx]))).tolist()

    @force_full_init
    def get_label(self, idx: int) -> torch.Tensor | int:
        """The label of a video, without reading its features.

        Args:
            idx (int): Position in the dataset.

        Returns:
            Tensor | int: A float32 tensor of shape (C,), 1 for each label of the video.
        """
        return self._label(self._target(int(self._records[idx])))

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Read a video.

        Args:
            idx (int): Position in the dataset.

        Returns:
            dict: An array (T, D) for each modality, ``label`` (see :meth:`get_label`),
            ``video_id``, ``num_frames`` (of the longest modality) and ``sample_idx``.

        Raises:
            ValueError: If the record cannot be used; the message names file and record.
        """
        info = self._read(int(self._records[idx]))
        info['sample_idx'] = idx if idx >= 0 else len(self) + idx
        return info

    def _read(self, record: int) -> dict:
        video_id, labels, features = self._load(record)
        info: dict = {
            modality: self._cut(features[modality], record, modality)
            for modality in self.modalities
        }
        info['num_frames'] = max(len(info[modality]) for modality in self.modalities)
        if not info['num_frames']:
            raise ValueError(f'{self._place(record)}: the video has no frames.')
        info['label'] = self._label(self._target(record, labels))
        info['video_id'] = video_id
        return info

    def _cut(self, frames: np.ndarray, record: int, modality: str) -> np.ndarray:
        """The first ``max_frames`` rows, in memory of their own that PyTorch may write to."""
        width = self.modalities[modality]
        if frames.ndim and len(frames) == 0:
            # The video lacks this modality, and what stands for it need not know width and type.
            return np.zeros((0, width), np.uint8)
        if frames.ndim != 2 or frames.shape[1] != width:
            raise ValueError(
                f'{self._place(record, modality)}: the features have the shape {frames.shape}, '
                f'but modalities says (T, {width}): correct the width in modalities, or the file.'
            )
        if frames.dtype not in _DTYPES:
            raise ValueError(
                f'{self._place(record, modality)}: the features are {frames.dtype}: store them as '
                f'{", ".join(map(str, _DTYPES))}.'
            )
        # Of a memory-mapped file, only these rows are read, and only now.
        return np.require(np.asarray(frames[: self.max_frames]), requirements=('C', 'W'))

    def _label(self, target: np.ndarray) -> torch.Tensor | int:
        """The label of an item."""
        return torch.from_numpy(target)

    def _target(self, record: int, labels: np.ndarray | None = None) -> np.ndarray:
        labels = self._labels(record) if labels is None else labels
        try:
            return self.label_space.encode(labels)
        except ValueError as error:
            raise ValueError(f'{self._place(record)}: {error}') from error

    def _drop_empty(self) -> None:
        records = track(self._records, len(self._records), 'labels read', self._log)
        keep = np.array([self._target(int(record)).any() for record in records], bool)
        if not keep.any():
            raise ValueError(
                f'No video of {self.ann_file} has a label in {self.label_space}: choose another '
                "label_space, or write empty_labels='keep' to predict videos without labels."
            )
        self._log(f'{keep.sum()} videos, {(~keep).sum()} without labels dropped')
        self._records = np.asarray(self._records)[keep]

    def _count_unequal(self) -> None:
        """Log how many videos have modalities of unequal lengths, as the model gets them."""
        if len(self.modalities) == 1 or len(self._records) == 0:
            return
        lengths = self._lengths(self._records)
        lengths = lengths[(lengths >= 0).all(axis=1)]
        if self.max_frames is not None:
            lengths = lengths.clip(max=self.max_frames)
        unequal = lengths[lengths.min(axis=1) < lengths.max(axis=1)]
        if not len(unequal):
            return
        counts = ', '.join(f'{n} {t}' for n, t in zip(self.modalities, unequal[0], strict=True))
        lacking = int((unequal.min(axis=1) == 0).sum())
        lack = f', and {lacking:,} of these lack one' if lacking else ''
        self._log(
            f'the modalities of {len(unequal):,} of {len(self._records):,} videos differ in '
            f'length (frames of the first: {counts}){lack}; each modality is taken as it is, '
            "under its own mask, which input_norm='l2_frame' refuses"
        )

    def _log(self, message: str, level: int = logging.INFO) -> None:
        print_log(
            f'{type(self).__name__} of {self.ann_file}: {message}.', logger='current', level=level
        )


def _take(
    records: range | np.ndarray, indices: int | Sequence[int] | np.ndarray
) -> range | np.ndarray:
    """A copy of the first (negative: last) records, or of those at the given positions."""
    if is_integer(indices):
        return copy.copy(records[:indices] if indices >= 0 else records[indices:])
    return np.asarray(records)[np.asarray(indices, dtype=np.int64)]


def _with_classes(metainfo: Mapping, label_space: LabelSpace) -> dict:
    """The meta information, with the classes of the label space."""
    own = dict(classes=label_space.classes, verticals=label_space.verticals)
    for key in own:
        if key in metainfo:
            raise ValueError(
                f'metainfo has {key!r}, which the label space gives: take it out of metainfo, and '
                'name the classes by label_space (or classes, of FeatureDataset).'
            )
    return {**metainfo, **own}


def _check_options(
    modalities: Mapping[str, int], max_frames: int | None, empty_labels: str
) -> None:
    if not modalities or not all(is_positive(width) for width in modalities.values()):
        raise ValueError(
            f'modalities={modalities!r} must give each modality its width: write for example '
            'dict(rgb=1024, audio=128).'
        )
    if max_frames is not None and not is_positive(max_frames):
        raise ValueError(
            f'max_frames={max_frames!r} must be an integer of at least 1, or None to cut nothing: '
            'write for example max_frames=300.'
        )
    check_choice('empty_labels', empty_labels, ('keep', 'drop'))


def is_positive(value: object) -> bool:
    """Whether a value is an integer of at least 1."""
    return is_integer(value) and value > 0
