"""Datasets of frame features: YouTube-8M shards, and anybody's own arrays.

An item holds one array (T, D) for each modality, in the data type it is stored in (uint8 for
YouTube-8M: a quarter of the bytes on the way to the device), and the one-hot target. Both
datasets are map-style over an index, so that the stock samplers shuffle all records and give
every rank and worker its own; neither builds a Python object for each record.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from mmengine.dataset import BaseDataset, force_full_init, pseudo_collate
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS, FUNCTIONS
from torch.utils.data import get_worker_info

from ..core.checks import check_choice
from .label_space import LabelSpace
from .yt8m import YT8MShards

_DTYPES = tuple(np.dtype(name) for name in ('uint8', 'float16', 'float32'))
_MAX_LISTED = 5


class _FrameFeatureDataset(BaseDataset):
    """What datasets of frame features share: the subset of records, checks, target and item.

    A record is a number into what the subclass has opened. ``sample_idx`` is the position in the
    dataset, after ``indices`` are taken and videos without labels dropped: ``indices`` mean the
    same videos whatever the label space.

    Args:
        ann_file (str | Sequence[str]): See the subclass.
        label_space (LabelSpace): Gives the target.
        modalities (Mapping[str, int]): Width of each modality.
        max_frames (int, optional): Frames after which a video is cut.
        empty_labels (str): 'keep' or 'drop' videos that have no label in the label space.
        skip (int): Number of first videos to leave out.
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
        # A range as long as that will do: spawned workers are not sent a number for each record.
        self._records: range | np.ndarray = range(0)
        metainfo = _with_classes(metainfo or {}, label_space)
        super().__init__(ann_file, pipeline=list(pipeline), metainfo=metainfo, **kwargs)

    @abstractmethod
    def _open(self) -> range:
        """Open what holds the records and return their numbers."""

    @abstractmethod
    def _labels(self, record: int) -> np.ndarray:
        """Raw labels of a record."""

    @abstractmethod
    def _load(self, record: int) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
        """Name, raw labels and features, whole and possibly still on disk, of a record."""

    @abstractmethod
    def _place(self, record: int, modality: str | None = None) -> str:
        """The file and place of a record, for messages."""

    def full_init(self) -> None:
        """Open the records, take ``indices``, and drop those without labels if asked for.

        Raises:
            ValueError: If there are no more than ``skip`` records, or none has a label.
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
        self._fully_initialized = True

    @force_full_init
    def __len__(self) -> int:
        """Number of videos."""
        return len(self._records)

    @force_full_init
    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep only some of the videos.

        Args:
            indices (int | Sequence[int]): Positions of the videos, or the number of first
                (negative: of last) videos.
        """
        self._records = _take(self._records, indices)

    @force_full_init
    def get_subset(self, indices: int | Sequence[int]) -> _FrameFeatureDataset:
        """As ``get_subset_``, for a new dataset that shares the index and the pipeline.

        Args:
            indices (int | Sequence[int]): See ``get_subset_``.

        Returns:
            BaseDataset: The subset.
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
    def get_data_info(self, idx: int) -> dict:
        """Read a video.

        Args:
            idx (int): Position in the dataset.

        Returns:
            dict: An array (T, D) for each modality, ``label`` (a float32 tensor of shape (C,)),
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
        info['label'] = torch.from_numpy(self._target(record, labels))
        info['video_id'] = video_id
        return info

    def _cut(self, frames: np.ndarray, record: int, modality: str) -> np.ndarray:
        """The first ``max_frames`` rows, in memory of their own that PyTorch may write to."""
        width = self.modalities[modality]
        if frames.ndim != 2 or frames.shape[1] != width:
            raise ValueError(
                f'{self._place(record, modality)}: the features have the shape {frames.shape}, '
                f'but modalities says (T, {width}): correct the width in modalities, or the file.'
            )
        if len(frames) == 0:
            raise ValueError(f'{self._place(record, modality)}: the video has no frames.')
        if frames.dtype not in _DTYPES:
            raise ValueError(
                f'{self._place(record, modality)}: the features are {frames.dtype}: store them as '
                f'{", ".join(map(str, _DTYPES))}.'
            )
        # Only now are rows of a memory-mapped file read, and only these.
        return np.require(np.asarray(frames[: self.max_frames]), requirements=('C', 'W'))

    def _target(self, record: int, labels: np.ndarray | None = None) -> np.ndarray:
        labels = self._labels(record) if labels is None else labels
        try:
            return self.label_space.encode(labels)
        except ValueError as error:
            raise ValueError(f'{self._place(record)}: {error}') from error

    def _drop_empty(self) -> None:
        keep = np.array([self._target(int(record)).any() for record in self._records], bool)
        if not keep.any():
            raise ValueError(
                f'No video of {self.ann_file} has a label in {self.label_space}: choose another '
                "label_space, or write empty_labels='keep' to predict videos without labels."
            )
        self._log(f'{keep.sum()} videos, {(~keep).sum()} without labels dropped')
        self._records = np.asarray(self._records)[keep]

    def _log(self, message: str, level: int = logging.INFO) -> None:
        print_log(
            f'{type(self).__name__} of {self.ann_file}: {message}.', logger='current', level=level
        )


@DATASETS.register_module()
class YT8MFrameDataset(_FrameFeatureDataset):
    """Frame features of YouTube-8M, read from its own TFRecord shards without TensorFlow.

    Items carry ``rgb`` and ``audio`` of shape (T, 1024) and (T, 128) as stored (uint8), ``label``
    (a float32 tensor of shape (C,)), ``video_id`` and ``num_frames``. They are neither padded nor
    dequantised: that is left to the data preprocessor, on the device.

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
        modalities (Mapping[str, int], optional): Modalities to give, with their width. Defaults
            to None, which means dict(rgb=1024, audio=128).
        errors (str): 'raise' stops at a record that cannot be used. With 'skip' damaged records,
            and those without frames or with modalities of unequal lengths, are left out of the
            index for good. What the options find fault with (a wrong width, a missing modality, a
            raw label that does not exist) shows only when a record is read: it is logged, and the
            next good video takes its place, the same in every rank, worker and resumed run; an
            evaluation then counts that video twice. At most ``max_refetch`` records are replaced
            in a row. Defaults to 'raise'.
        empty_labels (str): What happens to videos without a label in the label space: 'keep'
            gives them an all-zero target, 'drop' leaves them out, which looks at the labels of
            all records at the start (about a minute for all of YouTube-8M). With a small vertical
            nearly all videos are such videos. The choice changes PERR and Hit@1. Defaults to
            'keep'.
        skip (int): Number of first videos to leave out: what a validation set with ``indices=N``
            leaves for the test set. Defaults to 0.
        index_dir (str, optional): Folder for the indexes of the shards, which are made once.
            Defaults to None, beside the shards.
        pipeline (Sequence[dict | Callable]): Transforms. Defaults to ().
        test_mode (bool): As in mmengine's ``BaseDataset``. Defaults to False.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as ``indices`` or
            ``lazy_init``.

    Raises:
        FileNotFoundError: If there are no such shards.
        ValueError: If an option is out of its range, or a record cannot be used.

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
        """As the base class does; with ``errors='skip'`` the next good video replaces a bad one.

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
        self._shards = YT8MShards(self.ann_file, errors=self.errors, index_dir=self.index_dir)
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

    def _place(self, record: int, modality: str | None = None) -> str:
        path, offset = self._shards.location(record)
        return f'{path}, record at byte {offset}' + (f', {modality}' if modality else '')

    def _report(self, record: int, error: ValueError) -> None:
        """Log a bad record once in each process, not once in each epoch."""
        if record not in self._reported:
            self._reported.add(record)
            self._log(f'skipped, and replaced by the next video: {error}', logging.WARNING)


@DATASETS.register_module()
class FeatureDataset(_FrameFeatureDataset):
    """Frame features of one's own: any modalities of any width, uint8, float16 or float32.

    ``ann_file`` is a text file in MMAction2's style, a video a line: its name, then its labels
    (none for videos to predict)::

        some/video 3 17
        other_video 0

    ``data_prefix`` says for each modality where its arrays (T, D) are, in one of three forms:

    - a directory with ``{name}.npy`` for each video;
    - a directory with ``{name}.npz`` for each video, which holds an array by the modality's name
      (compressed, or several modalities in one file; read whole);
    - one ``.npy`` file with the frames of all videos below each other, and beside it a ``.txt``
      of the same name that says for each video ``name start stop``: its frames are the rows
      ``start`` to ``stop - 1``. The fastest for many videos.

    ``.npy`` files are memory-mapped: only the frames of the item are read. Items carry an array
    for each modality, ``label`` (a float32 tensor of shape (C,)), ``video_id`` (the name) and
    ``num_frames``. Modalities of a video may differ in length.

    Args:
        ann_file (str): The text file, relative to ``data_root``.
        modalities (Mapping[str, int]): The modalities, with their width.
        data_prefix (Mapping[str, str]): Directory or ``.npy`` file of each modality, relative to
            ``data_root``.
        num_classes (int, optional): Number of classes, if they have no names. Defaults to None.
        classes (Sequence[str], optional): Names of the classes. Defaults to None.
        label_space (LabelSpace | str | Sequence[str] | Mapping, optional): Instead, how labels
            become classes, see ``LabelSpace.from_config``. Defaults to None.
        data_root (str): Root of the other paths. Defaults to ''.
        max_frames (int, optional): Frames after which a modality is cut. Defaults to None, which
            cuts nothing.
        empty_labels (str): 'keep' or 'drop' videos without a label. Defaults to 'keep'.
        skip (int): Number of first videos to leave out: what a validation set with ``indices=N``
            leaves for the test set. Defaults to 0.
        pipeline (Sequence[dict | Callable]): Transforms. Defaults to ().
        test_mode (bool): As in mmengine's ``BaseDataset``. Defaults to False.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as ``indices`` or
            ``lazy_init``.

    Raises:
        FileNotFoundError: If features are missing.
        ValueError: If an option is out of its range, or a file cannot be used.

    Example:
        >>> dataset = dict(
        ...     type='FeatureDataset',
        ...     data_root='data/mine',
        ...     ann_file='train.txt',
        ...     data_prefix=dict(clip='features/clip', sound='features/sound.npy'),
        ...     modalities=dict(clip=512, sound=64),
        ...     classes=['cooking', 'music', 'sports'],
        ...     pipeline=[
        ...         dict(
        ...             type='PackActionInputs',
        ...             collect_keys=('clip', 'sound'),
        ...             meta_keys=('video_id', 'num_frames'))
        ...     ])
    """

    def __init__(
        self,
        ann_file: str,
        modalities: Mapping[str, int],
        data_prefix: Mapping[str, str],
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        label_space: LabelSpace | str | Sequence[str] | Mapping | None = None,
        data_root: str = '',
        max_frames: int | None = None,
        empty_labels: str = 'keep',
        skip: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        if set(data_prefix) != set(modalities):
            raise ValueError(
                f'data_prefix has the keys {sorted(data_prefix)}, modalities has '
                f'{sorted(modalities)}: name the same modalities in both.'
            )
        super().__init__(
            ann_file=ann_file,
            label_space=_own_label_space(num_classes, classes, label_space),
            modalities=modalities,
            max_frames=max_frames,
            empty_labels=empty_labels,
            skip=skip,
            pipeline=pipeline,
            data_root=data_root,
            data_prefix=dict(data_prefix),
            test_mode=test_mode,
            **kwargs,
        )

    def _open(self) -> range:
        names, labels = _read_annotations(self.ann_file)
        # Flat arrays: a list of strings and lists would be copied to every worker, page by page.
        self._names = np.array([name.encode() for name in names])
        self._flat_labels = np.array([label for row in labels for label in row], dtype=np.int64)
        self._label_ends = np.cumsum([len(row) for row in labels])
        for record in range(len(names)):
            self._target(record)
        self._sources = {
            modality: (_RowsOfArray if prefix.endswith('.npy') else _FilesOfVideos)(
                prefix, modality, names
            )
            for modality, prefix in self.data_prefix.items()
        }
        return range(len(names))

    def _labels(self, record: int) -> np.ndarray:
        start = self._label_ends[record - 1] if record else 0
        return self._flat_labels[start : self._label_ends[record]]

    def _load(self, record: int) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
        name = self._names[record].decode()
        features = {
            modality: source.load(record, name) for modality, source in self._sources.items()
        }
        return name, self._labels(record), features

    def _place(self, record: int, modality: str | None = None) -> str:
        name = self._names[record].decode()
        if modality is None:
            return f'{self.ann_file}, line of {name!r}'
        return self._sources[modality].place(name)


@FUNCTIONS.register_module()
def packed_collate(items: Sequence[Any]) -> Any:
    """mmengine's ``pseudo_collate``, with a batch's tensors sent by workers as one block of memory.

    PyTorch sends each tensor as a file of its own, for which the main process connects to the
    worker. With three tensors a video that takes longer than reading the video, and more workers
    do not help, as it is the main process that has to wait. What arrives is the same batch.

    Args:
        items (Sequence): Items of a dataset, with tensors in any places.

    Returns:
        Any: What ``pseudo_collate`` makes of them; in a worker, what becomes that when it is sent.

    Example:
        >>> train_dataloader = dict(collate_fn=dict(type='packed_collate'))
    """
    batch = pseudo_collate(items)
    return batch if get_worker_info() is None else _Packed(batch)


class _Packed:
    """A batch that is sent in two parts, its tensors and the rest, and arrives as itself."""

    def __init__(self, batch: Any) -> None:
        file = io.BytesIO()
        pickler = _TensorPickler(file)
        pickler.dump(batch)
        parts = [tensor.reshape(-1).view(torch.uint8) for tensor in pickler.tensors]
        # Every tensor begins at a multiple of 16 bytes, whatever its type.
        sizes = [-(-len(part) // 16) * 16 for part in parts]
        block = torch.empty(sum(sizes), dtype=torch.uint8)
        for place, part in zip(block.split(sizes), parts, strict=True):
            place[: len(part)] = part
        kinds = [(tensor.dtype, tensor.shape) for tensor in pickler.tensors]
        self.parts = file.getvalue(), block, sizes, kinds

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, self.parts


class _TensorPickler(pickle.Pickler):
    """Leaves tensors out, numbered, and collects them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        if type(value) is not torch.Tensor:
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _TensorUnpickler(pickle.Unpickler):
    """Puts the tensors where they were."""

    def __init__(self, file: io.BytesIO, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, number: int) -> torch.Tensor:
        return self.tensors[number]


def _unpack(
    data: bytes,
    block: torch.Tensor,
    sizes: Sequence[int],
    kinds: Sequence[tuple[torch.dtype, torch.Size]],
) -> Any:
    tensors = [_copy(place, *kind) for place, kind in zip(block.split(sizes), kinds, strict=True)]
    return _TensorUnpickler(io.BytesIO(data), tensors).load()


def _copy(place: torch.Tensor, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
    """A tensor from its bytes in a block.

    A view would keep the whole block in memory, for as long as one label is kept. The copy is
    numpy's, as PyTorch would start threads for each, which wait for cores that workers have.
    """
    tensor = torch.empty(shape, dtype=dtype)
    target = tensor.view(-1).view(torch.uint8).numpy()
    target[:] = place[: len(target)].numpy()
    return tensor


class _FilesOfVideos:
    """The arrays of a modality in one .npy or .npz file for each video.

    Args:
        directory (str): Where the files are.
        modality (str): Name of the array in .npz files.
        names (Sequence[str]): All videos. The first one's file decides between .npy and .npz.
    """

    def __init__(self, directory: str, modality: str, names: Sequence[str]) -> None:
        self.directory = directory
        self.modality = modality
        self.suffix = '.npz' if os.path.exists(self._path(names[0], '.npz')) else '.npy'
        if os.path.exists(self._path(names[0], '.npy')):
            self.suffix = '.npy'
        missing = [name for name in names if not os.path.exists(self.place(name))]
        if missing:
            raise FileNotFoundError(
                f'Features of {len(missing)} of {len(names)} videos are missing for '
                f'{modality!r}, such as {_listed([self.place(name) for name in missing])}: add '
                'them, or take the videos out of ann_file.'
            )

    def load(self, record: int, name: str) -> np.ndarray:
        """The array of a video, memory-mapped if it is a .npy file."""
        path = self.place(name)
        content = _load_array(path)
        if self.suffix == '.npy':
            return content
        with content:
            if self.modality not in content.files:
                raise ValueError(
                    f'{path} has no array {self.modality!r}, only {sorted(content.files)}: save '
                    'each modality by its name.'
                )
            return content[self.modality]

    def place(self, name: str) -> str:
        """Path of a video's file."""
        return self._path(name, self.suffix)

    def _path(self, name: str, suffix: str) -> str:
        return os.path.join(self.directory, name + suffix)


class _RowsOfArray:
    """The arrays of a modality as rows of one .npy file, which stays on disk.

    Args:
        path (str): Path of the .npy file. The .txt beside it gives the rows of each video.
        modality (str): Name of the modality.
        names (Sequence[str]): The videos, which may be some of those in the file.
    """

    def __init__(self, path: str, modality: str, names: Sequence[str]) -> None:
        self.path = path
        self._array: np.ndarray | None = None
        rows_file = path.removesuffix('.npy') + '.txt'
        for file in (path, rows_file):
            if not os.path.exists(file):
                raise FileNotFoundError(
                    f'{file}, with features of {modality!r}, does not exist: a .npy file of all '
                    'frames needs a .txt beside it, with a line "name start stop" a video.'
                )
        rows = _read_rows(rows_file, len(self._open()))
        missing = [name for name in names if name not in rows]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(names)} videos are missing in {rows_file}, such as '
                f'{_listed(missing)}: add them, or take the videos out of ann_file.'
            )
        self._rows = np.array([rows[name] for name in names])

    def load(self, record: int, name: str) -> np.ndarray:
        """The memory-mapped rows of a video."""
        start, stop = self._rows[record].tolist()
        return self._open()[start:stop]

    def place(self, name: str) -> str:
        """The file and the video in it."""
        return f'{self.path}, video {name!r}'

    def _open(self) -> np.ndarray:
        if self._array is None:
            self._array = _load_array(self.path)
        return self._array

    def __getstate__(self) -> dict:
        # Pickling a memory map copies the whole file: each worker opens its own.
        return {**self.__dict__, '_array': None}


def _load_array(path: str) -> np.ndarray | np.lib.npyio.NpzFile:
    """Open a .npy (memory-mapped) or .npz file."""
    try:
        return np.load(path, mmap_mode='r')
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        raise ValueError(f'{path} cannot be read as {path[-4:]} file: {error}') from error


def _read_annotations(path: str) -> tuple[list[str], list[list[int]]]:
    """Names and labels of the lines of an annotation file."""
    names, labels, seen = [], [], set()
    for number, line in enumerate(list_from_file(path), start=1):
        if not line.strip():
            continue
        name, *words = line.split()
        try:
            row = [int(word) for word in words]
        except ValueError as error:
            raise ValueError(
                f'{path}, line {number}: {line!r} is not "name label label ...", with class '
                'indices as labels and no blanks in the name.'
            ) from error
        if name in seen:
            raise ValueError(
                f'{path}, line {number}: {name!r} is there twice: write all labels of a video in '
                'one line.'
            )
        seen.add(name)
        names.append(name)
        labels.append(row)
    if not names:
        raise ValueError(f'{path} names no video: write a line "name label label ..." for each.')
    return names, labels


def _read_rows(path: str, num_rows: int) -> dict[str, tuple[int, int]]:
    """First row and the one after the last of each video in a .npy file with all frames."""
    rows = {}
    for number, line in enumerate(list_from_file(path), start=1):
        try:
            name, start, stop = line.split()
            first, end = int(start), int(stop)
        except ValueError as error:
            raise ValueError(
                f'{path}, line {number}: {line!r} is not "name start stop".'
            ) from error
        if not 0 <= first <= end <= num_rows:
            raise ValueError(
                f'{path}, line {number}: the rows {first} to {end} of {name!r} are not within the '
                f'{num_rows} rows of the .npy file.'
            )
        rows[name] = (first, end)
    return rows


def _take(
    records: range | np.ndarray, indices: int | Sequence[int] | np.ndarray
) -> range | np.ndarray:
    """A copy of the first (negative: last) records, or of those at the given positions."""
    if isinstance(indices, (int, np.integer)):
        return copy.copy(records[:indices] if indices >= 0 else records[indices:])
    return np.asarray(records)[np.asarray(indices, dtype=np.int64)]


def _with_classes(metainfo: Mapping, label_space: LabelSpace) -> dict:
    """The meta information with what the label space says about the classes."""
    own = dict(classes=label_space.classes, verticals=label_space.verticals)
    for key in own:
        if key in metainfo:
            raise ValueError(
                f'metainfo has {key!r}, which the label space gives: take it out of metainfo, and '
                'name the classes by label_space (or classes, of FeatureDataset).'
            )
    return {**metainfo, **own}


def _own_label_space(
    num_classes: int | None,
    classes: Sequence[str] | None,
    label_space: LabelSpace | str | Sequence[str] | Mapping | None,
) -> LabelSpace:
    """The label space from the one of the three options that is given."""
    given = [option for option in (num_classes, classes, label_space) if option is not None]
    if len(given) != 1:
        raise ValueError(
            f'num_classes={num_classes!r}, classes={classes!r} and label_space={label_space!r}: '
            'give exactly one of them.'
        )
    if label_space is not None:
        return LabelSpace.from_config(label_space)
    if classes is not None:
        return LabelSpace.flat(classes)
    if not _is_positive(num_classes):
        raise ValueError(f'num_classes={num_classes!r} must be an integer of at least 1.')
    return LabelSpace.flat([str(index) for index in range(num_classes)])


def _check_options(
    modalities: Mapping[str, int], max_frames: int | None, empty_labels: str
) -> None:
    if not modalities or not all(_is_positive(width) for width in modalities.values()):
        raise ValueError(
            f'modalities={modalities!r} must give each modality its width: write for example '
            'dict(rgb=1024, audio=128).'
        )
    if max_frames is not None and not _is_positive(max_frames):
        raise ValueError(
            f'max_frames={max_frames!r} must be an integer of at least 1, or None to cut nothing: '
            'write for example max_frames=300.'
        )
    check_choice('empty_labels', empty_labels, ('keep', 'drop'))


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0


def _listed(items: Sequence[str]) -> str:
    return ', '.join(items[:_MAX_LISTED])
