"""What a dataset says about its videos without loading any, and what is in a batch of them."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from mmengine.dataset import BaseDataset

from .features import FeatureDataset, YT8MFrameDataset
from .files import ON_DISK, file_backends, is_remote


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets inside mmengine's wrappers, such as ConcatDataset and RepeatDataset.

    Args:
        dataset (Dataset): A dataset, wrapped or not.

    Yields:
        Dataset: Each dataset that wraps no other; an unwrapped dataset yields itself.
    """
    if isinstance(getattr(dataset, 'datasets', None), (list, tuple)):
        for inner in dataset.datasets:
            yield from inner_datasets(inner)
    elif hasattr(dataset, 'dataset'):
        yield from inner_datasets(dataset.dataset)
    else:
        yield dataset


def listed_videos(dataset: Any) -> Iterator[dict]:
    """The entry of each video in the annotation file; none for datasets that are not mmengine's."""
    if not isinstance(dataset, BaseDataset):
        return
    stored = dataset.data_list or getattr(dataset, 'data_address', ())
    for index in range(len(stored)):
        yield BaseDataset.get_data_info(dataset, index)


def listed_files(dataset: Any) -> list[str]:
    """The files or folders of the videos, if the pipeline reads them from a local disk."""
    backends = file_backends(getattr(dataset, 'pipeline', None))
    # Skeletons and features have a frame_dir too, but nothing in their pipeline reads it.
    if not backends or not backends <= ON_DISK:
        return []
    return [path for path in map(path_of, listed_videos(dataset)) if path]


def path_of(entry: Mapping[str, Any]) -> str | None:
    """The file or the folder of frames of a video, from its entry."""
    path = entry.get('filename', entry.get('frame_dir'))
    return path if isinstance(path, str) else None


def unusable_files(dataset: Any) -> dict[str, str]:
    """The files on disk that no decoder can read, each with the reason; none is opened."""
    # Missing ones are told by find_missing, which lists each folder once.
    folders = any('frame_dir' in entry for entry in listed_videos(dataset))
    paths = [path for path in listed_files(dataset) if not is_remote(path)]
    # Threads, because over a network each look takes a while.
    with ThreadPoolExecutor(16) as pool:
        faults = pool.map(lambda path: _fault(path, folders), paths, chunksize=256)
        return {path: fault for path, fault in zip(paths, faults, strict=True) if fault}


def _fault(path: str, folder: bool) -> str:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return 'a link to nothing' if os.path.islink(path) else ''
    except OSError as error:
        return str(error.strerror)
    if folder:
        if not stat.S_ISDIR(state.st_mode):
            return 'no folder of frames'
        if os.access(path, os.R_OK) and not any(os.scandir(path)):
            return 'an empty folder'
    elif not stat.S_ISREG(state.st_mode):
        return 'a folder' if stat.S_ISDIR(state.st_mode) else 'no file'
    elif state.st_size == 0:
        return 'empty (0 bytes)'
    return '' if os.access(path, os.R_OK) else 'not readable'


def identities(dataset: Any) -> Iterator[tuple[str, Any]]:
    """What tells the videos of a dataset from others, and their labels where they are listed."""
    if isinstance(dataset, (FeatureDataset, YT8MFrameDataset)):
        for record in dataset.records:
            yield f'{dataset.ann_file}: record {record}', None
        return
    # Folders may be links to each other; looking up each file would take long over a network.
    real_folder = cache(os.path.realpath)
    for entry in listed_videos(dataset):
        path = path_of(entry)
        if path and not is_remote(path):
            folder, name = os.path.split(os.path.abspath(path))
            path = os.path.join(real_folder(folder), name)
        if path:
            yield path, entry.get('label')


def list_line(dataset: Any, path: str) -> str:
    """Where the annotation file lists a video: ``list.txt, line 4: 'x.mp4 3'``; '' if unknown."""
    prefixes = [str(prefix) for prefix in getattr(dataset, 'data_prefix', {}).values() if prefix]
    name = path
    for prefix in prefixes:
        if path.startswith(prefix):
            name = path[len(prefix) :].lstrip('/')
    for number, line in _lines(str(getattr(dataset, 'ann_file', ''))):
        if line.startswith(name) and line[len(name) : len(name) + 1] in ('', ' ', '\t', ',', ';'):
            return f'{dataset.ann_file}, line {number}: {line!r}'
    return ''


def unreadable_line(error: BaseException) -> str:
    """The line at which MMAction2 failed to read a list, in the form of :func:`list_line`."""
    for function, names in _calls(error):
        if function == 'load_data_list' and isinstance(names.get('line'), str):
            file, text = getattr(names.get('self'), 'ann_file', ''), names['line']
            # Equal lines fail alike: the first of them is the one.
            number = next((n for n, line in _lines(str(file)) if line == text.strip()), '?')
            return f'{file}, line {number}: {text!r}'
    return ''


def unreadable_list(error: BaseException) -> str:
    """Why MMAction2 failed to read a list as a whole, in words; '' if it is something else."""
    for function, names in _calls(error):
        file = getattr(names.get('self'), 'ann_file', '')
        if function == '_serialize_data' and not names['self'].data_list:
            return f'{file} is empty: it lists no video'
        if function == 'load_data_list' and isinstance(error, UnicodeDecodeError):
            return f'{file} is no text in UTF-8: {error}; save it as UTF-8'
    return ''


def _calls(error: BaseException | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The functions in which an error arose, and what their variables were."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            yield frame.f_code.co_name, frame.f_locals
        error = error.__cause__ or error.__context__


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a list on disk; none of a file that cannot be read as text."""
    try:
        with open(file, encoding='utf-8') as lines:
            yield from ((number, line.strip()) for number, line in enumerate(lines, 1))
    except (OSError, ValueError):
        return


def listed_labels(dataset: Any) -> Iterator[list[int]]:
    """The classes of each video, if the dataset gives them without loading the video."""
    get_cat_ids = isinstance(dataset, BaseDataset) and type(dataset).get_cat_ids
    if get_cat_ids and get_cat_ids is not BaseDataset.get_cat_ids:
        yield from (list(dataset.get_cat_ids(index)) for index in range(len(dataset)))
        return
    for entry in listed_videos(dataset):
        label = entry.get('label')
        if isinstance(label, int):
            yield [label]
        elif isinstance(label, (list, tuple)) and all(isinstance(one, int) for one in label):
            yield list(label)


def describe_shapes(batch: Any) -> str:
    """The shapes of the tensors in a batch, as text such as ``inputs 8 x (3, 8, 224, 224)``."""
    if isinstance(batch, torch.Tensor):
        return str(tuple(batch.shape))
    if isinstance(batch, Mapping):
        shapes = {name: describe_shapes(value) for name, value in batch.items()}
        return ', '.join(f'{name} {shape}' for name, shape in shapes.items() if shape)
    if isinstance(batch, (list, tuple)) and batch and describe_shapes(batch[0]):
        return f'{len(batch)} x {describe_shapes(batch[0])}'
    return ''
