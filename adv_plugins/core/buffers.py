"""Keeping a forward from writing into the buffers of a model, whatever they are called.

Moving averages, centres and counters belong to the clean forward, as running statistics do. The
forwards of an attack and the adversarial forward get copies of them, which are then dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .norm import CLEAN, PREFIX, DualNorm, NormPath, is_batch_norm

Buffers = list[tuple[nn.Module, dict[str, Tensor]]]
"""The buffers of each module, by name."""


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
        # Batch norms whose buffers no forward has written, and the mode they were in.
        self._idle: set[tuple[nn.Module, bool]] = set()
        # The backward that the buffers are held in, and what ends that.
        self._backward = -1
        self._held = ExitStack()

    def copies(self) -> Buffers:
        """Copies of all buffers, for later forwards from the same state."""
        return _copies((m, dict(m.named_buffers(recurse=False))) for m in self._modules())

    @contextmanager
    def hold(self, learn: bool = False) -> Iterator[None]:
        """Inside the ``with`` block, unless it is a clean training forward, hold the buffers.

        Args:
            learn (bool): Whether the block is a forward, which shows the batch norms that need no
                copies. Defaults to False: a backward, of which checkpointing repeats some.
        """
        branch, tracking = self._path.branch, self._path.tracking
        if branch == CLEAN and tracking:
            yield
            return
        with self._hold(tracking) as held:
            yield
            if not learn:
                return
            self._idle.update(
                (module, module.training)
                for module, buffers in held
                if is_batch_norm(module) and _are_equal(module, buffers)
            )

    def hold_in_backward(self, value: Tensor) -> None:
        """Hold the buffers in every backward of a value of the adversarial forward, too.

        Activation checkpointing repeats parts of that forward there.
        """
        if value.requires_grad:
            value.register_hook(self._hold_until_backward_ends)  # type: ignore[no-untyped-call]

    def _hold_until_backward_ends(self, _: Tensor) -> None:
        running = torch._C._current_graph_task_id()
        if running == self._backward:
            return
        # A backward that failed has not called it.
        self._release()
        self._backward = running
        self._held.enter_context(self._hold(tracking=True))
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(self._release)

    def _release(self) -> None:
        self._backward = -1
        self._held.close()

    def _modules(self) -> list[nn.Module]:
        # The buffers of a scripted module cannot be replaced.
        return [m for m in self._adapter.modules() if not isinstance(m, torch.jit.ScriptModule)]

    @contextmanager
    def _hold(self, tracking: bool) -> Iterator[Buffers]:
        modules = self._modules()
        sizes = [len(module._buffers) for module in modules]
        held = [
            (module, buffers)
            for module in modules
            if module._buffers and (module, module.training) not in self._idle
            if not (tracking and _is_shared(module))
            if (buffers := dict(_clean_buffers(module)))
        ]
        try:
            with with_buffers(_copies(held)):
                yield held
        finally:
            for module, size in zip(modules, sizes, strict=True):
                # The first clean forward registers those that were added.
                for name in list(module._buffers)[size:]:
                    del module._buffers[name]


@contextmanager
def with_buffers(buffers: Buffers) -> Iterator[None]:
    """Inside the ``with`` block, modules have other buffers."""
    before = [(module, {n: module._buffers[n] for n in others}) for module, others in buffers]
    try:
        for module, others in buffers:
            module._buffers.update(others)
        yield
    finally:
        for module, own in before:
            module._buffers.update(own)


def _copies(buffers: Iterable[tuple[nn.Module, Mapping[str, Tensor]]]) -> Buffers:
    # One buffer may have several owners.
    memo: dict[int, Tensor] = {}
    return [
        (module, {n: memo.setdefault(id(b), b.clone()) for n, b in own.items()})
        for module, own in buffers
    ]


def _clean_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers of a module but for the auxiliary ones, which the adversarial forward moves."""
    for name, buffer in module._buffers.items():
        if buffer is not None and not (isinstance(module, DualNorm) and name.startswith(PREFIX)):
            yield name, buffer


def _is_shared(module: nn.Module) -> bool:
    """Whether both paths move the statistics of a norm, because it has no auxiliary ones."""
    return isinstance(module, DualNorm) and not module._auxiliary


def _are_equal(module: nn.Module, buffers: Mapping[str, Tensor]) -> bool:
    # By value, because F.batch_norm does not raise the version of the statistics that it writes.
    return all(torch.equal(module._buffers[n], buffer) for n, buffer in buffers.items())  # type: ignore[arg-type]
