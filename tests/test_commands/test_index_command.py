"""YouTube-8M's shards are indexed by several processes, and a damaged one stops none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')
pytest.importorskip('google_crc32c', reason='needs adv_plugins[yt8m]')

from adv_plugins.commands import main
from adv_plugins.datasets.yt8m import YT8MShards, write_examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards of three videos in two folders; the third shard is cut, and one is no shard."""
    rng = np.random.default_rng(0)
    for number in range(4):
        videos = [
            dict(id=f'v{i}', labels=[i], rgb=rng.integers(0, 256, (2, 4), np.uint8))
            for i in range(3)
        ]
        file = tmp_path / ('train', 'test')[number // 2] / f'shard{number}.tfrecord'
        file.parent.mkdir(exist_ok=True)
        write_examples(str(file), videos)
    (tmp_path / 'test/notes.txt').write_text('no shard')
    file = tmp_path / 'test/shard2.tfrecord'
    file.write_bytes(file.read_bytes()[:-9])
    return tmp_path


def test_a_damaged_shard_stops_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['index', str(folder), '--processes', '2']) == 1
    printed = capsys.readouterr()
    assert printed.out == '3 of 4 shards are indexed: 9 records\n'
    (line,) = printed.err.splitlines()
    assert line.startswith('not indexed: ') and 'shard2.tfrecord' in line and 'is cut' in line
    indexes = sorted(path.name for path in folder.rglob('*.index.npz'))
    assert indexes == [f'shard{i}.tfrecord.index.npz' for i in (0, 1, 3)]
    times = [path.stat().st_mtime_ns for path in folder.rglob('*.index.npz')]
    assert len(YT8MShards(str(folder / 'train/*.tfrecord'))) == 6
    assert times == [path.stat().st_mtime_ns for path in folder.rglob('*.index.npz')]


def test_files_globs_and_another_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(folder / 'train/shard0.tfrecord'), str(folder / '*/shard[13].tfrecord')]
    out = tmp_path / 'indexes'
    assert main(['index', *paths, '--processes', '1', '--index-dir', str(out)]) == 0
    assert capsys.readouterr().out == '3 of 3 shards are indexed: 9 records\n'
    assert len(list(out.iterdir())) == 3 and not list((folder / 'train').glob('*.npz'))


def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(['index', *arguments]) == 2
        return capsys.readouterr().err

    assert 'no such shard' in said(str(folder / 'none.tfrecord'))
    assert 'no shard matches' in said(str(folder / '*.gz'))
    assert '--processes 0 must be 1 or more' in said(str(folder), '--processes', '0')
    again = folder / 'again/shard0.tfrecord'
    again.parent.mkdir()
    again.write_bytes((folder / 'train/shard0.tfrecord').read_bytes())
    assert '2 shards are called shard0.tfrecord' in said(str(folder), '--index-dir', 'indexes')
