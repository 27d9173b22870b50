"""TFRecord files and the examples in them, with numpy alone: no TensorFlow, no protobuf.

A file is a chain of records: length of the data (8 bytes), its masked CRC32C (4), the data, their
masked CRC32C (4). The data are a message in protobuf's wire format: a chain of fields, each a
number, a wire type and a value, which is a message again, down to bytes, floats or integers:

    Example            1: Features
    SequenceExample    1: Features (the context), 2: FeatureLists
    Features           1: an entry of a map, with 1: a name, 2: a Feature
    FeatureLists       1: an entry of a map, with 1: a name, 2: a FeatureList
    FeatureList        1: a Feature for each frame
    Feature            1: BytesList, 2: FloatList or 3: Int64List, each with 1: its values

``(buf, at, end)`` is the message in ``buf[at:end]``. The parser takes every valid way of writing
one, and raises ValueError for anything else.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import mmap
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

HEADER, FOOTER = 12, 4
# Protobuf's own limit of a message.
MAX_LENGTH = 2**31 - 1

# Wire types, and the kinds of list that a Feature can hold.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
BYTES, FLOATS, INTS = 1, 2, 3

Buffer = bytes | mmap.mmap
CRC = Callable[[bytes], int]
Span = tuple[int, int]


class TFRecordError(ValueError):
    """A file or a record that cannot be read.

    Args:
        message (str): What is wrong, and what to do.
        path (str): The file. Defaults to ''.
        offset (int): Byte at which the record begins, after decompression. Defaults to 0.
        next_offset (int, optional): Byte at which the following record begins. None if it cannot
            be found, as after a damaged length. Defaults to None.
    """

    # All but the message is optional: a DataLoader rebuilds a worker's error from its text.
    def __init__(
        self, message: str, path: str = '', offset: int = 0, next_offset: int | None = None
    ) -> None:
        super().__init__(message)
        self.path, self.offset, self.next_offset = path, offset, next_offset


def damaged(path: str, offset: int, problem: str, following: int | None = None) -> TFRecordError:
    text = (
        f'{path}, record at byte {offset}: {problem}. Download or write the shard again, or leave '
        "damaged records out with errors='skip'."
    )
    return TFRecordError(text, path, offset, following)


# ---------------------------------------------------------------------------------------- CRC32C

CRC_TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    CRC_TABLE = (CRC_TABLE >> 1) ^ (CRC_TABLE & 1) * np.uint32(0x82F63B78)
CRC_LIST = CRC_TABLE.tolist()
CRC_BLOCK = 256


def _advance(registers: np.ndarray, columns: Iterable[Any]) -> np.ndarray:
    """Many CRC registers at once, each one byte further per column."""
    for column in columns:
        registers = CRC_TABLE[(registers ^ column) & 0xFF] ^ (registers >> 8)
    return registers


@functools.cache
def _block_tables() -> list[list[int]]:
    """What CRC_BLOCK zero bytes make of each value of each byte of a register."""
    values = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    return _advance(values, [0] * CRC_BLOCK).tolist()


def numpy_crc(data: bytes) -> int:
    """CRC32C by tables: as it is linear, the blocks of long data can be run side by side."""
    crc, head = 0xFFFFFFFF, len(data) % CRC_BLOCK
    for byte in data[:head]:
        crc = CRC_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    if head < len(data):
        blocks = np.frombuffer(data, np.uint8, offset=head).reshape(-1, CRC_BLOCK)
        columns = blocks.T.astype(np.uint32, order='C')
        a, b, c, d = _block_tables()
        for block in _advance(np.zeros(len(blocks), np.uint32), columns).tolist():
            crc = a[crc & 0xFF] ^ b[crc >> 8 & 0xFF] ^ c[crc >> 16 & 0xFF] ^ d[crc >> 24] ^ block
    return crc ^ 0xFFFFFFFF


@functools.cache
def package_crc() -> CRC | None:
    """CRC32C of an installed package in C, None without one."""
    for name, function in (('google_crc32c', 'value'), ('crc32c', 'crc32c')):
        try:
            package = importlib.import_module(name)
        except ImportError:
            continue
        # google_crc32c has a stand-in in Python, which would take longer than all the reading.
        if getattr(package, 'implementation', 'c') != 'python':
            return getattr(package, function)
    return None


def _masked(crc: int) -> bytes:
    """A checksum as TFRecord files store it."""
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# --------------------------------------------------------------------------------------- records


def is_gzip(path: str) -> bool:
    with open(path, 'rb') as file:
        header = file.read(HEADER)
    # The length of a record may begin with gzip's magic bytes, but then its checksum fits.
    return header[:2] == b'\x1f\x8b' and header[8:] != _masked(numpy_crc(header[:8]))


def open_records(path: str) -> BinaryIO:
    """A file, decompressed if its content is gzipped, for ``read_record``."""
    return (gzip.open if is_gzip(path) else open)(path, 'rb')  # type: ignore


def _length(header: bytes, path: str, offset: int) -> int:
    """Length of a record's data from the 12 bytes in front of them."""
    if len(header) < HEADER:
        raise damaged(path, offset, f'the file is cut after {len(header)} bytes of a header')
    length = struct.unpack_from('<Q', header)[0]
    if header[8:] != _masked(numpy_crc(header[:8])) or length > MAX_LENGTH:
        raise damaged(
            path, offset, f'the length field is damaged ({length}), so the rest cannot be found'
        )
    return length


def read_record(file: BinaryIO, path: str, crc: CRC | None) -> bytes | None:
    """Data of the record at the file's position, unchecked without crc; None at the end."""
    offset = file.tell()
    try:
        header = file.read(HEADER)
        if not header:
            if offset == 0:
                raise damaged(path, 0, 'the file is empty')
            return None
        length = _length(header, path, offset)
        data, footer = file.read(length), file.read(FOOTER)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, offset, f'the gzip stream is cut or damaged ({error})') from None
    if len(footer) < FOOTER:
        missing = length + FOOTER - len(data) - len(footer)
        raise damaged(path, offset, f'the file is cut, {missing} bytes are missing')
    if crc is not None and _masked(crc(data)) != footer:
        raise damaged(path, offset, 'the checksum of the data does not fit', file.tell())
    return data


def map_records(path: str) -> Iterator[tuple[mmap.mmap, int, int]]:
    """Where the data of each record are in the file, which is mapped: only what is used is read."""
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise damaged(path, 0, 'the file is empty')
        buf = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, 'MADV_RANDOM'):
        buf.madvise(mmap.MADV_RANDOM)
    offset = 0
    while offset < size:
        start = offset + HEADER
        stop = start + _length(buf[offset:start], path, offset)
        if stop + FOOTER > size:
            missing = stop + FOOTER - size
            raise damaged(path, offset, f'the file is cut, {missing} bytes are missing')
        yield buf, start, stop
        offset = stop + FOOTER


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file that takes its place under ``path`` when it is complete, or not at all."""
    temporary = f'{path}.{uuid.uuid4().hex[:8]}.tmp'
    try:
        with open(temporary, 'wb') as file:
            yield file
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_records(path: str, records: Iterable[bytes]) -> int:
    """Write a file, gzipped if its name ends with '.gz', and return the number of its records."""
    crc = package_crc() or numpy_crc
    count = 0
    with replacing(path) as plain:
        # No name and no time in the gzip header: equal examples give equal files.
        zipped = path.endswith('.gz')
        with gzip.GzipFile('', 'wb', fileobj=plain, mtime=0) if zipped else plain as file:
            for data in records:
                length = struct.pack('<Q', len(data))
                for part in (length, _masked(crc(length)), data, _masked(crc(data))):
                    file.write(part)
                count += 1
        if count == 0:
            raise ValueError(f'{path}: no examples to write, and an empty shard is an error')
    return count


# ------------------------------------------------------------------------------- parsing examples


def _varint(buf: Buffer, at: int, end: int) -> tuple[int, int]:
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


def _varints(buf: Buffer, at: int, end: int) -> Iterator[int]:
    while at < end:
        value, at = _varint(buf, at, end)
        yield value


def _fields(buf: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and stop of each field's value."""
    while at < end:
        key, at = _varint(buf, at, end)
        wire = key & 7
        if wire == DELIMITED:
            size, at = _varint(buf, at, end)
            stop = at + size
        elif wire == VARINT:
            _, stop = _varint(buf, at, end)
        elif wire in (FIXED32, FIXED64):
            stop = at + (4 if wire == FIXED32 else 8)
        else:
            raise ValueError(f'a field has the wire type {wire}, which no example has')
        if stop > end:
            raise ValueError(f'a field of {stop - at} bytes runs past the end of its message')
        yield key >> 3, wire, at, stop
        at = stop


def _entries(buf: Buffer, at: int, end: int) -> dict[str, Span]:
    """Where the values of a map are."""
    entries = {}
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) == (1, DELIMITED):
            parts = {n: (a, b) for n, w, a, b in _fields(buf, start, stop) if w == DELIMITED}
            name = buf[slice(*parts.get(1, (0, 0)))].decode()
            entries[name] = parts.get(2, (0, 0))
    return entries


def parse_example(buf: Buffer, at: int, end: int) -> tuple[dict[str, Span], dict[str, Span] | None]:
    """Where an example's features and feature lists are; None if it has no lists at all."""
    context: dict[str, Span] = {}
    lists = None
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) == (1, DELIMITED):
            context.update(_entries(buf, start, stop))
        elif (number, wire) == (2, DELIMITED):
            lists = {**(lists or {}), **_entries(buf, start, stop)}
    return context, lists


def parse_feature(buf: Buffer, at: int, end: int) -> list[bytes] | np.ndarray | None:
    """One Feature: byte strings, float32 (n,), int64 (n,), or None if it is none of these."""
    kind = 0
    spans: list[Span] = []
    for number, wire, start, stop in _fields(buf, at, end):
        if wire == DELIMITED and BYTES <= number <= INTS:
            if number != kind:
                kind, spans = number, []
            spans.append((start, stop))
    # Numbers may be packed into one field or stand in fields of their own.
    single = {BYTES: DELIMITED, FLOATS: FIXED32, INTS: VARINT}.get(kind)
    values = [
        (start, stop)
        for span in spans
        for number, wire, start, stop in _fields(buf, *span)
        if number == 1 and wire in (DELIMITED, single)
    ]
    if kind == INTS:
        ints = [value for span in values for value in _varints(buf, *span)]
        return np.array(ints, np.uint64).astype(np.int64)
    chunks = [buf[start:stop] for start, stop in values]
    if kind == FLOATS:
        if any(len(chunk) % 4 for chunk in chunks):
            raise ValueError('a list of floats is not a multiple of 4 bytes')
        return np.frombuffer(b''.join(chunks), '<f4').astype(np.float32)
    return chunks if kind == BYTES else None


def _layout(buf: Buffer, at: int, end: int) -> tuple[int, int, int] | None:
    """Kind, bytes of the header and bytes of a frame, if all frames may be as the first one is.

    None if there is more in the first frame than one value, or if the frames cannot be so long.
    """
    start, stop = at, end
    numbers: list[int] = []
    for allowed in ((1,), (BYTES, FLOATS), (1,)):
        number, wire, start, inner = next(_fields(buf, start, stop), (0, 0, 0, 0))
        if number not in allowed or wire != DELIMITED or (numbers and inner != stop):
            return None
        numbers.append(number)
        stop = inner
    kind, head, stride = numbers[1], start - at, stop - at
    if (end - at) % stride or (kind == FLOATS and (stride - head) % 4):
        return None
    return kind, head, stride


def parse_frames(buf: Buffer, at: int, end: int) -> np.ndarray:
    """A FeatureList: uint8 from byte strings, float32 or int64, (T, D)."""
    layout = _layout(buf, at, end)
    if layout is not None:
        kind, head, stride = layout
        rows = np.frombuffer(buf, np.uint8, end - at, at).reshape(-1, stride)
        # The first header tells the frame's length. If the next frame begins with the same header,
        # it has the same length, and so on: equal headers prove that the rows are the frames.
        if (rows[:, :head] == rows[0, :head]).all():
            values = rows[:, head:].copy()
            return values if kind == BYTES else values.view('<f4').astype(np.float32)
    return _unusual_frames(buf, at, end)


def _unusual_frames(buf: Buffer, at: int, end: int) -> np.ndarray:
    """As ``parse_frames``, one frame at a time."""
    rows: list[np.ndarray] = []
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) != (1, DELIMITED):
            continue
        row = parse_feature(buf, start, stop)
        if isinstance(row, list):
            if len(row) != 1:
                raise ValueError(f'frame {len(rows)} has {len(row)} byte strings instead of one')
            row = np.frombuffer(row[0], np.uint8)
        if row is None:
            raise ValueError(f'frame {len(rows)} has no values')
        if rows and (row.dtype, len(row)) != (rows[0].dtype, len(rows[0])):
            raise ValueError(
                f'frame {len(rows)} has {len(row)} values of {row.dtype}, '
                f'frame 0 has {len(rows[0])} of {rows[0].dtype}'
            )
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, 0), np.uint8)


def count_frames(buf: Buffer, at: int, end: int) -> int:
    """Length of a FeatureList from its first and last header."""
    layout = _layout(buf, at, end)
    if layout is not None:
        _, head, stride = layout
        if buf[end - stride : end - stride + head] == buf[at : at + head]:
            return (end - at) // stride
    return len(parse_frames(buf, at, end))


# ------------------------------------------------------------------------------ encoding examples


def _encode_varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, *parts: bytes) -> bytes:
    """A field whose value is a message of these parts."""
    size = _encode_varint(sum(map(len, parts)))
    return b''.join((_encode_varint(number << 3 | DELIMITED), size, *parts))


def _encode_feature(value: list[bytes] | np.ndarray) -> bytes:
    if isinstance(value, list):
        return _message(BYTES, *(_message(1, item) for item in value))
    if value.dtype == np.float32:
        return _message(FLOATS, _message(1, value.astype('<f4').tobytes()))
    return _message(INTS, _message(1, *map(_encode_varint, value.tolist())))


def _encode_frames(value: np.ndarray) -> bytes:
    if value.dtype == np.int64:
        return b''.join(_message(1, _encode_feature(row)) for row in value)
    rows = np.ascontiguousarray(value, value.dtype.newbyteorder('<')).view(np.uint8)
    kind = BYTES if value.dtype == np.uint8 else FLOATS
    frame = np.frombuffer(_message(1, _message(kind, _message(1, bytes(rows.shape[1])))), np.uint8)
    frames = np.empty((len(rows), len(frame)), np.uint8)
    head = len(frame) - rows.shape[1]
    frames[:, :head] = frame[:head]
    frames[:, head:] = rows
    return frames.tobytes()


def encode_example(
    context: Mapping[str, list[bytes] | np.ndarray], lists: Mapping[str, np.ndarray]
) -> bytes:
    """A SequenceExample, or without lists an Example.

    A feature is byte strings, float32 (n,) or int64 (n,). A list is frames (T, D) of uint8,
    float32 or int64.
    """

    def entries(encode: Callable[[Any], bytes], values: Mapping[str, Any]) -> Iterator[bytes]:
        for key, value in values.items():
            yield _message(1, _message(1, key.encode()), _message(2, encode(value)))

    data = _message(1, *entries(_encode_feature, context))
    return data + _message(2, *entries(_encode_frames, lists)) if lists else data
