"""What datasets say about their videos without loading any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmaction.datasets import RawframeDataset, VideoDataset

from adv_plugins.datasets import FeatureDataset
from adv_plugins.datasets.inspection import identities, list_line, unreadable_line


def features(folder: Path, **options: Any) -> FeatureDataset:
    (folder / 'own.txt').write_text(''.join(f'v{index} {index % 2}\n' for index in range(4)))
    for index in range(4):
        np.save(folder / f'v{index}.npy', np.zeros((3, 8), np.float32))
    prefix = dict(rgb=str(folder))
    return FeatureDataset(str(folder / 'own.txt'), dict(rgb=8), prefix, num_classes=2, **options)


def test_features_of_one_list_that_is_split_by_position(tmp_path: Path) -> None:
    first, rest, late = (
        {video for video, _ in identities(features(tmp_path, **options))}
        for options in (dict(indices=2), dict(skip=2), dict(skip=1))
    )
    assert len(first) == len(rest) == 2 and not first & rest
    assert len(first & late) == 1 and rest < late


def test_videos_are_told_by_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'list.txt').write_text('./a.mp4 3\nsub/../b.mp4 4\n')
    for prefix in ('v', f'{tmp_path}/v'):
        data = VideoDataset('list.txt', [], data_prefix=dict(video=prefix))
        assert list(identities(data)) == [(f'{tmp_path}/v/a.mp4', 3), (f'{tmp_path}/v/b.mp4', 4)]


def test_videos_in_linked_folders_are_the_same(tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text('a.mp4 3\n')
    (tmp_path / 'v').mkdir()
    (tmp_path / 'linked').symlink_to('v')
    (first,), (second,) = (
        list(
            identities(VideoDataset(str(tmp_path / 'list.txt'), [], data_prefix=dict(video=prefix)))
        )
        for prefix in (f'{tmp_path}/v', f'{tmp_path}/linked')
    )
    assert first == second == (f'{tmp_path.resolve()}/v/a.mp4', 3)


@pytest.mark.parametrize(
    ('text', 'place'),
    [
        ('a.mp4 1\nab.mp4 2\n', "line 2: 'ab.mp4 2'"),
        ('ab.mp4.mp4 1\nab.mp4\n', "line 2: 'ab.mp4'"),
        ('\nab.mp4 3', "line 2: 'ab.mp4 3'"),
    ],
)
def test_where_a_list_has_a_video(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / 'list.txt'
    file.write_text(text)
    for prefix in ('v', 'v/', str(tmp_path), ''):
        data = VideoDataset(str(file), [], data_prefix=dict(video=prefix), lazy_init=True)
        path = f'{prefix.rstrip("/")}/ab.mp4' if prefix else 'ab.mp4'
        assert list_line(data, path) == f'{file}, {place}'
        assert list_line(data, path + 'x') == ''
    file.write_bytes(b'\xff\xfe')
    assert list_line(data, 'ab.mp4') == ''


def test_which_line_a_dataset_failed_at(tmp_path: Path) -> None:
    file = tmp_path / 'list.txt'
    file.write_text('a 4 1\nb 4 one\nb 4 one\n')
    with pytest.raises(ValueError) as caught:
        RawframeDataset(str(file), [])
    assert unreadable_line(caught.value) == f"{file}, line 2: 'b 4 one'"
    assert unreadable_line(ValueError('elsewhere')) == ''
