"""The benchmark of reading at scale: its bounds are enforced, its figures agree."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
if not os.path.exists('/proc/self/smaps_rollup'):
    pytest.skip('reads memory from /proc', allow_module_level=True)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/benchmarks'))

import yt8m_scale  # noqa: E402

from adv_plugins.datasets.yt8m import YT8MShards  # noqa: E402


@pytest.fixture
def links(tmp_path: Path) -> str:
    """Thirty shards of three records, which are two."""
    paths = yt8m_scale.write_shards(tmp_path / 'tiny', 2, 3, (1, 1), yt8m_scale.TINY)
    YT8MShards(paths)
    yt8m_scale.link_shards(tmp_path / 'many', paths, 30)
    return str(tmp_path / 'many')


def test_many_shards_are_read_with_few_files(links: str) -> None:
    found = yt8m_scale.in_child(yt8m_scale.open_and_read, links, 20)
    assert found['records'] == 90
    assert (found['files_left'], found['maps']) == (0, 0)


def test_a_reader_that_keeps_files_open_is_stopped(
    links: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keep_open(monkeypatch, lambda path: os.open(path, os.O_RDONLY))
    with pytest.raises(EOFError):
        yt8m_scale.in_child(yt8m_scale.open_and_read, links, 20)
    assert 'Too many open files' in capfd.readouterr().err


def test_a_reader_that_keeps_a_map_is_found_out(
    links: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = functools.cache(lambda path: np.memmap(path, np.uint8, 'r'))
    keep_open(monkeypatch, lambda path: cached(f'{links}/train0003.tfrecord'))
    assert yt8m_scale.in_child(yt8m_scale.open_and_read, links, 20)['maps'] == 1


def keep_open(monkeypatch: pytest.MonkeyPatch, opening: Callable[[str], Any]) -> None:
    read = YT8MShards.__getitem__

    def keeping(shards: YT8MShards, i: int) -> dict[str, Any]:
        opening(shards.location(i)[0])
        return read(shards, i)

    monkeypatch.setattr(YT8MShards, '__getitem__', keeping)


def test_the_figures_agree(tmp_path: Path) -> None:
    sizes = dict(shards=2, records=3, reads=20, workers=1, repeats=1)
    sizes |= {'max-shards': 12, 'batch-size': 2, 'disk-bandwidth': 1000}
    argv = [f'--{name}={value}' for name, value in sizes.items()]
    yt8m_scale.main([*argv, '--device=cpu', f'--out={tmp_path}'])
    found = json.loads((tmp_path / 'yt8m_scale.json').read_text())

    assert (found['index']['shards'], found['index']['records']) == (2, 6)
    assert len(found['index']['builds']) == 2 * 2 * 2
    # 'raise' looks at some pages of a record, 'skip' at every byte; warm is from memory.
    for build in found['index']['builds']:
        assert build['seconds'] > 0
        if not build['cold']:
            assert build['fetched'] == 0

    many = found['many_shards']
    assert [row['shards'] for row in many['rows']] == [10, 12]
    for row in many['rows']:
        assert row['records'] == row['shards'] * yt8m_scale.TRAIN_RECORDS
        assert (row['files_left'], row['maps']) == (0, 0)
    # A spawned worker is sent a path, a size and a time for each shard, nothing for a record.
    first, last = many['rows']
    assert last['pickled'] - first['pickled'] < 2 * 300
    # An offset (8 bytes), frames (4), the end of the labels (8), and three labels on average.
    assert 20 + 8 * 2.9 < many['index']['by_record'] < 20 + 8 * 3.1

    rows = {(r['workers'], r['access'], r['collate']): r for r in found['loader']}
    assert set(rows) == {
        (0, 'sequential', 'pseudo_collate'),
        (0, 'shuffled', 'pseudo_collate'),
        (1, 'shuffled', 'pseudo_collate'),
        (1, 'sequential', 'packed_collate'),
        (1, 'shuffled', 'packed_collate'),
    }
    for row in rows.values():
        assert row['videos_per_second']['warm'] == pytest.approx(6 / row['warm'][0])
    assert set(found['model']) == {'clean', 'ART'}

    train = found['projection']['training split']
    assert train['videos'] / train['shards'] == pytest.approx(yt8m_scale.TRAIN_RECORDS, rel=1e-3)
    everything = found['projection']['all three splits']
    assert (everything['bytes'], everything['shards']) == (1.53e12, 11_532)
    assert everything['epoch_disk_seconds']['in order'] == 1530
    per_record = many['index']['by_record'] + many['index']['by_shard'] / yt8m_scale.TRAIN_RECORDS
    assert train['index_bytes'] == pytest.approx(train['videos'] * per_record, rel=1e-3)
    step = train['epoch_seconds']['clean step'] * found['model']['clean']
    assert step / train['videos'] == pytest.approx(
        1.53e12 / everything['videos'] / found['index']['bytes_per_video']
    )

    page = (tmp_path / 'yt8m_scale.md').read_text()
    assert page.count('| --- |') == 4
    for block in page.split('\n\n'):
        if block.startswith('|'):
            assert len({line.count('|') for line in block.strip().splitlines()}) == 1
