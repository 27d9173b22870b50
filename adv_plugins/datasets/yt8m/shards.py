"""Random access to the records of many YouTube-8M shards."""

from __future__ import annotations

import errno
import glob
import logging
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...progress import track
from .checksum import require_crc32c
from .examples import Example, PathLike, check_errors_option, read_example
from .index import ShardIndex
from .tfrecord import TFRecordError, file_stamp, is_gzip

LOGGER = logging.getLogger(__name__)

INDEX_SUFFIX = '.index.npz'


class YT8MShards(Sequence[Example]):
    """Random access to the records of YouTube-8M shards, in the order of the sorted paths.

    ``shards[i]`` reads one record, as ``read_examples`` yields it. No file stays open, so workers,
    forked or spawned, may share an object. Each shard is indexed once, and its index is kept
    beside it as ``<shard>.index.npz``. A shard that has changed, or was copied, is indexed again,
    and so is one whose index is damaged.

    Args:
        paths (str | PathLike | Sequence): A shard, a glob, or several of these.
        errors (str): With 'raise', indexing looks only at lengths, labels and the headers of the
            first and last frame; a record that is damaged elsewhere raises when it is read. With
            'skip', indexing reads everything once and leaves damaged records out for good, so that
            numbers, order and length do not depend on when damage is met. Defaults to 'raise'.
        index_dir (str | PathLike, optional): Folder for the indexes of shards on a read-only disk.
            Defaults to None, beside the shards.
        log (Callable): Takes a line about the progress, every few seconds while indexes are made
            or loaded. Defaults to the ``info`` of this module's logger.

    Attributes:
        paths (list[str]): The shards.
        skipped (dict[str, int]): Number of records left out, of the shards that have any.
        unsaved (dict[str, OSError]): Why the index of a shard is kept in memory only, of the shards
            where it is.

    Raises:
        TFRecordError: If a shard is gzipped, or damaged under ``errors='raise'``.
        FileNotFoundError: If a path does not exist or a glob matches nothing.
        ImportError: If google-crc32c is not installed (``pip install "adv_plugins[yt8m]"``).

    Example:
        >>> shards = YT8MShards('yt8m/2/frame/train/train*.tfrecord')
        >>> len(shards), shards.labels(7), shards[7]['rgb'].shape
        (3888919, array([ 25, 298]), (193, 1024))
    """

    def __init__(
        self,
        paths: PathLike | Sequence[PathLike],
        errors: str = 'raise',
        index_dir: PathLike | None = None,
        log: Callable[[str], object] = LOGGER.info,
    ) -> None:
        check_errors_option(errors)
        # Where all indexes exist, this would otherwise show only when the first record is read.
        require_crc32c()
        self.paths = find_shards(paths)
        self._errors = errors
        self._index_dir = os.fspath(index_dir or '')
        if len({self._index_file(path) for path in self.paths}) < len(self.paths):
            raise ValueError(
                f'index_dir={self._index_dir!r}: shards of different folders have the same name. '
                'Use a YT8MShards and an index_dir of its own for each folder.'
            )
        self.unsaved: dict[str, OSError] = {}
        self._damaged: dict[str, ValueError] = {}
        indexes = [
            self._obtain_index(path)
            for path in track(self.paths, len(self.paths), 'shards opened', log)
        ]
        self._indexes: list[ShardIndex | None] = list(indexes)
        self._ends = np.cumsum([len(index.offsets) for index in indexes])
        named = dict(zip(self.paths, indexes, strict=True))
        self._stamps = {path: index.stamp for path, index in named.items()}
        self._contents = {path: index.content for path, index in named.items()}
        self.skipped = {path: index.skipped for path, index in named.items() if index.skipped}
        self._report()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]
        path, offset = self.location(i)
        with open(path, 'rb') as file:
            self._check_unchanged(path)
            file.seek(offset)
            example = read_example(file, path)
        assert example is not None  # The index has no offset at the end of a file of this size.
        return example

    def labels(self, i: int) -> np.ndarray:
        """Labels of record i (int64 (n,)), from the index."""
        _, index, j = self._locate(i)
        return index.labels[index.splits[j] : index.splits[j + 1]].copy()

    def num_frames(self, i: int) -> int:
        """Number of frames of record i in its longest list; 0 for a video-level record."""
        _, index, j = self._locate(i)
        return int(index.num_frames[j].max(initial=0))

    def frame_counts(self, names: Sequence[str]) -> np.ndarray:
        """Number of frames of all records in some lists.

        Args:
            names (Sequence[str]): The lists, as they are called in an example.

        Returns:
            np.ndarray: Shape (records, names), from the indexes; -1 where a record has no such
            list.
        """
        counts = np.full((len(self), len(names)), -1, np.int32)
        begin = 0
        for k, end in enumerate(self._ends.tolist()):
            index = self._index(k)
            lists = index.lists.tolist()
            for column, name in enumerate(names):
                if name in lists:
                    counts[begin:end, column] = index.num_frames[:, lists.index(name)]
            begin = end
        return counts

    def location(self, i: int) -> tuple[str, int]:
        """Shard of record i, and the byte at which the record begins."""
        k, index, j = self._locate(i)
        return self.paths[k], int(index.offsets[j])

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker loads an index from its file when it needs it, and is sent only the
        # indexes that have no file: those of thousands of shards are large.
        indexes = [
            index if path in self.unsaved or not os.path.exists(self._index_file(path)) else None
            for path, index in zip(self.paths, self._indexes, strict=True)
        ]
        return {**vars(self), '_indexes': indexes}

    def _locate(self, i: int) -> tuple[int, ShardIndex, int]:
        """Shard number, index and position in the shard of record i."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f'record {i} of {len(self)}')
        i %= len(self)
        k = int(np.searchsorted(self._ends, i, side='right'))
        begin = int(self._ends[k - 1]) if k else 0
        return k, self._index(k), i - begin

    def _index(self, k: int) -> ShardIndex:
        """The index of a shard by its number, loaded if a worker was not sent it."""
        index = self._indexes[k]
        if index is None:
            self._check_unchanged(self.paths[k])
            index = self._indexes[k] = self._obtain_index(self.paths[k])
        return index

    def _obtain_index(self, path: str) -> ShardIndex:
        """The index of a shard, from its file or else made now and saved."""
        file = self._index_file(path)
        try:
            index = ShardIndex.load(file)
        except ValueError as error:
            index = None
            self._damaged[file] = error
        if index is not None and index.serves(self._errors, file_stamp(path)):
            return index
        if is_gzip(path):
            raise TFRecordError(
                f'{path} is gzipped, which rules out random access: run gunzip {path} (a name '
                'without .gz needs gunzip -S), or read it in order with read_examples',
                path,
            )
        index = ShardIndex.build(path, self._errors)
        try:
            if self._index_dir:
                os.makedirs(self._index_dir, exist_ok=True)
            index.save(file)
        except OSError as error:
            self.unsaved[path] = error
        return index

    def _index_file(self, path: str) -> str:
        folder, name = os.path.split(path)
        return os.path.join(self._index_dir or folder, name + INDEX_SUFFIX)

    def _check_unchanged(self, path: str) -> None:
        known, stamp = self._stamps[path], file_stamp(path)
        if stamp == known:
            return
        # A backup or chmod touches only the last time, but so does whoever sets back the others.
        same_times = stamp[:2] == known[:2]
        if same_times and ShardIndex.build(path, self._errors).content == self._contents[path]:
            self._stamps[path] = stamp
            return
        text = f'{path} has changed since it was indexed: create the YT8MShards again'
        raise TFRecordError(text, path)

    def _report(self) -> None:
        if self._damaged:
            file, reason = next(iter(self._damaged.items()))
            LOGGER.warning(
                '%d damaged indexes were made again: %s (%s)', len(self._damaged), file, reason
            )
        if self.unsaved:
            LOGGER.warning(
                '%d indexes are kept in memory only, as %s cannot be written to: give index_dir '
                '(%s)',
                len(self.unsaved),
                self._index_dir or 'the folder of the shards',
                next(iter(self.unsaved.values())),
            )
        if self.skipped:
            counts = ', '.join(f'{path} {count}' for path, count in self.skipped.items())
            total = sum(self.skipped.values())
            LOGGER.warning('%d damaged records were left out: %s', total, counts)


def find_shards(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """The shards that paths and globs name, sorted, each once.

    Args:
        paths (str | PathLike | Sequence): A shard, a glob, or several of these.

    Raises:
        FileNotFoundError: A path does not exist, or a glob matches nothing.
        ValueError: There are no paths, or one is a folder.
    """
    shards: set[str] = set()
    for item in [paths] if isinstance(paths, str | os.PathLike) else paths:
        pattern = os.fspath(item)
        if os.path.isdir(pattern):
            raise ValueError(f'{pattern} is a folder: write {pattern}/*.tfrecord')
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            file_stamp(pattern)
            shards.add(pattern)
            continue
        matches = [
            path
            for path in glob.glob(pattern, recursive=True)
            if os.path.isfile(path) and not path.endswith((INDEX_SUFFIX, '.tmp'))
        ]
        if not matches:
            raise FileNotFoundError(errno.ENOENT, 'no shard matches the glob', pattern)
        shards.update(matches)
    if not shards:
        raise ValueError('no shards: paths is empty')
    return sorted(shards)
