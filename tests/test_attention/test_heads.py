"""Which axis of an attention map holds the heads: read from where the map comes from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adv_plugins import make_adversarial
from adv_plugins.attention import capture_attention

D, T = 12, 5


class Attention(nn.Module):
    """Self-attention with heads, within windows of T tokens, whose axes have the order ``layout``.

    The letters: batch b, windows w, heads h, tokens t, channels d.
    """

    def __init__(
        self, layout: str, heads: int, fused: bool = False, named: bool = True, copies: bool = False
    ) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(D * heads, D * heads), nn.Linear(D * heads, D * heads)
        self.layout, self.fused, self.copies = layout, fused, copies
        self.h = heads
        if named:
            self.num_heads = heads

    def heads(self, x: Tensor, layout: str) -> Tensor:
        places = '(w t)' if 'w' in layout else 't'
        split = rearrange(x, f'b {places} (h d) -> {layout} t d', t=T, h=self.h)
        return split.contiguous() if self.copies else split

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.heads(self.q(x), self.layout), self.heads(self.k(x), self.layout)
        if self.fused:
            F.scaled_dot_product_attention(q, k, k)
        else:
            ((q @ k.transpose(-2, -1)) / math.sqrt(D)).softmax(-1)
        return x

    def expected(self, x: Tensor) -> Tensor:
        q, k = (self.heads(layer(x), 'b w h') for layer in (self.q, self.k))
        p = torch.einsum('bwhqd,bwhkd->bwhqk', q, k).div(math.sqrt(D)).softmax(-1)
        return p.mean(2).flatten(0, 1)


def tokens(batch: int, windows: int, heads: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, windows * T, heads * D, generator=generator, requires_grad=True)


@pytest.mark.parametrize('fused', [True, False], ids=['fused', 'softmax'])
@pytest.mark.parametrize(
    ('layout', 'sizes'),
    [
        # The sizes of batch, windows and heads.
        ('b w h', (2, 4, 3)),
        ('b h w', (2, 4, 3)),
        ('b h w', (2, 3, 3)),
        ('b w h', (2, 3, 3)),
        ('b w h', (3, 3, 3)),
        ('b h w', (3, 3, 3)),
        ('b h w', (1, 3, 3)),
        ('(b w) h', (2, 4, 3)),
        ('(b w) h', (2, 3, 3)),
        ('(b w) h', (3, 3, 3)),
        ('(b h) w', (2, 4, 3)),
        ('(b h) w', (2, 3, 3)),
        ('(b h) w', (3, 3, 3)),
        ('(b h) w', (1, 3, 3)),
        ('(h b) w', (2, 4, 3)),
        ('(h b) w', (2, 3, 3)),
        ('(b w h)', (2, 4, 3)),
        ('(b h)', (2, 1, 3)),
        ('(h b)', (2, 1, 3)),
        ('h (b w)', (2, 4, 3)),
        ('b h', (3, 1, 3)),
        ('b w h', (2, 4, 1)),
        ('b h w', (2, 4, 1)),
    ],
)
def test_every_layout(layout: str, sizes: tuple[int, int, int], fused: bool) -> None:
    model, x = Attention(layout, sizes[2], fused), tokens(*sizes)
    random, grad = torch.get_rng_state(), x.grad
    with capture_attention(model) as maps:
        model(x)
    assert torch.equal(torch.get_rng_state(), random) and x.grad is grad
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(maps[0].weights, model.expected(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize('layout', ['b h w', 'b w h', 'h b', 'b h'])
def test_the_memory_of_queries_shows_the_heads_without_a_name(layout: str) -> None:
    windows = 4 if 'w' in layout else 1
    model, x = Attention(layout, 3, fused=True, named=False), tokens(2, windows, 3)
    with torch.no_grad(), capture_attention(model) as maps:
        model(x)
    torch.testing.assert_close(maps[0].weights, model.expected(x), atol=1e-6, rtol=1e-5)


def test_heads_as_many_as_windows_are_remembered_from_a_forward_with_a_graph() -> None:
    model, x = Attention('b h w', 3, copies=True, fused=True), tokens(2, 3, 3)
    with (
        pytest.raises(ValueError, match=r'axes \(2, 3, 3\).*the module has 3 heads.*modules='),
        torch.no_grad(),
        capture_attention(model),
    ):
        model(x)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), capture_attention(model) as maps:
            model(x)
        torch.testing.assert_close(maps[0].weights, model.expected(x), atol=1e-6, rtol=1e-5)
    # Another module of the same kind is read by itself.
    other = Attention('b w h', 3)
    with capture_attention(other) as maps:
        other(x)
    torch.testing.assert_close(maps[0].weights, other.expected(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize('reentrant', [False, True])
def test_axes_under_activation_checkpointing(reentrant: bool) -> None:
    """Without a graph inside the region nothing is guessed."""

    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention('b h w', 3)
            self.after = nn.Linear(3 * D, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.after(checkpoint(self.attention, x, use_reentrant=reentrant))

    model, x = Saving(), tokens(2, 3, 3)
    if reentrant:
        with pytest.raises(ValueError, match='nothing tells'), capture_attention(model):
            model(x)
        return
    with capture_attention(model) as maps:
        model(x).sum().backward()
    expected = model.attention.expected(x)
    torch.testing.assert_close(maps[0].weights, expected, atol=1e-6, rtol=1e-5)
    assert x.grad is not None and x.grad.abs().max() > 0


class Product(nn.Module):
    """A part of an attention module that is called with split heads."""

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)).softmax(-1)


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_head, self.attention = 3, Product()

    def forward(self, x: Tensor) -> Tensor:
        q = rearrange(x, 'b (w t) (h d) -> (b h) w t d', t=T, h=3)
        return self.attention(q, q)


def test_the_parent_says_the_heads_of_a_part() -> None:
    model, x = Parent(), tokens(2, 4, 3)
    with torch.no_grad(), capture_attention(model) as maps:
        p = model(x)
    assert maps[0].name == 'attention'
    expected = rearrange(p, '(b h) w q k -> h (b w) q k', h=3).mean(0)
    torch.testing.assert_close(maps[0].weights, expected)


def test_a_module_that_is_called_by_keywords() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention('(b h) w', 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x=x)

    model, x = Keywords(), tokens(2, 3, 3)
    with capture_attention(model) as maps:
        model(x)
    torch.testing.assert_close(maps[0].weights, model.attention.expected(x), atol=1e-6, rtol=1e-5)


class Pool(nn.Module):
    """Attention of learned queries without an axis of samples, in windows."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.queries = 3, nn.Parameter(torch.randn(3, 1, 2, D))

    def forward(self, x: Tensor) -> Tensor:
        k = rearrange(x, 'b (w t) (h d) -> b h w t d', t=T, h=3)
        return F.scaled_dot_product_attention(self.queries, k, k)


def test_queries_with_fewer_axes_than_keys() -> None:
    model, x = Pool(), tokens(2, 4, 3)
    with capture_attention(model) as maps:
        model(x)
    k = rearrange(x, 'b (w t) (h d) -> (b w) h t d', t=T, h=3)
    p = (model.queries[:, 0] @ k.transpose(-2, -1)).div(math.sqrt(D)).softmax(-1)
    torch.testing.assert_close(maps[0].weights, p.mean(1), atol=1e-6, rtol=1e-5)


def test_five_axes_without_a_name_are_told_by_what_they_read() -> None:
    model, x = Attention('b h w', 3, named=False), tokens(2, 4, 3)
    with capture_attention(model) as maps:
        model(x)
    torch.testing.assert_close(maps[0].weights, model.expected(x), atol=1e-6, rtol=1e-5)
    model, x = Attention('b w h', 1, named=False), tokens(2, 4, 1)
    with capture_attention(model) as maps:
        model(x)
    torch.testing.assert_close(maps[0].weights, model.expected(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize('need_weights', [True, False])
@pytest.mark.parametrize('batch', [2, 3])
def test_time_first_multihead_attention(batch: int, need_weights: bool) -> None:
    model = nn.MultiheadAttention(D, 3)
    x = torch.randn(3, batch, D)
    with capture_attention(model) as maps:
        own = model(x, x, x)[1] if need_weights else model(x, x, x, need_weights=False)[1]
    own = model(x, x, x)[1] if own is None else own
    torch.testing.assert_close(maps[0].weights, own)


# Models of other packages


def nest() -> tuple[nn.Module, Any, int]:
    from timm.models.nest import Nest

    options = dict(embed_dims=(8, 16, 24), num_heads=(2, 4, 6), depths=(1, 1, 1))
    model = Nest(img_size=32, patch_size=4, num_levels=3, num_classes=5, **options)
    return model, lambda _: 'b h w q k -> (b w) q k', 32


def volo() -> tuple[nn.Module, Any, int]:
    from timm.models.volo import VOLO

    # 4 x 4 places of outlook attention, for 2 heads; then 2 x 2 tokens.
    options = dict(stem_hidden_dim=8, embed_dims=(8, 16), num_heads=(2, 4), mlp_ratio=2.0)
    model = VOLO([1, 1], img_size=64, num_classes=5, downsamples=(True, False), **options)
    return model, lambda p: 'b h w q k -> (b w) q k' if p.ndim == 5 else 'b h q k -> b q k', 64


def hiera() -> tuple[nn.Module, Any, int]:
    from timm.models.hiera import Hiera

    # Windows are as many as heads in its second stage.
    model = Hiera(
        img_size=(64, 64), embed_dim=8, num_heads=2, stages=(1, 1, 1, 1), num_classes=5,
    )  # fmt: skip
    return model, lambda p: 'b h w q k -> (b w) q k' if p.ndim == 5 else 'b h q k -> b q k', 64


def halonet() -> tuple[nn.Module, Any, int]:
    from timm.layers.halo_attn import HaloAttn

    attention = HaloAttn(8, num_heads=4, block_size=4, halo_size=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), attention, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # As many blocks as heads.
    return model.append(nn.Linear(8, 5)), lambda _: '(b h) w q k -> (b w) q k', 8


def swin() -> tuple[nn.Module, Any, int]:
    from torchvision.models.swin_transformer import SwinTransformer

    # Its windows are made inside the attention: 4 for 4 heads in the first stage.
    model = SwinTransformer([4, 4], 8, [1, 2], [4, 2], [2, 2], num_classes=5)
    return model, lambda _: 'w h q k -> w q k', 16


@pytest.mark.parametrize('build', [nest, volo, hiera, halonet, swin])
def test_models_with_windows(build: Any, monkeypatch: Any) -> None:
    pytest.importorskip('timm', reason='needs adv_plugins[mmaction]')
    torch.manual_seed(0)
    model, pattern, size = build()
    with torch.no_grad():
        for parameter in model.eval().parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    seen: list[Tensor] = []
    softmax = torch.softmax

    def product(q: Tensor, k: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), -1))
        return q

    def recording(x: Tensor, dim: int, **_: Any) -> Tensor:
        seen.append(softmax(x, dim))
        return seen[-1]

    monkeypatch.setattr(F, 'scaled_dot_product_attention', product)
    monkeypatch.setattr(Tensor, 'softmax', recording)
    x = torch.randn(2, 3, size, size, requires_grad=True)
    with capture_attention(model) as maps:
        model(x)
    assert len(maps) == len(seen) > 0
    for found, p in zip(maps, seen, strict=True):
        layout = pattern(p)
        sizes = {'b': 2} if '(b h)' in layout else {}
        torch.testing.assert_close(found.weights, reduce(p, layout, 'mean', **sizes))
    monkeypatch.undo()
    losses = make_adversarial(model, 'aart').train().adversarial_loss(x.detach(), torch.arange(2))
    losses['loss'].backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses['attention_frobenius'] > 0


@pytest.mark.parametrize('implementation', ['eager', 'sdpa'])
def test_hugging_face(implementation: str) -> None:
    transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
    # As many samples as heads.
    model = transformers.VideoMAEModel(
        transformers.VideoMAEConfig(
            image_size=32, patch_size=16, num_frames=4, hidden_size=12, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=16, attn_implementation=implementation,
        )
    ).eval()  # fmt: skip
    x = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad(), capture_attention(model) as maps:
        model(x)
    model.set_attn_implementation('eager')
    with torch.no_grad():
        expected = model(x, output_attentions=True).attentions
    assert len(maps) == len(expected) == 2
    for found, own in zip(maps, expected, strict=True):
        assert own.shape == (2, 2, 8, 8)
        torch.testing.assert_close(found.weights, own.mean(1))


def test_heads_in_the_place_of_queries_are_told():
    """(N, Q, heads, K) has no queries next to its keys."""

    class Odd(nn.Module):
        num_heads = 4

        def forward(self, x):
            q = x.unflatten(-1, (4, -1))
            scores = torch.einsum('nqhe,nkhe->nqhk', q, q)
            return torch.einsum('nqhk,nkc->nqc', scores.softmax(-1), x)

    model = nn.Sequential(Odd())
    with pytest.raises(ValueError, match='nothing tells which'), capture_attention(model):
        model(torch.randn(2, 7, 8))
