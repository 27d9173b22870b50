"""Looking at a model with forwards that train nothing and leave no trace."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.modules.module import register_module_forward_hook

from .adapter import Adapter
from .batch import Batch, fresh
from .buffers import BufferGuard
from .norm import CLEAN, NormPath, is_batch_norm
from .randomness import private_random
from .recurrence import differentiable_recurrence
from .sharding import copy_whole, extremes, largest_of_all, local, shards

Calls = list[tuple[str, Any]]
"""Names of modules with what they returned, in order of completion."""
_SEED = 0


@dataclass(frozen=True)
class Probe:
    """A model, and a batch of noise to look at it with; from :func:`probing`."""

    adapter: Adapter
    batch: Batch
    target: Any

    def with_another_first_sample(self) -> Batch:
        """The batch, changed in its first sample only."""
        values = {}
        for name, value in self.batch.values.items():
            other = noise_like(value, self.adapter.model)
            values[name] = torch.cat([other[:1], value.detach()[1:]])
        return self.batch.replace(values).leaves()

    def forward(self, batch: Batch, names: Collection[str] | None = ()) -> tuple[Calls, Any]:
        """The outputs of the named modules, or of all for None, and the class scores."""
        model = self.adapter.model
        known = {module: name for name, module in model.named_modules()}
        # A module may have several names.
        known |= {model.get_submodule(name): name for name in names or ()}
        calls: Calls = []

        def note(module: nn.Module, _args: Any, output: Any) -> None:
            name = known.get(module, '')
            if name and (names is None or name in names):
                calls.append((name, output))

        handle = register_module_forward_hook(note)
        try:
            # All forwards draw the same dropout masks.
            with private_random(batch.device, _SEED):
                return calls, self.adapter.forward(batch, fresh(self.target)).logits
        finally:
            handle.remove()


@contextmanager
def probing(adapter: Adapter, batch: Batch, target: Any, path: NormPath) -> Iterator[Probe]:
    """Inside the block, forwards have running statistics and no dropout, and leave no trace.

    Args:
        adapter (Adapter): The model.
        batch (Batch): A batch of its inputs.
        target (Any): Its labels or data samples.
        path (NormPath): The path of the model's norms.

    Yields:
        Probe: With at most four samples, of noise with the batch's mean and deviation: what is
        found hardly depends on the batch, so that all processes of a run find the same.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        private_random(batch.device, _SEED),
        path.use(CLEAN, tracking=False),
        BufferGuard(adapter, path).hold(),
        _steady(adapter.model),
        _uncached_casts(),
        _all_modules_called(),
    ):
        count = extremes(adapter.model, min(4, batch.size))[0]
        batch, target = _some(adapter, batch.clone(), target, count)
        noise = {n: noise_like(values, adapter.model) for n, values in batch.values.items()}
        yield Probe(adapter, batch.replace(noise).leaves(), fresh(target))


def _some(adapter: Adapter, batch: Batch, target: Any, count: int) -> tuple[Batch, Any]:
    """The first samples."""
    index = torch.arange(count, device=batch.device)
    try:
        return batch.take(index), adapter.select(target, index)
    except TypeError:
        # A target of one's own may have no parts.
        return batch, target


def noise_like(values: Tensor, model: nn.Module) -> Tensor:
    """Normal noise with the mean and the standard deviation of values.

    The processes of a sharded model have the same noise, by which they see the same.
    """
    noise = torch.randn(values.shape, device=values.device)
    finite = values.detach()[values.isfinite()].float()
    none = finite.new_zeros(2)
    found = torch.stack([finite.std(correction=0), finite.mean()]) if len(finite) else none
    deviation, mean = largest_of_all(model, found).tolist()
    scaled: Tensor = noise * (deviation or 1.0) + mean
    return scaled.to(values.dtype)


@contextmanager
def _steady(model: nn.Module) -> Iterator[None]:
    """Inside the block, norms and layers without parts, as dropout is, are in eval mode.

    Models keep their mode, by which some choose what to compute (auxiliary heads).
    """
    modes = {
        module: module.training
        for module in model.modules()
        if is_batch_norm(module) or next(module.children(), None) is None
    }
    for module in modes:
        module.training = False
    try:
        with differentiable_recurrence(model):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _uncached_casts() -> Iterator[None]:
    """Inside the block, autocast keeps no cast weights: without gradients they have no graph."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def _all_modules_called() -> Iterator[None]:
    """Inside the block, PyTorch's Transformer layers call their parts, also without gradients."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def without_zeros(model: nn.Module) -> Iterator[None]:
    """Inside the block, weights that are all zero are not: they would hide what is before them.

    New heads often start at zero.
    """
    with torch.no_grad(), shards(model):
        zeros = [
            value
            for value in model.parameters()
            if value.ndim > 1 and value.is_floating_point() and _is_zero(value, model)
        ]
        # The same for all processes of a sharded model.
        generator = torch.Generator().manual_seed(0)
        with _keeping_versions(zeros):
            for value in zeros:
                noise = torch.randn(value.shape, generator=generator, device='cpu')
                copy_whole(value, 0.02 * noise)
    try:
        yield
    finally:
        with torch.no_grad(), shards(model), _keeping_versions(zeros):
            for value in zeros:
                value.zero_()


def _is_zero(value: Tensor, model: nn.Module) -> bool:
    return not extremes(model, bool(local(value).any()))[1]


@contextmanager
def _keeping_versions(values: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block, changes in place do not invalidate graphs: they are undone before use."""
    with ExitStack() as stack:
        for value in values:
            stack.enter_context(_unsafe_preserve_version_counter(value))
        yield
