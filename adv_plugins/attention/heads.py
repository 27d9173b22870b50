"""Which axis of an attention map holds the heads.

A map has the axes (..., Q, K). Those before the queries are the batch (outermost), the heads, and
whatever the module folds beside them: windows, blocks, frames. Their sizes come first: the module
says how many heads it has, and its input how many samples. Where sizes leave a choice, the memory
of query and key decides, or a look at which places of the module's input a head reads.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

NUMBERS = (
    'num_heads', 'num_attention_heads', 'heads', 'n_heads', 'n_head', 'nhead', 'nheads', 'num_head',
)  # fmt: skip


class Reading(NamedTuple):
    """Where the heads are.

    Args:
        axis (int, optional): Their axis, after the split; None if there is none to average over.
        split (tuple[int, ...]): The sizes that the first axis is split into, where the heads are
            folded into it. Defaults to (): not folded.
    """

    axis: int | None
    split: tuple[int, ...] = ()

    def heads_first(self, scores: Tensor) -> Tensor:
        """Move the heads of (..., Q, K) to the front."""
        if self.split:
            scores = scores.view(*self.split, *scores.shape[1:])
        return scores[None] if self.axis is None else scores.movedim(self.axis, 0)


SINGLE = Reading(None)
# A reading that only a probe could find, by module: other batches may come without a graph.
_probed: weakref.WeakKeyDictionary[nn.Module, Reading] = weakref.WeakKeyDictionary()


def declared_heads(module: nn.Module) -> int | None:
    """The number of heads by one of its usual names; None if the module does not say it."""
    numbers = (getattr(module, name, None) for name in NUMBERS)
    return next((n for n in numbers if type(n) is int and n > 0), None)


def batch_of(given: Tensor | None, queries: int) -> int | None:
    """The number of samples (or windows) in a module's input; None if unknown."""
    if given is None:
        return None
    first, second = given.shape[:2]
    # nn.MultiheadAttention and its kin take (T, N, C).
    return second if given.ndim == 3 and first == queries != second else first


def folds_heads(first: int, heads: int | None, batch: int | None) -> bool:
    """Whether the first axis of a map (N, Q, K) holds several heads beside the batch."""
    if heads is None or heads == 1 or batch is None:
        return False
    return first % (batch * heads) == 0


def find_heads(
    module: nn.Module,
    lead: Sequence[int],
    heads: int | None,
    given: Tensor | None,
    sources: Sequence[Tensor],
) -> Reading | None:
    """Find the heads of a map.

    Args:
        module (nn.Module): The module that computed it.
        lead (Sequence[int]): The sizes of the axes before the queries.
        heads (int, optional): The number of heads, if a module says it.
        given (Tensor, optional): The input of that module.
        sources (Sequence[Tensor]): Query and key, or the scores: tensors with the same leading
            axes and the queries or keys next.

    Returns:
        Reading | None: None if nothing tells the axes apart.
    """
    above, batch = Reading(_axis_above_channels(sources)), batch_of(given, sources[0].shape[-2])
    if heads is None and len(lead) == 2:
        # (N, heads), as nearly everywhere.
        return above if above.axis == 0 and lead[0] != batch else Reading(1)
    queries = sources[0].shape[-2]
    if heads is not None and queries == heads > 1 and heads not in lead and lead[0] % heads:
        # (N, Q, heads, K): the heads are where the queries should be.
        return None
    readings = _possible(lead, heads, batch)
    if len(readings) == 1:
        return readings[0]
    if above in readings:
        return above
    if _probed.get(module) in readings:
        return _probed[module]
    reading = None if given is None else _probe(readings, given, sources)
    if reading is not None:
        _probed[module] = reading
    elif all(r.split for r in readings):
        # Only the order of batch and heads is open: PyTorch's own layers have the batch outermost.
        reading = readings[0]
    return reading


def _possible(lead: Sequence[int], heads: int | None, batch: int | None) -> list[Reading]:
    """The readings that the sizes allow."""
    if not lead or heads == 1:
        return [SINGLE]
    folds: list[Reading] = []
    if heads is not None and lead[0] % heads == 0 and lead[0] != batch:
        folds = [Reading(1, (-1, heads))]
        folds += [Reading(0, (heads, -1))] if lead[0] > heads else []
    if len(lead) == 1:
        return folds or [SINGLE]
    own = [Reading(axis) for axis, size in enumerate(lead) if size == heads]
    # The batch comes first, unless no other axis can be the heads.
    own = [r for r in own if r.axis != 0] or ([] if lead[0] == batch else own)
    exactly = heads is not None and batch is not None and lead[0] == batch * heads
    if own or exactly:
        return own + (folds if exactly and Reading(0) not in own else [])
    # No axis has the size that the module says, or it says none.
    return [Reading(axis) for axis in range(1, len(lead))] + folds


def _axis_above_channels(sources: Sequence[Tensor]) -> int | None:
    """The axis that was split out of the channels of one projection.

    In memory it lies directly above the channels of a head, and windows lie above the tokens. A
    copy in the order of the axes shows nothing.
    """
    found = set()
    for source in sources:
        lead, strides = source.shape[:-2], source.stride()
        if 1 in source.shape[1:]:
            continue  # The stride of such an axis means nothing.
        if strides[-1] == 1:
            step = source.shape[-1]
        elif strides[-2] == 1 and strides[-1] == source.shape[-2]:
            step = source.shape[-1] * strides[-1]  # Convolutions have channels above places.
        else:
            continue
        found |= {axis for axis, size in enumerate(lead) if size > 1 and strides[axis] == step}
    return found.pop() if len(found) == 1 else None


def _probe(readings: Sequence[Reading], given: Tensor, sources: Sequence[Tensor]) -> Reading | None:
    """The one reading whose heads read the same places of the module's input.

    Two windows, blocks or samples read different places. The gradient tells who reads what.
    """
    if not given.requires_grad:
        return None
    shared = [_shared_places(reading, given, sources) for reading in readings]
    same = [r for r, share in zip(readings, shared, strict=True) if share > 0.99]
    return same[0] if len(same) == 1 and sorted(shared)[-2] < 0.9 else None


def _shared_places(reading: Reading, given: Tensor, sources: Sequence[Tensor]) -> float:
    """How much of what one of three heads reads in a window, all of them read: from 0 to 1."""
    reads = []
    # Where batch and heads are mixed up, neighbours differ, or the first and the last do.
    for head in (0, 1, -1):
        total = torch.zeros_like(given)
        for source in sources:
            if not source.requires_grad:
                continue
            seed = torch.zeros_like(source)
            one = reading.heads_first(seed)
            one = one[min(head, len(one) - 1)]
            one = one[(0,) * (one.ndim - 2)]
            # A constant would vanish in the backward of a norm.
            one.copy_(torch.arange(one.numel(), device=one.device).cos().view(one.shape))
            (slope,) = torch.autograd.grad(source, given, seed, True, allow_unused=True)
            total += 0 if slope is None else slope.abs()
        reads.append(total > 1e-4 * total.max())
    either, all_of_them = torch.stack(reads).any(0).sum(), torch.stack(reads).all(0).sum()
    return float(all_of_them / either) if either else 0.0
