"""The nets of the A-ART study, and replay: a forward with the attention maps of another one.

All nets are a ``FeatureTransformer``, so that one code trains and attacks them. They differ in how
much of an output the attention maps decide:

- ``transformer``: the paper's; a residual sum carries every frame around its attention.
- ``pooling``: learned queries pool the frames, and nothing goes around them; an attack reaches the
  output by the maps and by the pooled values.
- ``slots``: frames attend to learned slots, and only the slots' values go on; an attack reaches the
  output by the maps alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins.models import FeatureTransformer
from adv_plugins.models.transformer_layers import SelfAttention

NETS = ('transformer', 'pooling', 'slots')
HEADS = 4


def build_net(
    kind: str,
    modalities: Mapping[str, int],
    num_classes: int,
    multi_class: bool,
    width: int = 32,
    depth: int = 1,
    uniform: bool = False,
) -> FeatureTransformer:
    """A net of one of the three kinds.

    Args:
        kind (str): One of ``NETS``.
        modalities (Mapping[str, int]): Width of a frame's features by modality.
        num_classes (int): Number of classes.
        multi_class (bool): Whether a sequence may have several labels.
        width (int): Width of the net. Defaults to 32.
        depth (int): Layers of the ``'transformer'``. Defaults to 1.
        uniform (bool): Whether all valid frames get the same attention for good; not for
            ``'slots'``. Defaults to False.

    Returns:
        FeatureTransformer: The net.
    """
    net = FeatureTransformer(
        modalities, num_classes, width, depth, HEADS, mlp_ratio=2, multi_class=multi_class
    )
    for name in modalities:
        if kind == 'pooling':
            net.encoders[name] = nn.ModuleList()
            net.poolings[name] = QueryPooling(width, HEADS)
        elif kind == 'slots':
            net.encoders[name] = nn.ModuleList([SlotAttention(width, HEADS, slots=16)])
    if uniform:
        _switch_attention_off(net)
    return net


@torch.no_grad()
def _switch_attention_off(net: nn.Module) -> None:
    """Set queries and keys to 0, where the gradient of either vanishes: they stay there."""
    for module in net.modules():
        if isinstance(module, SelfAttention):
            for rows in (module.qkv.weight, module.qkv.bias):
                rows[: 2 * len(rows) // 3] = 0
        elif isinstance(module, QueryPooling):
            module.query.zero_()
            for rows in (module.key_value.weight, module.key_value.bias):
                rows[: len(rows) // 2] = 0


class QueryPooling(nn.Module):
    """Pool frames by attention, one learned query a head.

    Args:
        width (int): Size of a frame's vector, and of the result.
        num_heads (int): Attention heads; divides ``width``.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(num_heads, 1, width // num_heads))
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, T, width) over the frames where ``mask`` (B, T) is True."""
        k, v = self.key_value(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.query.expand(len(x), -1, -1, -1)
        pooled = F.scaled_dot_product_attention(query, k, v, attn_mask=mask[:, None, None])
        return pooled.flatten(1)


class SlotAttention(nn.Module):
    """Replace each frame by the values of the learned slots that it attends to.

    Args:
        width (int): Size of a frame's vector.
        num_heads (int): Attention heads; divides ``width``.
        slots (int): Number of slots of each head.
    """

    def __init__(self, width: int, num_heads: int, slots: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.keys = nn.Parameter(torch.randn(num_heads, slots, width // num_heads))
        self.values = nn.Parameter(torch.randn(num_heads, slots, width // num_heads))

    def forward(self, x: Tensor, _keys: Tensor) -> Tensor:
        """Encode frames (B, T, width); every frame has all slots, so none is masked."""
        query = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        keys, values = (p.expand(len(x), -1, -1, -1) for p in (self.keys, self.values))
        return F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)


@contextmanager
def recorded_maps() -> Iterator[list[Tensor]]:
    """Collect the attention maps of every head, (B, heads, Q, K), in the order of the calls."""
    maps: list[Tensor] = []
    original = F.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        maps.append(_probabilities(query, key, options.get('attn_mask')).detach())
        return original(query, key, value, **options)

    with _attention_by(record):
        yield maps


@contextmanager
def replayed_maps(maps: Sequence[Tensor]) -> Iterator[None]:
    """Let every forward of the block use these maps in place of its own.

    What the maps multiply, the values, is still computed from the input. The maps are taken from
    the first again after each forward; no gradient goes through them.

    Args:
        maps (Sequence[Tensor]): From :func:`recorded_maps`, of one forward of the same net with as
            many sequences.
    """
    turn = itertools.cycle(maps)

    def replay(query: Tensor, key: Tensor, value: Tensor, **_options: Any) -> Tensor:
        # An attack needs a graph to the input, also where only the maps depend on it.
        return next(turn) @ value + 0 * (query.sum() + key.sum())

    with _attention_by(replay):
        yield


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)


@contextmanager
def _attention_by(function: Any) -> Iterator[None]:
    """Let the nets call another function for ``F.scaled_dot_product_attention``."""
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = function
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original
