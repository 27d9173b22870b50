"""Reading attention maps out of a forward pass, without touching the model.

No module is hooked: PyTorch's fused encoder layers switch themselves off, and then round
differently, where a module inside them has a hook. Instead the few functions that attention is
computed with are replaced, for the length of the ``with`` block, by ones that call the original
and read its arguments, and PyTorch's hooks common to all modules tell which module is calling.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from ..core.batch import per_sample
from ..core.capture import find_module

# The genuine function: a softmax of ours must not be read, by an outer block either.
_softmax = torch.softmax
# torch.compile traces what is replaced here too; older versions of PyTorch cannot tell.
_compiling: Callable[[], bool] = getattr(torch.compiler, 'is_compiling', lambda: False)


@dataclass
class AttentionMap:
    """The attention probabilities of one call of one module.

    Args:
        name (str): Dotted name of the module; ``''`` for the model itself.
        weights (Tensor): Shape (N, Q, K), at least float32, with graph: how much of its attention
            each query gives to each key, before dropout, averaged over heads. N is the batch times
            whatever the module folds into it (windows, frames, places), the batch outermost. Rows
            sum to 1. A query that a mask forbids every key has a row of zeros where PyTorch
            computes the softmax (``F.scaled_dot_product_attention`` and fused layers), and what
            the module computes, NaN, where it computes the softmax itself.
        valid (Tensor, optional): Shape (N, K), bool: the keys that some query may attend to.
            Defaults to None: all of them.
    """

    name: str
    weights: Tensor
    valid: Tensor | None = None

    def per_sample(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The blocks of attention of each of ``count`` samples, and which frames are valid.

        Returns:
            tuple[Tensor, Tensor | None]: Weights of shape (count, W, Q, K), float32, and the mask
            of shape (count, W, K) where queries and keys are the same frames.
        """
        weights = per_sample(self.weights.float(), count)
        square = weights.shape[-1] == weights.shape[-2]
        # Cross-attention has no frames of its own to leave out.
        mask = None if self.valid is None or not square else per_sample(self.valid, count)
        return weights, mask

    def detach(self) -> AttentionMap:
        """The same map without its graph."""
        return replace(self, weights=self.weights.detach())

    def take(self, index: Tensor, batch_size: int) -> AttentionMap:
        """The blocks of attention of the samples at ``index`` of a batch."""
        weights, valid = (
            None if part is None else per_sample(part, batch_size)[index].flatten(0, 1)
            for part in (self.weights, self.valid)
        )
        assert weights is not None
        return replace(self, weights=weights, valid=valid)


@contextmanager
def capture_attention(
    model: nn.Module, modules: Sequence[str] | None = None
) -> Iterator[list[AttentionMap]]:
    """Record the attention maps of the forwards of a model, in the order of the calls.

    Read are, inside a running module of the model: ``F.scaled_dot_product_attention`` (timm,
    ``nn.MultiheadAttention`` without weights), PyTorch's fused inference kernels of
    ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer``, and each softmax over the last
    axis of a tensor with the axes (N, heads, Q, K), which is how MMAction2's own attention classes
    and timm's unfused ones are written. A map belongs to the innermost running module.
    Outputs, gradients and the random stream of the model stay as they are, bit for bit.

    Not read: regions under ``torch.compile``, functions imported by name (``from torch import
    softmax``) rather than looked up when called, nested tensors outside PyTorch's fused layers
    (in which they are as long as the batch's longest sequence), and the recomputation of activation
    checkpointing. Maps carry no graph in PyTorch's fused kernels and under reentrant
    checkpointing. ``torch.func.grad`` refuses to run inside the block.

    Args:
        model (nn.Module): The model.
        modules (Sequence[str], optional): Dotted names of the attention modules to read; nothing
            is computed for others. A named module's softmax over three axes (N, Q, K) is read too,
            such as MMAction2's non-local blocks. Defaults to None: all that compute attention.

    Yields:
        list[AttentionMap]: Filled while the block runs; stays usable after it.

    Raises:
        ValueError: A name that is no module of the model, or, on leaving the block without an
            exception, a named module that computed no attention.

    Example:
        >>> with capture_attention(model, ['blocks.0.attn']) as maps:
        ...     logits = model(x)
        >>> maps[0].weights.sum(-1)  # ones, shape (N, Q)
    """
    chosen = [modules] if isinstance(modules, str) else modules
    recorder = _Recorder(model, chosen)
    with ExitStack() as stack:
        enter = register_module_forward_pre_hook(recorder.enter)
        stack.callback(enter.remove)
        leave = register_module_forward_hook(recorder.leave, always_call=True)
        stack.callback(leave.remove)
        for owner, name, read in (
            (F, 'scaled_dot_product_attention', recorder.read_product),
            (torch, 'softmax', recorder.read_softmax),
            (Tensor, 'softmax', recorder.read_softmax),
            (torch, '_native_multi_head_attention', recorder.read_fused_attention),
            (torch, '_transformer_encoder_layer_fwd', recorder.read_fused_layer),
        ):
            stack.enter_context(_wrap_function(owner, name, read))
        yield recorder.maps
    recorder.check()


class _Recorder:
    """Knows which module is running, and turns what it computes into maps."""

    def __init__(self, model: nn.Module, chosen: Sequence[str] | None) -> None:
        self.maps: list[AttentionMap] = []
        self.names = {module: name for name, module in model.named_modules()}
        self.chosen: set[str] | None = None
        if chosen is not None:
            self.chosen = {self.names[find_module(model, name, 'modules')] for name in chosen}
        self.seen: dict[str, None] = {}
        # A thread of its own runs what it runs: data loading, replicas, the backward of a GPU.
        self.running: dict[int, list[nn.Module]] = defaultdict(list)

    def enter(self, module: nn.Module, _args: Any) -> None:
        # nn.Softmax is how a module computes attention, not the module that does.
        if _compiling() or module not in self.names or isinstance(module, nn.Softmax):
            return
        self.running[threading.get_ident()].append(module)

    def leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        running = [] if _compiling() else self.running[threading.get_ident()]
        if running and running[-1] is module:
            running.pop()

    def caller(self) -> nn.Module | None:
        """The innermost running module; None outside the model and in a recomputation."""
        if _compiling():
            return None
        running = self.running[threading.get_ident()]
        recomputing = torch._C._current_graph_task_id() != -1
        return running[-1] if running and not recomputing else None

    def wants(self, module: nn.Module) -> bool:
        name = self.names[module]
        self.seen.setdefault(name)
        return self.chosen is None or name in self.chosen

    def check(self) -> None:
        """See that each chosen module computed attention."""
        silent = sorted(name for name in self.chosen or () if name not in self.seen)
        if silent:
            others = ', '.join(repr(name) for name in self.seen)
            raise ValueError(
                f'modules={silent!r} computed no attention that could be read; '
                + (
                    f'name modules that did: {others}'
                    if others
                    else 'no module of the model did: call the model inside the block, uncompiled'
                )
            )

    def read_product(
        self,
        _output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """Read a call of ``F.scaled_dot_product_attention``."""
        module = self.caller()
        if module is None or query.is_nested or not self.wants(module):
            return
        with _no_side_effects(query):
            if enable_gqa:
                key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
            if is_causal:
                attn_mask = query.new_ones(query.shape[-2], key.shape[-2]).tril().bool()
            self.add(module, *_attention(query, key, attn_mask, scale))

    def read_softmax(
        self, output: Tensor, input: Tensor, dim: int | None = None, *_: Any, **__: Any
    ) -> None:
        """Read a call of ``softmax`` that looks like attention."""
        module = self.caller()
        if module is None or output.is_nested or dim not in (-1, output.ndim - 1):
            return
        # (N * heads, Q, K) in nn.MultiheadAttention. Elsewhere three axes may as well be the class
        # scores of several clips.
        packed = isinstance(module, nn.MultiheadAttention) and output.ndim == 3
        least = 3 if packed or self.chosen is not None else 4
        if output.ndim < least or not self.wants(module):
            return
        with _no_side_effects(output):
            if torch.finfo(output.dtype).bits < 32:
                output = _softmax(input.float(), dim=-1)
            if packed:
                input, output = (
                    rearrange(x, '(n h) q k -> n h q k', h=module.num_heads)
                    for x in (input, output)
                )
            self.add(module, output, input)

    def read_fused_attention(self, _output: Any, *args: Any) -> None:
        """Read a call of the inference kernel of ``nn.MultiheadAttention``."""
        module = self.caller()
        if isinstance(module, nn.MultiheadAttention):
            query, mask, mask_type = args[0], args[9], args[12]
            self.add_fused(module, query, mask, mask_type)

    def read_fused_layer(self, _output: Any, *args: Any) -> None:
        """Read a call of the inference kernel of ``nn.TransformerEncoderLayer``."""
        layer = self.caller()
        if isinstance(layer, nn.TransformerEncoderLayer):
            query, mask, mask_type = args[0], args[-2], args[-1]
            norm = layer.norm1 if layer.norm_first else None
            self.add_fused(layer.self_attn, query, mask, mask_type, norm)

    def add_fused(
        self,
        module: nn.MultiheadAttention,
        query: Tensor,
        mask: Tensor | None,
        mask_type: int | None,
        norm: nn.LayerNorm | None = None,
    ) -> None:
        """Add the map that a fused kernel of self-attention keeps to itself."""
        if not self.wants(module):
            return
        with _no_side_effects(query):
            allowed: Tensor | None = None
            if query.is_nested:
                lengths = torch.tensor([len(x) for x in query.unbind()], device=query.device)
                query = query.to_padded_tensor(0.0)
                steps = torch.arange(query.shape[1], device=query.device)
                allowed = (steps < lengths[:, None])[:, None, None]
            elif mask is not None:
                # To the kernels each entry that is not 0 forbids; type 1 is (N, K).
                allowed = ~mask.bool()
                allowed = allowed[:, None, None] if mask_type == 1 else allowed
            if norm is not None:
                query = F.layer_norm(query, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            size, bias = 2 * module.embed_dim, module.in_proj_bias
            packed = F.linear(
                query, module.in_proj_weight[:size], None if bias is None else bias[:size]
            )
            heads = rearrange(packed, 'n t (two h d) -> two n h t d', two=2, h=module.num_heads)
            self.add(module, *_attention(heads[0], heads[1], allowed, None))

    def add(self, module: nn.Module, probabilities: Tensor, masked: Tensor | None) -> None:
        """Add a map.

        Args:
            module (nn.Module): Whose it is.
            probabilities (Tensor): Shape (N, ..., heads, Q, K), or with three axes (N, Q, K),
                or with two (Q, K).
            masked (Tensor, optional): What the softmax was taken of, of the same shape; None
                where there is no mask.
        """
        weights = _with_heads(probabilities).mean(-3).flatten(0, -3)
        valid = None
        if masked is not None:
            # A mask may as well be the smallest finite number: no score is anywhere near it.
            forbidden = torch.finfo(masked.dtype).min / 2
            valid = (_with_heads(masked.detach()).amax((-3, -2)) > forbidden).flatten(0, -2)
        self.maps.append(AttentionMap(self.names[module], weights, valid))


def _with_heads(scores: Tensor) -> Tensor:
    """Give (N, Q, K) or (Q, K) the axes (N, heads, Q, K)."""
    if scores.ndim == 2:
        scores = scores[None]
    return scores[:, None] if scores.ndim == 3 else scores


def _attention(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor | None]:
    """The probabilities that ``F.scaled_dot_product_attention`` keeps to itself.

    Args:
        query (Tensor): Shape (..., Q, D).
        key (Tensor): Shape (..., K, D).
        mask (Tensor, optional): What broadcasts to (..., Q, K): bool, True where attention is
            allowed, or what to add to the scores.
        scale (float, optional): Factor of the scores; None is 1 / sqrt(D).

    Returns:
        tuple[Tensor, Tensor | None]: The probabilities, and with a mask the masked scores.
    """
    precision = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query.to(precision) * scale) @ key.to(precision).transpose(-2, -1)
    if mask is None:
        return _softmax(scores, dim=-1), None
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    # A softmax over nothing is NaN, and its gradient would be NaN in every row.
    nothing = (scores == -math.inf).all(-1, keepdim=True)
    probabilities = _softmax(scores.masked_fill(nothing, 0.0), dim=-1)
    return probabilities.masked_fill(nothing, 0.0), scores


@contextmanager
def _no_side_effects(tensor: Tensor) -> Iterator[None]:
    """Compute in full precision, and leave no trace in what the model computes.

    Activation checkpointing compares what autograd saves in a forward with what it saves in the
    recomputation, in which nothing is read: what is saved here must not be counted.
    """
    with (
        torch.autocast(tensor.device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
    ):
        yield


@contextmanager
def _wrap_function(owner: Any, name: str, read: Callable[..., None]) -> Iterator[None]:
    """Have ``read`` see the output and the arguments of each call of ``owner.name``."""
    original = getattr(owner, name)
    inherited = name not in vars(owner)

    @functools.wraps(original)
    def reading(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        read(output, *args, **kwargs)
        return output

    setattr(owner, name, reading)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
