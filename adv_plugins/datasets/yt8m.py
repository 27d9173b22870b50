"""YouTube-8M's videos: read from its shards, found in them by number, and written to new ones.

A shard is a TFRecord file (``tfrecord.py``) of one ``SequenceExample`` per video with its frames,
or one ``Example`` per video with the means of its frames. ``read_examples`` reads a shard from
first to last, ``YT8MShards`` gives random access to many, ``write_examples`` writes one.
"""

from __future__ import annotations

import errno
import functools
import glob
import logging
import operator
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from . import tfrecord
from .tfrecord import TFRecordError

LOGGER = logging.getLogger(__name__)

# An example's own names first, then those of MediaPipe's extractor.
ID_KEYS = ('id', 'video_id', 'example/id', 'clip/media_id', 'clip/data_path')
LABEL_KEYS = ('labels', 'clip/label/index')
FLOAT_SUFFIX = '/feature/floats'

INDEX_SUFFIX = '.index.npz'
INDEX_VERSION = 1
# What an index pass has looked at: framing only, every field, the checksum of the data as well.
FRAMED, PARSED, SUMMED = range(3)

Example = dict[str, Any]
# Offset, labels and number of frames of a record.
Entry = tuple[int, np.ndarray, int]
Path = str | os.PathLike[str]


# ---------------------------------------------------------------------------------- quantisation


def dequantize(quantized: np.ndarray) -> np.ndarray:
    """Features as YouTube-8M's starter code feeds them to a model, bit for bit.

    Args:
        quantized (np.ndarray): uint8, any shape.

    Returns:
        np.ndarray: float32, same shape, in -1.9921875 .. 2.0078125.

    Source: google/youtube-8m, ``utils.Dequantize`` with -2 and 2.
    """
    quantized = np.asarray(quantized)
    if quantized.dtype != np.uint8:
        text = f'dequantize: got {quantized.dtype}, expected uint8. Use float features as they are.'
        raise ValueError(text)
    features = quantized.astype(np.float32)
    features *= np.float32(4 / 255)
    features += np.float32(4 / 512 - 2)
    return features


def quantize(features: np.ndarray) -> np.ndarray:
    """Features as YouTube-8M's own extractor writes them.

    ``dequantize(quantize(x))`` is ``x`` clipped to -2 .. 2, plus 1/128, up to half a step.

    Args:
        features (np.ndarray): Floats without NaN, any shape.

    Returns:
        np.ndarray: uint8, same shape.

    Source: google/youtube-8m, ``extract_tfrecords_main.quantize``.
    """
    features = np.asarray(features, dtype=np.float32)
    if np.isnan(features).any():
        raise ValueError('quantize: the features hold NaN, for which there is no byte')
    steps = (np.clip(features, -2, 2) + np.float32(2)) * np.float32(255 / 4)
    return np.rint(steps).astype(np.uint8)


# ------------------------------------------------------------------- from records and to records


def _take(features: Example, keys: Sequence[str]) -> tuple[str, Any]:
    """The first of the keys that has a value, and the value, which is removed."""
    key = next((key for key in keys if features.get(key) is not None), keys[0])
    return key, features.pop(key, None)


def _take_id(features: Example) -> str:
    key, value = _take(features, ID_KEYS)
    if value is None:
        return ''
    if not isinstance(value, list) or len(value) > 1:
        raise ValueError(f'{key!r} has to be one byte string')
    return b''.join(value).decode(errors='backslashreplace')


def _take_labels(features: Example) -> np.ndarray:
    key, value = _take(features, LABEL_KEYS)
    if value is None or len(value) == 0:
        return np.zeros(0, np.int64)
    if isinstance(value, list) or value.dtype != np.int64:
        raise ValueError(f'{key!r} has to be a list of integers')
    return value


def _decode(data: bytes) -> Example:
    """The example in a record as ``read_examples`` documents it."""
    context, lists = tfrecord.parse_example(data, 0, len(data))
    features = {key: tfrecord.parse_feature(data, *span) for key, span in context.items()}
    video = _take_id(features)
    try:
        example = {'id': video, 'labels': _take_labels(features)}
        example.update({key: value for key, value in features.items() if value is not None})
        for key, span in (lists or {}).items():
            name = key[: -len(FLOAT_SUFFIX)].lower() if key.endswith(FLOAT_SUFFIX) else key
            if name in example:
                raise ValueError(f'two features have the name {name!r}')
            try:
                example[name] = tfrecord.parse_frames(data, *span)
            except ValueError as error:
                raise ValueError(f'{key!r}: {error}') from None
        _check_frames(example, framed=lists is not None)
    except ValueError as error:
        raise ValueError(f'video {video!r}: {error}') from None
    return example


def _frames(example: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: value for key, value in example.items() if np.ndim(value) == 2}


def _check_frames(example: Mapping[str, Any], framed: bool) -> None:
    """A video has frames, the same number in every modality; without lists it has means."""
    frames = _frames(example)
    if not framed:
        floats = [key for key, v in example.items() if getattr(v, 'dtype', None) == np.float32]
        if any(not key.startswith('segment_') for key in floats):
            return
        raise ValueError('no frames, and no video-level features')
    if not any(map(len, frames.values())):
        raise ValueError('no frames')
    if len(set(map(len, frames.values()))) > 1:
        counts = ', '.join(f'{name} {len(value)}' for name, value in frames.items())
        raise ValueError(f'unequal numbers of frames: {counts}')
    for name, value in frames.items():
        if value.size == 0:
            raise ValueError(f'the frames of {name!r} are empty')


def _as_written(key: str, value: Any) -> list[bytes] | np.ndarray:
    """A value of an example as one of the types that a shard can hold."""
    if isinstance(value, str | bytes):
        return [value.encode() if isinstance(value, str) else value]
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        return value
    array = np.atleast_1d(np.asarray(value))
    if key == 'labels' and array.size == 0:
        return np.zeros(0, np.int64)
    if key == 'labels' and (array.ndim > 1 or array.dtype.kind not in 'iu'):
        raise ValueError(f"'labels' are {array.dtype} {array.shape}, expected integers (n,)")
    if array.dtype.kind not in 'fiu':
        raise ValueError(f'{key!r} is {array.dtype}, expected uint8, float32 or int64')
    if array.ndim > 2:
        raise ValueError(f'{key!r} has the shape {array.shape}, expected (T, D) or (n,)')
    if array.dtype == np.uint8 and array.ndim == 2:
        return array
    return array.astype(np.float32 if array.dtype.kind == 'f' else np.int64)


def _encode(example: Mapping[str, Any]) -> bytes:
    values = {key: _as_written(key, value) for key, value in example.items()}
    lists = _frames(values)
    _check_frames(values, framed=bool(lists))
    return tfrecord.encode_example({k: v for k, v in values.items() if k not in lists}, lists)


# -------------------------------------------------------------------------------- shards in order


@functools.cache
def _data_crc() -> tfrecord.CRC | None:
    """CRC32C for the data that are read, None (and one warning) without a package for it."""
    crc = tfrecord.package_crc()
    if crc is None:
        warnings.warn(
            'YouTube-8M records are read without a check of their checksums, so damaged features '
            'pass unseen. Install a CRC package: pip install "adv_plugins[yt8m]"',
            stacklevel=2,
        )
    return crc


def _stat(path: str) -> tuple[int, int]:
    """Size and modification time in nanoseconds, by which a change of the shard is noticed."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        text = 'no such shard (it has to be a local file, or a glob of local files)'
        raise FileNotFoundError(errno.ENOENT, text, path) from None
    return status.st_size, status.st_mtime_ns


def _check_errors(errors: str) -> None:
    if errors not in ('raise', 'skip'):
        raise ValueError(f"errors={errors!r}: write 'raise' or 'skip'")


def _read_example(file: BinaryIO, path: str) -> Example | None:
    """The example at the file's position; None at the end."""
    offset = file.tell()
    data = tfrecord.read_record(file, path, _data_crc())
    try:
        return None if data is None else _decode(data)
    except ValueError as error:
        raise tfrecord.damaged(path, offset, str(error), file.tell()) from None


def _scan(path: str, errors: str) -> Iterator[tuple[int, Example | None]]:
    """Offset and example of each record in order; None under 'skip' if the record is damaged."""
    with tfrecord.open_records(path) as file:
        offset: int | None = 0
        while offset is not None:
            example = None
            try:
                example = _read_example(file, path)
                if example is None:
                    return
                following = file.tell()
            except TFRecordError as error:
                if errors == 'raise':
                    raise
                following = error.next_offset
            yield offset, example
            offset = following


def read_examples(path: Path, errors: str = 'raise') -> Iterator[Example]:
    """Read a YouTube-8M shard from its first record to its last.

    Frame-level records, video-level records and the segment records of 2019 are told apart by
    what they hold. An example has

    - ``id`` (str) and ``labels`` (int64 (n,)), empty if the record has none;
    - frames under the names of their lists: ``rgb`` (uint8 (T, 1024)) and ``audio`` (uint8
      (T, 128)), quantised as they were written. The floats of MediaPipe's extractor, such as
      ``RGB/feature/floats``, become float32 (T, D) under the lower-case first part of their name;
    - the other features: ``mean_rgb``, ``mean_audio`` and ``segment_scores`` (float32 (n,)),
      ``segment_labels``, ``segment_start_times`` and ``segment_end_times`` (int64 (n,)), byte
      strings as a list of bytes.

    Args:
        path (str | PathLike): A shard, plain or gzipped (told by its content).
        errors (str): What to do about damaged records: 'raise', or 'skip' to leave them out, with
            their number as one logged warning at the end. A damaged length ends the file, as
            nothing else tells where the next record begins. Defaults to 'raise'.

    Yields:
        dict: One example, whose arrays own their data.

    Raises:
        TFRecordError: If the shard is empty or cut, a checksum does not fit, a record is not an
            example, has no frames, or has modalities of unequal lengths. Checksums of data need
            ``pip install "adv_plugins[yt8m]"``.
        FileNotFoundError: If there is no such file.

    Example:
        >>> for example in read_examples('train0000.tfrecord'):
        ...     rgb = dequantize(example['rgb'])
    """
    _check_errors(errors)
    path = os.fspath(path)
    _stat(path)
    return _read_examples(path, errors)


def _read_examples(path: str, errors: str) -> Iterator[Example]:
    skipped = 0
    for _, example in _scan(path, errors):
        if example is None:
            skipped += 1
        else:
            yield example
    if skipped:
        LOGGER.warning('%s: %d damaged records were left out', path, skipped)


def write_examples(path: Path, examples: Iterable[Mapping[str, Any]]) -> int:
    """Write a shard in YouTube-8M's own format, complete or not at all.

    Args:
        path (str | PathLike): The shard. Gzipped if the name ends with '.gz', which YouTube-8M's
            own are not, and which rules out random access.
        examples (Iterable[dict]): Examples as ``read_examples`` yields them: ``id`` (str),
            ``labels`` (integers (n,)), frames (T, D) of uint8 (see ``quantize``) or float32 under
            any names, and further features (n,). Without frames, but with float features such as
            ``mean_rgb``, a video-level record is written.

    Returns:
        int: Number of records.

    Raises:
        ValueError: If an example has no frames, modalities of unequal lengths or a value that a
            shard cannot hold, or if there is no example.

    Example:
        >>> example = dict(id='a0b1', labels=[3, 1], rgb=quantize(rgb), audio=quantize(audio))
        >>> write_examples('train0000.tfrecord', [example])
        1
    """
    path = os.fspath(path)

    def records() -> Iterator[bytes]:
        for count, example in enumerate(examples):
            try:
                yield _encode(example)
            except ValueError as error:
                name = example.get('id', '')
                raise ValueError(f'{path}, example {count} (id {name!r}): {error}') from None

    return tfrecord.write_records(path, records())


# --------------------------------------------------------------------------------- random access


@dataclass(frozen=True)
class _Index:
    """Where the records of a shard are, which had this size and modification time.

    The labels of record i are ``labels[splits[i]:splits[i + 1]]``.
    """

    size: int
    mtime_ns: int
    checked: int
    skipped: int
    offsets: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    splits: np.ndarray

    @classmethod
    def build(cls, path: str, errors: str) -> _Index:
        size, mtime_ns = _stat(path)
        entries = list(_peek(path) if errors == 'raise' else map(_summary, _scan(path, errors)))
        found = [entry for entry in entries if entry is not None]
        return cls(
            size,
            mtime_ns,
            checked=_checks(errors),
            skipped=len(entries) - len(found),
            offsets=np.array([offset for offset, _, _ in found], np.int64),
            num_frames=np.array([frames for _, _, frames in found], np.int32),
            labels=np.concatenate([np.zeros(0, np.int64), *(labels for _, labels, _ in found)]),
            splits=np.cumsum([0, *(len(labels) for _, labels, _ in found)], dtype=np.int64),
        )

    @classmethod
    def load(cls, file: str) -> _Index | None:
        """An index from its file, None if there is none that can be read."""
        try:
            with np.load(file) as stored:
                if int(stored['version']) != INDEX_VERSION:
                    return None
                fields = {name: stored[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        return cls(**{k: int(v) if v.ndim == 0 else v for k, v in fields.items()})

    def save(self, file: str) -> None:
        with tfrecord.replacing(file) as out:
            np.savez(out, version=INDEX_VERSION, **vars(self))

    def serves(self, errors: str, stamp: tuple[int, int]) -> bool:
        """Whether the index is of this very file and has looked closely enough at it."""
        if (self.size, self.mtime_ns) != stamp or self.checked < _checks(errors):
            return False
        return errors == 'skip' or self.skipped == 0


def _checks(errors: str) -> int:
    """What an index pass looks at."""
    if errors == 'raise':
        return FRAMED
    return PARSED if _data_crc() is None else SUMMED


def _summary(entry: tuple[int, Example | None]) -> Entry | None:
    offset, example = entry
    if example is None:
        return None
    return offset, example['labels'], next(map(len, _frames(example).values()), 0)


def _peek(path: str) -> Iterator[Entry]:
    """As ``_summary`` of ``_scan``, but leaves the frames unread: nearly all of a shard."""
    for buf, start, stop in tfrecord.map_records(path):
        offset = start - tfrecord.HEADER
        try:
            context, lists = tfrecord.parse_example(buf, start, stop)
            spans = {key: context[key] for key in LABEL_KEYS if key in context}
            labels = {key: tfrecord.parse_feature(buf, *span) for key, span in spans.items()}
            frames = tfrecord.count_frames(buf, *next(iter(lists.values()))) if lists else 0
            entry = offset, _take_labels(labels), frames
        except ValueError as error:
            raise tfrecord.damaged(path, offset, str(error), stop + tfrecord.FOOTER) from None
        yield entry


def _find_shards(paths: Path | Sequence[Path]) -> list[str]:
    """The shards that paths and globs name, sorted, each once."""
    shards: set[str] = set()
    for item in [paths] if isinstance(paths, str | os.PathLike) else paths:
        pattern = os.fspath(item)
        if os.path.isdir(pattern):
            raise ValueError(f'{pattern} is a folder: write {pattern}/*.tfrecord')
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            _stat(pattern)
            shards.add(pattern)
            continue
        found = [
            path
            for path in glob.glob(pattern, recursive=True)
            if os.path.isfile(path) and not path.endswith((INDEX_SUFFIX, '.tmp'))
        ]
        if not found:
            raise FileNotFoundError(errno.ENOENT, 'no shard matches the glob', pattern)
        shards.update(found)
    if not shards:
        raise ValueError('no shards: paths is empty')
    return sorted(shards)


class YT8MShards(Sequence[Example]):
    """Random access to the records of YouTube-8M shards, in the order of the sorted paths.

    ``shards[i]`` reads one record, as ``read_examples`` yields it. No file stays open, so an
    object may be shared by workers, forked or spawned. An index of each shard is made once and
    kept beside it as ``<shard>.index.npz``; a shard that has changed is indexed again.

    Args:
        paths (str | PathLike | Sequence): A shard, a glob, or several of these.
        errors (str): With 'raise' indexing looks at lengths, labels and the first and last frame's
            header only; a record that is damaged elsewhere raises when it is read. With 'skip' it
            reads everything once and leaves damaged records out for good, so that numbers, order
            and length do not depend on when damage is met. Defaults to 'raise'.
        index_dir (str | PathLike, optional): Folder for the indexes, for shards on a read-only
            disk. Defaults to None, beside the shards.

    Attributes:
        paths (list[str]): The shards.
        skipped (dict[str, int]): Number of records left out, of the shards from which some were.

    Raises:
        TFRecordError: If a shard is gzipped, or damaged under ``errors='raise'``.
        FileNotFoundError: If a path does not exist or a glob matches nothing.

    Example:
        >>> shards = YT8MShards('yt8m/2/frame/train/train*.tfrecord')
        >>> len(shards), shards.labels(7), shards[7]['rgb'].shape
        (3888919, array([ 25, 298]), (193, 1024))
    """

    def __init__(
        self, paths: Path | Sequence[Path], errors: str = 'raise', index_dir: Path | None = None
    ) -> None:
        _check_errors(errors)
        self.paths = _find_shards(paths)
        self._errors = errors
        self._index_dir = os.fspath(index_dir or '')
        if len({self._index_file(path) for path in self.paths}) < len(self.paths):
            raise ValueError(
                f'index_dir={self._index_dir!r}: shards of different folders have the same name. '
                'Make one YT8MShards with one index_dir per folder.'
            )
        self._unsaved = 0
        indexes = [self._find_index(path) for path in self.paths]
        self._indexes: list[_Index | None] = list(indexes)
        self._ends = np.cumsum([len(index.offsets) for index in indexes])
        named = dict(zip(self.paths, indexes, strict=True))
        self._stamps = {path: (index.size, index.mtime_ns) for path, index in named.items()}
        self.skipped = {path: index.skipped for path, index in named.items() if index.skipped}
        self._report()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]
        path, offset = self.location(i)
        with open(path, 'rb') as file:
            self._check_stamp(path)
            file.seek(offset)
            example = _read_example(file, path)
        assert example is not None  # The index has no offset at the end of a file of this size.
        return example

    def labels(self, i: int) -> np.ndarray:
        """Labels of record i (int64 (n,)) from the index."""
        _, index, j = self._find(i)
        return index.labels[index.splits[j] : index.splits[j + 1]].copy()

    def num_frames(self, i: int) -> int:
        """Number of frames of record i from the index, 0 for a video-level record."""
        _, index, j = self._find(i)
        return int(index.num_frames[j])

    def location(self, i: int) -> tuple[str, int]:
        """Shard of record i, and the byte at which the record begins."""
        k, index, j = self._find(i)
        return self.paths[k], int(index.offsets[j])

    def __getstate__(self) -> dict[str, Any]:
        # An index that has a file is loaded from there when it is needed: a spawned worker is not
        # sent the indexes of thousands of shards.
        indexes = [
            None if os.path.exists(self._index_file(path)) else index
            for path, index in zip(self.paths, self._indexes, strict=True)
        ]
        return {**vars(self), '_indexes': indexes}

    def _find(self, i: int) -> tuple[int, _Index, int]:
        """Shard number, index and position in the shard of record i."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f'record {i} of {len(self)}')
        i %= len(self)
        k = int(np.searchsorted(self._ends, i, side='right'))
        begin = int(self._ends[k - 1]) if k else 0
        index = self._indexes[k]
        if index is None:
            self._check_stamp(self.paths[k])
            index = self._indexes[k] = self._find_index(self.paths[k])
        return k, index, i - begin

    def _find_index(self, path: str) -> _Index:
        """The index of a shard: from its file, or made now and saved."""
        file = self._index_file(path)
        index = _Index.load(file)
        if index is not None and index.serves(self._errors, _stat(path)):
            return index
        if tfrecord.is_gzip(path):
            raise TFRecordError(
                f'{path} is gzipped, which rules out random access: run gunzip {path} (a name '
                'without .gz needs gunzip -S), or read it in order with read_examples',
                path,
            )
        index = _Index.build(path, self._errors)
        try:
            if self._index_dir:
                os.makedirs(self._index_dir, exist_ok=True)
            index.save(file)
        except OSError:
            self._unsaved += 1
        return index

    def _index_file(self, path: str) -> str:
        folder, name = os.path.split(path)
        return os.path.join(self._index_dir or folder, name + INDEX_SUFFIX)

    def _check_stamp(self, path: str) -> None:
        if _stat(path) != self._stamps[path]:
            text = f'{path} has changed since it was indexed: make YT8MShards anew'
            raise TFRecordError(text, path)

    def _report(self) -> None:
        if self._unsaved:
            LOGGER.warning(
                '%d indexes are kept in memory only, as %s cannot be written to: give index_dir',
                self._unsaved,
                self._index_dir or 'the folder of the shards',
            )
        if self.skipped:
            counts = ', '.join(f'{path} {count}' for path, count in self.skipped.items())
            total = sum(self.skipped.values())
            LOGGER.warning('%d damaged records were left out: %s', total, counts)
