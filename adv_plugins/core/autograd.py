"""Gradients taken ahead of the trainer's backward, and how they are handed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from .eager import not_compiled


def gradients(
    value: Tensor, inputs: Sequence[Tensor], retain_graph: bool = False, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradients of a scalar; nothing but these is computed, no ``.grad`` is touched and no
    hook of an input is called.

    Args:
        value (Tensor): The scalar.
        inputs (Sequence[Tensor]): What to differentiate by.
        retain_graph (bool): Whether the graph is used once more. Defaults to False.
        create_graph (bool): Whether the gradients are differentiated again. Defaults to False.

    Returns:
        tuple[Tensor | None, ...]: One an input; None where ``value`` does not depend on it.

    Raises:
        RuntimeError: The graph holds a reentrant activation checkpoint, or a layer that cannot
            be differentiated twice (fused attention, SyncBatchNorm) where that is needed.
    """
    try:
        # A backward under autocast would run fp32 regions of the forward in half precision.
        with torch.autocast(value.device.type, enabled=False), _without_hooks(inputs):
            return torch.autograd.grad(
                value,
                inputs,
                retain_graph=retain_graph or create_graph,
                create_graph=create_graph,
                allow_unused=True,
            )
    except RuntimeError as error:
        if 'derivative for' in str(error):
            raise RuntimeError(
                f'a layer behind the CAM layer has no second derivative ({error}); write '
                'second_order=False, which holds the channel weights of the CAM constant, or '
                'name a later cam_layer'
            ) from error
        if 'checkpoint' not in str(error):
            raise
        raise RuntimeError(
            'the model uses reentrant activation checkpointing, which cannot give the gradient of '
            'the inputs that an attack needs; write with_cp=False (MMAction2), leave '
            'activation_checkpointing out of the config (mmengine), write '
            'gradient_checkpointing_kwargs=dict(use_reentrant=False) (transformers), or call '
            'torch.utils.checkpoint.checkpoint(..., use_reentrant=False)'
        ) from error


@contextmanager
def _without_hooks(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Hooks on parameters are for the gradient that the trainer's backward brings."""
    hooks: list[dict[int, Any]] = [v._backward_hooks for v in inputs if v._backward_hooks]
    kept = [dict(entries) for entries in hooks]
    for entries in hooks:
        entries.clear()
    try:
        yield
    finally:
        for entries, before in zip(hooks, kept, strict=True):
            entries.update(before)


class InjectGradients(torch.autograd.Function):
    """A scalar whose backward hands out gradients that are known already.

    Its inputs are the parameters, so the trainer's one backward scales, accumulates and reduces
    them like any others, and reaches every parameter whatever else the step has left out.

    To be applied after the forwards that share the parameters: the node made last runs first. The
    gradients of those forwards are then added to the known ones as they come, instead of waiting
    for them as a second set, and DistributedDataParallel reduces the first of them at once.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, known: Sequence[Tensor | None], *parameters: Tensor
    ) -> Tensor:
        ctx.known = list(known)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'backward(create_graph=True) asks for second derivatives, but an adversarial step '
                'has taken the clean gradients ahead and let go of their graph; use an optimizer '
                'that does not need them'
            )
        return _scaled(ctx, scale)


def inject_gradients(value: Tensor, known: Mapping[Tensor, Tensor | None]) -> Tensor:
    """A scalar whose backward brings gradients that are known already.

    Args:
        value (Tensor): The scalar, without a graph.
        known (Mapping[Tensor, Tensor | None]): The gradient by each parameter; None for one that
            is only to be reached.

    Returns:
        Tensor: The same value.
    """
    return cast(Tensor, InjectGradients.apply(value, known.values(), *known))


class _GradientOf(torch.autograd.Function):
    """Shows one scalar and is differentiated as another."""

    @staticmethod
    def forward(ctx: Any, shown: Tensor, source: Tensor) -> Tensor:
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[None, Tensor]:
        return None, scale


def with_gradient_of(shown: Tensor, source: Tensor) -> Tensor:
    """The value of one scalar with the gradient of another.

    A trainer that sums the losses it logs then differentiates the sum that the step has computed.
    """
    return cast(Tensor, _GradientOf.apply(shown.detach(), source))


# Where the training step around it is compiled, a backward would be too.
@not_compiled
def _scaled(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
    """The known gradients times a scale; let go of as they are used."""
    scaled: list[Tensor | None] = []
    again = _keeps_graph()
    for index, grad in enumerate(ctx.known):
        if not again:
            # Never a second set of all of them.
            ctx.known[index] = None
        scaled.append(None if grad is None else grad * scale)
        del grad
    return (None, None, *scaled)


# Whether another backward may follow (retain_graph=True); an older PyTorch cannot tell.
_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, '_get_current_graph_task_keep_graph', lambda: True
)


def autograd_clock() -> int:
    """The sequence number that autograd gives to the next node, as a clock of graphs."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).view_as(torch.zeros(())).grad_fn
    number: int = node._sequence_nr()  # type: ignore[union-attr]
    return number


def graph_nodes(value: Tensor) -> list[Any]:
    """The nodes of the graph of a scalar."""
    nodes: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return list(nodes)


def leaves_of(nodes: Iterable[Any]) -> list[Tensor]:
    """All leaves that a scalar with these nodes has a gradient by."""
    return [node.variable for node in nodes if type(node).__name__ == 'AccumulateGrad']


def depends_on_earlier_graph(nodes: Iterable[Any], clock: int) -> bool:
    """Whether a scalar with these nodes depends on something computed before a time, whose graph
    is not the step's to free."""
    # A cast holds nothing that could be freed: autocast shares those of weights among forwards.
    return any(
        node._sequence_nr() < clock and type(node).__name__ != 'ToCopyBackward0' for node in nodes
    )


def ran_in_fp16(nodes: Iterable[Any], inputs: Iterable[Tensor]) -> bool:
    """Whether some of the way from inputs to a scalar is in fp16, where unscaled gradients
    underflow: under the trainer's autocast or, as accelerate has it, under one inside. What a
    compiled region does inside is not seen."""
    return any(_in_fp16(entry) for entry in inputs) or any(
        entry.dtype is torch.float16
        for node in nodes
        # torch < 2.2 does not tell.
        for entry in getattr(node, '_input_metadata', ())
    )


def _in_fp16(inputs: Tensor) -> bool:
    device_type = inputs.device.type
    if inputs.dtype is torch.float16:
        return True
    if hasattr(torch, 'get_autocast_dtype'):
        enabled = torch.is_autocast_enabled(device_type)
        return enabled and torch.get_autocast_dtype(device_type) is torch.float16
    # torch < 2.4 asks for CUDA without saying so, and its CPU autocast knows bfloat16 only.
    fp16 = torch.get_autocast_gpu_dtype() is torch.float16
    return device_type == 'cuda' and torch.is_autocast_enabled() and fp16
