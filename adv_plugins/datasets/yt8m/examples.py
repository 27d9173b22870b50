"""The examples in a shard, as dicts of arrays: decoded, encoded, read in order and written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from .checksum import require_crc32c
from .messages import encode_example, parse_example, parse_feature, parse_frames
from .tfrecord import TFRecordError, damaged, file_stamp, open_records, read_record, write_records

LOGGER = logging.getLogger(__name__)

# YouTube-8M's own names first, then those of MediaPipe's extractor.
ID_KEYS = ('id', 'video_id', 'example/id', 'clip/media_id', 'clip/data_path')
LABEL_KEYS = ('labels', 'clip/label/index')
FLOAT_SUFFIX = '/feature/floats'

Example = dict[str, Any]
PathLike = str | os.PathLike[str]


def read_examples(path: PathLike, errors: str = 'raise') -> Iterator[Example]:
    """Read a YouTube-8M shard from its first record to its last.

    Frame-level records, video-level records and the segment records of 2019 are told apart by
    their content. An example has

    - ``id`` (str) and ``labels`` (int64 (n,)), empty if the record has none;
    - frames under the names of their lists: ``rgb`` (uint8 (T, 1024)) and ``audio`` (uint8
      (T, 128)), still quantised, which may differ in T. The float lists of MediaPipe's extractor,
      such as ``RGB/feature/floats``, become float32 (T, D) under the lower-case first part of
      their name;
    - the other features: ``mean_rgb``, ``mean_audio`` and ``segment_scores`` (float32 (n,)),
      ``segment_labels``, ``segment_start_times`` and ``segment_end_times`` (int64 (n,)), byte
      strings as a list of bytes.

    Args:
        path (str | PathLike): A shard, plain or gzipped (told by its content).
        errors (str): What to do about damaged records: 'raise', or 'skip' to leave them out and
            log one warning with their number at the end. A damaged length ends the file, as
            nothing else tells where the next record begins. Defaults to 'raise'.

    Yields:
        dict: One example, whose arrays own their data.

    Raises:
        TFRecordError: If the shard is empty or cut, a checksum does not fit, or a record is not an
            example or has no frames.
        FileNotFoundError: If there is no such file.
        ImportError: If google-crc32c is not installed (``pip install "adv_plugins[yt8m]"``).

    Example:
        >>> for example in read_examples('train0000.tfrecord'):
        ...     rgb = dequantize(example['rgb'])
    """
    check_errors_option(errors)
    require_crc32c()
    path = os.fspath(path)
    file_stamp(path)
    return _read_examples(path, errors)


def write_examples(path: PathLike, examples: Iterable[Mapping[str, Any]]) -> int:
    """Write a shard in YouTube-8M's own format, complete or not at all.

    Args:
        path (str | PathLike): The shard. It is gzipped if the name ends with '.gz'; YouTube-8M's
            own shards are not, and a gzipped shard cannot be read by random access.
        examples (Iterable[dict]): Examples as ``read_examples`` yields them: ``id`` (str),
            ``labels`` (integers (n,)), frames (T, D) of uint8 (see ``quantize``) or float32 under
            any names, and further features (n,). Without frames, but with float features such as
            ``mean_rgb``, a video-level record is written.

    Returns:
        int: Number of records.

    Raises:
        ValueError: If an example has no frames or a value that a shard cannot hold, or if there
            is no example.
        ImportError: If google-crc32c is not installed (``pip install "adv_plugins[yt8m]"``).

    Example:
        >>> example = dict(id='a0b1', labels=[3, 1], rgb=quantize(rgb), audio=quantize(audio))
        >>> write_examples('train0000.tfrecord', [example])
        1
    """
    require_crc32c()
    path = os.fspath(path)

    def records() -> Iterator[bytes]:
        for count, example in enumerate(examples):
            try:
                yield encode(example)
            except ValueError as error:
                name = example.get('id', '')
                raise ValueError(f'{path}, example {count} (id {name!r}): {error}') from None

    return write_records(path, records())


def check_errors_option(errors: str) -> None:
    """Raise a ValueError unless ``errors`` is 'raise' or 'skip'."""
    if errors not in ('raise', 'skip'):
        raise ValueError(f"errors={errors!r}: write 'raise' or 'skip'")


def read_example(file: BinaryIO, path: str) -> Example | None:
    """The example at the file's position; None at the end of the file."""
    offset = file.tell()
    data = read_record(file, path)
    try:
        return None if data is None else decode(data)
    except ValueError as error:
        raise damaged(path, offset, str(error), file.tell()) from None


def scan_examples(path: str, errors: str) -> Iterator[tuple[int, Example | None]]:
    """Offset and example of each record in order; with 'skip', None for a damaged record."""
    with open_records(path) as file:
        offset: int | None = 0
        while offset is not None:
            example = None
            try:
                example = read_example(file, path)
                if example is None:
                    return
                next_offset: int | None = file.tell()
            except TFRecordError as error:
                if errors == 'raise':
                    raise
                next_offset = error.next_offset
            yield offset, example
            offset = next_offset


def _read_examples(path: str, errors: str) -> Iterator[Example]:
    skipped = 0
    for _, example in scan_examples(path, errors):
        if example is None:
            skipped += 1
        else:
            yield example
    if skipped:
        LOGGER.warning('%s: %d damaged records were left out', path, skipped)


def decode(data: bytes) -> Example:
    """The example in a record, as ``read_examples`` describes it."""
    context, lists = parse_example(data, 0, len(data))
    features = {key: parse_feature(data, *span) for key, span in context.items()}
    video = _pop_id(features)
    try:
        example = {'id': video, 'labels': pop_labels(features)}
        example.update({key: value for key, value in features.items() if value is not None})
        for key, span in (lists or {}).items():
            name = list_name(key)
            if name in example:
                raise ValueError(f'two features have the name {name!r}')
            try:
                example[name] = parse_frames(data, *span)
            except ValueError as error:
                raise ValueError(f'{key!r}: {error}') from None
        check_frames(example, has_lists=lists is not None)
    except ValueError as error:
        raise ValueError(f'video {video!r}: {error}') from None
    return example


def encode(example: Mapping[str, Any]) -> bytes:
    """The record of an example."""
    values = {key: _storable(key, value) for key, value in example.items()}
    lists = frame_lists(values)
    check_frames(values, has_lists=bool(lists))
    return encode_example({k: v for k, v in values.items() if k not in lists}, lists)


def list_name(key: str) -> str:
    """What a list of frames is called in an example, by its key in the record."""
    return key[: -len(FLOAT_SUFFIX)].lower() if key.endswith(FLOAT_SUFFIX) else key


def frame_lists(example: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The modalities of an example: its values (T, D)."""
    return {key: value for key, value in example.items() if np.ndim(value) == 2}


def check_frames(example: Mapping[str, Any], has_lists: bool) -> None:
    """Raise a ValueError unless an example has frames, in one modality at least.

    The modalities may differ in length: each is taken as it is. An example without frame lists
    needs video-level features instead.
    """
    frames = frame_lists(example)
    if not has_lists:
        floats = [key for key, v in example.items() if getattr(v, 'dtype', None) == np.float32]
        if any(not key.startswith('segment_') for key in floats):
            return
        raise ValueError('no frames, and no video-level features')
    if not any(map(len, frames.values())):
        raise ValueError('no frames')
    for name, value in frames.items():
        if len(value) and value.size == 0:
            raise ValueError(f'the frames of {name!r} are empty')


def pop_labels(features: Example) -> np.ndarray:
    """Remove the labels from the features and return them, int64 (n,)."""
    key, value = _pop_first(features, LABEL_KEYS)
    if value is None or len(value) == 0:
        return np.zeros(0, np.int64)
    if isinstance(value, list) or value.dtype != np.int64:
        raise ValueError(f'{key!r} has to be a list of integers')
    return value


def _pop_id(features: Example) -> str:
    key, value = _pop_first(features, ID_KEYS)
    if value is None:
        return ''
    if not isinstance(value, list) or len(value) > 1:
        raise ValueError(f'{key!r} has to be one byte string')
    return b''.join(value).decode(errors='backslashreplace')


def _pop_first(features: Example, keys: Sequence[str]) -> tuple[str, Any]:
    """The first of the keys that has a value, and the value, which is removed."""
    key = next((key for key in keys if features.get(key) is not None), keys[0])
    return key, features.pop(key, None)


def _storable(key: str, value: Any) -> list[bytes] | np.ndarray:
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
