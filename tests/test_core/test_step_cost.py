"""The adversarial step stays at its floor: forwards, backwards and saved bytes, nothing timed."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.modules import module as global_hooks

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from helpers import (  # noqa: E402
    MEAN,
    NUM_CLASSES,
    STD,
    build_recognizer,
    data_samples,
    looked_at,
    slowonly_config,
    tsm_config,
)

from adv_plugins import (  # noqa: E402
    AART,
    ART,
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    PGDTraining,
    Recipe,
    make_adversarial,
)
from adv_plugins.core.cost import step_cost  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/benchmarks'))

from step_cases import NEVER  # noqa: E402
from step_measures import LayerCounter, LiveBytes, SavedBytes, Work, floor  # noqa: E402

VIT = dict(
    type='Recognizer3D',
    backbone=dict(
        type='VisionTransformer',
        img_size=32,
        patch_size=8,
        embed_dims=24,
        depth=4,
        num_heads=2,
        num_frames=4,
        qkv_bias=True,
        norm_cfg=dict(type='LN', eps=1e-6),
    ),
    cls_head=dict(type='TimeSformerHead', num_classes=NUM_CLASSES, in_channels=24),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=MEAN, std=STD, format_shape='NCTHW'),
)
FEATURE = dict(
    type='FeatureTransformer',
    modalities=dict(rgb=16, audio=8),
    num_classes=NUM_CLASSES,
    width=24,
    num_heads=2,
    depth=2,
)
# Config, shape of a batch, and layers to count at: one of the first stage, and the classifier.
MODELS = {
    'tsm': (
        tsm_config(),
        (2, 4, 3, 32, 32),
        ('backbone.layer1.0.conv2.conv', 'cls_head.fc_cls'),
    ),
    'slowonly': (
        slowonly_config(),
        (2, 1, 3, 4, 32, 32),
        ('backbone.layer1.0.conv2.conv', 'cls_head.fc_cls'),
    ),
    'vit': (
        VIT,
        (2, 1, 3, 4, 32, 32),
        ('backbone.blocks.0.attn.proj', 'backbone.blocks.1.mlp.layers.1'),
    ),
    'feature': (
        FEATURE,
        dict(rgb=(3, 5, 16), audio=(3, 7, 8)),
        ('encoders.rgb.0.attention.qkv', 'cls_head'),
    ),
}
# Forwards, backwards that compute no parameter gradient, full backwards.
COSTS = {
    'taf': (TAF, {}, (2, 1, 2)),
    'taf3': (TAF, dict(steps=3), (4, 3, 2)),
    'taf_random': (TAF, dict(random_start=True), (3, 1, 2)),
    'ce': (CEAugmentation, {}, (2, 0, 2)),
    'advprop1': (AdvProp, dict(steps=1), (3, 1, 2)),
    'advprop2': (AdvProp, dict(steps=2), (4, 2, 2)),
    'art': (ART, {}, (2, 0, 2)),
    'aart': (AART, {}, (2, 1, 2)),
    'aart_recompute': (AART, dict(recompute=True), (3, 1, 2)),
    'pgd3': (PGDTraining, dict(steps=3), (4, 3, 1)),
    'pgd_clean': (PGDTraining, dict(steps=2, random_start=False), (3, 2, 1)),
    'fast': (FastTraining, dict(check_interval=None), (2, 1, 1)),
    'trades2': (TRADES, dict(steps=2), (4, 2, 2)),
    'mart2': (MART, dict(steps=2), (4, 2, 2)),
}
# Their regularizer keeps the clean graph until the trainer's backward.
BOTH_GRAPHS = ('aart', 'trades2', 'mart2')
# Clean and perturbed clips share all norms.
SHARED = (PGDTraining, FastTraining, TRADES, MART)
ATTENTION = ('vit', 'feature')
PAIRS = [
    (model, recipe)
    for model in MODELS
    for recipe in COSTS
    if not (model == 'feature' and 'taf' in recipe or model not in ATTENTION and 'aart' in recipe)
]


class Case:
    """A plain model, a batch for it, and how they meet."""

    def __init__(self, name):
        config, shape, self.layers = MODELS[name]
        self.dual = name not in ATTENTION
        self.plain = build_recognizer(config)
        if isinstance(shape, dict):
            self.inputs = {key: torch.randn(size) for key, size in shape.items()}
            count = len(self.inputs['rgb'])
        else:
            self.inputs, count = torch.randn(shape), shape[0]
        self.samples = data_samples(range(count))

    def convert(self, kind, **options):
        if kind not in SHARED:
            options['dual_bn'] = self.dual
        model = make_adversarial(copy.deepcopy(self.plain), kind(**options))
        return looked_at(model, self.inputs, self.samples)

    def step(self, model):
        loss = model.parse_losses(model(self.inputs, self.samples, mode='loss'))[0]
        loss.backward()
        return loss.detach()


@pytest.fixture
def case(request):
    return Case(request.param)


def counted(case, model, layer):
    with LayerCounter(model.get_submodule(layer).weight) as counter:
        case.step(model)
    return counter.work


@pytest.mark.parametrize(('case', 'recipe'), PAIRS, indirect=['case'])
def test_work_is_the_floor(case, recipe):
    """No clean forward twice, no parameter gradient in an attack, at both ends of the model."""
    kind, options, (forwards, input_only, full) = COSTS[recipe]
    model = case.convert(kind, **options)
    first, last = (counted(case, model, layer) for layer in case.layers)
    assert first == Work(forwards, input_only + full, full) == floor(kind(**options))
    assert (last.forwards, last.weights) == (forwards, full)


@pytest.mark.parametrize('case', MODELS, indirect=True)
def test_the_counter_counts_the_plain_step(case):
    for layer in case.layers:
        assert counted(case, case.plain, layer) == Work(1, 1, 1)


@pytest.mark.parametrize(
    ('recipe', 'expected'),
    [
        (TAF(), (2, 3, 2)),
        (TAF(steps=3), (4, 5, 2)),
        (TAF(attack_path='adversarial'), (3, 3, 2)),
        (CEAugmentation(), (2, 2, 2)),
        (CEAugmentation(random_start=True), (3, 3, 2)),
        (AdvProp(), (7, 7, 2)),
        (AART(beta=0.0), (2, 2, 2)),
        (AART(beta=0.0, recompute=True), (2, 2, 2)),
        (AART(), (2, 3, 2)),
        (AART(recompute=True), (3, 3, 2)),
        (Recipe(objective='CrossEntropy', eps=1), (2, 3, 2)),
        (CEAugmentation(alpha=0), (2, 2, 1)),
        (TAF(alpha=1), (2, 3, 2)),
        (PGDTraining(), (11, 11, 1)),
        (PGDTraining(objective='CrossEntropy', steps=2), (4, 3, 1)),
        (FastTraining(), (2, 2, 1)),
        (TRADES(), (12, 12, 2)),
        (TRADES(recompute=True), (13, 12, 2)),
        (MART(), (12, 12, 2)),
        (TAF(weight_eps=0.01), (4, 5, 4)),
        (PGDTraining(weight_eps=0.01), (12, 12, 2)),
        (TRADES(weight_eps=0.01, recompute=True), (16, 14, 4)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_floor(recipe, expected):
    """In units of one forward, a gradient by the data and one by the weights a forward each:
    7 for TAF and 6 for cross-entropy from the clean graph; and as the budget counts it."""
    assert floor(recipe) == expected
    assert floor(recipe).seconds(forward=1.0, input_gradient=2.0, clean=3.0) == sum(expected)
    assert 3 * step_cost(recipe) == pytest.approx(sum(expected))


def peaks(case, model):
    """Bytes saved for backward, and bytes of all tensors that the step makes."""
    with SavedBytes(model) as saved:
        case.step(model)
    model.zero_grad()
    with LiveBytes() as live:
        case.step(model)
    return saved.peak, live.peak


@pytest.mark.parametrize(
    ('case', 'recipe'), [pair for pair in PAIRS if pair[1] not in BOTH_GRAPHS], indirect=['case']
)
def test_memory_is_that_of_a_clean_step(case, recipe):
    """The graph of the clean forward is gone before that of the adversarial one grows."""
    kind, options, _ = COSTS[recipe]
    clean, _ = peaks(case, case.plain)
    saved, _ = peaks(case, case.convert(kind, **options))
    assert saved <= 1.15 * clean, f'{saved / clean:.3f} times the bytes of a clean step'


def test_without_a_clean_weight_the_clean_graph_does_not_wait():
    """No backward passes it, so that it has to be let go of."""
    case = Case('tsm')
    clean, _ = peaks(case, case.plain)
    saved, _ = peaks(case, case.convert(AdvProp, clean_weight=0.0, steps=2))
    assert saved <= 1.15 * clean, f'{saved / clean:.3f} times the bytes of a clean step'


def test_the_clean_gradients_are_the_only_memory_beside_the_graph():
    """Those of the adversarial loss are added to them as they come: there is no second set."""
    case = Case('tsm')
    with LiveBytes() as live:
        case.plain.parse_losses(case.plain(case.inputs, case.samples, mode='loss'))
    forward = live.peak
    model = case.convert(TAF)
    case.step(model)
    model.zero_grad()
    sizes = [4 * value.numel() for value in model.parameters()]
    # The largest gradient on its way: what is known, what is added, and their sum.
    gradients = sum(sizes) + 2 * max(sizes)
    with LiveBytes() as live:
        case.step(model)
    ratio = live.peak / (forward + gradients)
    assert ratio <= 1.05, f'{ratio:.3f} times the forward and one set of gradients'


def hooks_of(model):
    """All forward hooks that are there now, those common to all modules included."""
    common = len(global_hooks._global_forward_hooks) + len(global_hooks._global_forward_pre_hooks)
    own = {
        name: len(module._forward_hooks) + len(module._forward_pre_hooks)
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    }
    return own, common


def listen(model, layer):
    """Note, whenever a layer runs, the hooks that are there."""
    module = model.get_submodule(layer)
    forward, seen = module.forward, []

    def listening(*args, **kwargs):
        seen.append(hooks_of(model))
        return forward(*args, **kwargs)

    module.forward = listening
    return seen


@pytest.mark.parametrize('schedule', [dict(begin=NEVER), dict(interval=NEVER)], ids=str)
@pytest.mark.parametrize('case', MODELS, indirect=True)
def test_an_inactive_recipe_costs_nothing(case, schedule):
    plain = copy.deepcopy(case.plain)
    model = case.convert(ART if 'encoders.rgb.0.attention.qkv' in case.layers else TAF, **schedule)
    # The first iteration rehearses the adversarial path, or takes it.
    case.step(model)
    model.zero_grad()
    model.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    with LayerCounter(plain.get_submodule(case.layers[0]).weight) as expected:
        loss = case.step(plain)
    torch.manual_seed(1)
    with LayerCounter(model.get_submodule(case.layers[0]).weight) as counter:
        assert torch.equal(case.step(model), loss)
    assert counter.work == expected.work == Work(1, 1, 1)
    own = dict(model.named_parameters())
    for name, value in plain.named_parameters():
        assert torch.equal(own[name].grad, value.grad), name
    plain.zero_grad(), model.zero_grad()
    assert peaks(case, model)[0] == peaks(case, plain)[0]
    seen = listen(model, case.layers[0])
    case.step(model)
    assert seen == [({}, 0)]


def cam_hooks(seen, layer):
    return [own.get(layer, 0) for own, _ in seen]


@pytest.mark.parametrize(
    ('recipe', 'expected'),
    [
        # The clean forward, those of the attack, and the adversarial one, which nobody reads.
        (dict(), [1, 0]),
        (dict(steps=3), [1, 1, 1, 0]),
        (dict(random_start=True, steps=2), [0, 1, 1, 0]),
        (dict(attack_path='adversarial'), [0, 1, 0]),
    ],
    ids=str,
)
def test_features_are_captured_where_the_attack_reads_them(recipe, expected):
    case = Case('tsm')
    model = case.convert(TAF, **recipe)
    seen = listen(model, case.layers[0])
    case.step(model)
    assert cam_hooks(seen, 'backbone.layer4') == expected
    assert all(common == 0 for _, common in seen)


@pytest.mark.parametrize('name', ATTENTION)
def test_attention_is_captured_where_the_regularizer_reads_it(name):
    case = Case(name)
    model = case.convert(AART, steps=3)
    seen = listen(model, case.layers[0])
    case.step(model)
    assert [common for _, common in seen] == [2, 0, 0, 2]
    assert hooks_of(model) == ({}, 0)
