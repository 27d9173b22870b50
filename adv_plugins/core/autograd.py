"""Gradients computed before the trainer's backward, and how that backward delivers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from .compiling import not_compiled


def gradients(
    value: Tensor, inputs: Sequence[Tensor], retain_graph: bool = False, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Compute the gradients of a scalar, without side effects.

    No other gradient is computed, no ``.grad`` is written and no hook of a leaf is called.

    Args:
        value (Tensor): The scalar.
        inputs (Sequence[Tensor]): The tensors to differentiate with respect to.
        retain_graph (bool): Whether the graph is used again. Defaults to False.
        create_graph (bool): Whether the gradients are differentiated again. Defaults to False.

    Returns:
        tuple[Tensor | None, ...]: One per input; None where ``value`` does not depend on it.

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
        if 'derivative for' in str(error) or 'double backward' in str(error):
            raise RuntimeError(
                f'a layer after the CAM layer has no second derivative ({error}); write '
                'second_order=False, which holds the channel weights of the CAM constant, name a '
                'later cam_layer, or leave out compile'
            ) from error
        if 'modified by an inplace operation' in str(error):
            raise RuntimeError(
                'the model changes a tensor in place after it was used, which hides the gradient '
                f'of the inputs that an attack needs; write x = x - mean for x.sub_(mean) ({error})'
            ) from error
        if 'Recomputed values' in str(error):
            raise RuntimeError(
                'activation checkpointing repeats layers behind the CAM layer in fused kernels, '
                'which the forward had to leave; write second_order=False, leave these layers '
                "without checkpointing, or write attn_implementation='eager' (transformers) "
                f'({error})'
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
    """Disable hooks on the leaves: they are meant for the gradient of the trainer's backward.

    Those on features are part of the model: FSDP2 gathers a module by a hook on what it returns.
    """
    leaves = [value for value in inputs if value.is_leaf]
    hooks: list[dict[int, Any]] = [v._backward_hooks for v in leaves if v._backward_hooks]
    kept = [dict(entries) for entries in hooks]
    for entries in hooks:
        entries.clear()
    try:
        yield
    finally:
        for entries, before in zip(hooks, kept, strict=True):
            entries.update(before)


class InjectGradients(torch.autograd.Function):
    """A scalar whose backward delivers gradients that are already known.

    Its inputs are the parameters. The trainer's single backward therefore scales, accumulates and
    reduces these gradients like any others, and it reaches every parameter, whatever the step has
    left out.

    Apply it after the forwards that share the parameters, because backward runs the newest node
    first. Autograd then adds the gradients of those forwards to the known ones as they arrive and
    never holds a second set, and DistributedDataParallel can start to reduce at once.
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
                'has already computed the clean gradients and freed their graph; use an optimizer '
                'that does not need them'
            )
        return _scaled(ctx, scale)


def inject_gradients(value: Tensor, known: Mapping[Tensor, Tensor | None] | None) -> Tensor:
    """Give a scalar a backward that delivers gradients that are already known.

    Args:
        value (Tensor): The scalar, without a graph.
        known (Mapping[Tensor, Tensor | None], optional): The gradient of each parameter; None for a
            parameter that backward only has to reach. None for a scalar that has its own graph.

    Returns:
        Tensor: The same value.
    """
    if known is None:
        return value
    return cast(Tensor, InjectGradients.apply(value, known.values(), *known))


class _GradientOf(torch.autograd.Function):
    """Has the value of one scalar and the gradient of another."""

    @staticmethod
    def forward(ctx: Any, shown: Tensor, source: Tensor) -> Tensor:
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[None, Tensor]:
        return None, scale


def with_gradient_of(shown: Tensor, source: Tensor) -> Tensor:
    """The value of one scalar with the gradient of another.

    With it, a trainer that sums logged values differentiates what the step has computed.
    """
    return cast(Tensor, _GradientOf.apply(shown.detach(), source))


# In a compiled training step the backward would be compiled too.
@not_compiled
def _scaled(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
    """The known gradients times a scale; each is released once it is used."""
    scaled: list[Tensor | None] = []
    again = _keeps_graph()
    for index, grad in enumerate(ctx.known):
        if not again:
            # Never hold all scaled gradients beside all unscaled ones.
            ctx.known[index] = None
        scaled.append(None if grad is None else grad * scale)
        del grad
    return (None, None, *scaled)


# Whether another backward may follow (retain_graph=True); assumed where PyTorch is too old to tell.
_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, '_get_current_graph_task_keep_graph', lambda: True
)


def autograd_clock() -> int:
    """The sequence number of autograd's next node, used as a clock (it only grows)."""
    with torch.enable_grad():
        node = torch.zeros((), requires_grad=True).view_as(torch.zeros(())).grad_fn
    number: int = node._sequence_nr()  # type: ignore[union-attr]
    return number


def graph_nodes(value: Tensor) -> list[Any]:
    """All nodes in the graph of a scalar."""
    nodes: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return list(nodes)


def nodes_behind(value: Tensor, features: Sequence[Tensor]) -> list[Any]:
    """The nodes in the graph of a value that are reached without passing through ``features``.

    Where no input is among their leaves, the value depends on the inputs through ``features`` only.
    """
    ends = {(feature.grad_fn, feature.output_nr) for feature in features}
    nodes: set[Any] = set()
    waiting: list[tuple[Any, int]] = [(value.grad_fn, value.output_nr)]
    while waiting:
        edge = waiting.pop()
        if edge[0] is not None and edge not in ends and edge[0] not in nodes:
            nodes.add(edge[0])
            waiting.extend(edge[0].next_functions)
    return list(nodes)


def leaves_of(nodes: Iterable[Any]) -> list[Tensor]:
    """All leaves among the nodes of a graph, i.e. the tensors that a backward would reach."""
    return [node.variable for node in nodes if type(node).__name__ == 'AccumulateGrad']


def parameters_of(value: Tensor) -> list[Tensor]:
    """The parameters that a scalar depends on; of a sharded model they are the gathered ones."""
    leaves = leaves_of(graph_nodes(value))
    return [leaf for leaf in leaves if isinstance(leaf, torch.nn.Parameter)]


def depends_on_earlier_graph(nodes: Iterable[Any], clock: int) -> bool:
    """Whether a graph has nodes from before the step, which the step must not free.

    Args:
        nodes (Iterable): The nodes of the graph.
        clock (int): The :func:`autograd_clock` at the start of the step.
    """
    # Casts do not count: they hold nothing to free, and autocast reuses casts of weights.
    return any(
        node._sequence_nr() < clock and type(node).__name__ != 'ToCopyBackward0' for node in nodes
    )


def ran_in_fp16(nodes: Iterable[Any], inputs: Iterable[Tensor]) -> bool:
    """Whether any computation between the inputs and a scalar ran in fp16.

    There unscaled gradients underflow. The autocast may be the trainer's or one inside the model
    (accelerate wraps the forward). The inside of a compiled region is not visible.
    """
    return any(_in_fp16(entry) for entry in inputs) or any(
        entry.dtype is torch.float16 for node in nodes for entry in node._input_metadata
    )


def _in_fp16(inputs: Tensor) -> bool:
    device_type = inputs.device.type
    if inputs.dtype is torch.float16:
        return True
    enabled = torch.is_autocast_enabled(device_type)
    return enabled and torch.get_autocast_dtype(device_type) is torch.float16
