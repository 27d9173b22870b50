"""An independent writer of YouTube-8M shards: protobuf itself, bytes by hand and a slow CRC."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Video = dict[str, Any]


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
