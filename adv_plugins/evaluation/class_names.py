"""The one place that decides what the classes are called wherever results are shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any


def class_names(
    dataset: Any, num_classes: int, label_map: str | os.PathLike[str] | None = None
) -> list[str]:
    """The names of a model's classes.

    They are those of the label map, if one is given. Otherwise they are the ``classes`` of the
    dataset's metainfo. Otherwise they are what the list says: the folders of the videos, if each
    class has a folder of its own, as in ``abseiling/video.mp4 0``. A class without a name is shown
    by its number.

    Args:
        dataset (Dataset): The videos.
        num_classes (int): How many classes the model has.
        label_map (str | Path, optional): A text file with the name of class 0 on the first line,
            that of class 1 on the second, and so on, such as MMAction2's ``label_map_k400.txt``.
            Defaults to None.

    Returns:
        list[str]: A name for each class.

    Raises:
        FileNotFoundError: There is no such label map.
        ValueError: The label map has another number of names than the model has classes.
    """
    if label_map is not None:
        return _read_label_map(label_map, num_classes)
    metainfo = getattr(dataset, 'metainfo', None) or {}
    names = list(metainfo.get('classes') or ())
    if names:
        return [*map(str, names), *map(str, range(len(names), num_classes))]
    folders = _class_folders(dataset)
    return [folders.get(label, str(label)) for label in range(num_classes)]


def are_numbers(names: Sequence[str]) -> bool:
    """Whether classes are shown by their numbers, because nothing has names for them."""
    return list(names) == [str(label) for label in range(len(names))]


def _read_label_map(path: str | os.PathLike[str], num_classes: int) -> list[str]:
    # It needs mmengine, without which results can be read and compared.
    from ..datasets.text_files import read_text

    names = [line.strip() for line in read_text(path).rstrip().split('\n')]
    if len(names) != num_classes or not all(names):
        raise ValueError(
            f'the label map {os.fspath(path)} has {sum(map(bool, names))} names on {len(names)} '
            f'lines, and the model has {num_classes} classes; write one name a line, that of '
            'class 0 first, with no blank line between them'
        )
    return names


def _class_folders(dataset: Any) -> dict[int, str]:
    """The folder of each class by its label; none unless folders and classes correspond."""
    folders: dict[int, str] = {}
    count = 0
    try:
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            path = PurePath(info.get('filename') or info['frame_dir'])
            if folders.setdefault(int(info['label']), path.parent.name) != path.parent.name:
                return {}
            count += 1
    except (AttributeError, KeyError, TypeError, ValueError):
        # A dataset without a list of files, or with several labels a video.
        return {}
    distinct = len(set(folders.values())) == len(folders)
    # With one video a class, its folder may just as well be that of the video.
    return folders if distinct and count > len(folders) > 1 and all(folders.values()) else {}
