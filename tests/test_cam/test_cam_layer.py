"""The CAM layer is found by looking, and its axes are those that the clip confirms."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from einops import rearrange
from helpers import Conv3dNet, assert_same, snapshot
from torch import nn

from adv_plugins import make_adversarial, remove_adversarial
from adv_plugins.cam.layer import cam_layer_of
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary

LABELS = torch.tensor([1, 3])
FRAMES_FIRST, CHANNELS_FIRST = (2, 4, 3, 32, 32), (2, 3, 4, 32, 32)


def unit(kind, a, b, stride=1):
    norm = nn.BatchNorm2d if kind is nn.Conv2d else nn.BatchNorm3d
    return nn.Sequential(kind(a, b, 3, stride, 1, bias=False), norm(b), nn.ReLU())


class Net(nn.Module):
    """Stages with unusual names: one halves the frames, two halve the places."""

    def __init__(self, classes=5):
        super().__init__()
        self.begin = unit(nn.Conv3d, 3, 8, (1, 2, 2))
        self.parts = nn.ModuleList([unit(nn.Conv3d, 8, 12, (1, 2, 2)), unit(nn.Conv3d, 12, 16)])
        self.head = nn.Linear(16, classes)

    def features(self, x):
        x = self.begin(x)
        for part in self.parts:
            x = part(x)
        return x

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3, 4)))


class Permuted(Net):
    """Its convolutions see height for time."""

    def forward(self, x):
        return super().forward(x.transpose(2, 3))


class Dense(Net):
    """Class scores of every place, pooled by modules: neither is a feature map."""

    def __init__(self):
        super().__init__()
        self.pool, self.drop = nn.AvgPool3d((1, 2, 2), 1), nn.Dropout(0.5)
        self.point = nn.Conv3d(16, 5, 1)

    def forward(self, x):
        return self.point(self.drop(self.pool(self.features(x)))).softmax(1).mean((2, 3, 4))


class Recurrent(nn.Module):
    """A 2-D net for each frame, and a recurrent one over the frames."""

    def __init__(self, turned=False):
        super().__init__()
        self.net = nn.Sequential(unit(nn.Conv2d, 3, 8, 2), unit(nn.Conv2d, 8, 16, 2))
        self.lstm, self.out = nn.LSTM(16, 12, batch_first=True), nn.Linear(12, 5)
        self.turned = turned

    def forward(self, x):
        if self.turned:
            x = x.transpose(0, 1)
        maps = self.net(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        if self.turned:
            maps = maps.transpose(0, 1)
        return self.out(self.lstm(maps)[0][:, -1])


class Block(nn.Module):
    def __init__(self, width, order='b n c'):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, 2, batch_first=order == 'b n c')
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x):
        y = self.first(x)
        x = x + self.mix(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second(x)), x.shape[1]


class Tokens(nn.Module):
    """A Transformer whose blocks return their tokens with a number."""

    def __init__(self, token, order='b n c'):
        super().__init__()
        self.patches = nn.Conv3d(3, 16, (1, 8, 8), (1, 8, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 16)) if token else None
        self.layers = nn.ModuleList(Block(16, order) for _ in range(3))
        self.last, self.out, self.order = nn.LayerNorm(16), nn.Linear(16, 5), order

    def forward(self, x):
        x = rearrange(self.patches(x), 'b c t h w -> b (t h w) c')
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = rearrange(x, f'b n c -> {self.order}')
        for layer in self.layers:
            x, _ = layer(x)
        x = rearrange(self.last(x), f'{self.order} -> b n c')
        return self.out(x.mean(1) if self.token is None else x[:, 0])


class Mixed(nn.Module):
    """Each place of a frame sees all of it alike."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 16)
        self.last, self.out = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.patches(x.flatten(0, 1)).flatten(2)
        tokens = self.last(self.mix(tokens).relu().transpose(1, 2))
        return self.out(tokens.mean(1)).unflatten(0, x.shape[:2]).mean(1)


class Pathways(nn.Module):
    """Two pathways in each stage; the narrow one has all frames."""

    class Stage(nn.Module):
        def __init__(self, *widths):
            super().__init__()
            self.paths = nn.ModuleList(unit(nn.Conv3d, a, b, (1, 2, 2)) for a, b in widths)

        def forward(self, xs):
            return [path(x) for path, x in zip(self.paths, xs, strict=True)]

    def __init__(self):
        super().__init__()
        self.one, self.two = self.Stage((3, 4), (3, 8)), self.Stage((4, 4), (8, 24))
        self.out = nn.Linear(28, 5)

    def forward(self, x):
        fast, slow = self.two(self.one([x, x[:, :, ::2]]))
        return self.out(torch.cat([fast.mean((2, 3, 4)), slow.mean((2, 3, 4))], 1))


class TwoNets(nn.Module):
    """Nothing that all scores know of the clip passes through one layer."""

    def __init__(self):
        super().__init__()
        self.left, self.right = Net(), Net()

    def forward(self, x):
        return self.left(x) + self.right(x)


# The model, the shape of its clips, the layer, the tensor in its output, the axes, T, H, W.
FOUND = {
    'stages in a list': (Net, CHANNELS_FIRST, 'parts.1', 0, 'b c t h w', (4, 8, 8)),
    'scores of places': (Dense, CHANNELS_FIRST, 'parts.1', 0, 'b c t h w', (4, 8, 8)),
    'time and height exchanged': (
        Permuted,
        (2, 3, 16, 32, 32),
        'parts.1',
        0,
        'b c h t w',
        (4, 32, 8),
    ),
    'recurrent': (Recurrent, FRAMES_FIRST, 'net', 0, '(b t) c h w', (4, 8, 8)),
    'time before batch': (
        lambda: Recurrent(turned=True),
        FRAMES_FIRST,
        'net',
        0,
        '(t b) c h w',
        (4, 8, 8),
    ),
    'tokens': (
        lambda: Tokens(False),
        CHANNELS_FIRST,
        'last',
        0,
        'b (t h w) c; h=4 w=4',
        (4, 4, 4),
    ),
    'tokens as many as a frame has': (
        lambda: Tokens(False),
        (2, 3, 4, 16, 16),
        'last',
        0,
        'b (t h w) c; h=2 w=2',
        (4, 2, 2),
    ),
    'class token': (
        lambda: Tokens(True),
        CHANNELS_FIRST,
        'layers.1',
        0,
        'b 1+(t h w) c; h=4 w=4',
        (4, 4, 4),
    ),
    'tokens before batch': (
        lambda: Tokens(True, 'n b c'),
        CHANNELS_FIRST,
        'layers.1',
        0,
        '1+(t h w) b c; h=4 w=4',
        (4, 4, 4),
    ),
    'mixed places': (Mixed, FRAMES_FIRST, 'last', 0, '(b t) (h w) c; h=4 w=4', (4, 4, 4)),
    'pathways': (Pathways, CHANNELS_FIRST, 'two', 1, 'b c t h w', (2, 8, 8)),
}


def built(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize('case', FOUND)
def test_the_layer_is_found_with_its_axes(case, caplog):
    make, shape, layer, entry, layout, grid = FOUND[case]
    model = make_adversarial(built(make), 'taf').train()
    with caplog.at_level(logging.INFO, 'adv_plugins'):
        losses = model.adversarial_loss(torch.randn(shape), LABELS)
    found = get_adversary(model).attacker.layer
    assert (found.name, found.entry, found.layout, found.grid) == (layer, entry, layout, grid)
    assert losses['adv_unmoved'] == 0 and losses['loss'].isfinite()
    told = 'T×H×W = ' + '×'.join(map(str, grid))
    assert layer in caplog.text and told in caplog.text


def test_the_named_layer_is_read_as_the_clip_confirms():
    """A convolution's axes are assumed of four or five; here they are others, or unknown."""
    for make, shape, name, layout in (
        (Permuted, (2, 3, 16, 32, 32), 'parts.1', 'b c h t w'),
        (lambda: Recurrent(turned=True), FRAMES_FIRST, 'net.0', '(t b) c h w'),
        (lambda: Tokens(True), CHANNELS_FIRST, 'layers.0', 'b 1+(t h w) c; h=4 w=4'),
        (lambda: Tokens(True), CHANNELS_FIRST, 'patches', None),
        (Mixed, FRAMES_FIRST, 'last', '(b t) (h w) c; h=4 w=4'),
    ):
        model = make_adversarial(built(make), 'taf', cam_layer=name).eval()
        model.perturb(torch.randn(shape), LABELS)
        found = get_adversary(model).attacker.layer
        assert (found.name, found.layout) == (name, layout)


@pytest.mark.parametrize(
    ('make', 'options', 'message'),
    [
        (Net, dict(cam_layout='b h c t w'), "not 'b h c t w'.* cam_layout='b c t h w' is right"),
        (
            lambda: Tokens(False),
            dict(cam_layer='last', cam_layout='b (h w t) c; h=4 w=4'),
            "cam_layout='b .t h w. c; h=4 w=4' is right",
        ),
        (
            lambda: Tokens(False),
            dict(cam_layer='last', cam_layout='b (t h w) c; t=3 h=4'),
            "(?s)does not fit the shape.* cam_layout='b .t h w. c; h=4 w=4' is right",
        ),
        (Net, dict(cam_layer='head'), "cam_layer='parts.1' is right"),
        (lambda: Tokens(True), dict(cam_layer='out'), "cam_layer='layers.1' is right"),
        (TwoNets, {}, "write cam_layer='right.parts.1' or cam_layer='left.parts.1'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12288, 5)), {}, "'advprop'"),
    ],
)
def test_what_to_write_instead(make, options, message):
    """Never a layer at the stem, behind the head, or the class scores."""
    if 'cam_layout' in options:
        options = {'cam_layer': 'parts.1', **options}
    model = make_adversarial(built(make), 'taf', **options).train()
    with pytest.raises(ValueError, match=message):
        model.adversarial_loss(torch.randn(CHANNELS_FIRST), LABELS)


@pytest.mark.filterwarnings('ignore:the first attack moved no sample')
def test_a_head_that_starts_at_zero_hides_nothing():
    model = built(Net)
    nn.init.zeros_(model.head.weight)
    clips = torch.randn(CHANNELS_FIRST)
    earlier = make_adversarial(model, 'taf').train()(clips).square().mean()
    (earlier + model.adversarial_loss(clips, LABELS)['loss']).backward()
    assert get_adversary(model).attacker.layer.name == 'parts.1'
    assert not model.head.weight.any()


def test_inputs_without_time():
    model = make_adversarial(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten()), 'taf')
    with pytest.raises(ValueError, match="no axes of time.*write 'advprop'"):
        model.adversarial_loss(torch.randn(2, 3, 8, 8), LABELS)


class Watched(Net):
    """Counts what a probe might leave behind."""

    def __init__(self):
        super().__init__()
        self.drop, self.calls = nn.Dropout(0.5), 0
        self.register_buffer('centre', torch.zeros(16))

    def forward(self, x):
        self.calls += 1
        features = self.features(x).mean((2, 3, 4))
        self.centre.lerp_(features.mean(0).detach(), 0.1)
        return self.head(self.drop(features))


@pytest.mark.parametrize('frozen', [False, True])
def test_a_probe_leaves_no_trace(frozen):
    """Parameters, buffers, modes, hooks and random numbers are as before; on an error, too."""
    model = built(Watched).train()
    model.parts[0].eval().requires_grad_(not frozen)
    make_adversarial(model, 'taf')
    clips = torch.randn(CHANNELS_FIRST)
    before, given = snapshot(model), clips.clone()
    get_adversary(model).attacker.find_layer(Batch(clips), LABELS)
    assert_same(snapshot(model), before)
    assert torch.equal(clips, given) and not clips.requires_grad
    with pytest.raises(ValueError, match='head'):
        cam_layer_of(get_adversary(model).adapter, Batch(clips), LABELS, 'head')
    assert_same(snapshot(model), before)


def test_a_model_is_probed_once_for_a_shape():
    model = make_adversarial(built(Watched), 'taf').train()
    counts = []
    for shape in (CHANNELS_FIRST, CHANNELS_FIRST, (3, 3, 6, 48, 32)):
        before = model.calls
        model.adversarial_loss(torch.randn(shape), torch.arange(shape[0]))
        counts.append(model.calls - before)
    # One to see the graph, and one for each two of the four corners.
    assert counts == [2 + 1 + 2, 2, 2]
    tokens = make_adversarial(built(lambda: Tokens(True)), 'taf').train()
    for size in (32, 48):
        tokens.adversarial_loss(torch.randn(2, 3, 4, size, size), LABELS)
        layer = get_adversary(tokens).attacker.layer
        assert layer.layout == f'b 1+(t h w) c; h={size // 8} w={size // 8}'


def test_the_data_decide_nothing():
    """Every process of a run finds the same, whatever its first batch holds."""
    found = set()
    clips = torch.randn(CHANNELS_FIRST)
    for first in (clips, 255 * clips.abs(), 5 + 0.1 * clips, 0 * clips, clips * torch.nan):
        adapter = get_adversary(make_adversarial(built(Net), 'taf')).adapter
        found.add(cam_layer_of(adapter, Batch(first), LABELS))
    assert len(found) == 1


def test_a_single_clip_does_not_tell_for_several():
    """Of one clip frames before the batch and behind it are the same."""
    model = make_adversarial(built(lambda: Recurrent(turned=True)), 'taf').eval()
    for count in (1, 2, 5):
        model.perturb(torch.randn(count, *FRAMES_FIRST[1:]), torch.arange(count))
        layout = get_adversary(model).attacker.layer.layout
        assert layout == '(t b) c h w' or count == 1


def test_parts_of_a_fused_layer_are_called():
    """In eval mode, without gradients, PyTorch's Transformer layer would not call them."""

    class Encoder(Tokens):
        def __init__(self):
            super().__init__(True)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)
            )

        def forward(self, x):
            x = rearrange(self.patches(x), 'b c t h w -> b (t h w) c')
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            for layer in self.layers:
                x = layer(x)
            return self.out(x[:, 0])

    model = make_adversarial(built(Encoder), 'taf').eval()
    assert not torch.equal(model.perturb(torch.ones(CHANNELS_FIRST), LABELS), torch.ones(1))
    assert get_adversary(model).attacker.layer.name == 'layers.0'


def test_a_usual_name_that_is_no_map_is_told_and_another_is_found():
    class Named(Net):
        def __init__(self):
            super().__init__()
            self.layer4 = nn.Linear(16, 16)

        def forward(self, x):
            return self.head(self.layer4(self.features(x).mean((2, 3, 4))))

    model = make_adversarial(built(Named), 'taf')
    with pytest.warns(UserWarning, match="cam_layer='layer4'.* Instead, .* parts.1"):
        model.adversarial_loss(torch.randn(CHANNELS_FIRST), LABELS)


def test_layers_that_were_replaced_are_looked_for_anew():
    clips, model = torch.randn(CHANNELS_FIRST), built(Net)
    make_adversarial(model, 'taf').adversarial_loss(clips, LABELS)
    remove_adversarial(model)
    del model.parts[1]
    model.head = nn.Linear(12, 5)
    make_adversarial(model, 'taf').adversarial_loss(clips, LABELS)
    assert get_adversary(model).attacker.layer.name == 'parts.0'


def test_a_step_after_the_probe_is_a_step_without_one():
    """Bit by bit: the first step of a model that has been looked at, and of one that has not."""
    clips, results = torch.randn(CHANNELS_FIRST), []
    fresh = make_adversarial(Conv3dNet(dropout=0.3), 'taf').train()
    for early in (False, True):
        model = copy.deepcopy(fresh)
        if early:
            get_adversary(model).attacker.find_layer(Batch(clips), LABELS)
        torch.manual_seed(5)
        losses = model.adversarial_loss(clips, LABELS)
        losses['loss'].backward()
        results.append((losses['loss'], [value.grad for value in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(map(torch.equal, results[0][1], results[1][1]))
