"""YouTube-8M's examples against protobuf's own parser and writer."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from yt8m_writer import (
    CONTEXT,
    ID,
    RGB,
    VIDEOS,
    Video,
    assert_same,
    entry,
    field,
    frame,
    frames,
    from_oracle,
    labels,
    message_of,
    record,
    sequence,
    shard,
    video,
)

from adv_plugins.datasets.yt8m import (
    TFRecordError,
    YT8MShards,
    read_examples,
    write_examples,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shard(tmp_path / 'train00.tfrecord', *map(message_of, VIDEOS))


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
    for (context, lists), expected in zip(found, VIDEOS[1:], strict=True):
        assert bytes(context['id']).decode() == expected['id']
        np.testing.assert_array_equal(context['labels'], expected['labels'])
        assert b''.join(lists['rgb']) == expected['rgb'].tobytes()
        assert b''.join(lists['audio']) == expected['audio'].tobytes()


def test_arrays_own_their_data(tmp_path: Path) -> None:
    """One frame is the case in which a slice is contiguous and could stay a view."""
    path = tmp_path / 'a.tfrecord'
    floats = np.ones((1, 6), np.float32)
    write_examples(path, [{**video(1, frames=1), 'f': floats, 'mean': floats[0], 'n': [7]}])
    example = next(read_examples(path))
    for key in ('labels', 'rgb', 'audio', 'f', 'mean', 'n'):
        assert example[key].flags.owndata and example[key].flags.writeable, key


def test_video_id_and_missing_keys(tmp_path: Path) -> None:
    lists = {'rgb': [b'abc']}
    path = shard(
        tmp_path / 'a',
        sequence({'video_id': b'old', 'labels': [4]}, lists),
        sequence({}, lists),
        sequence({'labels': []}, lists),
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


def test_modalities_of_unequal_lengths(tmp_path: Path) -> None:
    """As usual tools extract them, written by protobuf; and a video without sound."""
    rgb, audio = np.random.default_rng(0).integers(256, size=(2, 165, 8), dtype=np.uint8)
    audio = audio[:162]
    lists = {'rgb': [row.tobytes() for row in rgb]}
    path = shard(
        tmp_path / 'a',
        sequence({'id': b'abcd'}, {**lists, 'audio': [row.tobytes() for row in audio]}),
        sequence({'id': b'efgh'}, {**lists, 'audio': []}),
    )
    none = np.zeros(0, np.int64)
    for found in (
        list(read_examples(path)),
        list(YT8MShards(path)),
        list(YT8MShards(path, 'skip')),
    ):
        assert_same(found[0], dict(id='abcd', labels=none, rgb=rgb, audio=audio))
        assert found[1]['rgb'].shape == (165, 8) and len(found[1]['audio']) == 0
    for errors in ('raise', 'skip'):
        shards = YT8MShards(path, errors)
        assert [shards.num_frames(i) for i in range(2)] == [165, 165]
        counts = shards.frame_counts(['audio', 'rgb', 'text'])
        assert counts.tolist() == [[162, 165, -1], [0, 165, -1]]
    # And as we write them.
    written = dict(id='abcd', labels=none, rgb=rgb, audio=audio, f=np.ones((7, 2), np.float32))
    write_examples(tmp_path / 'b', [written, {**written, 'audio': audio[:0]}])
    first, second = read_examples(tmp_path / 'b')
    assert_same(first, written)
    assert len(second['audio']) == 0 and len(second['f']) == 7


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


BAD = {
    'no frames': [
        sequence({'id': b'abcd', 'labels': [1]}, {}),
        sequence({'id': b'abcd'}, {'rgb': []}),
        sequence({'id': b'abcd', 'segment_scores': [1.0]}, {}),
        field(1, ID + entry(b'mean_rgb', field(2, field(1, bytes(8))))) + field(2, b''),
    ],
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


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
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
