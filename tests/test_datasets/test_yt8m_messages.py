"""The parser of example messages against protobuf's own, on every valid way to write a record."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yt8m_writer import (
    CONTEXT,
    ID,
    RGB,
    UNKNOWN,
    VIDEOS,
    assert_same,
    entry,
    field,
    frame,
    frames,
    from_oracle,
    labels,
    message_of,
    sequence,
    shard,
    varint,
)

from adv_plugins.datasets.yt8m import (
    YT8MShards,
    read_examples,
)
from adv_plugins.datasets.yt8m.examples import decode

WIRES = {
    'packed': CONTEXT + RGB,
    'unpacked ints': labels(field(3, field(1, 5) + field(1, 700) + field(1, 2**40))),
    'split-packed ints': labels(field(3, field(1, b'\x05\x06') + field(1, 9) + field(1, b'\x07'))),
    'a list in two parts': labels(field(3, field(1, b'\x05')) + field(3, field(1, b'\x06'))),
    'the last kind counts': labels(field(2, field(1, bytes(4))) + field(3, field(1, b'\x06'))),
    'negative ints': labels(field(3, field(1, -1) + field(1, varint(-(2**63) & 2**64 - 1)))),
    'ints of ten bytes': labels(field(3, field(1, 5, padding=8) + field(1, varint(7, padding=9)))),
    'unpacked floats': labels(field(3, field(1, b'\x05')))
    + field(1, entry(b'f', field(2, b'\x0d' + struct.pack('<f', 1.5) + field(1, bytes(8))))),
    'lists before context': RGB + CONTEXT,
    'two contexts': field(1, ID) + RGB + CONTEXT,
    'two lists': CONTEXT + RGB + field(2, entry(b'audio', frame(b'x') + frame(b'y'))),
    'a key twice': CONTEXT + field(2, entry(b'rgb', frame(b'?'))) + RGB,
    'value before key': CONTEXT
    + field(2, field(1, field(2, frame(b'abc') + frame(b'def')) + field(1, b'rgb'))),
    'unknown fields': UNKNOWN + CONTEXT + UNKNOWN + RGB + UNKNOWN,
    'unknown in the maps': field(1, UNKNOWN + ID + UNKNOWN + entry(b'labels', b'')) + RGB,
    'unknown in a feature': labels(UNKNOWN + field(3, UNKNOWN + field(1, b'\x05') + UNKNOWN)),
    'unknown in each frame': frames(frame(b'abc', extra=UNKNOWN), frame(b'def', extra=UNKNOWN)),
    'unknown in one frame': frames(frame(b'abc'), frame(b'def', extra=UNKNOWN), frame(b'ghi')),
    'unknown before frames': frames(field(9, b'\xff'), frame(b'abc'), frame(b'def')),
    'unknown between frames': frames(frame(b'abc'), UNKNOWN, frame(b'def')),
    'long varints in each frame': frames(frame(b'abc', padding=4), frame(b'def', padding=4)),
    'a long varint in one frame': frames(frame(b'abc'), frame(b'def', padding=1), frame(b'ghi')),
    'long varints in the maps': field(1, ID, padding=4) + field(2, RGB[2:], padding=3),
    'one frame': frames(frame(b'abc')),
    'frames of ints': frames(
        field(1, field(3, field(1, 5))), field(1, field(3, field(1, b'\x06')))
    ),
    'frames of unpacked floats': frames(
        *[field(1, field(2, b'\x0d' + struct.pack('<f', i) + field(1, bytes(4)))) for i in (1, 2)]
    ),
    'headers as data': frames(frame(frame(b'abc')), frame(frame(b'def'))),
}


@pytest.mark.parametrize('name', WIRES)
def test_every_valid_way_to_write_a_record(name: str, tmp_path: Path) -> None:
    expected = {'labels': np.zeros(0, np.int64), **from_oracle(WIRES[name])}
    path = shard(tmp_path / 'a', WIRES[name])
    assert_same(next(read_examples(path)), expected)
    shards = YT8MShards(path)
    np.testing.assert_array_equal(shards.labels(0), expected['labels'])
    assert shards.num_frames(0) == len(expected['rgb'])


def test_sizes_that_add_up_are_not_enough(tmp_path: Path) -> None:
    """Nine bytes a frame, eighteen for the one with an unknown field: headers have to tell."""
    data = frames(frame(b'abc'), frame(b'def', extra=field(9, bytes(7))), frame(b'ghi'))
    assert len(data) - len(frames(frame(b'abc'))) == 18 + 9
    found = next(read_examples(shard(tmp_path / 'a', data)))
    assert found['rgb'].tobytes() == b'abcdefghi'


names = st.text(min_size=1, max_size=6).filter(lambda name: name not in ('id', 'labels'))
ints = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(np.int64)
floats = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5).map(np.float32)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_random_records_as_protobuf_reads_them(data: st.DataObject) -> None:
    keys = data.draw(st.lists(names, unique=True, max_size=5))
    count, cut = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    context: dict[str, Any] = {'id': b'abcd', 'labels': data.draw(ints)}
    lists: dict[str, list[Any]] = {'rgb': [bytes([i] * 200) for i in range(count)]}
    for key in keys[:cut]:
        context[key] = data.draw(st.one_of(floats, ints))
    for key in keys[cut:]:
        width = data.draw(st.integers(1, 40))
        draw = st.binary(min_size=width, max_size=width)
        lists[key] = data.draw(st.lists(draw, min_size=count, max_size=count))
    content = sequence(context, lists).SerializeToString()
    assert_same(decode(content), from_oracle(content))


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_damage_without_checksums_raises_nothing_else(position: int, flip: int) -> None:
    data = bytearray(message_of(VIDEOS[1]).SerializeToString())
    data[position % len(data)] ^= flip
    with contextlib.suppress(ValueError):
        decode(bytes(data))


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)
