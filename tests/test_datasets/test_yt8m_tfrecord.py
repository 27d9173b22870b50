"""Checksums, damage at every byte, and gzip."""

from __future__ import annotations

import gzip
import logging
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import example as with_example
from hypothesis import strategies as st
from yt8m_writer import (
    CONTEXT,
    RGB,
    VIDEOS,
    Video,
    assert_same,
    field,
    masked,
    message_of,
    record,
    shard,
    slow_crc,
)

from adv_plugins.datasets.yt8m import (
    TFRecordError,
    YT8MShards,
    checksum,
    index,
    read_examples,
    write_examples,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shard(tmp_path / 'train00.tfrecord', *map(message_of, VIDEOS))


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
