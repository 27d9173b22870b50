"""The Transformer against loops over videos, heads and frames, without masks or batches."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
from mmaction.structures import ActionDataSample
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

from adv_plugins import make_adversarial
from adv_plugins.attention import capture_attention
from adv_plugins.models.feature_preprocessor import l2_normalize_frames
from adv_plugins.models.feature_transformer import FeatureTransformer
from adv_plugins.models.transformer_layers import (
    EncoderLayer,
    MaskedPooling,
    sinusoidal_positions,
)

CLASSES = 5
WIDTHS = dict(rgb=12, audio=6)
LENGTHS = dict(rgb=(7, 3, 1), audio=(4, 6, 2))
OPTIONS = [
    dict(),
    dict(pooling='max', positions=None),
    dict(pooling='attention', depth=2, fusion='sum'),
    dict(width=None, num_heads=3, mlp_ratio=1.5),
    dict(width=dict(rgb=8, audio=None), num_heads=2),
]


def small(**changes) -> FeatureTransformer:
    options = dict(modalities=WIDTHS, num_classes=CLASSES, width=8, num_heads=4)
    return FeatureTransformer(**{**options, **changes})


def ragged(lengths=LENGTHS) -> list[dict[str, Tensor]]:
    """Videos one by one: each modality (T, D)."""
    count = len(lengths['rgb'])
    return [{n: torch.randn(lengths[n][i], d) for n, d in WIDTHS.items()} for i in range(count)]


def padded(videos: list[dict[str, Tensor]], extra: int = 0, fill: float = 0.0) -> dict[str, Tensor]:
    """A batch, with ``extra`` more padding than it needs."""
    inputs = {}
    for name, width in WIDTHS.items():
        length = max(len(video[name]) for video in videos) + extra
        batch = torch.full((len(videos), length, width), fill)
        mask = torch.zeros(len(videos), length, dtype=torch.bool)
        for i, video in enumerate(videos):
            batch[i, : len(video[name])] = video[name]
            mask[i, : len(video[name])] = True
        inputs |= {name: batch, f'{name}_mask': mask}
    return inputs


def labelled(targets) -> list[ActionDataSample]:
    return [ActionDataSample().set_gt_label(target) for target in targets]


def targets(count: int) -> Tensor:
    return (torch.rand(count, CLASSES) < 0.4).float()


def slow_positions(length: int, width: int) -> Tensor:
    table = torch.zeros(length, width)
    for t in range(length):
        for j in range(width):
            angle = t / 10000 ** (2 * (j // 2) / width)
            table[t, j] = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    return table


def slow_layer(x: Tensor, layer: nn.Module) -> Tensor:
    """One encoder layer on one video (T, width), head by head and frame by frame."""
    attention = layer.attention
    width = x.shape[1]
    size = width // attention.num_heads
    q, k, v = F.linear(x, attention.qkv.weight, attention.qkv.bias).split(width, dim=1)
    heads = []
    for h in range(attention.num_heads):
        part = slice(h * size, (h + 1) * size)
        rows = []
        for t in range(len(x)):
            scores = torch.stack([q[t, part] @ k[s, part] / math.sqrt(size) for s in range(len(x))])
            weights = scores.exp() / scores.exp().sum()
            rows.append(sum(weights[s] * v[s, part] for s in range(len(x))))
        heads.append(torch.stack(rows))
    x = layer.norm1(x + attention.out(torch.cat(heads, dim=1)))
    return layer.norm2(x + layer.mlp[2](layer.mlp[0](x).clamp(min=0)))


def slow_pool(x: Tensor, pooling: MaskedPooling) -> Tensor:
    if pooling.pooling == 'mean':
        return sum(x) / len(x)
    if pooling.pooling == 'max':
        return torch.stack([max(column) for column in x.T])
    weights = torch.stack(
        [(pooling.score.weight[0] @ frame + pooling.score.bias[0]) for frame in x]
    )
    return sum(w * frame for w, frame in zip(weights.exp() / weights.exp().sum(), x, strict=True))


def slow_logits(model: FeatureTransformer, video: dict[str, Tensor]) -> Tensor:
    pooled = []
    for name in WIDTHS:
        x = model.projections[name](video[name])
        if not len(x):
            pooled.append(torch.zeros(x.shape[1]))
            continue
        if model.positions:
            x = x + slow_positions(*x.shape)
        for layer in model.encoders[name]:
            x = slow_layer(x, layer)
        pooled.append(slow_pool(x, model.poolings[name]))
    fused = sum(pooled) if model.fusion == 'sum' else torch.cat(pooled)
    return model.cls_head(fused)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_logits_and_input_gradients_are_those_of_each_video_alone(options):
    """Against the loop; with more padding, with NaN on it; nothing leaks between videos."""
    model = small(**options)
    videos = [{n: x.requires_grad_() for n, x in video.items()} for video in ragged()]
    weights = torch.randn(3, CLASSES)
    expected = torch.stack([slow_logits(model, video) for video in videos])
    (expected * weights).sum().backward()
    for extra, fill in ((0, 0.0), (5, 0.0), (3, 1e4), (2, math.nan)):
        inputs = padded([{n: x.detach() for n, x in v.items()} for v in videos], extra, fill)
        for name in WIDTHS:
            inputs[name].requires_grad_()
        logits = model(inputs)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
        (logits * weights).sum().backward()
        for name in WIDTHS:
            gradient, mask = inputs[name].grad, inputs[f'{name}_mask']
            assert (gradient[~mask] == 0).all()
            for i, video in enumerate(videos):
                torch.testing.assert_close(
                    gradient[i][mask[i]], video[name].grad, rtol=0, atol=1e-6
                )


@pytest.mark.parametrize('pooling', ['mean', 'max', 'attention'])
@pytest.mark.parametrize('fusion', ['concat', 'sum'])
def test_a_video_may_lack_a_modality(pooling, fusion):
    """It then adds zeros, and neither logits nor gradients are NaN."""
    model = small(pooling=pooling, fusion=fusion)
    videos = ragged(dict(rgb=(4, 0), audio=(0, 3)))
    inputs = padded(videos)
    for name in WIDTHS:
        inputs[name].requires_grad_()
    with capture_attention(model) as maps:
        logits = model(inputs)
    expected = torch.stack([slow_logits(model, video) for video in videos])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    # Also where PyTorch does not mend a softmax over nothing, as before 2.5 and in ONNX.
    for attention in maps:
        torch.testing.assert_close(attention.weights.sum(-1).min(), torch.tensor(1.0))
    logits.square().sum().backward()
    for value in (inputs['rgb'], inputs['audio'], *model.parameters()):
        assert value.grad.isfinite().all()
    assert (inputs['rgb'].grad[1] == 0).all() and (inputs['rgb'].grad[0] != 0).any()


def test_a_mask_left_out_means_all_valid():
    model = small()
    inputs = dict(rgb=torch.randn(2, 4, 12), audio=torch.randn(2, 3, 6))
    masks = dict(
        rgb_mask=torch.ones(2, 4, dtype=torch.bool), audio_mask=torch.ones(2, 3, dtype=torch.bool)
    )
    assert torch.equal(model(inputs), model({**inputs, **masks}))


def test_a_layer_is_that_of_torch():
    """Padded keys included, against ``nn.TransformerEncoderLayer`` with the same weights."""
    ours = EncoderLayer(8, 2, 4, 0.0)
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, batch_first=True)
    renamed = {
        'attention.qkv.': 'self_attn.in_proj_',
        'attention.out': 'self_attn.out_proj',
        'mlp.0': 'linear1',
        'mlp.2': 'linear2',
    }
    state = {}
    for key, value in ours.state_dict().items():
        for old, new in renamed.items():
            key = key.replace(old, new)
        state[key] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 5, 8)
    keys = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected = theirs(x, src_key_padding_mask=~keys)
    torch.testing.assert_close(ours(x, keys)[keys], expected[keys], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('length', 'width'), [(1, 4), (300, 8), (5, 7)])
def test_positions_follow_the_formula(length, width):
    torch.testing.assert_close(
        sinusoidal_positions(length, width), slow_positions(length, width), rtol=0, atol=3e-5
    )


def test_order_counts_with_positions_only():
    inputs = dict(rgb=torch.randn(1, 6, 12), audio=torch.randn(1, 6, 6))
    reverse = {name: value.flip(1) for name, value in inputs.items()}
    without, with_positions = small(positions=None), small()
    torch.testing.assert_close(without(inputs), without(reverse), rtol=0, atol=1e-6)
    assert (with_positions(inputs) - with_positions(reverse)).abs().max() > 1e-3


@pytest.mark.parametrize('pooling', ['mean', 'max', 'attention'])
def test_pooling_agrees_with_a_loop(pooling):
    """The mask need not be a prefix; negative values lose no max against padding."""
    module = MaskedPooling(4, pooling)
    x = torch.randn(3, 6, 4) - 3
    mask = torch.tensor([[1, 0, 1, 1, 0, 0], [1] * 6, [0, 0, 0, 0, 1, 0]]).bool()
    expected = torch.stack([slow_pool(x[i][mask[i]], module) for i in range(3)])
    torch.testing.assert_close(module(x, mask), expected)


def test_parameters_counted_by_hand():
    model = small(depth=2, pooling='attention')
    layer = (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (32 * 8 + 32) + (8 * 32 + 8) + 2 * (8 + 8)
    projections = (12 * 8 + 8) + (6 * 8 + 8)
    expected = projections + 2 * (2 * layer + 8 + 1) + (16 * CLASSES + CLASSES)
    assert sum(p.numel() for p in model.parameters()) == expected
    own_width = small(width=None, num_heads=2, mlp_ratio=1.5)
    assert not list(own_width.projections.parameters())
    assert own_width.encoders.audio[0].mlp[0].weight.shape == (9, 6)


def test_defaults_are_those_of_youtube8m():
    model = FeatureTransformer()
    assert model.modalities == dict(rgb=1024, audio=128)
    assert model.cls_head.out_features == 317 and model.cls_head.in_features == 2 * 512
    assert {len(layers) for layers in model.encoders.values()} == {1}
    assert model.encoders.rgb[0].attention.num_heads == 8
    assert type(model.data_preprocessor).__name__ == 'FeaturePreprocessor'


def test_attention_can_be_read_by_name():
    model, inputs = small(), padded(ragged())
    with capture_attention(model, ['encoders.rgb.0.attention']) as maps:
        model(inputs)
    (attention,) = maps
    assert attention.weights.shape == (3, 7, 7)
    assert torch.equal(attention.valid, inputs['rgb_mask'])
    torch.testing.assert_close(attention.weights.sum(-1), torch.ones(3, 7))
    assert (attention.weights[~inputs['rgb_mask'][:, None].expand(3, 7, 7)] == 0).all()


@pytest.mark.parametrize('length', [1, 300])
@pytest.mark.parametrize('pooling', ['mean', 'max', 'attention'])
def test_finite_at_the_shortest_and_the_longest(length, pooling):
    model = small(pooling=pooling)
    inputs = dict(rgb=30 * torch.randn(2, length, 12), audio=30 * torch.randn(2, length, 6))
    model.loss(inputs, labelled(targets(2)))['loss_cls'].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('pooling', ['mean', 'max', 'attention'])
def test_mixed_precision(pooling, dtype):
    """Near the float32 loss, with a video that lacks a modality; all gradients finite."""
    model = small(pooling=pooling)
    inputs, samples = padded(ragged(dict(rgb=(4, 2), audio=(0, 3)))), labelled(targets(2))
    expected = model.loss(inputs, samples)['loss_cls']
    with torch.autocast('cpu', dtype=dtype):
        loss = model.loss(inputs, samples)['loss_cls']
        # Norms give float32 on accelerators.
        pooled = model.poolings.rgb(torch.ones(2, 3, 8), torch.eye(3)[:2].bool())
    torch.testing.assert_close(pooled.float(), torch.ones(2, 8))
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_norm_inside_the_model():
    """It is the plain model on normalised frames, so the scale of a frame does not count."""
    model = small(input_norm='l2_frame')
    plain = small()
    plain.load_state_dict(model.state_dict())
    inputs = dict(rgb=torch.randn(2, 4, 12), audio=torch.randn(2, 4, 6))
    expected = plain(l2_normalize_frames(inputs))
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(model(inputs), plain(inputs), atol=1e-3)
    scaled = {name: 7 * value for name, value in inputs.items()}
    torch.testing.assert_close(model(scaled), model(inputs), rtol=0, atol=1e-6)

    # Padding: exactly zero gradients, though the norm of a padded frame is zero.
    videos = ragged(dict(rgb=(4, 2), audio=(4, 2)))
    batch = padded(videos)
    batch['rgb'].requires_grad_()
    model(batch).sum().backward()
    assert (batch['rgb'].grad[1, 2:] == 0).all() and (batch['rgb'].grad[1, :2] != 0).any()
    with pytest.raises(ValueError, match=r"masks of \['rgb', 'audio'\] differ.*input_norm=None"):
        model(padded(ragged()))


def test_loss_is_the_mean_over_classes_and_batch():
    model, inputs, y = small(), padded(ragged()), targets(3)
    p = model(inputs).detach().sigmoid().double().numpy()
    t = y.double().numpy()
    expected = -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))
    losses = model(inputs, labelled(y), mode='loss')
    assert list(losses) == ['loss_cls']
    np.testing.assert_allclose(losses['loss_cls'].item(), expected, rtol=1e-5)


def test_labels_as_indices_and_as_integer_vectors():
    model, inputs = small(), padded(ragged())
    one_hot = torch.eye(CLASSES)[[4, 0, 2]]
    expected = model.loss(inputs, labelled(one_hot))['loss_cls']
    assert model.loss(inputs, labelled([4, 0, 2]))['loss_cls'] == expected
    # ActionDataSample makes integers of arrays.
    vectors = labelled([row.long().numpy() for row in one_hot])
    assert model.loss(inputs, vectors)['loss_cls'] == expected


def test_labels_follow_the_model_to_its_device():
    """With the meta device as a stand-in for an accelerator."""
    inputs = {name: value.to('meta') for name, value in padded(ragged()).items()}
    model = small(loss_cls=PairLoss()).to('meta')
    assert {loss.device.type for loss in model.loss(inputs, labelled(targets(3))).values()} == {
        'meta'
    }


class PairLoss(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return dict(loss_a=logits.mean(), loss_b=target.mean())


def test_loss_from_a_config_or_a_module():
    inputs, y = padded(ragged()), targets(3)
    torch.manual_seed(3)
    default = small()
    torch.manual_seed(3)
    config = small(loss_cls=dict(type='mmaction.BCELossWithLogits', loss_weight=2.0))
    losses = config.loss(inputs, labelled(y))
    torch.testing.assert_close(
        losses['loss_cls'], 2 * default.loss(inputs, labelled(y))['loss_cls']
    )
    module = small(loss_cls=PairLoss())
    assert list(module.loss(inputs, labelled(y))) == ['loss_a', 'loss_b']


def test_predictions():
    model, inputs = small().eval(), padded(ragged())
    samples = labelled(targets(3))
    out = model(inputs, samples, mode='predict')
    scores = 1 / (1 + (-model(inputs)).exp())
    for sample, given, score in zip(out, samples, scores, strict=True):
        assert sample is given and sample.num_classes == CLASSES
        torch.testing.assert_close(sample.pred_score, score)
        assert sample.pred_label.tolist() == [score.tolist().index(max(score.tolist()))]


def test_one_label_a_video_is_cross_entropy_and_softmax():
    model, inputs = small(multi_class=False).eval(), padded(ragged())
    logits = model(inputs).detach()
    loss = model.loss(inputs, labelled([4, 0, 2]))['loss_cls']
    torch.testing.assert_close(loss.detach(), F.cross_entropy(logits, torch.tensor([4, 0, 2])))
    scores = torch.stack([s.pred_score for s in model.predict(inputs, labelled([4, 0, 2]))])
    torch.testing.assert_close(scores, logits.softmax(dim=1))


def test_trains_and_predicts_as_the_runner_does():
    """train_step and val_step on quantised ragged lists; the loss falls."""
    model = MODELS.build(
        dict(type='FeatureTransformer', modalities=WIDTHS, num_classes=2, width=8, num_heads=2)
    )
    optim = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-2))
    y = torch.eye(2)[[0, 1, 0, 1]]
    lengths = dict(rgb=(3, 8, 5, 4), audio=(6, 2, 5, 9))
    data = dict(
        inputs={
            name: [
                # Bright and dark videos.
                torch.randint(100, (t, width), dtype=torch.uint8) + (150 * (i % 2))
                for i, t in enumerate(lengths[name])
            ]
            for name, width in WIDTHS.items()
        },
        data_samples=labelled(y),
    )
    losses = [model.train_step(data, optim)['loss'].item() for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    model.eval()
    assert [s.pred_label.item() for s in model.val_step(data)] == [0, 1, 0, 1]


def test_dropout_in_training_only():
    inputs = padded(ragged())
    model = small(dropout=0.5)
    plain = small()
    plain.load_state_dict(model.state_dict())
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), plain.eval()(inputs))
    assert torch.equal(plain(inputs), plain.train()(inputs))
    # Each of the three places drops: input, attention weights, branches.
    for place in ('dropout', 'encoders.rgb.0.attention', 'encoders.rgb.0.dropout'):
        one = small(dropout=0.5).eval()
        one.get_submodule(place).train()
        assert not torch.equal(one(inputs), one(inputs)), place


def test_copies_and_checkpoints(tmp_path):
    model, inputs = small(depth=2, pooling='attention').eval(), padded(ragged())
    clone = copy.deepcopy(model)
    assert torch.equal(clone(inputs), model(inputs))
    with torch.no_grad():
        clone.cls_head.bias += 1
    assert not torch.equal(clone(inputs), model(inputs))

    torch.save(model.state_dict(), tmp_path / 'model.pth')
    assert not any('data_preprocessor' in key for key in model.state_dict())
    fresh = small(depth=2, pooling='attention').eval()
    fresh.load_state_dict(torch.load(tmp_path / 'model.pth', weights_only=True), strict=True)
    assert torch.equal(fresh(inputs), model(inputs))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num_heads=3), "num_heads=3 does not divide the width 8 of 'rgb'"),
        (dict(width=None, num_heads=4), "num_heads=4 does not divide the width 6 of 'audio'"),
        (dict(width=dict(rgb=8)), r"width has \['rgb'\], but modalities has \['audio', 'rgb'\]"),
        (dict(width=0), "width of 'rgb'=0 must be a whole number of 1 or more"),
        (dict(width=dict(rgb=8, audio=4), fusion='sum'), "fusion='sum' needs one width"),
        (dict(fusion='product'), r"fusion='product' is unknown; write fusion='concat'"),
        (dict(pooling='avg'), "pooling='avg' is unknown"),
        (dict(positions='learned'), "positions='learned' is unknown"),
        (dict(input_norm='l2'), "input_norm='l2' is unknown"),
        (dict(modalities={}), 'modalities={} is empty'),
        (dict(modalities=dict(rgb=0)), r"modalities\['rgb'\]=0 must be"),
        (dict(modalities=dict(rgb_mask=4)), "'rgb_mask', but names that end in '_mask'"),
        (dict(num_classes=0), 'num_classes=0 must be'),
        (dict(depth=0), 'depth=0 must be'),
        (dict(num_heads=2.0), 'num_heads=2.0 must be'),
        (dict(mlp_ratio=0.1), 'mlp_ratio=0.1 leaves no hidden unit for the width 8'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


RGB, AUDIO = torch.zeros(2, 4, 12), torch.zeros(2, 3, 6)


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        (RGB, r"must be a dict of the modalities \['rgb', 'audio'\], got Tensor"),
        (dict(rgb=RGB), r"missing: \['audio'\], unknown: \[\]"),
        (dict(rgb=RGB, audio=AUDIO, flow=RGB), r"missing: \[\], unknown: \['flow'\]"),
        (dict(rgb=RGB[..., :5], audio=AUDIO), r"'rgb' has the shape \(2, 4, 5\), .*\(rgb=12\)"),
        (dict(rgb=RGB[0], audio=AUDIO), r"'rgb' has the shape \(4, 12\)"),
        (dict(rgb=RGB, audio=AUDIO[:1]), r"'audio' has the shape \(1, 3, 6\), .*\(2, T, 6\)"),
        (dict(rgb=RGB[:, :0], audio=AUDIO), 'with T of 1 or more'),
        (dict(rgb=RGB.byte(), audio=AUDIO), "'rgb' is torch.uint8.*model.data_preprocessor"),
        (dict(rgb=RGB, audio=AUDIO, rgb_mask=RGB[..., 0]), r'rgb_mask must be boolean \(2, 4\)'),
        (
            dict(rgb=RGB, audio=AUDIO, rgb_mask=AUDIO[..., 0].bool()),
            r'boolean \(2, 4\).* got torch.bool \(2, 3\)',
        ),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        small()(inputs)


@pytest.mark.parametrize(
    ('label', 'message'),
    [
        (torch.zeros(4), r"video_id='ab' is torch.float32 of shape \(4,\).*num_classes=5"),
        ([1, 3], r'torch.int64 of shape \(2,\)'),
        (5, 'of the value 5, .*from 0 to 4'),
        (-1, 'of the value -1'),
        (torch.tensor([1.0]), r'torch.float32 of the value 1.0'),
    ],
)
def test_bad_labels(label, message):
    sample = ActionDataSample(metainfo=dict(video_id='ab')).set_gt_label(label)
    with pytest.raises(ValueError, match=message):
        small().loss(dict(rgb=RGB[:1], audio=AUDIO[:1]), [sample])


def test_bad_modes():
    inputs = dict(rgb=RGB, audio=AUDIO)
    with pytest.raises(RuntimeError, match="mode='train' is not known"):
        small()(inputs, mode='train')
    for mode in ('loss', 'predict'):
        with pytest.raises(ValueError, match=f"mode='{mode}' needs data_samples"):
            small()(inputs, mode=mode)


@pytest.mark.parametrize('recipe', ['art', 'aart'])
def test_unequal_modalities_are_those_masked_by_hand(recipe):
    """Losses, gradients and the adversary, under A-ART too; one of the videos has no sound."""
    lengths = dict(rgb=(165, 87, 5), audio=(162, 88, 0))
    features = {
        name: [torch.randint(256, (t, width), dtype=torch.uint8) for t in lengths[name]]
        for name, width in WIDTHS.items()
    }
    ragged_inputs = small().data_preprocessor(dict(inputs=features))['inputs']
    assert ragged_inputs['audio'].shape[1] == 162 and ragged_inputs['rgb'].shape[1] == 165
    # The same, with one length for both modalities, and something on the padding.
    by_hand = {}
    for name, width in WIDTHS.items():
        padding = torch.full((3, 170 - len(ragged_inputs[name][0]), width), 3.0)
        by_hand[name] = torch.cat([ragged_inputs[name], padding], dim=1)
        by_hand[f'{name}_mask'] = torch.arange(170) < torch.tensor(lengths[name])[:, None]
    model = make_adversarial(small().train(), recipe, eps=0.5)
    labels = [ActionDataSample().set_gt_label(i) for i in range(3)]
    seen = []
    for inputs in (ragged_inputs, by_hand):
        adversary = model.perturb(inputs, labels)
        model.zero_grad()
        losses = model.adversarial_loss(inputs, labels)
        sum(losses.values()).backward()
        changes = {}
        for name in WIDTHS:
            mask, change = inputs[f'{name}_mask'], adversary[name] - inputs[name]
            assert (change[~mask] == 0).all()
            size = change.flatten(1).norm(dim=1)
            expected = 0.5 * mask.any(dim=1)
            torch.testing.assert_close(size, expected, rtol=1e-4, atol=0)
            changes[name] = [row[valid] for row, valid in zip(change, mask, strict=True)]
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert all(value.isfinite() for value in losses.values())
        assert all(gradient.isfinite().all() for gradient in gradients)
        seen.append((losses, gradients, changes))
    (losses, gradients, changes), other = seen
    torch.testing.assert_close(losses, other[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, other[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(changes, other[2], rtol=1e-4, atol=1e-5)


def test_l2_frame_names_what_differs():
    """At the preprocessor, with the video; and at the model, for whoever pads otherwise."""
    features = dict(rgb=[torch.zeros(165, 12)], audio=[torch.zeros(162, 6)])
    inputs = small().data_preprocessor(dict(inputs=features))['inputs']
    with pytest.raises(ValueError, match="input_norm='l2_frame'.*masks.*input_norm=None"):
        small(input_norm='l2_frame')(inputs)
    preprocessor = dict(type='FeaturePreprocessor', input_norm='l2_frame')
    with pytest.raises(ValueError, match="'rgb': 165, 'audio': 162} frames; cut or pad"):
        small(data_preprocessor=preprocessor).data_preprocessor(dict(inputs=features))


def bernoulli(clean: Tensor, moved: Tensor) -> Tensor:
    """KL between predictions of each class, video by video, averaged over the classes."""
    values = []
    for p, q in zip(clean.sigmoid(), moved.sigmoid(), strict=True):
        each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        values.append(each.mean())
    return torch.stack(values).mean()


@pytest.mark.parametrize('kind', ['pgdtraining', 'fasttraining', 'trades', 'mart'])
def test_adversarial_training_on_ragged_videos(kind):
    """Padding is not perturbed, and each recipe's loss is that of the videos as they are."""
    several = kind in ('pgdtraining', 'trades')
    plain = small(multi_class=several).double().train()
    inputs = padded(ragged(), extra=2)
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in inputs.items()}
    labels = targets(3) if several else torch.tensor([0, 3, 4])
    samples = labelled(labels)
    options = dict(multilabel=True) if kind == 'trades' else {}
    model = make_adversarial(copy.deepcopy(plain), kind, eps=0.2, step_size=0.1, **options)
    moved = model.perturb(inputs, samples)
    for name in WIDTHS:
        mask = inputs[f'{name}_mask']
        assert torch.equal(moved[name][~mask], inputs[name][~mask])
        assert not torch.equal(moved[name][mask], inputs[name][mask])
    logged = model(inputs, samples, mode='loss')
    total, _ = model.parse_losses(logged)
    total.backward()
    losses = [plain.parse_losses(plain(x, samples, mode='loss'))[0] for x in (inputs, moved)]
    if kind == 'trades':
        scores = [plain(x, samples, mode='tensor') for x in (inputs, moved)]
        torch.testing.assert_close(total, losses[0] + 6 * bernoulli(*scores))
    elif kind != 'mart':
        torch.testing.assert_close(total, losses[1])
        assert 'loss_cls' not in logged and 'adv_loss_cls' in logged
    else:
        assert total > losses[1]
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_trades_of_several_labels_says_what_to_write():
    model = make_adversarial(small(), 'trades')
    with pytest.raises(ValueError, match='several labels; write multilabel=True'):
        model(padded(ragged()), labelled(targets(3)), mode='loss')
