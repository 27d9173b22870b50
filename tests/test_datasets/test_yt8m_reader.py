"""YouTube-8M shards against protobuf's own parser, a slow CRC, and damage at every byte."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import importlib.util
import logging
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import example as with_example
from hypothesis import strategies as st

from adv_plugins.datasets import yt8m
from adv_plugins.datasets.yt8m import (
    TFRecordError,
    YT8MShards,
    checksum,
    index,
    read_examples,
    write_examples,
)
from adv_plugins.datasets.yt8m.examples import decode

Video = dict[str, Any]
BENCHMARK = Path(__file__).parents[2] / 'examples/benchmarks/yt8m_readers.py'


# ----------------------------------------------------- an independent writer: protobuf, slow CRC


def message_classes() -> dict[str, Any]:
    """TensorFlow's example messages as protobuf itself builds them, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name='oracle.proto', package='o', syntax='proto3')

    def add(parent: Any, name: str, *fields: tuple[str, int, str, bool]) -> Any:
        message = parent.add(name=name)
        for field, number, kind, repeated in fields:
            item = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind.startswith('.'):
                item.type, item.type_name = item.TYPE_MESSAGE, kind
            else:
                item.type = getattr(item, f'TYPE_{kind}')
        return message

    add(file.message_type, 'BytesList', ('value', 1, 'BYTES', True))
    add(file.message_type, 'FloatList', ('value', 1, 'FLOAT', True))
    add(file.message_type, 'Int64List', ('value', 1, 'INT64', True))
    kinds = [
        ('bytes_list', 1, '.o.BytesList', False),
        ('float_list', 2, '.o.FloatList', False),
        ('int64_list', 3, '.o.Int64List', False),
    ]
    feature = add(file.message_type, 'Feature', *kinds)
    feature.oneof_decl.add(name='kind')
    for field in feature.field:
        field.oneof_index = 0
    add(file.message_type, 'FeatureList', ('feature', 1, '.o.Feature', True))
    for name, field, kind in (
        ('Features', 'feature', 'Feature'),
        ('FeatureLists', 'feature_list', 'FeatureList'),
    ):
        entry = f'{"".join(part.title() for part in field.split("_"))}Entry'
        holder = add(file.message_type, name, (field, 1, f'.o.{name}.{entry}', True))
        nested = add(
            holder.nested_type, entry, ('key', 1, 'STRING', False), ('value', 2, f'.o.{kind}', 0)
        )
        nested.options.map_entry = True
    add(
        file.message_type,
        'SequenceExample',
        ('context', 1, '.o.Features', False),
        ('feature_lists', 2, '.o.FeatureLists', False),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f'o.{message.name}')
        )
        for message in file.message_type
    }


ORACLE = message_classes()


def fill(feature: Any, value: Any) -> None:
    """Put a value in one Feature message."""
    if isinstance(value, bytes):
        feature.bytes_list.value.append(value)
    elif np.asarray(value).dtype.kind == 'f':
        feature.float_list.value.extend(np.asarray(value).tolist())
    else:
        feature.int64_list.value.extend(np.asarray(value).tolist())


def sequence(context: dict[str, Any], lists: dict[str, list[Any]]) -> Any:
    message = ORACLE['SequenceExample']()
    for key, value in context.items():
        fill(message.context.feature[key], value)
    for key, frames in lists.items():
        feature_list = message.feature_lists.feature_list[key]
        for frame in frames:
            fill(feature_list.feature.add(), frame)
    return message


def slow_crc(data: bytes) -> int:
    """CRC32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = slow_crc(data)
    return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    length = struct.pack('<Q', len(data))
    return length + masked(length) + data + masked(data)


def shard(path: Path, *messages: Any) -> Path:
    """A shard of protobuf messages, or of bytes."""
    data = [m if isinstance(m, bytes) else m.SerializeToString() for m in messages]
    path.write_bytes(b''.join(map(record, data)))
    return path


def from_oracle(data: bytes) -> Video:
    """What the record should give, by protobuf's own parser."""
    message = ORACLE['SequenceExample'].FromString(data)

    def values(feature: Any) -> Any:
        kind = feature.WhichOneof('kind')
        if kind == 'bytes_list':
            return list(feature.bytes_list.value)
        if kind == 'float_list':
            return np.array(feature.float_list.value, np.float32)
        return np.array(feature.int64_list.value, np.int64)

    video = {k: values(v) for k, v in message.context.feature.items() if v.WhichOneof('kind')}
    video['id'] = video['id'][0].decode()
    for key, frames in message.feature_lists.feature_list.items():
        rows = [values(frame) for frame in frames.feature]
        video[key] = np.stack([np.frombuffer(r[0], 'u1') if type(r) is list else r for r in rows])
    return video


def assert_same(found: Video, expected: Video) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype, key
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        else:
            assert found[key] == value, key


def video(i: int, frames: int = 4, rgb: int = 24, audio: int = 8) -> Video:
    rng = np.random.default_rng(i)
    return dict(
        id=f'v{i:03d}',
        labels=np.sort(rng.integers(0, 3862, i % 4)),
        rgb=rng.integers(0, 256, (frames, rgb), np.uint8),
        audio=rng.integers(0, 256, (frames, audio), np.uint8),
    )


def message_of(example: Video) -> Any:
    lists = {key: [row.tobytes() for row in example[key]] for key in ('rgb', 'audio')}
    context = {'id': example['id'].encode()}
    if len(example['labels']):
        context['labels'] = example['labels']
    return sequence(context, lists)


VIDEOS = [video(i, frames=3 + i) for i in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shard(tmp_path / 'train00.tfrecord', *map(message_of, VIDEOS))


# ------------------------------------------------------------------------------- what is read


def test_reads_what_protobuf_wrote(path: Path) -> None:
    found = list(read_examples(path))
    assert len(found) == len(VIDEOS)
    for example, expected in zip(found, VIDEOS, strict=True):
        assert_same(example, expected)


def test_protobuf_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / 'a.tfrecord'
    segments = dict(segment_labels=[3, -1, 2**62], segment_scores=np.float32([0, 1, 1]))
    written = [video(0, 300, 1024, 128), {**video(1), **segments, 'mean_rgb': np.ones(24, 'f4')}]
    assert write_examples(path, iter(written)) == 2
    content, found = path.read_bytes(), []
    while content:
        length = struct.unpack('<Q', content[:8])[0]
        data, content = content[12 : 12 + length], content[16 + length :]
        found.append(from_oracle(data))
    for example, expected in zip(found, written, strict=True):
        assert_same(example, {k: v if k == 'id' else np.asarray(v) for k, v in expected.items()})


def test_checksums_of_the_writer(tmp_path: Path) -> None:
    """The bytes of the slow CRC."""
    path = tmp_path / 'a'
    write_examples(path, [video(0, frames=40)])
    content = path.read_bytes()
    assert content == record(content[12:-4])


def test_tfrecord_reads_what_we_write(tmp_path: Path) -> None:
    reader = pytest.importorskip('tfrecord.reader', reason='needs adv_plugins[test]')
    path = tmp_path / 'a.tfrecord'
    write_examples(path, VIDEOS[1:])
    found = reader.sequence_loader(
        str(path), None, {'id': 'byte', 'labels': 'int'}, {'rgb': 'byte', 'audio': 'byte'}
    )
    for (context, frames), expected in zip(found, VIDEOS[1:], strict=True):
        assert bytes(context['id']).decode() == expected['id']
        np.testing.assert_array_equal(context['labels'], expected['labels'])
        assert b''.join(frames['rgb']) == expected['rgb'].tobytes()
        assert b''.join(frames['audio']) == expected['audio'].tobytes()


def test_arrays_own_their_data(tmp_path: Path) -> None:
    """One frame is the case in which a slice is contiguous and could stay a view."""
    path = tmp_path / 'a.tfrecord'
    floats = np.ones((1, 6), np.float32)
    write_examples(path, [{**video(1, frames=1), 'f': floats, 'mean': floats[0], 'n': [7]}])
    example = next(read_examples(path))
    for key in ('labels', 'rgb', 'audio', 'f', 'mean', 'n'):
        assert example[key].flags.owndata and example[key].flags.writeable, key


def test_video_id_and_missing_keys(tmp_path: Path) -> None:
    frames = {'rgb': [b'abc']}
    path = shard(
        tmp_path / 'a',
        sequence({'video_id': b'old', 'labels': [4]}, frames),
        sequence({}, frames),
        sequence({'labels': []}, frames),
    )
    old, none, empty = read_examples(path)
    assert old['id'] == 'old' and old['labels'].tolist() == [4]
    assert none['id'] == empty['id'] == ''
    for example in (none, empty):
        assert example['labels'].shape == (0,) and example['labels'].dtype == np.int64
        assert example['rgb'].tobytes() == b'abc'


def test_video_level(tmp_path: Path) -> None:
    means = {
        'mean_rgb': np.linspace(-2, 2, 1024, dtype='f4'),
        'mean_audio': np.ones(128, np.float32),
    }
    path = shard(tmp_path / 'a', sequence({'id': b'abcd', 'labels': [1, 2], **means}, {}))
    assert_same(next(read_examples(path)), {'id': 'abcd', 'labels': np.array([1, 2]), **means})
    assert YT8MShards(path).num_frames(0) == 0
    again = tmp_path / 'b'
    write_examples(again, read_examples(path))
    assert_same(YT8MShards(again)[0], YT8MShards(path)[0])


def test_segments(tmp_path: Path) -> None:
    segments = {
        'segment_labels': np.array([7, 9, 7]),
        'segment_start_times': np.array([0, 0, 55]),
        'segment_end_times': np.array([5, 5, 60]),
        'segment_scores': np.array([1, 0, 1], np.float32),
    }
    message = sequence({'id': b'abcd', 'labels': [7], **segments}, {'rgb': [b'ab', b'cd']})
    found = next(read_examples(shard(tmp_path / 'a', message)))
    rgb = np.frombuffer(b'abcd', 'u1').reshape(2, 2)
    assert_same(found, {'id': 'abcd', 'labels': np.array([7]), **segments, 'rgb': rgb})


def test_mediapipe_floats(tmp_path: Path) -> None:
    rgb, audio = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    message = sequence(
        {'clip/data_path': b'my/video.mp4', 'clip/label/index': [3], 'clip/start/timestamp': [0]},
        {
            'RGB/feature/floats': list(rgb),
            'AUDIO/feature/floats': list(audio[:, :2]),
            'RGB/feature/timestamp': [[i * 10**6] for i in range(5)],
        },
    )
    path = shard(tmp_path / 'a', message)
    expected = {
        'id': 'my/video.mp4',
        'labels': np.array([3]),
        'clip/start/timestamp': np.array([0]),
        'rgb': rgb,
        'audio': audio[:, :2],
        'RGB/feature/timestamp': np.arange(5)[:, None] * 10**6,
    }
    assert_same(next(read_examples(path)), expected)
    assert YT8MShards(path).num_frames(0) == 5
    write_examples(tmp_path / 'b', [expected])
    assert_same(next(read_examples(tmp_path / 'b')), expected)


# ------------------------------------------------------------------- every valid way to write


def varint(value: int, padding: int = 0) -> bytes:
    out = bytearray()
    while value > 0x7F or padding:
        out.append(value & 0x7F | 0x80)
        value >>= 7
        padding -= padding > 0 and value == 0
    return bytes(out) + bytes([value])


def field(number: int, value: bytes | int, padding: int = 0) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value & 2**64 - 1, padding)
    return varint(number << 3 | 2) + varint(len(value), padding) + value


def entry(key: bytes, value: bytes) -> bytes:
    return field(1, field(1, key) + field(2, value))


def frame(data: bytes, padding: int = 0, extra: bytes = b'') -> bytes:
    return field(1, extra + field(1, field(1, data, padding)))


ID = entry(b'id', field(1, field(1, b'abcd')))
CONTEXT = field(1, ID + entry(b'labels', field(3, field(1, b'\x05'))))
RGB = field(2, entry(b'rgb', frame(b'abc') + frame(b'def')))
UNKNOWN = field(9, b'xyz') + field(10, 300) + varint(11 << 3 | 5) + b'1234' + b'\x61' + bytes(8)


def labels(ints: bytes) -> bytes:
    return field(1, ID + entry(b'labels', ints)) + RGB


def frames(*rows: bytes) -> bytes:
    return CONTEXT + field(2, entry(b'rgb', b''.join(rows)))


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


# -------------------------------------------------------------------------- records that are wrong


BAD = {
    'no frames': [
        sequence({'id': b'abcd', 'labels': [1]}, {}),
        sequence({'id': b'abcd'}, {'rgb': []}),
        sequence({'id': b'abcd', 'segment_scores': [1.0]}, {}),
        field(1, ID + entry(b'mean_rgb', field(2, field(1, bytes(8))))) + field(2, b''),
    ],
    'unequal numbers of frames: rgb 2, audio 1': [
        CONTEXT + RGB + field(2, entry(b'audio', frame(b'x'))),
    ],
    'unequal numbers of frames: rgb 2, audio 0': [CONTEXT + RGB + field(2, entry(b'audio', b''))],
    'frame 1 has 2 values': [
        frames(frame(b'abc'), frame(b'de'), frame(b'fgh')),
        # Sizes that add up to a multiple of the first: only the headers tell.
        frames(frame(b'abc'), frame(b'de'), frame(b'fghi')),
    ],
    'frame 1 has no values': [frames(frame(b'abc'), field(1, b''))],
    'frame 0 has 2 byte strings': [frames(field(1, field(1, field(1, b'a') + field(1, b'b'))))],
    'are empty': [frames(frame(b''), frame(b''))],
    "'labels' has to be": [labels(field(1, field(1, b'x'))), labels(field(2, field(1, bytes(4))))],
    'two features': [CONTEXT + RGB + field(1, entry(b'rgb', field(2, field(1, bytes(4)))))],
    'multiple of 4 bytes': [frames(field(1, field(2, field(1, bytes(5)))))],
}


@pytest.mark.parametrize('problem', BAD)
def test_wrong_records_name_the_video_and_the_place(problem: str, tmp_path: Path) -> None:
    for message in BAD[problem]:
        path = shard(tmp_path / 'a', message_of(VIDEOS[0]), message, message_of(VIDEOS[1]))
        reader = read_examples(path)
        assert_same(next(reader), VIDEOS[0])
        with pytest.raises(TFRecordError, match=f"{path}.*video 'abcd'.*{problem}") as error:
            next(reader)
        first = struct.unpack('<Q', path.read_bytes()[:8])[0] + 16
        assert (error.value.path, error.value.offset) == (str(path), first)
        for example, expected in zip(read_examples(path, 'skip'), VIDEOS[:2], strict=True):
            assert_same(example, expected)


def test_id_that_is_no_string(tmp_path: Path) -> None:
    with pytest.raises(TFRecordError, match="'id' has to be one byte string"):
        next(read_examples(shard(tmp_path / 'a', sequence({'id': [7]}, {'rgb': [b'a']}))))


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


# ------------------------------------------------------------------------------ damaged files


@given(position=st.integers(0, 10**6), flip=st.integers(1, 255))
@with_example(position=0, flip=1)
@with_example(position=8, flip=1)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_flipped_byte_never_gives_a_wrong_record(path: Path, position: int, flip: int) -> None:
    content = bytearray(path.read_bytes())
    starts = [offset for offset, *_ in index.peek_entries(path)]
    position %= len(content)
    content[position] ^= flip
    damaged = path.with_name('damaged')
    damaged.write_bytes(content)
    with pytest.raises(TFRecordError, match='record at byte') as error:
        list(read_examples(damaged))
    hit = int(np.searchsorted(starts, position, side='right')) - 1
    assert error.value.offset == starts[hit]
    in_length = position - starts[hit] < 12
    left = VIDEOS[:hit] + ([] if in_length else VIDEOS[hit + 1 :])
    for example, expected in zip(read_examples(damaged, 'skip'), left, strict=True):
        assert_same(example, expected)
    if left:
        shards = YT8MShards(damaged, 'skip')
        assert shards.skipped == {str(damaged): 1}
        for example, expected in zip(shards, left, strict=True):
            assert_same(example, expected)


def test_cut_at_every_byte_of_the_last_record(path: Path) -> None:
    content = path.read_bytes()
    last = len(content) - len(record(message_of(VIDEOS[-1]).SerializeToString()))
    for size in range(last + 1, len(content)):
        path.write_bytes(content[:size])
        reader = read_examples(path)
        for expected in VIDEOS[:-1]:
            assert_same(next(reader), expected)
        with pytest.raises(TFRecordError, match='is cut') as error:
            next(reader)
        assert error.value.offset == last
        with pytest.raises(TFRecordError, match='is cut'):
            YT8MShards(path)
        assert len(list(read_examples(path, 'skip'))) == 3
    assert YT8MShards(path, 'skip').skipped == {str(path): 1}
    path.write_bytes(content[:last])
    assert len(list(read_examples(path))) == len(YT8MShards(path)) == 3


def test_what_was_skipped_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content[:-1])
    with caplog.at_level(logging.WARNING):
        assert len(list(read_examples(path, 'skip'))) == 2
    assert [r.getMessage() for r in caplog.records] == [f'{path}: 2 damaged records were left out']


def test_a_length_beyond_protobuf_allocates_nothing(tmp_path: Path) -> None:
    length = struct.pack('<Q', 2**60)
    path = tmp_path / 'a'
    path.write_bytes(length + record(length)[-4:] + bytes(100))
    with pytest.raises(TFRecordError, match='length field is damaged'):
        next(read_examples(path))


def test_empty_and_missing_shards(tmp_path: Path) -> None:
    empty = tmp_path / 'empty'
    empty.touch()
    zipped = tmp_path / 'zipped'
    zipped.write_bytes(gzip.compress(b''))
    for path in (empty, zipped):
        with pytest.raises(TFRecordError, match='the file is empty'):
            next(read_examples(path))
        assert list(read_examples(path, 'skip')) == []
    with pytest.raises(TFRecordError, match='the file is empty'):
        YT8MShards(empty)
    assert YT8MShards(empty, 'skip').skipped == {str(empty): 1}
    assert len(YT8MShards(empty, 'skip')) == 0
    for make in (read_examples, YT8MShards):
        for errors in ('raise', 'skip'):
            with pytest.raises(FileNotFoundError, match='no such shard.*nowhere'):
                make(tmp_path / 'nowhere', errors)
        with pytest.raises(ValueError, match="errors='ignore': write 'raise' or 'skip'"):
            make(empty, 'ignore')


@pytest.mark.parametrize('errors', ['raise', 'skip'])
def test_without_google_crc32c_nothing_is_read_or_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    """Whether or not there is an index, before any record; and nothing is read unchecked."""
    opened = YT8MShards(path, errors)
    monkeypatch.setattr(checksum, 'google_crc32c', None)
    advice = r'google-crc32c is not installed: pip install "adv_plugins\[yt8m\]"'

    def no_example() -> Iterator[Video]:
        raise AssertionError('examples are not computed in vain')
        yield

    for use in (
        lambda: YT8MShards(path, errors),
        lambda: opened[0],
        lambda: read_examples(path, errors),
        lambda: write_examples(path.with_name('new'), no_example()),
    ):
        with pytest.raises(ImportError, match=advice):
            use()
    assert not path.with_name('new').exists()


def test_an_index_without_checksums_does_not_pass_for_one_with(path: Path) -> None:
    """As earlier versions made them where no CRC package was installed."""
    content = bytearray(path.read_bytes())
    content[content.index(VIDEOS[0]['rgb'].tobytes()[:24])] ^= 1
    path.write_bytes(content)
    unchecked = index.ShardIndex.build(str(path), 'raise')
    dataclasses.replace(unchecked, checked=1).save(f'{path}.index.npz')
    assert len(YT8MShards(path)) == 4
    assert len(YT8MShards(path, 'skip')) == 3


# ---------------------------------------------------------------------------------------- gzip


def test_gzip_is_told_by_content(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / 'plain.gz'
    plain.write_bytes(path.read_bytes())
    zipped = tmp_path / 'zipped.tfrecord'
    # Two members, as ``cat a.gz b.gz`` makes them.
    content = path.read_bytes()
    zipped.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))
    for file in (plain, zipped):
        for example, expected in zip(read_examples(file), VIDEOS, strict=True):
            assert_same(example, expected)
    assert len(YT8MShards(plain)) == 4
    for errors in ('raise', 'skip'):
        with pytest.raises(TFRecordError, match=f'gzipped.*gunzip {zipped}'):
            YT8MShards(zipped, errors)


def test_a_length_that_looks_like_gzip(tmp_path: Path) -> None:
    size = int.from_bytes(b'\x1f\x8b\x08', 'little')
    filler = size - len(CONTEXT + RGB) - len(field(9, bytes(size)))
    data = CONTEXT + RGB + field(9, bytes(size + filler))
    path = tmp_path / 'a'
    path.write_bytes(record(data))
    assert path.read_bytes()[:3] == b'\x1f\x8b\x08'
    assert next(read_examples(path))['id'] == YT8MShards(path)[0]['id'] == 'abcd'


def test_gzip_writer(tmp_path: Path) -> None:
    contents = []
    for name in ('a.gz', 'b.gz'):
        write_examples(tmp_path / name, VIDEOS)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1] and contents[0][4:8] == bytes(4)  # No time in the header.
    write_examples(tmp_path / 'plain', VIDEOS)
    assert gzip.decompress(contents[0]) == (tmp_path / 'plain').read_bytes()


def test_damaged_gzip(path: Path, tmp_path: Path) -> None:
    content = gzip.compress(path.read_bytes())
    zipped = tmp_path / 'a.gz'
    for size in range(2, len(content), 23):
        zipped.write_bytes(content[:size])
        with pytest.raises(TFRecordError):
            list(read_examples(zipped))
        for example, expected in zip(read_examples(zipped, 'skip'), VIDEOS, strict=False):
            assert_same(example, expected)
    for position in range(10, len(content), 17):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        zipped.write_bytes(flipped)
        for example in read_examples(zipped, 'skip'):
            assert_same(example, next(v for v in VIDEOS if v['id'] == example['id']))


# ------------------------------------------------------------------------------- quantisation


def test_dequantize_is_the_original_bit_for_bit() -> None:
    quantized = np.arange(256, dtype=np.uint8).reshape(2, 128)
    # utils.Dequantize: scalar = (2 - -2) / 255, bias = (2 - -2) / 512 + -2, in float32.
    scale, bias = np.float32(4 / 255), np.float32(4 / 512 + -2.0)
    expected = [[np.float32(q) * scale + bias for q in row] for row in quantized]
    found = yt8m.dequantize(quantized)
    assert found.dtype == np.float32 and found.tobytes() == np.array(expected, 'f4').tobytes()
    assert (found.min(), found.max()) == (-1.9921875, 2.0078125)
    with pytest.raises(ValueError, match='got float32, expected uint8'):
        yt8m.dequantize(found)


def test_quantize_is_the_writers_rule() -> None:
    steps = (np.arange(511) / 2).astype(np.float32)
    features = np.concatenate(
        [
            np.random.default_rng(0).normal(size=2000).astype(np.float32) * 2,
            steps * np.float32(4 / 255) - 2,
            np.float32([-np.inf, -9, -2, 2, 9, np.inf]),
        ]
    )
    expected = [
        int(round(float((min(max(f, np.float32(-2)), np.float32(2)) + np.float32(2)) * 63.75)))
        for f in features.astype(np.float64)
    ]
    found = yt8m.quantize(features)
    ties = np.abs(np.modf((np.clip(features, -2, 2).astype('f8') + 2) * 63.75)[0] - 0.5) < 1e-4
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[~ties], np.array(expected)[~ties])
    bias = yt8m.dequantize(found) - np.clip(features, -2, 2) - 1 / 128
    assert np.abs(bias).max() <= 2 / 255 + 1e-6
    with pytest.raises(ValueError, match='NaN'):
        yt8m.quantize(np.float32([0, np.nan]))


def test_crc_of_known_values() -> None:
    """RFC 3720, B.4."""
    assert slow_crc(b'123456789') == 0xE3069283
    assert slow_crc(bytes(32)) == 0x8A9136AA


@given(st.binary(max_size=3000))
@settings(max_examples=40, deadline=None)
@with_example(b'')
@with_example(random.Random(0).randbytes(20_001))
def test_masked_checksums(data: bytes) -> None:
    assert checksum.masked_crc32c(data) == masked(data)


# ------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        (dict(audio=np.zeros((3, 8), np.uint8)), 'unequal numbers of frames: rgb 4, audio 3'),
        (dict(rgb=np.zeros((0, 8), np.uint8), audio=np.zeros((0, 8), np.uint8)), 'no frames'),
        (dict(rgb=np.zeros((4, 0), np.uint8)), "the frames of 'rgb' are empty"),
        (dict(rgb=np.zeros((4, 2, 8), np.uint8)), r"'rgb' has the shape \(4, 2, 8\)"),
        (dict(rgb=np.zeros((4, 8), bool)), "'rgb' is bool, expected uint8, float32 or int64"),
        (dict(labels=[0.5]), "'labels' are float64"),
    ],
)
def test_writer_refuses(change: Video, problem: str, tmp_path: Path) -> None:
    path = tmp_path / 'a.tfrecord'
    path.write_bytes(b'what was there')
    with pytest.raises(ValueError, match=rf"a.tfrecord, example 1 \(id 'v002'\): {problem}"):
        write_examples(path, [VIDEOS[0], {**video(2), **change}])
    assert path.read_bytes() == b'what was there'
    assert os.listdir(tmp_path) == ['a.tfrecord']


def test_writer_without_examples_or_interrupted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='no examples'):
        write_examples(tmp_path / 'a', [])

    def interrupted() -> Iterator[Video]:
        yield VIDEOS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(tmp_path / 'a.gz', interrupted())
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------- random access


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of unequal lengths, 13 videos."""
    numbers = iter(range(13))
    for name, count in (('train2', 3), ('train0', 6), ('train1', 4)):
        videos = [video(next(numbers), frames=2 + count) for _ in range(count)]
        write_examples(tmp_path / f'{name}.tfrecord', videos)
    return tmp_path


def test_shuffled_access_equals_reading_in_order(folder: Path) -> None:
    shards = YT8MShards(folder / 'train*')
    assert [Path(p).name for p in shards.paths] == [f'train{k}.tfrecord' for k in range(3)]
    expected = [(p, e) for p in shards.paths for e in read_examples(p)]
    assert len(shards) == len(expected) == 13
    order = list(range(-13, 13))
    random.Random(0).shuffle(order)
    for i in order:
        path, example = expected[i]
        assert_same(shards[np.int64(i)], example)
        np.testing.assert_array_equal(shards.labels(i), example['labels'])
        assert shards.labels(i).dtype == np.int64
        assert shards.num_frames(i) == len(example['rgb'])
        found, offset = shards.location(i)
        data = Path(found).read_bytes()[offset + 12 :]
        assert found == path and example['id'].encode() in data[:60]
    for i in (13, -14):
        with pytest.raises(IndexError, match=f'record {i} of 13'):
            shards[i]


def test_labels_are_copies(folder: Path) -> None:
    shards = YT8MShards(folder / 'train0.tfrecord')
    shards.labels(0)[:] = -1
    np.testing.assert_array_equal(shards.labels(0), shards[0]['labels'])
    assert len(shards.labels(0)) > 0


def test_paths(folder: Path, tmp_path: Path) -> None:
    YT8MShards(str(folder / '*.tfrecord'))
    # The indexes are there now, and a half-written shard: a wide glob takes neither for shards.
    (folder / 'train9.tfrecord.abc.tmp').touch()
    assert len(YT8MShards(str(folder / 'train*'))) == 13
    assert len(YT8MShards([folder / 'train0*', folder / 'train1.tfrecord'])) == 10
    overlapping = YT8MShards([str(folder / 'train*'), folder / 'train1.tfrecord'])
    assert len(overlapping) == 13
    brackets = tmp_path / 'a[1].tfrecord'
    write_examples(brackets, VIDEOS)
    assert YT8MShards(brackets).paths == [str(brackets)]
    with pytest.raises(FileNotFoundError, match='no shard matches the glob.*val'):
        YT8MShards(folder / 'val*.tfrecord')
    with pytest.raises(ValueError, match=r'is a folder: write .*/\*.tfrecord'):
        YT8MShards(folder)
    with pytest.raises(ValueError, match='paths is empty'):
        YT8MShards([])


def no_build(path: str, errors: str) -> Any:
    raise AssertionError(f'{path} is indexed again')


def test_index_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    YT8MShards(folder / 'train*')
    assert (folder / 'train0.tfrecord.index.npz').exists()
    monkeypatch.setattr(index.ShardIndex, 'build', no_build)
    shards = YT8MShards(folder / 'train*')
    assert len(shards) == 13 and len(shards[12]['rgb']) == shards.num_frames(12)
    # One that looked at framing only does not serve 'skip'.
    with pytest.raises(AssertionError, match='indexed again'):
        YT8MShards(folder / 'train*', 'skip')
    monkeypatch.undo()
    YT8MShards(folder / 'train*', 'skip')
    monkeypatch.setattr(index.ShardIndex, 'build', no_build)
    for errors in ('skip', 'raise'):
        assert len(YT8MShards(folder / 'train*', errors)) == 13


def test_stale_and_broken_indexes_are_replaced(path: Path, monkeypatch: Any) -> None:
    def same_size(i: int) -> Video:
        return {**video(i, frames=4), 'labels': [i]}

    write_examples(path, [same_size(0)])
    index_file = Path(f'{path}.index.npz')
    assert len(YT8MShards(path)) == 1
    status = os.stat(path)
    write_examples(path, [same_size(5)])
    assert os.stat(path).st_size == status.st_size
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns + 1))
    assert YT8MShards(path).labels(0).tolist() == [5]
    write_examples(path, [same_size(6), same_size(7)])
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns + 1))
    assert YT8MShards(path).labels(1).tolist() == [7]
    content = index_file.read_bytes()
    for broken in (b'', b'not an index', content[:100], content[:-30], content[:300] + content):
        index_file.write_bytes(broken)
        assert YT8MShards(path).labels(1).tolist() == [7]
    with monkeypatch.context() as patch:
        patch.setattr(index, 'INDEX_VERSION', 99)
        YT8MShards(path)
    monkeypatch.setattr(index.ShardIndex, 'build', no_build)
    with pytest.raises(AssertionError, match='indexed again'):
        YT8MShards(path)


def test_a_shard_that_changes_under_a_run(path: Path) -> None:
    shards = YT8MShards(path)
    write_examples(path, VIDEOS[::-1])
    with pytest.raises(TFRecordError, match='has changed since it was indexed'):
        shards[0]
    with pytest.raises(TFRecordError, match='has changed since it was indexed'):
        pickle.loads(pickle.dumps(shards)).labels(0)


def test_damage_raises_when_read_or_is_left_out_up_front(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = YT8MShards(folder / 'train*')
    expected = list(good)
    path, offset = good.location(8)
    content = bytearray(Path(path).read_bytes())
    content[content.index(expected[8]['rgb'].tobytes()[:24])] ^= 1
    Path(path).write_bytes(content)
    shards = YT8MShards(folder / 'train*')
    assert len(shards) == 13
    assert_same(shards[7], expected[7])
    with pytest.raises(TFRecordError, match=f'byte {offset}: the checksum'):
        shards[8]
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            skipping = YT8MShards(folder / 'train*', 'skip')
        for example, other in zip(skipping, expected[:8] + expected[9:], strict=True):
            assert_same(example, other)
        assert skipping.skipped == {path: 1}
        assert [r.getMessage() for r in caplog.records] == [
            f'1 damaged records were left out: {path} 1'
        ]
        caplog.clear()
    # The index of the run that skipped does not hide the damage from a run that must not.
    with pytest.raises(TFRecordError, match='the checksum'):
        list(YT8MShards(folder / 'train*'))


def test_index_dir(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = set(os.listdir(folder))
    cache = tmp_path / 'cache' / 'deep'
    YT8MShards(folder / 'train*', index_dir=cache)
    assert sorted(os.listdir(cache)) == [f'train{k}.tfrecord.index.npz' for k in range(3)]
    assert set(os.listdir(folder)) - before == {'cache'}
    (folder / 'val').mkdir()
    write_examples(folder / 'val/train0.tfrecord', VIDEOS)
    with pytest.raises(ValueError, match='the same name'):
        YT8MShards([folder / 'train0*', folder / 'val/train0*'], index_dir=cache)
    blocked = tmp_path / 'file'
    blocked.touch()
    shards = YT8MShards(folder / 'train*', index_dir=blocked)
    warning = f'3 indexes are kept in memory only, as {blocked} cannot be written to'
    assert [r.getMessage().split(':')[0] for r in caplog.records] == [warning]
    for example, other in zip(pickle.loads(pickle.dumps(shards)), shards, strict=True):
        assert_same(example, other)


def test_pickles_small_and_loads_what_it_needs(tmp_path: Path, monkeypatch: Any) -> None:
    for k in range(3):
        write_examples(tmp_path / f'{k}', [video(i, 1, 4, 4) for i in range(400)])
    shards = YT8MShards([tmp_path / '0', tmp_path / '1', tmp_path / '2'])
    assert len(pickle.dumps(shards)) < 2000
    monkeypatch.setattr(index.ShardIndex, 'build', no_build)
    copy = pickle.loads(pickle.dumps(shards))
    assert len(copy) == 1200
    for i in (0, 401, 1199):
        assert_same(copy[i], shards[i])
        assert copy.location(i) == shards.location(i)
    monkeypatch.undo()
    os.unlink(f'{tmp_path}/1.index.npz')
    copy = pickle.loads(pickle.dumps(shards))
    os.unlink(f'{tmp_path}/2.index.npz')
    for i in (500, 1100):
        assert_same(copy[i], shards[i])


def test_no_file_stays_open(folder: Path) -> None:
    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('counts files in /proc')
    shards = YT8MShards(folder / 'train*')
    before = len(os.listdir('/proc/self/fd'))
    for i in range(13):
        shards[i]
    assert len(os.listdir('/proc/self/fd')) == before


def test_memory_grows_with_records_not_with_shards(tmp_path: Path) -> None:
    """Counted, not sampled: numpy and Python both tell tracemalloc what they allocate."""

    def held(shards: int, records: int) -> int:
        """Bytes of an object whose indexes were made before, after reading in every shard."""
        folder = tmp_path / f'{shards}x{records}'
        folder.mkdir()
        source = folder / 'a'
        write_examples(source, [{**video(1, 1, 4, 4), 'labels': [1, 2, 3]}] * records)
        YT8MShards(source)
        for k in range(shards):
            os.link(source, folder / f'{k}.tfrecord')
            os.link(f'{source}.index.npz', folder / f'{k}.tfrecord.index.npz')
        tracemalloc.start()
        try:
            opened = YT8MShards(folder / '*.tfrecord')
            gc.collect()
            before_reading = tracemalloc.get_traced_memory()[0]
            for i in range(0, len(opened), records):
                opened[i]
            gc.collect()
            after_reading = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert len(opened) == shards * records
        assert after_reading - before_reading < 10_000
        return after_reading

    held(1, 10)
    few = held(10, 400)
    # An offset, a number of frames, three labels and where they end.
    assert (held(10, 1400) - few) / 10_000 < 8 + 4 + 3 * 8 + 8 + 0.5
    # The same records in more shards: no more than the objects of an index.
    assert (held(100, 40) - few) / 90 < 3000


def identity(batch: list[Video]) -> list[Video]:
    return batch


def test_in_forked_workers(folder: Path) -> None:
    """Spawned ones get the pickled object of the tests above."""
    from torch.utils.data import DataLoader

    shards = YT8MShards(folder / 'train*')
    loader = DataLoader(
        shards,
        batch_size=3,
        num_workers=2,
        multiprocessing_context='fork',
        collate_fn=identity,
    )
    found = [example for batch in loader for example in batch]
    for example, expected in zip(found, shards, strict=True):
        assert_same(example, expected)


def test_an_error_of_a_worker_keeps_its_type_and_text(folder: Path) -> None:
    from torch.utils.data import DataLoader

    path = folder / 'train0.tfrecord'
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    shards = YT8MShards(path)
    with pytest.raises(TFRecordError, match='train0.tfrecord, record at byte'):
        list(DataLoader(shards, num_workers=1, collate_fn=identity))
    error = TFRecordError('text', 'path', 5, 9)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.offset, copy.next_offset) == ('text', 'path', 5, 9)


# ----------------------------------------------------------------------------------- surroundings


def run_alone(code: str, *arguments: object) -> str:
    """Run code with the folder as a package by itself, as importing ours imports torch."""
    code = f"""
import sys, types
sys.modules['alone'] = types.ModuleType('alone')
sys.modules['alone'].__path__ = [{str(Path(yt8m.__file__).parents[1])!r}]
{code}
"""
    command = [sys.executable, '-c', code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_needs_numpy_and_a_crc_only(tmp_path: Path) -> None:
    code = """
before = set(sys.modules)
import numpy as np
from alone.yt8m import YT8MShards, read_examples, write_examples
write_examples(sys.argv[1], [dict(id='a', labels=[1], rgb=np.ones((2, 3), 'u1'))])
assert len(list(read_examples(sys.argv[1]))) == len(YT8MShards(sys.argv[1])) == 1
loaded = {name.partition('.')[0] for name in sys.modules.keys() - before}
print(*sorted(loaded - sys.stdlib_module_names - {'google_crc32c'}))
"""
    assert run_alone(code, tmp_path / 'shard') == 'alone numpy\n'


def test_can_be_imported_without_google_crc32c(path: Path) -> None:
    code = """
sys.modules['google_crc32c'] = None
from alone.yt8m import read_examples
try:
    read_examples(sys.argv[1])
except ImportError as error:
    print(error)
"""
    assert 'pip install "adv_plugins[yt8m]"' in run_alone(code, path)


def test_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location('yt8m_readers', BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(['--videos', '5', '--shards', '2', '--repeats', '1'])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == '| reader | videos/s | ours, verified, is faster by |'
    assert {line.count('|') for line in printed} == {4}
    assert any(line.startswith(f'| {module.VERIFIED} |') for line in printed)
