"""TensorFlow's example messages, parsed and encoded without TensorFlow or protobuf.

A message in protobuf's wire format is a chain of fields. Each field has a number, a wire type and
a value, and the value may be a message again, down to bytes, floats or integers:

    Example            1: Features
    SequenceExample    1: Features (the context), 2: FeatureLists
    Features           1: an entry of a map, with 1: a name, 2: a Feature
    FeatureLists       1: an entry of a map, with 1: a name, 2: a FeatureList
    FeatureList        1: a Feature for each frame
    Feature            1: BytesList, 2: FloatList or 3: Int64List, each with 1: its values

``(buf, at, end)`` stands for the message in ``buf[at:end]``. The parser accepts every valid
encoding of a message, and raises a ValueError for anything else.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# Wire types, and the kinds of list that a Feature can hold.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
BYTES, FLOATS, INTS = 1, 2, 3

Buffer = bytes | mmap.mmap
Span = tuple[int, int]


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
    """Where the value of each name in a map is."""
    entries = {}
    for number, wire, start, stop in _fields(buf, at, end):
        if (number, wire) == (1, DELIMITED):
            parts = {n: (a, b) for n, w, a, b in _fields(buf, start, stop) if w == DELIMITED}
            name = buf[slice(*parts.get(1, (0, 0)))].decode()
            entries[name] = parts.get(2, (0, 0))
    return entries


def parse_example(buf: Buffer, at: int, end: int) -> tuple[dict[str, Span], dict[str, Span] | None]:
    """Where the features and the feature lists of an example are; None for absent lists."""
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
    """Kind of the values, size of a frame's header and size of a frame, taken from the first frame.

    None if the first frame holds more than one list of values, or if a whole number of frames of
    its size does not fit.
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
        # The first header gives the length of its frame. If the next row begins with the same
        # header, it is a frame of the same length, and so on: equal headers prove that every row
        # is a frame.
        if (rows[:, :head] == rows[0, :head]).all():
            values = rows[:, head:].copy()
            return values if kind == BYTES else values.view('<f4').astype(np.float32)
    return _parse_frames_singly(buf, at, end)


def _parse_frames_singly(buf: Buffer, at: int, end: int) -> np.ndarray:
    """``parse_frames`` one frame at a time, for frames that are not laid out alike."""
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
    """Number of frames in a FeatureList, from the headers of the first and the last."""
    layout = _layout(buf, at, end)
    if layout is not None:
        _, head, stride = layout
        if buf[end - stride : end - stride + head] == buf[at : at + head]:
            return (end - at) // stride
    return sum((number, wire) == (1, DELIMITED) for number, wire, _, _ in _fields(buf, at, end))


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
