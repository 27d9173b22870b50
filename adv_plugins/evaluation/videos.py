"""Reading parts of a test set, as it is or corrupted, without failing at unreadable videos."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mmengine.dataset import Compose, DefaultSampler
from torch.utils.data import DataLoader, Dataset

from ..datasets.corruptions import VideoCorruption

# A corruption goes before the first of these.
AFTER_RESIZE = (
    'CenterCrop',
    'ThreeCrop',
    'TenCrop',
    'RandomCrop',
    'RandomResizedCrop',
    'MultiScaleCrop',
    'Normalize',
    'FormatShape',
)


class Items(NamedTuple):
    """A batch of a loader: the indices of its videos, the batch, and why others are unreadable."""

    videos: list[int]
    batch: Any
    unreadable: dict[int, str]


class Videos(Dataset):
    """Some videos of a dataset, each with its index; an :class:`Unreadable` in place of a video
    that cannot be read.

    Args:
        dataset (Dataset): The dataset in test mode.
        indices (Sequence[int]): The videos' indices.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Any]:
        index = self.indices[position]
        try:
            return index, self.dataset[index]
        except Exception as error:  # Decoders raise errors of all kinds.
            return index, Unreadable(f'{type(error).__name__}: {error}')


class Unreadable(str):
    """Why a video could not be read."""


class _Collate:
    """Collates the readable videos of a batch. A class, since workers may have to pickle it."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, entries: list[tuple[int, Any]]) -> Items:
        bad = {index: str(item) for index, item in entries if isinstance(item, Unreadable)}
        good = [(index, item) for index, item in entries if not isinstance(item, Unreadable)]
        batch = self.collate([item for _, item in good]) if good else None
        return Items([index for index, _ in good], batch, bad)


def read(loader: DataLoader, dataset: Any, indices: Sequence[int]) -> DataLoader:
    """A loader of some videos of a dataset, with the settings of another loader.

    Args:
        loader (DataLoader): Where batch size, workers and collate function are taken from.
        dataset (Dataset): The dataset, see :func:`corrupted`.
        indices (Sequence[int]): The videos' indices.

    Returns:
        DataLoader: Of :class:`Items`, in order, split among the ranks.

    Raises:
        ValueError: The loader has no batch size.
    """
    if loader.batch_size is None or loader.collate_fn is None:
        raise ValueError(
            'the test_dataloader has a batch_sampler without a batch size; write '
            "batch_size=... and sampler=dict(type='DefaultSampler', shuffle=False)"
        )
    videos = Videos(dataset, indices)
    return DataLoader(
        videos,
        batch_size=loader.batch_size,
        sampler=DefaultSampler(videos, shuffle=False),
        num_workers=loader.num_workers,
        collate_fn=_Collate(loader.collate_fn),
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def corrupted(dataset: Any, corruption: VideoCorruption) -> Any:
    """The same dataset with a corruption in its pipeline, without building it again.

    The corruption comes right before the first crop: the constants of ImageNet-C are made for
    frames of the size that the network sees, and all crops of a frame show the same noise.

    Args:
        dataset (Dataset): A dataset with a pipeline, or one that wraps such datasets.
        corruption (VideoCorruption): The transform.

    Returns:
        Dataset: A shallow copy of the dataset.

    Raises:
        ValueError: There is no pipeline, or no place for it.
    """
    changed = copy.copy(dataset)
    if hasattr(dataset, 'pipeline'):
        steps = list(dataset.pipeline.transforms)
        names = [type(step).__name__ for step in steps]
        places = [place for place, name in enumerate(names) if name in AFTER_RESIZE]
        if not places:
            raise ValueError(
                f'no place for a corruption in the pipeline {", ".join(names)}: it goes before the '
                f'first of {", ".join(AFTER_RESIZE)}; are these RGB videos?'
            )
        changed.pipeline = Compose([])
        changed.pipeline.transforms = [*steps[: places[0]], corruption, *steps[places[0] :]]
    elif hasattr(dataset, 'datasets'):
        changed.datasets = [corrupted(part, corruption) for part in dataset.datasets]
    elif hasattr(dataset, 'dataset'):
        changed.dataset = corrupted(dataset.dataset, corruption)
    else:
        raise ValueError(
            f'{type(dataset).__name__} has no pipeline that a corruption could be put into'
        )
    return changed
