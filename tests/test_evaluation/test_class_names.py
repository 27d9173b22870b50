"""One place decides what a class is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adv_plugins.evaluation.class_names import are_numbers, class_names


class Listed:
    """A dataset with a list of files and labels."""

    def __init__(self, files: dict[str, Any], classes: Any = None) -> None:
        self.entries = [dict(filename=file, label=label) for file, label in files.items()]
        self.metainfo = {} if classes is None else dict(classes=classes)

    def __len__(self) -> int:
        return len(self.entries)

    def get_data_info(self, index: int) -> dict[str, Any]:
        return self.entries[index]


FOLDERS = {'root/run/a.mp4': 2, 'root/run/b.mp4': 2, 'root/jump/a.mp4': 0}


def test_the_label_map_comes_first_then_the_metainfo_then_the_list(tmp_path: Path) -> None:
    pytest.importorskip('mmengine', reason='label maps are read with mmengine')
    file = tmp_path / 'label_map.txt'
    file.write_text('riding a bike\r\nzumba\nyoga \n\n')
    assert class_names(Listed(FOLDERS, 'xyz'), 3, file) == ['riding a bike', 'zumba', 'yoga']
    assert class_names(Listed(FOLDERS, 'xyz'), 3) == ['x', 'y', 'z']
    assert class_names(Listed(FOLDERS), 3) == ['jump', '1', 'run']
    # A class of the model that the dataset does not know.
    assert class_names(Listed(FOLDERS, 'xy'), 3) == ['x', 'y', '2']
    assert class_names([], 3) == ['0', '1', '2']


@pytest.mark.parametrize(
    'files',
    [
        {'root/a.mp4': 0, 'root/b.mp4': 1, 'root/c.mp4': 1},  # one folder for all
        {'run/a.mp4': 0, 'walk/b.mp4': 0, 'jump/c.mp4': 1},  # two folders for a class
        {'video_1/a.mp4': 0, 'video_2/b.mp4': 1},  # a folder for each video
        {'a.mp4': 0, 'b.mp4': 0, 'run/c.mp4': 1},  # no folder
        {'run/a.mp4': [0, 1], 'run/b.mp4': [0]},  # several labels a video
    ],
)
def test_other_folders_name_no_classes(files: dict[str, Any]) -> None:
    assert are_numbers(class_names(Listed(files), 2))


def test_a_label_map_that_does_not_fit_is_told(tmp_path: Path) -> None:
    pytest.importorskip('mmengine', reason='label maps are read with mmengine')
    file = tmp_path / 'label_map.txt'
    file.write_text('a\n\nb\n')
    message = r'label_map.txt has 2 names on 3 lines, and the model has 3 classes; write one name'
    with pytest.raises(ValueError, match=message):
        class_names(None, 3, file)
    with pytest.raises(FileNotFoundError):
        class_names(None, 3, tmp_path / 'other.txt')
