"""What a dataset says about its videos without loading any, and what is in a batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dataset import BaseDataset

from .files import ON_DISK, file_backends


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
    paths = (entry.get('filename', entry.get('frame_dir')) for entry in listed_videos(dataset))
    return [path for path in paths if path]


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
