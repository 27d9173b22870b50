"""packed_collate: the batches that arrive are those of mmengine's pseudo_collate."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')

from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from adv_plugins.datasets.features import packed_collate


class Items:
    """A dataset whose items hold tensors of every kind, in every place."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> dict[str, Any]:
        frames = torch.arange(12 * (i + 1)).reshape(-1, 3)
        sample = BaseDataElement(gt_label=torch.tensor([0.5, i]), metainfo=dict(video_id=f'v{i}'))
        inputs = dict(
            rgb=frames.to(torch.uint8),
            turned=frames.T[:, ::2],
            half=frames.to(torch.bfloat16),
            number=torch.tensor(i),
            flag=torch.tensor([True, False, i > 2]),
            none=torch.zeros(0, 4),
            array=np.arange(i),
        )
        return dict(inputs=inputs, data_samples=sample, name=f'v{i}')


def leaves(value: Any) -> list[Any]:
    """What is in a batch, in order."""
    if isinstance(value, BaseDataElement):
        return leaves(dict(value.all_items()))
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize('workers', [0, 2])
def test_packed_batches_are_the_usual_ones(workers: int) -> None:
    loaders = [
        DataLoader(Items(), 2, num_workers=workers, collate_fn=collate)
        for collate in (FUNCTIONS.get('packed_collate'), pseudo_collate)
    ]
    for batch, expected in zip(*loaders, strict=True):
        assert type(batch) is dict
        found, wanted = leaves(batch), leaves(expected)
        assert sum(isinstance(leaf, torch.Tensor) for leaf in wanted) == 7 * len(batch['name'])
        for leaf, other in zip(found, wanted, strict=True):
            assert type(leaf) is type(other)
            if isinstance(leaf, torch.Tensor):
                assert (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
                assert torch.equal(leaf, other)
                # Whoever keeps a label does not keep the batch.
                assert leaf.untyped_storage().nbytes() == leaf.nbytes or workers == 0
            else:
                assert np.array_equal(leaf, other)


def test_a_packed_batch_leaves_no_file_open() -> None:
    """Whereas PyTorch has one open for each tensor, and connects to the worker for each."""
    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('counts files in /proc')

    def files_of_a_batch(collate: Callable) -> int:
        iterator = iter(DataLoader(Items(), 1, num_workers=1, collate_fn=collate))
        first = next(iterator)
        before = len(os.listdir('/proc/self/fd'))
        second = next(iterator)
        assert (first['name'], second['name']) == (['v0'], ['v1'])
        return len(os.listdir('/proc/self/fd')) - before

    assert files_of_a_batch(packed_collate) == 0
    assert files_of_a_batch(pseudo_collate) == 6
