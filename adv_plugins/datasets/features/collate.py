"""packed_collate: batches of many small tensors sent from workers as one block of memory."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from torch.utils.data import get_worker_info


@FUNCTIONS.register_module()
def packed_collate(items: Sequence[Any]) -> Any:
    """mmengine's ``pseudo_collate``, but workers send the tensors of a batch as one block.

    PyTorch sends each tensor in a file of its own, for which the main process connects to the
    worker. With three tensors per video this takes longer than reading the video, and more workers
    do not help, as the main process is the one that waits. The batch that arrives is the same.

    Args:
        items (Sequence): Items of a dataset, with tensors anywhere in them.

    Returns:
        Any: What ``pseudo_collate`` returns; in a worker, an object that becomes it when sent.

    Example:
        >>> train_dataloader = dict(collate_fn=dict(type='packed_collate'))
    """
    batch = pseudo_collate(items)
    return batch if get_worker_info() is None else _Packed(batch)


class _Packed:
    """A batch that is pickled as one block of tensors and the rest, and unpickled as itself."""

    def __init__(self, batch: Any) -> None:
        file = io.BytesIO()
        pickler = _TensorPickler(file)
        pickler.dump(batch)
        parts = [tensor.reshape(-1).view(torch.uint8) for tensor in pickler.tensors]
        # Every tensor begins at a multiple of 16 bytes, which suits every data type.
        sizes = [-(-len(part) // 16) * 16 for part in parts]
        block = torch.empty(sum(sizes), dtype=torch.uint8)
        for place, part in zip(block.split(sizes), parts, strict=True):
            place[: len(part)] = part
        types = [(tensor.dtype, tensor.shape) for tensor in pickler.tensors]
        self.parts = file.getvalue(), block, sizes, types

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, self.parts


class _TensorPickler(pickle.Pickler):
    """Collects the tensors and pickles their numbers instead."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        if type(value) is not torch.Tensor:
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _TensorUnpickler(pickle.Unpickler):
    """Puts the tensors back where their numbers are."""

    def __init__(self, file: io.BytesIO, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, number: int) -> torch.Tensor:
        return self.tensors[number]


def _unpack(
    data: bytes,
    block: torch.Tensor,
    sizes: Sequence[int],
    types: Sequence[tuple[torch.dtype, torch.Size]],
) -> Any:
    tensors = [_copy(place, *kind) for place, kind in zip(block.split(sizes), types, strict=True)]
    return _TensorUnpickler(io.BytesIO(data), tensors).load()


def _copy(place: torch.Tensor, dtype: torch.dtype, shape: torch.Size) -> torch.Tensor:
    """A tensor from its bytes in a block.

    A view would keep the whole block in memory for as long as a single label is kept. NumPy copies
    the bytes, as PyTorch would start threads for each tensor and compete with the workers.
    """
    tensor = torch.empty(shape, dtype=dtype)
    target = tensor.view(-1).view(torch.uint8).numpy()
    target[:] = place[: len(target)].numpy()
    return tensor
