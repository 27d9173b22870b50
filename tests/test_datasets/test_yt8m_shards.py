"""Random access to shards, and their indexes."""

from __future__ import annotations

import dataclasses
import gc
import io
import logging
import os
import pickle
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from yt8m_writer import (
    VIDEOS,
    Video,
    assert_same,
    message_of,
    shard,
    video,
)

from adv_plugins.datasets.yt8m import (
    TFRecordError,
    YT8MShards,
    index,
    read_examples,
    write_examples,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shard(tmp_path / 'train00.tfrecord', *map(message_of, VIDEOS))


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


def labelled(*labels: int) -> list[Video]:
    """Records of the same sizes, whatever their labels from 0 to 127."""
    return [{**video(0, frames=4), 'labels': [label]} for label in labels]


def in_place(path: Path, other: Path) -> None:
    content = other.read_bytes()
    with open(path, 'r+b') as file:
        file.write(content)


def as_a_rename(path: Path, other: Path) -> None:
    os.replace(other, path)


def as_a_copy(path: Path, other: Path) -> None:
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    path.unlink()
    shutil.copy2(other, path)


@pytest.mark.parametrize('errors', ['raise', 'skip'])
@pytest.mark.parametrize('replace', [in_place, as_a_rename, as_a_copy])
def test_a_shard_replaced_at_the_same_size_and_time(
    replace: Callable, errors: str, path: Path, tmp_path: Path
) -> None:
    """At once, too: within one tick of the clock of the file system."""
    write_examples(path, labelled(1, 2, 3))
    for label in range(4, 10):
        other = tmp_path / 'other'
        write_examples(other, labelled(1, label, 3))
        shards = YT8MShards(path, errors)
        before = path.stat()
        replace(path, other)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        with pytest.raises(TFRecordError, match='has changed since it was indexed'):
            shards[0]
        with pytest.raises(TFRecordError, match='has changed since it was indexed'):
            pickle.loads(pickle.dumps(shards)).labels(0)
        assert YT8MShards(path, errors).labels(1).tolist() == [label]


def test_a_run_goes_on_where_only_the_times_of_a_shard_change(path: Path) -> None:
    """By a backup that puts back the time of access, a link, chmod."""
    shards = YT8MShards(path)
    sent = pickle.dumps(shards)
    os.link(path, f'{path}.link')
    path.chmod(0o400)
    for found in (shards, pickle.loads(sent)):
        assert_same(found[1], VIDEOS[1])
        assert found.labels(1).tolist() == VIDEOS[1]['labels'].tolist()
    path.chmod(0o600)
    assert len(YT8MShards(path)) == len(VIDEOS)


def changed(content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**content, **fields}


def damaged_indexes(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Fields of an index, each time with one that cannot be right."""
    offsets, labels = content['offsets'], content['labels']
    for wrong in (
        offsets[::-1],
        offsets - 1,
        offsets + 7,
        offsets + 10**6,
        offsets[:-1],
        offsets.astype(np.float64),
        offsets.astype(np.int32),
        offsets[:, None],
        offsets.astype(object),
        np.int64(3),
        'text',
    ):
        yield changed(content, offsets=wrong)
    yield changed(content, labels=labels + 1)
    yield changed(content, labels=labels.astype(np.float64))
    yield changed(content, splits=content['splits'][::-1])
    yield changed(content, num_frames=-content['num_frames'])
    yield changed(content, lists=content['lists'][::-1])
    yield changed(content, skipped=2)
    yield changed(content, version='two')
    yield changed(content, version=[2, 2])
    for name in content:
        yield {key: value for key, value in content.items() if key != name}


def members(content: dict[str, Any], method: int, change: Callable) -> bytes:
    """An index zipped by hand."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as archive:
        for name, value in content.items():
            file = io.BytesIO()
            np.save(file, value)
            archive.writestr(f'{name}.npy', change(file.getvalue()))
    return out.getvalue()


def damaged_files(content: dict[str, Any]) -> Iterator[bytes]:
    whole = members(content, zipfile.ZIP_STORED, bytes)
    # A method of compression that zipfile has no code for: NotImplementedError.
    plain, unknown = b'\x14\x00\x00\x00\x00\x00', b'\x14\x00\x00\x00\x61\x00'
    yield whole.replace(plain, unknown)
    yield whole[: len(whole) // 2]
    shape = f'({len(content["offsets"])},)'.encode()
    huge = b'(9999999999999999,)'
    # A header that claims more than any memory: MemoryError.
    yield members(content, zipfile.ZIP_STORED, lambda x: x.replace(shape, huge))
    # And one that is no Python at all, or no dict.
    yield members(content, zipfile.ZIP_STORED, lambda x: x.replace(b"{'descr'", b"(('descr'"))
    yield members(content, zipfile.ZIP_DEFLATED, lambda x: x.replace(b'\x93NUMPY', b'\x93NUMPX'))
    yield pickle.dumps(content)
    out = io.BytesIO()
    np.save(out, content['offsets'])
    yield out.getvalue()


def test_a_damaged_index_is_made_again_and_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / 'train0.tfrecord'
    file = Path(f'{path}.index.npz')
    expected = list(YT8MShards(path))
    whole = file.read_bytes()
    with np.load(file) as stored:
        content = dict(stored)
    files = [*damaged_files(content)]
    for fields in damaged_indexes(content):
        out = io.BytesIO()
        np.savez(out, **fields)
        files.append(out.getvalue())
    for damaged in files:
        file.write_bytes(damaged)
        caplog.clear()
        shards = YT8MShards(path)
        for example, other in zip(shards, expected, strict=True):
            assert_same(example, other)
        (record,) = caplog.records
        assert record.getMessage().startswith(f'1 damaged indexes were made again: {file} (')
        assert file.read_bytes() == whole
    # Where it cannot be replaced, what was made is sent to workers.
    file.unlink()
    file.mkdir()
    caplog.clear()
    sent = pickle.dumps(YT8MShards(folder / 'train*'))
    first, second = (record.getMessage() for record in caplog.records)
    assert '1 damaged indexes' in first and '1 indexes are kept in memory only' in second
    caplog.clear()
    assert_same(pickle.loads(sent)[0], expected[0])
    assert not caplog.records and file.is_dir()


def test_an_index_of_an_older_version_is_made_again_without_a_word(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(index, 'INDEX_VERSION', 1)
        YT8MShards(path)
    assert len(YT8MShards(path)) == len(VIDEOS)
    assert not caplog.records
    monkeypatch.setattr(index.ShardIndex, 'build', no_build)
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
        for k in range(shards):
            os.link(source, folder / f'{k}.tfrecord')
        # A link changes the times of the shard, for which its index would be made again.
        YT8MShards(source)
        for k in range(shards):
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


def test_an_index_without_checksums_does_not_pass_for_one_with(path: Path) -> None:
    """As earlier versions made them where no CRC package was installed."""
    content = bytearray(path.read_bytes())
    content[content.index(VIDEOS[0]['rgb'].tobytes()[:24])] ^= 1
    path.write_bytes(content)
    unchecked = index.ShardIndex.build(str(path), 'raise')
    dataclasses.replace(unchecked, checked=1).save(f'{path}.index.npz')
    assert len(YT8MShards(path)) == 4
    assert len(YT8MShards(path, 'skip')) == 3
