"""Keeping a forward from writing into the buffers of a model, whatever they are called.

Moving averages, centres and counters belong to the clean forward, as running statistics do. The
forwards of an attack and the adversarial forward get copies of them, which are then dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .norm import CLEAN, PREFIX, DualNorm, NormPath, is_batch_norm


class BufferGuard:
    """Gives the forwards of an attack, and the adversarial forward, copies of a model's buffers.

    A converted norm takes care of its own statistics in its ``forward``. But a model may also pass
    them to a function (``F.batch_norm(x, self.bn.running_mean, ...)``), without that ``forward``.
    The first guarded forward shows for which batch norms it does. The others get no copies after
    it, because they are many and small.

    Args:
        adapter (Adapter): The model, and what else its forward may write state into.
        path (NormPath): The path of its norms: it tells which forward is running.
    """

    def __init__(self, adapter: Adapter, path: NormPath) -> None:
        self._adapter = adapter
        self._path = path
        # Batch norms whose buffers no forward has written, by the mode of the model.
        self._idle: dict[bool, set[nn.Module]] = {True: set(), False: set()}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Inside the ``with`` block, unless it is a clean training forward, hold the buffers."""
        branch, tracking = self._path.branch, self._path.tracking
        if branch == CLEAN and tracking:
            yield
            return
        idle = self._idle[self._adapter.model.training]
        held = [
            (module, buffers)
            for module in self._adapter.modules()
            if module not in idle and not (tracking and _is_shared(module))
            if (buffers := dict(_clean_buffers(module)))
        ]
        copies: dict[int, Tensor] = {}
        for module, buffers in held:
            for name, buffer in buffers.items():
                # One buffer may have several owners.
                module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
        try:
            yield
            idle.update(
                module
                for module, buffers in held
                if is_batch_norm(module) and _are_equal(module, buffers)
            )
        finally:
            for module, buffers in held:
                module._buffers.update(buffers)


def _clean_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers of a module but for the auxiliary ones, which the adversarial forward moves."""
    if isinstance(module, torch.jit.ScriptModule):
        # Its buffers cannot be replaced.
        return
    for name, buffer in module._buffers.items():
        if buffer is not None and not (isinstance(module, DualNorm) and name.startswith(PREFIX)):
            yield name, buffer


def _is_shared(module: nn.Module) -> bool:
    """Whether both paths move the statistics of a norm, because it has no auxiliary ones."""
    return isinstance(module, DualNorm) and not module._auxiliary


def _are_equal(module: nn.Module, buffers: Mapping[str, Tensor]) -> bool:
    # By value, because F.batch_norm does not raise the version of the statistics that it writes.
    return all(torch.equal(module._buffers[n], buffer) for n, buffer in buffers.items())  # type: ignore[arg-type]
