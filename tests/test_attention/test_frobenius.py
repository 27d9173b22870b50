"""The regularizer's check of what it captures: a sample's maps depend on that sample only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from adv_plugins import AttentionFrobenius
from adv_plugins.attention import AttentionMap

B, T, P, D, H = 3, 4, 5, 12, 2


class Frames(nn.Module):
    """Attention between the places of a frame, with time and batch folded in the order ``fold``."""

    def __init__(self, fold: str, inner: nn.Module) -> None:
        super().__init__()
        self.fold, self.attn = fold, inner

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, f'b t p d -> {self.fold}')
        out = self.attn(tokens, tokens, tokens, need_weights=False)[0]
        return rearrange(out, f'{self.fold} -> b t p d', b=len(x), t=x.shape[1])


class HeadsFirst(nn.Module):
    """An own attention with the axes (heads, batch, queries, keys), and no name for its heads."""

    def forward(self, x: Tensor) -> Tensor:
        q = rearrange(x, 'b t p (h d) -> h b (t p) d', h=H)
        torch.einsum('hbqd,hbkd->hbqk', q, q).softmax(-1)
        return x


class Mixing(nn.Module):
    """A model of which one sample sees another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Frames('(b t) p d', nn.MultiheadAttention(D, H, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + x.roll(1, 0))


def verify(model: nn.Module, batch: int = B, **options: Any) -> None:
    model.eval()
    base = torch.randn(batch, T, P, D)
    changed = base.clone()
    changed[0] = torch.randn(T, P, D)
    term = AttentionFrobenius(**options)
    recorded = []
    for x in (base, changed):
        with torch.no_grad(), term.record(model) as maps:
            model(x)
        recorded.append(maps)
    term.verify(*recorded, batch)


def test_right_maps_pass() -> None:
    verify(Frames('(b t) p d', nn.MultiheadAttention(D, H, batch_first=True)))
    # Time and batch are folded into the second axis of a time-first module.
    verify(Frames('p (b t) d', nn.MultiheadAttention(D, H)))
    verify(HeadsFirst(), batch=1)


@pytest.mark.parametrize(
    ('model', 'name', 'batch'),
    [
        (Frames('(t b) p d', nn.MultiheadAttention(D, H, batch_first=True)), 'attn', B),
        (Frames('p (t b) d', nn.MultiheadAttention(D, H)), 'attn', B),
        (HeadsFirst(), '', H),
        (Mixing(), 'inner.attn', B),
    ],
    ids=['time outermost', 'time-first', 'heads outermost', 'samples mixed'],
)
def test_maps_of_several_samples_in_one_are_an_error(
    model: nn.Module, name: str, batch: int
) -> None:
    message = rf"attention of '{name}': changing the first of {batch} samples.*attention=\[...\]"
    with pytest.raises(ValueError, match=message):
        verify(model, batch, option='attention')


def test_other_maps_that_cannot_be_used() -> None:
    term, sound = AttentionFrobenius(), torch.full((4, 2, 2), 0.5)

    def check(base: Tensor, changed: Tensor = sound, batch: int = 2) -> None:
        term.verify([AttentionMap('a', base)], [AttentionMap('a', changed)], batch)

    check(sound)
    masked = sound.clone()
    masked[0, 0], masked[1, 1] = 0, torch.nan
    check(masked, masked)
    with pytest.raises(ValueError, match=r"'a': rows of its map \(4, 2, 2\) do not sum to 1"):
        check(0.9 * sound)
    with pytest.raises(ValueError, match=r'its 4 maps \(2, 2\) cannot be divided among 3 samples'):
        check(sound, batch=3)
    with pytest.raises(ValueError, match='another shape'):
        check(sound, sound[:2])
    with pytest.raises(ValueError, match=r'2 maps of one batch and 1 of another.*modules=\[...\]'):
        term.verify([AttentionMap('a', sound)] * 2, [AttentionMap('a', sound)], 2)
