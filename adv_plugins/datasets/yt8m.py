"""Read and write YouTube-8M's TFRecord shards with numpy alone: no TensorFlow, no protobuf.

A shard is a chain of records: length (8 bytes), its masked CRC32C (4), data, the data's masked
CRC32C (4). The data are a ``SequenceExample`` (frame level) or an ``Example`` (video level) in
protobuf's wire format: messages of fields, each a number, a wire type and a value.

``read_examples`` reads a shard from first to last, ``YT8MShards`` gives random access to many.
"""

from __future__ import annotations

import errno
import functools
import glob
import gzip
import logging
import mmap
import operator
import os
import struct
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

LOGGER = logging.getLogger(__name__)

# An example's own names first, then those of MediaPipe's extractor.
ID_KEYS = ('id', 'video_id', 'example/id', 'clip/media_id', 'clip/data_path')
LABEL_KEYS = ('labels', 'clip/label/index')
FLOAT_SUFFIX = '/feature/floats'

INDEX_SUFFIX = '.index.npz'
INDEX_VERSION = 1
# What an index pass has looked at: framing only, every field, the checksum of the data as well.
FRAMED, PARSED, SUMMED = range(3)

HEADER, FOOTER = 12, 4
# Protobuf's own limit of a message.
MAX_LENGTH = 2**31 - 1

# Wire types, and the three kinds of list that a Feature can hold.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
BYTES, FLOATS, INTS = 1, 2, 3

Span = tuple[int, int]
Path = str | os.PathLike[str]


class TFRecordError(ValueError):
    """A shard or a record that cannot be read.

    Args:
        message (str): What is wrong, and what to do.
        path (str): The shard. Defaults to ''.
        offset (int): Byte at which the record begins, after decompression. Defaults to 0.
        next_offset (int, optional): Byte at which the following record begins. None if it cannot
            be found, as after a damaged length. Defaults to None.
    """

    # All but the message is optional: a DataLoader rebuilds a worker's error from its text.
    def __init__(
        self, message: str, path: str = '', offset: int = 0, next_offset: int | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset
        self.next_offset = next_offset


def _damaged(path: str, offset: int, problem: str, following: int | None = None) -> TFRecordError:
    text = (
        f'{path}, record at byte {offset}: {problem}. Download or write the shard again, or leave '
        "damaged records out with errors='skip'."
    )
    return TFRecordError(text, path, offset, following)


# ---------------------------------------------------------------------------------- quantisation


def dequantize(quantized: np.ndarray) -> np.ndarray:
    """Features as the YouTube-8M starter code feeds them to a model, bit for bit.

    Args:
        quantized (np.ndarray): uint8, any shape.

    Returns:
        np.ndarray: float32, same shape, in -1.9921875 .. 2.0078125.

    Raises:
        ValueError: If the input is not uint8.

    Source: google/youtube-8m, ``utils.Dequantize`` with -2 and 2.
    """
    quantized = np.asarray(quantized)
    if quantized.dtype != np.uint8:
        raise ValueError(
            f'dequantize: got {quantized.dtype}, expected uint8. Float features of a shard are '
            'features already: use them as they are.'
        )
    features = quantized.astype(np.float32)
    features *= np.float32(4 / 255)
    features += np.float32(4 / 512 - 2)
    return features


def quantize(features: np.ndarray) -> np.ndarray:
    """Features as YouTube-8M's own feature extractor writes them.

    ``dequantize(quantize(x))`` is ``x`` clipped to -2 .. 2, plus 1/128, up to half a step.

    Args:
        features (np.ndarray): Floats, any shape. Values beyond -2 .. 2 are clipped.

    Returns:
        np.ndarray: uint8, same shape.

    Raises:
        ValueError: If a feature is NaN.

    Source: google/youtube-8m, ``extract_tfrecords_main.quantize``.
    """
    features = np.asarray(features, dtype=np.float32)
    if np.isnan(features).any():
        raise ValueError('quantize: the features hold NaN, for which there is no byte')
    steps = (np.clip(features, -2, 2) + np.float32(2)) * np.float32(255 / 4)
    return np.rint(steps).astype(np.uint8)


# ---------------------------------------------------------------------------------------- CRC32C


def _byte_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


CRC_TABLE = _byte_table()
CRC_LIST = CRC_TABLE.tolist()
CRC_BLOCK = 256


def _advance(register: np.ndarray, columns: Iterable[Any]) -> np.ndarray:
    """Many CRC registers at once, each one byte further per column."""
    for column in columns:
        register = CRC_TABLE[(register ^ column) & 0xFF] ^ (register >> 8)
    return register


@functools.cache
def _block_tables() -> list[list[int]]:
    """What CRC_BLOCK zero bytes make of each value of each byte of a register."""
    values = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    return _advance(values, [0] * CRC_BLOCK).tolist()


def _numpy_crc(data: bytes) -> int:
    """CRC32C by tables: as it is linear, the blocks of long data can be run side by side."""
    crc = 0xFFFFFFFF
    if len(data) < 2 * CRC_BLOCK:
        for byte in data:
            crc = CRC_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    # Zeros in front leave a register of 0 as it is; 0xFFFFFFFF at the start flips four bytes.
    padding = -len(data) % CRC_BLOCK
    padded = np.zeros(padding + len(data), np.uint8)
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= 0xFF
    columns = padded.reshape(-1, CRC_BLOCK).T.astype(np.uint32, order='C')
    low, second, third, high = _block_tables()
    crc = 0
    for block in _advance(np.zeros(columns.shape[1], np.uint32), columns).tolist():
        crc = (
            low[crc & 0xFF]
            ^ second[crc >> 8 & 0xFF]
            ^ third[crc >> 16 & 0xFF]
            ^ high[crc >> 24]
            ^ block
        )
    return crc ^ 0xFFFFFFFF


@functools.cache
def _package_crc() -> Callable[[bytes], int] | None:
    """CRC32C of an installed package in C."""
    try:
        import google_crc32c

        if getattr(google_crc32c, 'implementation', 'c') != 'python':
            return google_crc32c.value
    except ImportError:
        pass
    try:
        import crc32c

        return crc32c.crc32c
    except ImportError:
        return None


@functools.cache
def _data_crc() -> Callable[[bytes], int] | None:
    """CRC32C for the data that are read, None (and one warning) without a package for it."""
    crc = _package_crc()
    if crc is None:
        warnings.warn(
            'YouTube-8M records are read without a check of their checksums, so damaged features '
            'pass unseen. Install a CRC package: pip install "adv_plugins[yt8m]"',
            stacklevel=2,
        )
    return crc


def _masked(crc: int) -> bytes:
    """A checksum as TFRecord files store it."""
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# --------------------------------------------------------------------------------- wire format


def _varint(buf: Any, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = buf[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift == 70:
            raise ValueError('an integer is longer than 10 bytes')
    raise ValueError('an integer runs past the end of its message')


def _fields(buf: Any, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and stop of each field's value in the message buf[at:end]."""
    while at < end:
        key, at = _varint(buf, at, end)
        wire = key & 7
        if wire == DELIMITED:
            size, at = _varint(buf, at, end)
            stop = at + size
        elif wire == VARINT:
            _, stop = _varint(buf, at, end)
        elif wire == FIXED32:
            stop = at + 4
        elif wire == FIXED64:
            stop = at + 8
        else:
            raise ValueError(f'a field has the wire type {wire}, which no example has')
        if stop > end:
            raise ValueError(f'a field of {stop - at} bytes runs past the end of its message')
        yield key >> 3, wire, at, stop
        at = stop


def _entries(buf: Any, at: int, end: int) -> dict[str, Span]:
    """Where the values of a map are (a map is a list of messages: 1 the key, 2 the value)."""
    entries = {}
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) != (1, DELIMITED):
            continue
        parts: dict[int, Span] = {1: (0, 0), 2: (0, 0)}
        for part, part_wire, part_start, part_stop in _fields(buf, start, stop):
            if part_wire == DELIMITED:
                parts[part] = (part_start, part_stop)
        entries[bytes(buf[slice(*parts[1])]).decode()] = parts[2]
    return entries


def _split(buf: Any, at: int, end: int) -> tuple[dict[str, Span], dict[str, Span] | None]:
    """Where a record's context features and feature lists are; None if it has no lists at all."""
    context: dict[str, Span] = {}
    lists = None
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) == (1, DELIMITED):
            context.update(_entries(buf, start, stop))
        elif (number, wire) == (2, DELIMITED):
            lists = {**(lists or {}), **_entries(buf, start, stop)}
    return context, lists


def _feature(buf: Any, at: int, end: int) -> list[bytes] | np.ndarray | None:
    """One Feature: byte strings, float32 (n,), int64 (n,), or None if it is none of these."""
    kind = 0
    spans: list[Span] = []
    for number, wire, start, stop in _fields(buf, at, end):
        if wire == DELIMITED and BYTES <= number <= INTS:
            if number != kind:
                kind, spans = number, []
            spans.append((start, stop))
    values = [
        (wire, start, stop)
        for span in spans
        for number, wire, start, stop in _fields(buf, *span)
        if number == 1
    ]
    if kind == BYTES:
        return [bytes(buf[start:stop]) for wire, start, stop in values if wire == DELIMITED]
    if kind == FLOATS:
        return _floats(
            [buf[start:stop] for wire, start, stop in values if wire in (DELIMITED, FIXED32)]
        )
    if kind == INTS:
        return _ints(
            buf, [(start, stop) for wire, start, stop in values if wire in (DELIMITED, VARINT)]
        )
    return None


def _floats(chunks: list[bytes]) -> np.ndarray:
    if any(len(chunk) % 4 for chunk in chunks):
        raise ValueError('a list of floats is not a multiple of 4 bytes')
    return np.array(np.frombuffer(bytearray().join(chunks), '<f4'), np.float32)


def _ints(buf: Any, spans: list[Span]) -> np.ndarray:
    values = []
    for at, stop in spans:
        while at < stop:
            value, at = _varint(buf, at, stop)
            values.append(value)
    return np.array(values, np.uint64).astype(np.int64)


def _usual_frame(buf: Any, at: int, end: int) -> tuple[int, int, int] | None:
    """Kind, start and stop of the first frame's data if nothing but a header comes before them."""
    start, stop = at, end
    numbers = []
    for level in ('Feature', 'list', 'value'):
        field = next(_fields(buf, start, stop), None)
        if field is None or field[1] != DELIMITED or (level != 'Feature' and field[3] != stop):
            return None
        number, _, start, stop = field
        numbers.append(number)
    if numbers in ([1, BYTES, 1], [1, FLOATS, 1]):
        return numbers[1], start, stop
    return None


def _frames(buf: Any, at: int, end: int) -> np.ndarray:
    """A feature list: uint8 from byte strings, float32 or int64, (T, D)."""
    usual = _usual_frame(buf, at, end)
    if usual is None:
        return _unusual_frames(buf, at, end)
    kind, start, stop = usual
    head, width, stride = start - at, stop - start, stop - at
    if (end - at) % stride or (kind == FLOATS and width % 4):
        return _unusual_frames(buf, at, end)
    rows = np.frombuffer(buf, np.uint8, end - at, at).reshape(-1, stride)
    # The first header tells the frame's length. If the next frame begins with the same header,
    # it has the same length, and so on: equal headers prove that the rows are the frames.
    if (rows[:, :head] != rows[0, :head]).any():
        return _unusual_frames(buf, at, end)
    if kind == BYTES:
        return rows[:, head:].copy()
    floats = np.empty((len(rows), width // 4), np.float32)
    floats[...] = rows[:, head:].copy().view('<f4')
    return floats


def _unusual_frames(buf: Any, at: int, end: int) -> np.ndarray:
    """As ``_frames``, one frame at a time: takes every valid way of writing a list."""
    rows: list[np.ndarray] = []
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) != (1, DELIMITED):
            continue
        row = _feature(buf, start, stop)
        if isinstance(row, list):
            if len(row) != 1:
                raise ValueError(f'frame {len(rows)} has {len(row)} byte strings instead of one')
            row = np.frombuffer(bytearray(row[0]), np.uint8)
        if row is None:
            raise ValueError(f'frame {len(rows)} has no values')
        if rows and (row.dtype, len(row)) != (rows[0].dtype, len(rows[0])):
            raise ValueError(
                f'frame {len(rows)} has {len(row)} values of {row.dtype}, '
                f'frame 0 has {len(rows[0])} of {rows[0].dtype}'
            )
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, 0), np.uint8)


def _count_frames(buf: Any, at: int, end: int) -> int:
    """Length of a feature list from its first and last header."""
    usual = _usual_frame(buf, at, end)
    if usual is not None:
        _, start, stop = usual
        head, stride = start - at, stop - at
        last = end - stride
        if (end - at) % stride == 0 and buf[last : last + head] == buf[at : at + head]:
            return (end - at) // stride
    return len(_frames(buf, at, end))


# -------------------------------------------------------------------------------------- examples


def _take_id(features: dict[str, Any]) -> str:
    for key in ID_KEYS:
        if features.get(key) is not None:
            value = features.pop(key)
            if not isinstance(value, list) or len(value) > 1:
                raise ValueError(f'{key!r} has to be one byte string')
            return value[0].decode(errors='backslashreplace') if value else ''
    return ''


def _take_labels(features: dict[str, Any]) -> np.ndarray:
    for key in LABEL_KEYS:
        if features.get(key) is not None:
            value = features.pop(key)
            if len(value) == 0:
                break
            if isinstance(value, list) or value.dtype != np.int64:
                raise ValueError(f'{key!r} has to be a list of integers')
            return value
    return np.zeros(0, np.int64)


def _decode(buf: Any, at: int, end: int) -> dict[str, Any]:
    """The record in buf[at:end] as ``read_examples`` documents it."""
    context, lists = _split(buf, at, end)
    features = {key: _feature(buf, *span) for key, span in context.items()}
    video = _take_id(features)
    try:
        example = {'id': video, 'labels': _take_labels(features)}
        example.update({key: value for key, value in features.items() if value is not None})
        for key, span in (lists or {}).items():
            name = key[: -len(FLOAT_SUFFIX)].lower() if key.endswith(FLOAT_SUFFIX) else key
            if name in example:
                raise ValueError(f'two features have the name {name!r}')
            try:
                example[name] = _frames(buf, *span)
            except ValueError as error:
                raise ValueError(f'{key!r}: {error}') from None
        _check_frames(example, framed=lists is not None)
    except ValueError as error:
        raise ValueError(f'video {video!r}: {error}') from None
    return example


def _frame_shapes(example: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {key: value.shape for key, value in example.items() if np.ndim(value) == 2}


def _check_frames(example: Mapping[str, Any], framed: bool) -> None:
    """A video has frames, the same number in every modality; without lists it has means."""
    shapes = _frame_shapes(example)
    if not framed:
        floats = [key for key, v in example.items() if getattr(v, 'dtype', None) == np.float32]
        if any(not key.startswith('segment_') for key in floats):
            return
        raise ValueError('no frames, and no video-level features')
    if not any(frames for frames, _ in shapes.values()):
        raise ValueError('no frames')
    if len({frames for frames, _ in shapes.values()}) > 1:
        counts = ', '.join(f'{name} {frames}' for name, (frames, _) in shapes.items())
        raise ValueError(f'unequal numbers of frames: {counts}')
    for name, (_, width) in shapes.items():
        if width == 0:
            raise ValueError(f'the frames of {name!r} are empty')


# --------------------------------------------------------------------------------------- reading


def _stat(path: str) -> Span:
    """Size and modification time in nanoseconds, by which a change of the shard is noticed."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        text = 'no such shard (it has to be a local file, or a glob of local files)'
        raise FileNotFoundError(errno.ENOENT, text, path) from None
    return status.st_size, status.st_mtime_ns


def _is_gzip(header: bytes) -> bool:
    # The length of a record may begin with gzip's magic bytes, but then its checksum fits.
    return header[:2] == b'\x1f\x8b' and header[8:12] != _masked(_numpy_crc(header[:8]))


def _open(path: str) -> BinaryIO:
    with open(path, 'rb') as file:
        header = file.read(HEADER)
    return gzip.open(path, 'rb') if _is_gzip(header) else open(path, 'rb')  # type: ignore


def _length(header: bytes, path: str, offset: int) -> int:
    """Length of a record's data from the 12 bytes in front of them."""
    if len(header) < HEADER:
        raise _damaged(path, offset, f'the file is cut after {len(header)} bytes of a header')
    length = struct.unpack_from('<Q', header)[0]
    if header[8:] != _masked(_numpy_crc(header[:8])) or length > MAX_LENGTH:
        raise _damaged(
            path, offset, f'the length field is damaged ({length}), so the rest cannot be found'
        )
    return length


def _read_data(file: BinaryIO, path: str, offset: int) -> bytes | None:
    """Data of the record that begins at the file's position; None at the end of the file."""
    try:
        header = file.read(HEADER)
        if not header:
            if offset == 0:
                raise _damaged(path, 0, 'the file is empty')
            return None
        length = _length(header, path, offset)
        data, footer = file.read(length), file.read(FOOTER)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, offset, f'the gzip stream is cut or damaged ({error})') from None
    if len(footer) < FOOTER:
        missing = length + FOOTER - len(data) - len(footer)
        raise _damaged(path, offset, f'the file is cut, {missing} bytes are missing')
    crc = _data_crc()
    if crc is not None and _masked(crc(data)) != footer:
        following = offset + HEADER + length + FOOTER
        raise _damaged(path, offset, 'the checksum of the data does not fit', following)
    return data


def _read_example(
    file: BinaryIO, path: str, offset: int
) -> tuple[dict[str, Any] | None, int | None]:
    """The example at the file's position and the offset of the next; None at the end."""
    data = _read_data(file, path, offset)
    if data is None:
        return None, None
    following = offset + HEADER + len(data) + FOOTER
    try:
        return _decode(data, 0, len(data)), following
    except ValueError as error:
        raise _damaged(path, offset, str(error), following) from None


class _Scan:
    """Offsets and examples of a shard in order; ``skipped`` counts what was left out."""

    def __init__(self, path: str, errors: str) -> None:
        self.path = path
        self.errors = errors
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with _open(self.path) as file:
            offset: int | None = 0
            while offset is not None:
                example = None
                try:
                    example, following = _read_example(file, self.path, offset)
                except TFRecordError as error:
                    if self.errors == 'raise':
                        raise
                    self.skipped += 1
                    following = error.next_offset
                if example is not None:
                    yield offset, example
                offset = following


def _check_errors(errors: str) -> None:
    if errors not in ('raise', 'skip'):
        raise ValueError(f"errors={errors!r}: write 'raise' or 'skip'")


def read_examples(path: Path, errors: str = 'raise') -> Iterator[dict[str, Any]]:
    """Read a YouTube-8M shard from its first record to its last.

    Frame-level records, video-level records and the segment records of 2019 are told apart by
    what they hold. Every example has

    - ``id`` (str), '' if the record has none;
    - ``labels`` (int64 (n,)), empty if the record has none;

    a frame-level example has for every feature list, by its name,

    - ``rgb`` (uint8 (T, 1024)) and ``audio`` (uint8 (T, 128)), quantised as they were written. The
      float features of MediaPipe's extractor, such as ``RGB/feature/floats``, become float32
      (T, D) under the lower-case first part of their name;

    and every other context feature keeps its name: ``mean_rgb``, ``mean_audio`` and
    ``segment_scores`` (float32), ``segment_labels``, ``segment_start_times`` and
    ``segment_end_times`` (int64), byte strings as a list of bytes. All arrays own their data.

    Args:
        path (str | PathLike): A shard, plain or gzipped (told by its content).
        errors (str): What to do about damaged records: 'raise', or 'skip' to leave them out, with
            their number as one logged warning at the end. A damaged length ends the file, as
            nothing else tells where the next record begins. Defaults to 'raise'.

    Yields:
        dict: One example.

    Raises:
        TFRecordError: If the shard is empty or cut, a checksum does not fit, a record is not an
            example, has no frames, or has modalities of unequal lengths. Checksums of data need
            ``pip install "adv_plugins[yt8m]"``.
        FileNotFoundError: If there is no such file.
        ValueError: If ``errors`` is something else.

    Example:
        >>> for example in read_examples('train0000.tfrecord'):
        ...     rgb = dequantize(example['rgb'])
    """
    _check_errors(errors)
    path = os.fspath(path)
    _stat(path)
    return _read_examples(path, errors)


def _read_examples(path: str, errors: str) -> Iterator[dict[str, Any]]:
    scan = _Scan(path, errors)
    for _, example in scan:
        yield example
    if scan.skipped:
        LOGGER.warning('%s: %d damaged records were left out', path, scan.skipped)


# --------------------------------------------------------------------------------------- writing


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes its place under ``path`` when it is complete, or not at all."""
    temporary = f'{path}.{uuid.uuid4().hex[:8]}.tmp'
    try:
        with open(temporary, 'wb') as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _encode_varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _header(number: int, size: int) -> bytes:
    return _encode_varint(number << 3 | DELIMITED) + _encode_varint(size)


def _message(number: int, value: bytes) -> bytes:
    return _header(number, len(value)) + value


def _encode_feature(value: list[bytes] | np.ndarray) -> bytes:
    if isinstance(value, list):
        return _message(BYTES, b''.join(_message(1, item) for item in value))
    if value.dtype == np.float32:
        return _message(FLOATS, _message(1, value.astype('<f4').tobytes()))
    return _message(INTS, _message(1, b''.join(map(_encode_varint, value.tolist()))))


def _encode_frames(value: np.ndarray) -> bytes:
    if value.dtype == np.int64:
        return b''.join(_message(1, _encode_feature(row)) for row in value)
    rows = np.ascontiguousarray(value, value.dtype.newbyteorder('<')).view(np.uint8)
    width = rows.shape[1]
    inner = _header(1, width)
    middle = _header(BYTES if value.dtype == np.uint8 else FLOATS, len(inner) + width)
    outer = _header(1, len(middle) + len(inner) + width)
    head = np.frombuffer(outer + middle + inner, np.uint8)
    frames = np.empty((len(rows), len(head) + width), np.uint8)
    frames[:, : len(head)] = head
    frames[:, len(head) :] = rows
    return frames.tobytes()


def _as_written(key: str, value: Any) -> list[bytes] | np.ndarray:
    """A value of an example as one of the types that a shard can hold."""
    if isinstance(value, str):
        return [value.encode()]
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, bytes) for item in value):
        return value
    array = np.atleast_1d(np.asarray(value))
    if key == 'labels' and array.size == 0:
        return np.zeros(0, np.int64)
    if key == 'labels' and (array.ndim > 1 or array.dtype.kind not in 'iu'):
        raise ValueError(f"'labels' are {array.dtype} {array.shape}, expected integers (n,)")
    if array.dtype.kind == 'f':
        array = array.astype(np.float32)
    elif array.dtype.kind in 'iu' and not (array.dtype == np.uint8 and array.ndim == 2):
        array = array.astype(np.int64)
    elif array.dtype != np.uint8:
        raise ValueError(f'{key!r} is {array.dtype}, expected uint8, float32 or int64')
    if array.ndim > 2:
        raise ValueError(f'{key!r} has the shape {array.shape}, expected (T, D) or (n,)')
    return array


def _encode(example: Mapping[str, Any]) -> bytes:
    values = {key: _as_written(key, value) for key, value in example.items()}
    framed = bool(_frame_shapes(values))
    _check_frames(values, framed)
    context, lists = [], []
    for key, value in values.items():
        name = _message(1, key.encode())
        if isinstance(value, np.ndarray) and value.ndim == 2:
            lists.append(_message(1, name + _message(2, _encode_frames(value))))
        else:
            context.append(_message(1, name + _message(2, _encode_feature(value))))
    data = _message(1, b''.join(context))
    return data + _message(2, b''.join(lists)) if framed else data


def write_examples(path: Path, examples: Iterable[Mapping[str, Any]]) -> int:
    """Write a shard in YouTube-8M's own format.

    The shard is complete or not there: it is written under another name and then renamed.

    Args:
        path (str | PathLike): The shard. Gzipped if the name ends with '.gz', which YouTube-8M's
            own are not, and which rules out random access.
        examples (Iterable[dict]): Examples as ``read_examples`` yields them: ``id`` (str),
            ``labels`` (integers (n,)), frames (T, D) of uint8 (see ``quantize``) or float32 under
            any names, and further context features (n,). Without frames, but with float features
            such as ``mean_rgb``, a video-level record is written.

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
    crc = _package_crc() or _numpy_crc
    count = 0
    with _replacing(path) as plain:
        # No name and no time in the gzip header: equal examples give equal files.
        gzipped = path.endswith('.gz')
        file = gzip.GzipFile('', 'wb', fileobj=plain, mtime=0) if gzipped else plain
        for example in examples:
            try:
                data = _encode(example)
            except ValueError as error:
                name = example.get('id', '')
                raise ValueError(f'{path}, example {count} (id {name!r}): {error}') from None
            length = struct.pack('<Q', len(data))
            for part in (length, _masked(crc(length)), data, _masked(crc(data))):
                file.write(part)
            count += 1
        if count == 0:
            raise ValueError(f'{path}: no examples to write, and an empty shard is an error')
        if gzipped:
            file.close()
    return count


# --------------------------------------------------------------------------------- random access


@dataclass(frozen=True)
class _Index:
    """Where the records of a shard are. ``size`` and ``mtime_ns`` are the shard's when it was made.

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
        scan = _Scan(path, errors)
        checked = FRAMED
        if errors == 'skip':
            checked = PARSED if _data_crc() is None else SUMMED
            entries: Iterable[tuple[int, np.ndarray, int]] = map(_summary, scan)
        else:
            entries = _peek(path)
        offsets, num_frames, labels = [], [], [np.zeros(0, np.int64)]
        for offset, record_labels, frames in entries:
            offsets.append(offset)
            num_frames.append(frames)
            labels.append(record_labels)
        return cls(
            size,
            mtime_ns,
            checked,
            scan.skipped,
            np.array(offsets, np.int64),
            np.array(num_frames, np.int32),
            np.concatenate(labels),
            np.cumsum([len(item) for item in labels], dtype=np.int64),
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
        with _replacing(file) as out:
            np.savez(out, version=INDEX_VERSION, **vars(self))

    def serves(self, errors: str, stamp: Span) -> bool:
        """Whether the index is of this very file and has looked closely enough at it."""
        if (self.size, self.mtime_ns) != stamp:
            return False
        if errors == 'raise':
            return self.skipped == 0
        return self.checked >= (PARSED if _data_crc() is None else SUMMED)


def _summary(entry: tuple[int, dict[str, Any]]) -> tuple[int, np.ndarray, int]:
    offset, example = entry
    return offset, example['labels'], next((t for t, _ in _frame_shapes(example).values()), 0)


def _peek(path: str) -> Iterator[tuple[int, np.ndarray, int]]:
    """Offset, labels and number of frames of each record; the frames themselves stay unread.

    A shard is mostly frames: memory mapping fetches the few pages that are looked at.
    """
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise _damaged(path, 0, 'the file is empty')
        buf = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, 'MADV_RANDOM'):
        buf.madvise(mmap.MADV_RANDOM)
    offset = 0
    while offset < size:
        start = offset + HEADER
        stop = start + _length(buf[offset:start], path, offset)
        if stop + FOOTER > size:
            missing = stop + FOOTER - size
            raise _damaged(path, offset, f'the file is cut, {missing} bytes are missing')
        try:
            context, lists = _split(buf, start, stop)
            labels = {key: _feature(buf, *context[key]) for key in LABEL_KEYS if key in context}
            frames = _count_frames(buf, *next(iter(lists.values()))) if lists else 0
            entry = offset, _take_labels(labels), frames
        except ValueError as error:
            raise _damaged(path, offset, str(error), stop + FOOTER) from None
        yield entry
        offset = stop + FOOTER


def _find_shards(paths: Path | Sequence[Path]) -> list[str]:
    """The shards that paths and globs name, sorted, each once."""
    shards: set[str] = set()
    for item in [paths] if isinstance(paths, str | os.PathLike) else paths:
        pattern = os.fspath(item)
        if os.path.exists(pattern) or not glob.has_magic(pattern):
            _stat(pattern)
            if os.path.isdir(pattern):
                raise ValueError(f'{pattern} is a folder: write {pattern}/*.tfrecord')
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


class YT8MShards(Sequence[dict[str, Any]]):
    """Random access to the records of YouTube-8M shards, in the order of the sorted paths.

    ``shards[i]`` reads one record, as ``read_examples`` yields it. No file stays open and nothing
    is kept of what was read, so an object may be shared by workers, forked or spawned. An index of
    each shard is made once and kept beside it as ``<shard>.index.npz``; a shard that has changed
    is indexed again.

    With ``errors='raise'`` indexing looks at lengths, labels and the first and last frame's
    header only; a record that is damaged elsewhere raises when it is read. With ``errors='skip'``
    it reads everything once and leaves damaged records out for good, so that numbers, order and
    length do not depend on when damage is met.

    Args:
        paths (str | PathLike | Sequence): A shard, a glob, or several of these.
        errors (str): 'raise', or 'skip' to leave damaged records out. Defaults to 'raise'.
        index_dir (str | PathLike, optional): Folder for the indexes, for shards on a read-only
            disk. Defaults to None, beside the shards.

    Attributes:
        paths (list[str]): The shards.

    Raises:
        TFRecordError: If a shard is gzipped, or damaged under ``errors='raise'``.
        FileNotFoundError: If a path does not exist or a glob matches nothing.
        ValueError: If an argument is out of its range.

    Example:
        >>> shards = YT8MShards('yt8m/2/frame/train/train*.tfrecord')
        >>> len(shards), shards.labels(7), shards[7]['rgb'].shape
        (3888919, array([ 25, 298]), (193, 1024))
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        errors: str = 'raise',
        index_dir: Path | None = None,
    ) -> None:
        _check_errors(errors)
        self.paths = _find_shards(paths)
        self._errors = errors
        self._index_dir = None if index_dir is None else os.fspath(index_dir)
        names = {self._index_file(k) for k in range(len(self.paths))}
        if len(names) < len(self.paths):
            raise ValueError(
                f'index_dir={self._index_dir!r}: shards of different folders have the same name. '
                'Make one YT8MShards with one index_dir per folder.'
            )
        self._unsaved = 0
        indexes = [self._find_index(k) for k in range(len(self.paths))]
        self._indexes: list[_Index | None] = list(indexes)
        self._stamps = [(index.size, index.mtime_ns) for index in indexes]
        self._ends = np.cumsum([len(index.offsets) for index in indexes])
        self._skipped = {p: i.skipped for p, i in zip(self.paths, indexes, strict=True)}
        self._report()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        k, index, j = self._find(i)
        path, offset = self.paths[k], int(index.offsets[j])
        with open(path, 'rb') as file:
            self._check_stamp(k)
            file.seek(offset)
            example, _ = _read_example(file, path, offset)
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

    @property
    def skipped(self) -> dict[str, int]:
        """Number of records left out, of the shards from which some were."""
        return {path: count for path, count in self._skipped.items() if count}

    def __getstate__(self) -> dict[str, Any]:
        # An index that has a file is loaded from there when it is needed: a spawned worker is not
        # sent the indexes of thousands of shards.
        saved = [os.path.exists(self._index_file(k)) for k in range(len(self.paths))]
        indexes = [None if s else index for s, index in zip(saved, self._indexes, strict=True)]
        return {**vars(self), '_indexes': indexes}

    def _find(self, i: int) -> tuple[int, _Index, int]:
        """Shard number, index and position in the shard of record i."""
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f'record {i} of {len(self)}')
        i %= len(self)
        k = int(np.searchsorted(self._ends, i, side='right'))
        index = self._indexes[k]
        begin = int(self._ends[k - 1]) if k else 0
        if index is None:
            self._check_stamp(k)
            index = self._indexes[k] = self._find_index(k)
            if len(index.offsets) != self._ends[k] - begin:
                raise self._changed(k)
        return k, index, i - begin

    def _find_index(self, k: int) -> _Index:
        """The index of shard k: from its file, or made now and saved."""
        path, file = self.paths[k], self._index_file(k)
        index = _Index.load(file)
        if index is not None and index.serves(self._errors, _stat(path)):
            return index
        with open(path, 'rb') as shard:
            if _is_gzip(shard.read(HEADER)):
                raise TFRecordError(
                    f'{path} is gzipped, which rules out random access: run gunzip {path} (a name '
                    'without .gz needs gunzip -S), or read it in order with read_examples',
                    path,
                )
        index = _Index.build(path, self._errors)
        try:
            if self._index_dir is not None:
                os.makedirs(self._index_dir, exist_ok=True)
            index.save(file)
        except OSError:
            self._unsaved += 1
        return index

    def _index_file(self, k: int) -> str:
        path = self.paths[k] + INDEX_SUFFIX
        return path if self._index_dir is None else f'{self._index_dir}/{os.path.basename(path)}'

    def _check_stamp(self, k: int) -> None:
        if _stat(self.paths[k]) != self._stamps[k]:
            raise self._changed(k)

    def _changed(self, k: int) -> TFRecordError:
        path = self.paths[k]
        return TFRecordError(f'{path} has changed since it was indexed: make YT8MShards anew', path)

    def _report(self) -> None:
        if self._unsaved:
            folder = self._index_dir or 'the folder of the shards'
            LOGGER.warning(
                '%d indexes are kept in memory only, as %s cannot be written to: give index_dir',
                self._unsaved,
                folder,
            )
        if self.skipped:
            counts = ', '.join(f'{path} {count}' for path, count in self.skipped.items())
            LOGGER.warning(
                '%d damaged records were left out: %s', sum(self.skipped.values()), counts
            )
