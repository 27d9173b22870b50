"""Capturing attention maps in a forward pass; leaves the model unchanged.

No module gets a hook of its own, because a hook inside PyTorch's fused encoder layers switches the
fused kernel off, which changes the rounding. Instead, the few functions that compute attention are
wrapped during the ``with`` block: the wrappers call the original and read its arguments. PyTorch's
global module hooks tell which module is calling.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from ..core.capture import find_module
from .heads import Reading, batch_of, declared_heads, find_heads, folds_heads
from .maps import AttentionMap

# The original function: our own softmax must not be captured, not even by an outer block.
_softmax = torch.softmax
# torch.compile also traces the wrapped functions.
_compiling = torch.compiler.is_compiling


@contextmanager
def capture_attention(
    model: nn.Module, modules: Sequence[str] | None = None
) -> Iterator[list[AttentionMap]]:
    """Capture the attention maps of a model's forwards, in the order of the calls.

    These calls inside a running module of the model are captured:
    ``F.scaled_dot_product_attention`` (timm, ``nn.MultiheadAttention`` without weights), PyTorch's
    fused inference kernels of ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer``, and
    every softmax over the last axis of at least four, as in MMAction2's own attention classes and
    timm's unfused ones, or of three where a module with several heads folds them into the first. A
    map is attributed to the innermost running module. The model's outputs, gradients and random
    stream do not change by a single bit.

    Four axes are (N, heads, Q, K) unless something tells otherwise. Otherwise the heads are found
    by their number (``num_heads`` or the like, of the module or its parent), by the memory of query
    and key, or, once for each module, by gradients: heads read the same places of the module's
    input, windows do not.

    Some calls are not captured: those in regions under ``torch.compile``, of functions imported by
    name (``from torch import softmax``), on nested tensors outside PyTorch's fused layers, and in
    the recomputation of activation checkpointing. Inside fused layers, maps of nested tensors are
    padded to the longest sequence of the batch. Maps carry no graph in PyTorch's fused kernels and
    under reentrant checkpointing. ``torch.func.grad`` refuses to run inside the block.

    Args:
        model (nn.Module): The model.
        modules (Sequence[str], optional): Dotted names of the attention modules to capture; nothing
            is computed for others. For a named module, a softmax over three axes (N, Q, K) is
            captured too, as in MMAction2's non-local blocks. Defaults to None: all modules that
            compute attention.

    Yields:
        list[AttentionMap]: Filled while the block runs; still usable after it.

    Raises:
        ValueError: A name is not a module of the model, or a named module computed no attention
            (raised on leaving the block without an exception). Raised in the forward: nothing tells
            which axis of a map holds the heads.

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


class _Call(NamedTuple):
    """A running module and the first tensor that it was called with."""

    module: nn.Module
    given: Tensor | None


class _Recorder:
    """Tracks which module is running, and turns its attention calls into maps."""

    def __init__(self, model: nn.Module, chosen: Sequence[str] | None) -> None:
        self.maps: list[AttentionMap] = []
        self.names = {module: name for name, module in model.named_modules()}
        self.chosen: set[str] | None = None
        if chosen is not None:
            self.chosen = {self.names[find_module(model, name, 'modules')] for name in chosen}
        self.seen: dict[str, None] = {}
        # By thread: data loading, replicas and the backward on a GPU run in threads of their own.
        self.running: dict[int, list[_Call]] = defaultdict(list)

    def enter(self, module: nn.Module, args: Any) -> None:
        # nn.Softmax is only a part of an attention module; its parent gets the map.
        if _compiling() or module not in self.names or isinstance(module, nn.Softmax):
            return
        tensors = (x for x in args if isinstance(x, Tensor) and not x.is_nested)
        given = next((x for x in tensors if x.is_floating_point() and x.ndim > 1), None)
        self.running[threading.get_ident()].append(_Call(module, given))

    def leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        running = [] if _compiling() else self.running[threading.get_ident()]
        if running and running[-1].module is module:
            running.pop()

    def caller(self) -> nn.Module | None:
        """The innermost running module; None outside the model and during recomputation."""
        if _compiling():
            return None
        running = self.running[threading.get_ident()]
        recomputing = torch._C._current_graph_task_id() != -1
        return running[-1].module if running and not recomputing else None

    def split(self) -> tuple[int | None, Tensor | None]:
        """The number of heads that the running module, or its parent, says, and its input."""
        calls = self.running[threading.get_ident()][::-1]
        heads, start = declared_heads(calls[0].module), 0
        if heads is None and len(calls) > 1:
            # A part of a module may be called with split heads, so its own input tells no batch.
            parent = declared_heads(calls[1].module) or 1
            heads, start = (parent, 1) if parent > 1 else (None, 0)
        # A module that is called by keywords shows no input; what runs it has the same batch.
        inputs = (call.given for call in calls[start:])
        return heads, next((given for given in inputs if given is not None), None)

    def wants(self, module: nn.Module) -> bool:
        name = self.names[module]
        self.seen.setdefault(name)
        return self.chosen is None or name in self.chosen

    def check(self) -> None:
        """Raise a ValueError unless each chosen module computed attention."""
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
        output: Tensor,
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
            # Grouped keys have fewer heads than the map.
            sources = (query,) if enable_gqa else (query, key)
            reading = self.read_axes(module, output.shape[:-2], *sources)
            if enable_gqa:
                key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
            if is_causal:
                attn_mask = query.new_ones(query.shape[-2], key.shape[-2]).tril().bool()
            self.add(module, *_attention(query, key, attn_mask, scale), reading)

    def read_softmax(
        self, output: Tensor, input: Tensor, dim: int | None = None, *_: Any, **__: Any
    ) -> None:
        """Read a call of ``softmax`` that looks like attention."""
        module = self.caller()
        if module is None or output.is_nested or dim not in (-1, output.ndim - 1):
            return
        # Three axes without heads may just as well be the class scores of several clips.
        if output.ndim < 4 and self.chosen is None and not self.has_packed_heads(module, output):
            return
        if output.ndim < 3 or not self.wants(module):
            return
        with _no_side_effects(output):
            reading = self.read_axes(module, output.shape[:-2], input)
            if torch.finfo(output.dtype).bits < 32:
                output = _softmax(input.float(), dim=-1)
            self.add(module, output, input, reading)

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
        """Recompute the map that a fused self-attention kernel does not return."""
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
                # In the kernels, nonzero entries are masked out; a mask of type 1 is (N, K).
                allowed = ~mask.bool()
                allowed = allowed[:, None, None] if mask_type == 1 else allowed
            if norm is not None:
                query = F.layer_norm(query, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            size, bias = 2 * module.embed_dim, module.in_proj_bias
            packed = F.linear(
                query, module.in_proj_weight[:size], None if bias is None else bias[:size]
            )
            heads = rearrange(packed, 'n t (two h d) -> two n h t d', two=2, h=module.num_heads)
            self.add(module, *_attention(heads[0], heads[1], allowed, None), Reading(1))

    def has_packed_heads(self, module: nn.Module, scores: Tensor) -> bool:
        """Whether scores of three axes are (N * heads, Q, K)."""
        if scores.ndim != 3:
            return False
        if isinstance(module, nn.MultiheadAttention):
            return True
        heads, given = self.split()
        return folds_heads(len(scores), heads, batch_of(given, scores.shape[1]))

    def read_axes(self, module: nn.Module, lead: Sequence[int], *sources: Tensor) -> Reading:
        """Which of the axes before queries and keys the heads are, see :func:`find_heads`.

        Raises:
            ValueError: It cannot be told.
        """
        if isinstance(module, nn.MultiheadAttention) and len(lead) < 3:
            return Reading(1) if len(lead) == 2 else Reading(1, (-1, module.num_heads))
        heads, given = self.split()
        # Learned queries may lack the axis of the samples.
        sources = tuple(source.expand(*lead, -1, -1) for source in sources)
        reading = find_heads(module, lead, heads, given, sources)
        if reading is None:
            number = 'says no number of heads' if heads is None else f'has {heads} heads'
            raise ValueError(
                f'the attention of {self.names[module]!r} has the axes {tuple(lead)} before '
                'queries and keys, and nothing tells which of them holds the heads: the module '
                f'{number} (num_heads); an input that requires a gradient may tell; otherwise '
                'leave the module out: write modules=[...] with the names of the others '
                '(attention=[...] in the recipe AART)'
            )
        return reading

    def add(
        self,
        module: nn.Module,
        probabilities: Tensor,
        mask: Tensor | None,
        reading: Reading,
    ) -> None:
        """Add a map.

        Args:
            module (nn.Module): The module that computed it.
            probabilities (Tensor): Shape (..., Q, K).
            mask (Tensor, optional): Broadcastable to (..., Q, K): either bool, True where attention
                is allowed, or values to add to the scores, or their sum, the input of the softmax.
                None if there is no mask.
            reading (Reading): Where the heads are.
        """
        weights = reading.heads_first(probabilities).mean(0)
        weights = weights.reshape(-1, *weights.shape[-2:])
        valid = None
        if mask is not None:
            # Attention also takes one of the keys alone.
            mask = mask[(None,) * (2 - mask.ndim)] if mask.ndim < 2 else mask
            # The queries first: most masks are the same for all.
            if mask.dtype == torch.bool:
                seen = mask.any(-2, keepdim=True)
            else:
                # Masks may use the smallest finite number instead of -inf; no score comes near it.
                seen = mask.detach().amax(-2, keepdim=True) > torch.finfo(mask.dtype).min / 2
            seen = seen.expand(*probabilities.shape[:-2], 1, probabilities.shape[-1])
            valid = reading.heads_first(seen).any(0).reshape(-1, seen.shape[-1])
        self.maps.append(AttentionMap(self.names[module], weights, valid))


def _attention(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor | None]:
    """The probabilities that ``F.scaled_dot_product_attention`` does not return.

    Args:
        query (Tensor): Shape (..., Q, D).
        key (Tensor): Shape (..., K, D).
        mask (Tensor, optional): Broadcastable to (..., Q, K): either bool, True where attention
            is allowed, or values to add to the scores.
        scale (float, optional): Factor of the scores; None means 1 / sqrt(D).

    Returns:
        tuple[Tensor, Tensor | None]: The probabilities, and the mask.
    """
    precision = torch.promote_types(query.dtype, torch.float32)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query.to(precision) * scale) @ key.to(precision).transpose(-2, -1)
    if mask is None:
        return _softmax(scores, dim=-1), None
    # With all keys masked, softmax gives NaN, and its gradient would be NaN in every row.
    if mask.dtype == torch.bool:
        something = mask.any(-1, keepdim=True)
        scores.masked_fill_(~mask & something, -math.inf)
    else:
        something = (mask > -math.inf).any(-1, keepdim=True)
        scores += mask.masked_fill(~something, 0.0)
    return _softmax(scores, dim=-1) * something, mask


@contextmanager
def _no_side_effects(tensor: Tensor) -> Iterator[None]:
    """Compute in full precision, without side effects on the model.

    Activation checkpointing compares the tensors that autograd saves in a forward with those saved
    in the recomputation, where nothing is captured. Tensors saved here must therefore not count.
    They are saved without their graph: a node that held its own output would never be freed.
    """
    with (
        torch.autocast(tensor.device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda saved: saved),
    ):
        yield


@contextmanager
def _wrap_function(owner: Any, name: str, read: Callable[..., None]) -> Iterator[None]:
    """Pass the output and the arguments of each call of ``owner.name`` to ``read``."""
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
