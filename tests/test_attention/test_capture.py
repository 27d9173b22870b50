"""Attention capture: right maps, an unchanged model, nothing left behind."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as module_globals
from torch.utils.checkpoint import checkpoint

import adv_plugins.attention.capture as attention
from adv_plugins.attention.capture import AttentionMap, capture_attention

B, T, D, H = 3, 5, 12, 3
REPLACED = [
    (F, 'scaled_dot_product_attention'),
    (torch, 'softmax'),
    (Tensor, 'softmax'),
    (torch, '_native_multi_head_attention'),
    (torch, '_transformer_encoder_layer_fwd'),
]


class SDPA(nn.Module):
    """Self-attention that leaves the probabilities to PyTorch."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(layer(x), H) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, **self.options)
        return out.transpose(1, 2).flatten(2)


class Explicit(nn.Module):
    """Self-attention that computes its softmax."""

    def __init__(
        self, softmax: Any = None, mask: Tensor | None = None, inplace: bool = False
    ) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(D, D), nn.Linear(D, D)
        self.attn_drop = nn.Dropout(0.4, inplace=inplace)
        self.softmax = softmax or (lambda x: x.softmax(dim=-1))
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        scores = heads(self.q(x), H) @ heads(self.k(x), H).transpose(-2, -1)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, torch.finfo(scores.dtype).min)
        p = self.attn_drop(self.softmax(scores))
        return (p @ heads(x, H)).transpose(1, 2).flatten(2)


class Stack(nn.Module):
    """Attention modules one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def heads(x: Tensor, number: int) -> Tensor:
    return x.unflatten(-1, (number, -1)).transpose(1, 2)


def slow_attention(q: Tensor, k: Tensor, bias: Tensor | None = None, scale: Any = None) -> Tensor:
    """Probabilities of (N, H, T, D) averaged over heads, one query at a time, in float64."""
    q, k = q.double(), k.double()
    bias = torch.zeros(()) if bias is None else bias.double()
    bias = bias.expand(*q.shape[:3], k.shape[2])
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    maps = []
    for n in range(len(q)):
        rows = []
        for t in range(q.shape[2]):
            parts = []
            for h in range(q.shape[1]):
                e = (scale * (k[n, h] * q[n, h, t]).sum(-1) + bias[n, h, t]).exp()
                parts.append(e / e.sum())
            rows.append(sum(parts) / len(parts))
        maps.append(torch.stack(rows))
    return torch.stack(maps)


def mha_heads(mha: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The projected queries and keys of batch-first inputs."""
    if mha.in_proj_weight is not None:
        weights = mha.in_proj_weight.chunk(3)
    else:
        weights = (mha.q_proj_weight, mha.k_proj_weight)
    biases = mha.in_proj_bias.chunk(3)
    q, k = F.linear(query, weights[0], biases[0]), F.linear(key, weights[1], biases[1])
    return heads(q, mha.num_heads), heads(k, mha.num_heads)


def additive(mask: Tensor | None) -> Tensor:
    """A mask of nn.MultiheadAttention as what is added to the scores."""
    if mask is None:
        return torch.zeros(())
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).masked_fill(mask, -torch.inf)
    return mask


def captured(run: Any, model: nn.Module, modules: Any = None) -> list[AttentionMap]:
    """The maps of ``run()``, which must not notice: same outputs, same random stream."""
    torch.manual_seed(7)
    expected = run()
    state = torch.get_rng_state()
    torch.manual_seed(7)
    with capture_attention(model, modules) as maps:
        output = run()
    assert torch.equal(torch.get_rng_state(), state)
    assert type(output) is type(expected)
    if isinstance(output, Tensor):
        output, expected = (output,), (expected,)
    for a, b in zip(output, expected, strict=True):
        assert a is None and b is None or a.dtype == b.dtype and torch.equal(a, b)
    return maps


def assert_map(found: AttentionMap, expected: Tensor, valid: Tensor | None = None) -> None:
    assert found.weights.dtype in (torch.float32, torch.float64)
    assert found.weights.shape == expected.shape
    torch.testing.assert_close(found.weights.double(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        found.weights.sum(-1), torch.ones(expected.shape[:2], dtype=found.weights.dtype)
    )
    if valid is None:
        assert found.valid is None or found.valid.all()
    else:
        assert found.valid is not None and torch.equal(found.valid, valid)


def state_of_torch() -> list[Any]:
    functions = [getattr(owner, name) for owner, name in REPLACED]
    hooks = [
        dict(getattr(module_globals, name))
        for name in vars(module_globals)
        if name.startswith('_global_') and isinstance(getattr(module_globals, name), dict)
    ]
    return [functions, ['softmax' in vars(Tensor)], hooks]


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Any:
    before = state_of_torch()
    assert len(before[2]) >= 4
    yield
    assert state_of_torch() == before


# nn.MultiheadAttention

PADDED = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 0, 0, 0]], dtype=torch.bool)
FUTURE = torch.ones(T, T, dtype=torch.bool).triu(1)
MASKS: dict[str, dict[str, Tensor]] = {
    'none': {},
    'padding': {'key_padding_mask': PADDED},
    'padding_float': {'key_padding_mask': additive(PADDED) + 0.3 * torch.arange(T)},
    'attn': {'attn_mask': FUTURE},
    'attn_float': {'attn_mask': additive(FUTURE) - 0.2 * torch.arange(T).float()},
    'attn_3d': {'attn_mask': torch.arange(B * H * T * T).view(B * H, T, T) % 7 == 3},
    'both': {'key_padding_mask': PADDED, 'attn_mask': FUTURE},
    'forbidden_key': {'attn_mask': (torch.arange(T) == 2).expand(T, T)},
}


@pytest.mark.parametrize('mode', ['train', 'eval', 'no_grad', 'frozen'])
@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('mask', MASKS)
def test_multihead_attention(mask: str, batch_first: bool, mode: str) -> None:
    number = 2 if mask != 'attn_3d' else H  # PyTorch's kernel wants an even number of heads
    mha = nn.MultiheadAttention(D, number, dropout=0.3, batch_first=batch_first)
    nn.init.normal_(mha.in_proj_bias)
    mha.train(mode == 'train').requires_grad_(mode != 'frozen')
    x = torch.randn(B, T, D)
    q, k = mha_heads(mha, x, x)
    padding = additive(MASKS[mask].get('key_padding_mask'))
    attn = additive(MASKS[mask].get('attn_mask'))
    bias = padding[:, None, None] if padding.ndim else padding
    bias = bias + (attn.view(B, number, T, T) if attn.ndim == 3 else attn)
    bias = bias.expand(B, number, T, T)
    valid = None if mask in ('none', 'attn_3d') else (bias > -torch.inf).any(1).any(1)
    expected = slow_attention(q, k, bias).detach()
    given = x if batch_first else x.transpose(0, 1)
    for weights in ({'need_weights': False}, {}, {'average_attn_weights': False}):
        with torch.set_grad_enabled(mode != 'no_grad'):
            maps = captured(lambda w=weights: mha(given, given, given, **MASKS[mask], **w), mha)
        assert [found.name for found in maps] == ['']
        assert_map(maps[0], expected, valid)
        assert maps[0].weights.requires_grad == (mode in ('train', 'eval'))


def test_multihead_attention_inference_kernel_stays_in_use(monkeypatch: Any) -> None:
    kernel, calls = torch._native_multi_head_attention, []

    def spy(*args: Any) -> Any:
        calls.append(args)
        return kernel(*args)

    monkeypatch.setattr(torch, '_native_multi_head_attention', spy)
    mha = nn.MultiheadAttention(D, 2, batch_first=True).eval()
    x = torch.randn(B, T, D)
    with torch.no_grad():
        for mask in ({}, MASKS['padding'], MASKS['attn'], MASKS['both']):
            maps = captured(lambda m=mask: mha(x, x, x, **m), mha)
            own = mha(x, x, x, **mask)[1]
            torch.testing.assert_close(maps[0].weights, own)
    assert len(calls) == 12


@pytest.mark.parametrize('need_weights', [True, False])
def test_multihead_attention_of_other_shapes(need_weights: bool) -> None:
    query, key, value = torch.randn(B, T, D), torch.randn(B, 7, 8), torch.randn(B, 7, 6)
    cross = nn.MultiheadAttention(D, H, kdim=8, vdim=6, batch_first=True)
    maps = captured(lambda: cross(query, key, value, need_weights=need_weights), cross)
    assert_map(maps[0], slow_attention(*mha_heads(cross, query, key)).detach())

    single = nn.MultiheadAttention(D, H)
    x = torch.randn(T, D)
    maps = captured(lambda: single(x, x, x, need_weights=need_weights), single)
    assert_map(maps[0], slow_attention(*mha_heads(single, x[None], x[None])).detach())

    longer = nn.MultiheadAttention(D, H, add_bias_kv=True, add_zero_attn=True, batch_first=True)
    mask = {'key_padding_mask': PADDED}
    maps = captured(lambda: longer(query, query, query, need_weights=need_weights, **mask), longer)
    q, k = mha_heads(longer, query, query)
    extra = heads(longer.bias_k.expand(B, 1, D), H)
    k = torch.cat([k, extra, torch.zeros_like(extra)], dim=2)
    padded = F.pad(PADDED, (0, 2))
    expected = slow_attention(q, k, additive(padded)[:, None, None]).detach()
    assert_map(maps[0], expected, ~padded)


@pytest.mark.parametrize('need_weights', [True, False])
def test_gradient_of_multihead_attention(need_weights: bool) -> None:
    mha = nn.MultiheadAttention(D, H, dropout=0.5, batch_first=True)
    x = torch.randn(B, T, D, requires_grad=True)
    weighting = torch.randn(B, T, T)
    with capture_attention(mha) as maps:
        mha(x, x, x, key_padding_mask=PADDED, need_weights=need_weights)
    inputs = [x, mha.in_proj_weight]
    found = torch.autograd.grad((maps[0].weights * weighting).sum(), inputs)
    slow = slow_attention(*mha_heads(mha, x, x), additive(PADDED)[:, None, None])
    expected = torch.autograd.grad((slow * weighting).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_second_derivative_of_a_map() -> None:
    mha = nn.MultiheadAttention(D, H, batch_first=True)
    x = torch.randn(B, T, D, requires_grad=True)
    with capture_attention(mha) as maps:
        mha(x, x, x, need_weights=False)
    found, expected = (
        torch.autograd.grad(
            torch.autograd.grad(weights.square().sum(), x, create_graph=True)[0].square().sum(), x
        )[0]
        for weights in (maps[0].weights, slow_attention(*mha_heads(mha, x, x)))
    )
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected)


def test_maps_that_no_backward_passes_are_freed() -> None:
    mha = nn.MultiheadAttention(D, H, batch_first=True)
    x = torch.randn(B, T, D, requires_grad=True)
    inside = weakref.ref(x)
    with capture_attention(mha) as maps:
        mha(x, x, x, key_padding_mask=PADDED, need_weights=False)
    del x, maps
    assert inside() is None


# nn.TransformerEncoder


@pytest.mark.parametrize('norm_first', [False, True])
@pytest.mark.parametrize('mask', ['none', 'ragged', 'padding', 'attn'])
def test_transformer_encoder(mask: str, norm_first: bool, monkeypatch: Any) -> None:
    kernel, calls = torch._transformer_encoder_layer_fwd, []

    def spy(*args: Any) -> Any:
        calls.append(args)
        return kernel(*args)

    monkeypatch.setattr(torch, '_transformer_encoder_layer_fwd', spy)
    layer = nn.TransformerEncoderLayer(
        D, 2, 16, batch_first=True, norm_first=norm_first, dropout=0.2
    )
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    x = torch.randn(B, T, D)
    # Left-aligned padding becomes a nested tensor, as long as the longest video.
    ragged = torch.arange(T) >= torch.tensor([4, 2, 3])[:, None]
    given = {
        'none': {},
        'ragged': {'src_key_padding_mask': ragged},
        'padding': {'src_key_padding_mask': PADDED},
        'attn': {'mask': FUTURE},
    }[mask]
    padding = {'ragged': ragged, 'padding': PADDED}.get(mask)
    bias = additive(padding)[:, None, None] if padding is not None else additive(given.get('mask'))
    for training, grad in ((True, True), (False, True), (False, False)):
        encoder.train(training)
        calls.clear()
        with torch.set_grad_enabled(grad):
            maps = captured(lambda: encoder(x, **given), encoder)
        fused = not training and not grad
        assert len(calls) == (4 if fused else 0)
        assert [found.name for found in maps] == ['layers.0.self_attn', 'layers.1.self_attn']
        length = 4 if fused and mask == 'ragged' and not norm_first else T
        first = encoder.layers[0]
        q, k = mha_heads(first.self_attn, *[first.norm1(x) if norm_first else x] * 2)
        expected = slow_attention(q, k, bias)[:, :length, :length].detach()
        valid = None if padding is None else ~padding[:, :length]
        if length == T:
            assert_map(maps[0], expected, valid)
        else:
            for n, size in enumerate([4, 2, 3]):
                rows = AttentionMap('', maps[0].weights[n : n + 1, :size])
                assert_map(rows, expected[n : n + 1, :size])
            assert torch.equal(maps[0].valid, valid)
        assert maps[1].weights.shape == (B, length, length)


def test_fused_layer_forbids_what_a_float_mask_only_discourages() -> None:
    """PyTorch's kernel takes each entry that is not 0 as forbidden: so must the map."""
    layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True).eval()
    x = torch.randn(B, T, D)
    with torch.no_grad():
        (found,) = captured(lambda: layer(x, src_mask=-0.5 * FUTURE), layer)
        assert torch.equal(layer(x, src_mask=-0.5 * FUTURE), layer(x, src_mask=FUTURE))
        q, k = mha_heads(layer.self_attn, x, x)
    assert_map(found, slow_attention(q, k, additive(FUTURE)))


# F.scaled_dot_product_attention

ALLOWED = ~(PADDED[:, None, None] | FUTURE.T)
ALLOWED[..., torch.arange(T), torch.arange(T)] = True


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'options, bias, valid',
    [
        ({}, None, None),
        ({'scale': 0.3}, None, None),
        ({'is_causal': True}, additive(FUTURE), torch.ones(B, T, dtype=torch.bool)),
        ({'attn_mask': ALLOWED, 'dropout_p': 0.5}, additive(~ALLOWED), None),
        ({'attn_mask': ~PADDED[:, None, None]}, additive(PADDED)[:, None, None], ~PADDED),
        (
            {'attn_mask': additive(PADDED)[:, None, None] + 0.1 * torch.arange(T)},
            additive(PADDED)[:, None, None] + 0.1 * torch.arange(T),
            ~PADDED,
        ),
    ],
    ids=['plain', 'scale', 'causal', 'bool', 'padding', 'float'],
)
def test_scaled_dot_product_attention(
    options: dict[str, Any], bias: Tensor | None, valid: Tensor | None, training: bool
) -> None:
    model = Stack(nn.Identity(), SDPA(**options)).train(training)
    x = torch.randn(B, T, D, requires_grad=True)
    maps = captured(lambda: model(x), model)
    assert [found.name for found in maps] == ['blocks.1']
    inner = model.blocks[1]
    slow = slow_attention(
        heads(inner.q(2 * x), H), heads(inner.k(2 * x), H), bias, options.get('scale')
    )
    assert_map(maps[0], slow.detach(), valid)
    weighting = torch.randn(B, T, T)
    (found,) = torch.autograd.grad((maps[0].weights * weighting).sum(), x)
    (expected,) = torch.autograd.grad((slow * weighting).sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class Call(nn.Module):
    """Calls F.scaled_dot_product_attention with what it is given."""

    def forward(self, q: Tensor, k: Tensor, **options: Any) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k, **options)


def test_scaled_dot_product_attention_of_other_shapes() -> None:
    call = Call()
    q, k = torch.randn(B, 4, T, 8), torch.randn(B, 2, 7, 8)
    maps = captured(lambda: call(q, k, enable_gqa=True), call)
    shared = torch.stack([k[:, 0], k[:, 0], k[:, 1], k[:, 1]], dim=1)
    assert_map(maps[0], slow_attention(q, shared))
    # Fewer queries than keys: the keys after the last query are never attended to.
    q, k = torch.randn(B, H, T, 8), torch.randn(B, H, 7, 8)
    maps = captured(lambda: call(q, k, is_causal=True), call)
    bias = additive(torch.ones(T, 7, dtype=torch.bool).triu(1))
    assert_map(maps[0], slow_attention(q, k, bias), (torch.arange(7) < T).expand(B, 7))
    # (batch, windows, heads, Q, D): the batch stays outermost.
    q = torch.randn(B, 2, H, T, 8)
    with pytest.raises(ValueError, match=r"'' has the axes \(3, 2, 3\).*modules=\[...\]"):
        captured(lambda: call(q, q), call)
    call.num_heads = H
    maps = captured(lambda: call(q, q), call)
    assert_map(maps[0], slow_attention(q.flatten(0, 1), q.flatten(0, 1)))
    del call.num_heads
    # Without an axis of heads.
    q = torch.randn(B, T, 8)
    maps = captured(lambda: call(q, q, attn_mask=~PADDED[:, None]), call)
    bias = additive(PADDED)[:, None, None]
    assert_map(maps[0], slow_attention(q[:, None], q[:, None], bias), ~PADDED)
    maps = captured(lambda: call(q[0], q[0]), call)
    assert_map(maps[0], slow_attention(q[:1, None], q[:1, None]))


@pytest.mark.parametrize('additively', [False, True])
def test_a_query_that_may_attend_to_nothing(additively: bool) -> None:
    """Its row is zero, and no gradient is NaN."""
    allowed = torch.ones(T, T, dtype=torch.bool)
    allowed[1] = False
    model = SDPA(attn_mask=additive(~allowed) if additively else allowed)
    x = torch.randn(B, T, D, requires_grad=True)
    maps = captured(lambda: model(x).nan_to_num(), model)
    assert torch.equal(maps[0].weights[:, 1], torch.zeros(B, T))
    torch.testing.assert_close(maps[0].weights[:, 2:].sum(-1), torch.ones(B, T - 2))
    assert maps[0].valid.all()
    (gradient,) = torch.autograd.grad(maps[0].weights.square().sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize('shape', [(T,), (1,), ()], ids=str)
def test_a_mask_of_the_keys_alone(shape: tuple[int, ...]) -> None:
    """PyTorch's plain kernel takes it."""
    allowed = torch.ones(shape, dtype=torch.bool)
    if shape == (T,):
        allowed[2] = False
    x = torch.randn(B, T, D)
    for mask in (allowed, additive(~allowed)):
        model = SDPA(attn_mask=mask)
        with sdpa_kernel(SDPBackend.MATH):
            maps = captured(lambda each=model: each(x), model)
        seen = allowed.expand(B, T)
        assert torch.equal(maps[0].valid, seen)
        assert torch.equal(maps[0].weights > 0, seen[:, None].expand(B, T, T))


# A softmax of the module's own


@pytest.mark.parametrize(
    'softmax',
    [
        lambda x: x.softmax(dim=-1),
        lambda x: torch.softmax(x, 3),
        lambda x: torch.softmax(input=x, dim=-1),
        lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
        nn.Softmax(dim=-1),
    ],
    ids=['method', 'torch', 'keywords', 'functional', 'module'],
)
def test_explicit_softmax(softmax: Any) -> None:
    model = Stack(Explicit(softmax, PADDED[:, None, None])).train()
    x = torch.randn(B, T, D, requires_grad=True)
    maps = captured(lambda: model(x), model)
    assert [found.name for found in maps] == ['blocks.0']
    inner = model.blocks[0]
    bias = additive(PADDED)[:, None, None]
    slow = slow_attention(heads(inner.q(x), H), heads(inner.k(x), H), bias, scale=1.0)
    assert_map(maps[0], slow.detach(), ~PADDED)
    weighting = torch.randn(B, T, T)
    (found,) = torch.autograd.grad((maps[0].weights * weighting).sum(), x)
    (expected,) = torch.autograd.grad((slow * weighting).sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_probabilities_that_are_spoilt_afterwards() -> None:
    model = Explicit(inplace=True).train()
    x = torch.randn(B, T, D)
    with torch.no_grad():
        (found,) = captured(lambda: model(x), model)
        assert_map(found, slow_attention(heads(model.q(x), H), heads(model.k(x), H), scale=1.0))


class NotAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        over_channels = x[:, None].softmax(dim=1) + x[:, None].softmax(-2)
        over_channels = over_channels * x[0, 0].softmax(-1) + x[0, 0, 0].softmax(-1)
        return x.softmax(-1) + x.mean(1).softmax(-1)[:, None] + over_channels[:, 0]


def test_other_softmaxes_are_not_attention() -> None:
    model = NotAttention()
    assert captured(lambda: model(torch.randn(B, T, D)), model) == []
    with capture_attention(model) as maps:
        torch.randn(B, H, T, T).softmax(-1)  # outside the model
        SDPA()(torch.randn(B, T, D))
    assert maps == []


def test_named_module_may_have_three_axes() -> None:
    pytest.importorskip('mmcv', reason='needs adv_plugins[mmaction]')
    from mmcv.cnn.bricks import NonLocal3d

    model = Stack(NonLocal3d(8, mode='embedded_gaussian'), NonLocal3d(8))
    x = torch.randn(2, 8, 2, 3, 3)
    assert captured(lambda: model(x), model) == []
    (found,) = captured(lambda: model(x), model, ['blocks.0'])
    block = model.blocks[0]
    theta, phi = (
        layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (block.theta, block.phi)
    )
    assert_map(found, slow_attention(theta, phi).detach())


# Precision

KINDS = {
    'mha': lambda: nn.TransformerEncoderLayer(D, 2, 16, 0.2, batch_first=True),
    'sdpa': lambda: SDPA(dropout_p=0.2),
    'explicit': lambda: Explicit(),
}


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('precision', ['autocast', 'bfloat16', 'float64'])
@pytest.mark.parametrize('kind', KINDS)
def test_precision(kind: str, precision: str, training: bool) -> None:
    model = KINDS[kind]().train(training)
    x = torch.randn(B, T, D)
    if precision != 'autocast':
        dtype = getattr(torch, precision)
        model, x = model.to(dtype), x.to(dtype)
    for grad in (True, False):
        enabled = precision == 'autocast'
        with torch.set_grad_enabled(grad), torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            (found,) = captured(lambda: model(x), model)
        wide = torch.float64 if precision == 'float64' else torch.float32
        assert found.weights.dtype == wide
        ones = torch.ones(B, T, dtype=wide)
        torch.testing.assert_close(found.weights.sum(-1), ones, atol=1e-6, rtol=0)


# Names, order, errors


def two_of_each() -> Stack:
    return Stack(SDPA(), Explicit(), SDPA(), Explicit()).eval()


def test_maps_come_in_the_order_of_the_calls() -> None:
    model = two_of_each()
    x = torch.randn(B, T, D)
    with capture_attention(model) as maps:
        model(x)
        model.blocks[1](x)
        model.blocks[0](x)
    names = [f'blocks.{number}' for number in (0, 1, 2, 3, 1, 0)]
    assert [found.name for found in maps] == names
    assert not torch.equal(maps[1].weights, maps[3].weights)


def test_only_named_modules_cost_anything(monkeypatch: Any) -> None:
    model, x = two_of_each(), torch.randn(B, T, D)
    computed: list[Any] = []
    original, beside = attention._attention, attention._no_side_effects
    monkeypatch.setattr(
        attention, '_attention', lambda *args: (computed.append('p'), original(*args))[1]
    )
    monkeypatch.setattr(
        attention, '_no_side_effects', lambda tensor: (computed.append('b'), beside(tensor))[1]
    )
    with capture_attention(model, ['blocks.3', 'blocks.2']) as maps:
        model(x)
    assert [found.name for found in maps] == ['blocks.2', 'blocks.3']
    assert sorted(computed) == ['b', 'b', 'p']
    assert [found.name for found in captured(lambda: model(x), model, 'blocks.1')] == ['blocks.1']
    assert captured(lambda: model(x), model, []) == []


def test_unknown_name() -> None:
    message = r"modules='block\.1' is no module of Stack.*modules='blocks\.1'"
    with (
        pytest.raises(ValueError, match=message),
        capture_attention(two_of_each(), ['blocks.0', 'block.1']),
    ):
        raise AssertionError('the block must not be entered')


def test_named_module_without_attention() -> None:
    model = two_of_each()
    with (
        pytest.raises(ValueError, match=r"\['blocks.1.attn_drop'\].*'blocks.0', 'blocks.1'"),
        capture_attention(model, ['blocks.0', 'blocks.1.attn_drop']),
    ):
        model(torch.randn(B, T, D))
    with (
        pytest.raises(ValueError, match='call the model inside the block'),
        capture_attention(model, ['blocks.0']),
    ):
        pass


def test_an_exception_passes_through_and_leaves_nothing_behind() -> None:
    model = two_of_each()
    before = state_of_torch()
    for modules in (None, ['blocks.0']):
        with (
            pytest.raises(RuntimeError, match='mat1 and mat2'),
            capture_attention(model, modules),
        ):
            assert state_of_torch() != before
            model(torch.randn(B, T, D + 1))
        assert state_of_torch() == before


class Forgiving(nn.Module):
    """Goes on after its first block has failed."""

    def __init__(self) -> None:
        super().__init__()
        self.broken, self.sound = nn.Sequential(SDPA(), nn.Linear(D + 1, 1)), SDPA()

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.broken(x)
        except RuntimeError:
            q = x[:, None]
            return self.sound(F.scaled_dot_product_attention(q, q, q)[:, 0])


def test_a_module_that_failed_is_running_no_more() -> None:
    model = Forgiving()
    maps = captured(lambda: model(torch.ones(B, T, D)), model)
    assert [found.name for found in maps] == ['broken.0', '', 'sound']


def test_nested_and_consecutive_blocks() -> None:
    model, other = two_of_each(), SDPA()
    x = torch.randn(B, T, D)
    with capture_attention(model) as outer:
        model.blocks[0](x)
        with capture_attention(model, ['blocks.2']) as inner, capture_attention(other) as others:
            model(x)
            other(x)
        model.blocks[3](x)
    numbers = [0, 0, 1, 2, 3, 3]
    assert [found.name for found in outer] == [f'blocks.{number}' for number in numbers]
    assert [found.name for found in inner] == ['blocks.2']
    assert [found.name for found in others] == ['']
    assert torch.equal(inner[0].weights, outer[3].weights)
    again = captured(lambda: model(x), model)
    assert len(again) == 4 and len(outer) == 6


def test_another_thread_is_not_the_model() -> None:
    class Waiting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            worker = threading.Thread(target=lambda: torch.randn(B, H, T, T).softmax(-1))
            worker.start()
            worker.join()
            return x

    model = Waiting()
    assert captured(lambda: model(torch.ones(1)), model) == []


# Activation checkpointing and compilation


class Checkpointed(Stack):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return x


@pytest.mark.parametrize('bf16', [False, True])
def test_activation_checkpointing(bf16: bool) -> None:
    blocks = [SDPA(dropout_p=0.3), Explicit(), KINDS['mha']()]
    plain, saving = Stack(*blocks), Checkpointed(*blocks)
    x = torch.randn(B, T, D, requires_grad=True)

    def gradient(model: nn.Module, read: bool) -> tuple[Any, ...]:
        torch.manual_seed(3)
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            if not read:
                return torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
            with capture_attention(model) as maps:
                loss = model(x).square().sum()
                found = torch.autograd.grad(loss, [x, *model.parameters()], retain_graph=True)
        assert [found.name for found in maps] == ['blocks.0', 'blocks.1', 'blocks.2.self_attn']
        # The maps' own gradient also runs through what is recomputed.
        total = sum(found.weights.square().sum() for found in maps)
        return (*found, *torch.autograd.grad(total, x))

    expected = gradient(saving, read=False)
    found, reference = gradient(saving, read=True), gradient(plain, read=True)
    for a, b in zip(found, expected, strict=False):
        assert torch.equal(a, b)
    torch.testing.assert_close(found[-1], reference[-1])


def test_compiled_regions_are_left_alone() -> None:
    inner = SDPA()
    model = Stack(SDPA(), torch.compile(inner, backend='eager'))
    x = torch.randn(B, T, D)
    maps = captured(lambda: model(x), model, ['blocks.0'])
    assert [found.name for found in maps] == ['blocks.0']


# timm


@pytest.mark.parametrize('fused', [True, False])
def test_timm(fused: bool) -> None:
    pytest.importorskip('timm', reason='needs adv_plugins[mmaction]')
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=32, patch_size=16, embed_dim=D, depth=2, num_heads=H, num_classes=4,
        attn_drop_rate=0.3, qk_norm=True,
    )  # fmt: skip
    for block in model.blocks:
        block.attn.fused_attn = fused
    x = torch.randn(2, 3, 32, 32)
    given: list[Tensor] = []
    hook = model.blocks[1].attn.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
    maps = captured(lambda: model(x), model)
    hook.remove()
    assert [found.name for found in maps] == ['blocks.0.attn', 'blocks.1.attn']
    attn = model.blocks[1].attn
    q, k, _ = attn.qkv(given[-1]).chunk(3, dim=-1)
    expected = slow_attention(attn.q_norm(heads(q, H)), attn.k_norm(heads(k, H))).detach()
    assert expected.shape == (2, 5, 5)
    assert_map(maps[1], expected)


# MMAction2

TIMESFORMER = dict(
    type='TimeSformer', num_frames=4, img_size=32, patch_size=16, embed_dims=12, num_heads=3,
    num_transformer_layers=2,
)  # fmt: skip
LAYER = 'transformer_layers.layers.{}.attentions.{}.attn'
# Per family: config, names and shapes of the maps of two clips of four frames.
FAMILIES: dict[str, tuple[dict[str, Any], list[tuple[str, tuple[int, int, int]]]]] = {
    'VideoMAE': (
        dict(
            type='VisionTransformer', img_size=32, patch_size=16, embed_dims=12, depth=2,
            num_heads=3, num_frames=4, attn_drop_rate=0.3,
        ),
        [('blocks.0.attn', (2, 8, 8)), ('blocks.1.attn', (2, 8, 8))],
    ),
    'TimeSformer_divided': (
        TIMESFORMER,
        # Over time at each of 4 places, then over place and class token in each of 4 frames.
        [
            (LAYER.format(layer, kind), (2 * 4, 4 + kind, 4 + kind))
            for layer in range(2)
            for kind in range(2)
        ],
    ),
    'TimeSformer_joint': (
        dict(TIMESFORMER, attention_type='joint_space_time'),
        [(LAYER.format(layer, 0), (2, 17, 17)) for layer in range(2)],
    ),
    'TimeSformer_space': (
        dict(TIMESFORMER, attention_type='space_only'),
        [(LAYER.format(layer, 0), (2 * 4, 5, 5)) for layer in range(2)],
    ),
    'Swin': (
        dict(
            type='SwinTransformer3D', pretrained2d=False, window_size=(2, 2, 2), out_indices=(1,),
            arch=dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3]), attn_drop_rate=0.3,
        ),
        # 2 x 8 x 8 tokens are 16 windows, 2 x 4 x 4 are 4; the second block's are shifted.
        [
            (f'layers.{layer}.blocks.{block}.attn', (2 * windows, 8, 8))
            for layer, windows in enumerate((16, 4))
            for block in range(2)
        ],
    ),
    'MViT': (
        dict(
            type='MViT', spatial_size=32, temporal_size=4, head_mul=1, drop_path_rate=0.1,
            arch=dict(embed_dims=12, num_layers=3, num_heads=1, downscale_indices=[1]),
        ),
        # Queries are pooled in block 1, keys and values in all; the class token is one of each.
        [
            ('blocks.0.attn', (2, 129, 3)),
            ('blocks.1.attn', (2, 33, 9)),
            ('blocks.2.attn', (2, 33, 3)),
        ],
    ),
    'UniFormer': (
        dict(
            type='UniFormer', depth=[1, 1, 2, 1], img_size=32, embed_dim=[8, 8, 16, 16],
            head_dim=8, pretrained2d=False, attn_drop_rate=0.3,
        ),
        [
            ('blocks3.0.attn', (2, 8, 8)),
            ('blocks3.1.attn', (2, 8, 8)),
            ('blocks4.0.attn', (2, 2, 2)),
        ],
    ),
    'UniFormerV2': (
        dict(
            type='UniFormerV2', input_resolution=32, patch_size=16, width=12, layers=2, heads=3,
            t_size=4, return_list=[0, 1], n_layers=2, n_dim=12, n_head=3, mlp_dropout=[0.5, 0.5],
            clip_pretrained=False, no_lmhra=False, double_lmhra=True,
        ),
        # Within each of 4 frames, then a class token over all tokens of the clip.
        [
            ('transformer.resblocks.0.attn', (2 * 4, 5, 5)),
            ('transformer.dec.0', (2, 1, 20)),
            ('transformer.resblocks.1.attn', (2 * 4, 5, 5)),
            ('transformer.dec.1', (2, 1, 20)),
        ],
    ),
}  # fmt: skip


def backbone(family: str) -> nn.Module:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    import mmaction.models  # noqa: F401
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmaction')
    model = MODELS.build(dict(FAMILIES[family][0]))
    # What starts at zero (extractors, temporal_fc, position biases) would hide mistakes.
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def oracle(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The maps by hand, from what the module was given."""
    kind = type(module).__name__
    if kind == 'MultiheadAttention':
        query, key, *_ = (*args, *(kwargs[key] for key in ('query', 'key') if key in kwargs))
        if not module.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        return slow_attention(*mha_heads(module, query, key))
    if kind == 'Extractor':
        query, key = module.ln_1(args[0]).transpose(0, 1), module.ln_3(args[1]).transpose(0, 1)
        return slow_attention(*mha_heads(module.attn, query, key))
    x, bias = args[0], None
    if getattr(module, 'q_bias', None) is not None:
        zero = torch.zeros_like(module.q_bias)
        qkv = module.qkv(x) + torch.cat([module.q_bias, zero, module.v_bias])
    else:
        qkv = module.qkv(x)
    q, k, _ = (heads(part, module.num_heads) for part in qkv.chunk(3, dim=-1))
    if kind == 'WindowAttention3D':
        bias = module.relative_position_bias_table[module.relative_position_index]
        bias = bias.permute(2, 0, 1)[None].expand(len(x), -1, -1, -1)
        mask = kwargs['mask']
        if mask is not None:
            bias = bias + mask.repeat(len(x) // len(mask), 1, 1)[:, None]
    return slow_attention(q, k, bias)


@pytest.mark.parametrize('family', FAMILIES)
def test_mmaction_maps(family: str) -> None:
    model = backbone(family)
    model.eval()
    x = torch.randn(2, 3, 4, 32, 32, requires_grad=True)
    given: dict[str, Any] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _m, args, kwargs, name=name: given.update({name: (args, kwargs)}),
            with_kwargs=True,
        )
        for name, module in model.named_modules()
    ]
    maps = captured(lambda: first(model(x)), model)
    for hook in hooks:
        hook.remove()
    assert [(found.name, tuple(found.weights.shape)) for found in maps] == FAMILIES[family][1]
    for found in maps:
        if family == 'MViT':
            torch.testing.assert_close(found.weights.sum(-1), torch.ones(found.weights.shape[:2]))
        else:
            expected = oracle(model.get_submodule(found.name), *given[found.name]).detach()
            assert_map(found, expected)
        # Nothing is so flat, or so alike between clips, that mistakes would pass.
        assert found.weights.std(-1).max() > 1e-3
        half = len(found.weights) // 2
        assert not torch.allclose(found.weights[:half], found.weights[half:], atol=1e-3)
        (gradient,) = torch.autograd.grad(found.weights.square().sum(), x, retain_graph=True)
        assert (gradient.flatten(1).abs().amax(1) > 0).all()
    # The batch is outermost: each clip has its own half.
    alone = [captured(lambda n=n: first(model(x[n : n + 1])), model) for n in range(2)]
    for both, *ones in zip(maps, *alone, strict=True):
        joined = torch.cat([one.weights for one in ones])
        torch.testing.assert_close(both.weights, joined, atol=1e-5, rtol=1e-4)


def test_mvit_maps_reproduce_its_output() -> None:
    """Values have more channels than there are keys: only one map gives the output."""
    model = backbone('MViT')
    model.eval()
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, _ in FAMILIES['MViT'][1]:
        module = model.get_submodule(name)
        for part in ('norm_q', 'norm_v'):
            hooks.append(
                getattr(module, part).register_forward_hook(
                    lambda _m, _a, out, key=name + part: seen.update({key: out})
                )
            )
        hooks.append(
            module.proj.register_forward_pre_hook(
                lambda _m, args, key=name + 'proj': seen.update({key: args[0]})
            )
        )
    with capture_attention(model) as maps:
        model(torch.randn(2, 3, 4, 32, 32))
    for hook in hooks:
        hook.remove()
    for found in maps:
        value = seen[found.name + 'norm_v'][:, 0]
        residual = seen[found.name + 'norm_q'][:, 0].clone()
        residual[:, 0] = 0
        mixed = seen[found.name + 'proj'] - residual
        assert torch.linalg.matrix_rank(value).min() == found.weights.shape[-1]
        torch.testing.assert_close(
            mixed @ torch.linalg.pinv(value), found.weights, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize('family', FAMILIES)
def test_mmaction_models_do_not_notice(family: str) -> None:
    model = backbone(family)
    x = torch.randn(2, 3, 4, 32, 32)
    names = [name for name, _ in FAMILIES[family][1]]
    for training in (True, False):
        for grad, bf16 in ((True, False), (False, False), (True, True), (False, True)):
            model.train(training)
            state = {key: value.clone() for key, value in model.state_dict().items()}
            gradients = []
            for read in (False, True):
                model.load_state_dict(state)
                torch.manual_seed(11)
                with (
                    torch.set_grad_enabled(grad),
                    torch.autocast('cpu', torch.bfloat16, enabled=bf16),
                ):
                    if read:
                        with capture_attention(model) as maps:
                            output = first(model(x))
                    else:
                        output = first(model(x))
                found = [output, torch.get_rng_state(), *model.buffers()]
                if grad:
                    loss = output.float().square().mean()
                    parameters = list(model.parameters())
                    found += torch.autograd.grad(loss, parameters, allow_unused=True)
                gradients.append([None if value is None else value.clone() for value in found])
            for a, b in zip(*gradients, strict=True):
                assert a is None and b is None or torch.equal(a, b)
            assert [item.name for item in maps] == names
            for item in maps:
                assert item.weights.dtype == torch.float32
                assert item.weights.requires_grad == grad
                torch.testing.assert_close(
                    item.weights.sum(-1), torch.ones(item.weights.shape[:2]), atol=1e-5, rtol=0
                )
