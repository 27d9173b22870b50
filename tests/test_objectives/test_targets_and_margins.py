"""Margin, Targeted, KL and FeatureShift against loops, and under attack."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet, build_recognizer, data_samples, tsm_config
from torch import nn

from adv_plugins import (
    KL,
    FeatureShift,
    Margin,
    PGDTraining,
    Recipe,
    Targeted,
    make_adversarial,
)
from adv_plugins.core.objectives import OBJECTIVES
from adv_plugins.core.randomness import private_random
from adv_plugins.core.record import IGNORED, Record
from adv_plugins.objectives.scores import targeted_logits_ratio


def record(logits, labels):
    return Record({}, torch.zeros(()), logits, labels, len(logits))


def values(objective, logits, labels):
    found = record(logits, labels)
    return objective(found, objective.targets(found))


def drawn(classes=5):
    labels = torch.randint(classes, (20,))
    labels[3] = IGNORED
    return torch.randn(20, classes).double(), labels


def test_margins_equal_a_loop():
    logits, labels = drawn()
    cw, dlr = (values(Margin(kind=kind), logits, labels) for kind in ('cw', 'dlr'))
    for i, (z, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        if y == IGNORED:
            assert cw[i] == dlr[i] == 0
            continue
        other = max(score for k, score in enumerate(z) if k != y)
        first, _, third = sorted(z, reverse=True)[:3]
        assert cw[i] == pytest.approx(other - z[y])
        assert dlr[i] == pytest.approx((other - z[y]) / (first - third))


def test_targeted_logits_ratio_equals_a_loop():
    logits, labels = torch.randn(20, 6).double(), torch.randint(6, (20,))
    targets = (labels + torch.randint(1, 6, (20,))) % 6
    found = targeted_logits_ratio(logits, labels, targets)
    for i, z in enumerate(logits.tolist()):
        ranked = sorted(z, reverse=True)
        gap = ranked[0] - (ranked[2] + ranked[3]) / 2
        assert found[i] == pytest.approx((z[targets[i]] - z[labels[i]]) / gap)
    with pytest.raises(ValueError, match='at least 4 classes, the model has 3'):
        targeted_logits_ratio(logits[:, :3], labels, targets)


@pytest.mark.parametrize('kind', ['ce', 'cw'])
@pytest.mark.parametrize('label', ['random', 'least_likely', 2])
def test_targets_are_wrong_classes_and_values_equal_a_loop(label, kind):
    logits, labels = drawn()
    objective = Targeted(label=label, kind=kind)
    with private_random(logits.device, seed=1):
        targets = objective.targets(record(logits, labels))
    value = objective(record(logits, labels), targets)
    for i, (z, y, t) in enumerate(
        zip(logits.tolist(), labels.tolist(), targets.tolist(), strict=True)
    ):
        if y in (IGNORED, label):
            assert t == IGNORED and value[i] == 0
            continue
        assert 0 <= t != y
        if label == 'least_likely':
            assert z[t] == min(score for k, score in enumerate(z) if k != y)
        if label == 2:
            assert t == 2
        if kind == 'ce':
            expected = z[t] - math.log(sum(math.exp(score) for score in z))
        else:
            expected = z[t] - max(score for k, score in enumerate(z) if k != t)
        assert value[i] == pytest.approx(expected, rel=1e-5)
    if label == 'random':
        assert (
            len({(t - y) % 5 for y, t in zip(labels.tolist(), targets.tolist(), strict=True)}) > 3
        )


@pytest.mark.parametrize(
    'objective', [Targeted(label=2), Targeted(label=2, kind='cw'), Targeted(label='least_likely')]
)
def test_an_attack_leads_to_the_target(clips, objective):
    inputs, labels = clips
    net = Conv3dNet().eval()
    labels = torch.where(labels == 2, 3, labels)
    make_adversarial(net, Recipe(objective=objective, eps=1.0, steps=20))
    target = objective.targets(record(net(inputs), labels))
    before, after = (
        net(x).gather(1, target[:, None]) for x in (inputs, net.perturb(inputs, labels))
    )
    assert (after > before).all()


@pytest.mark.parametrize('kind', ['cw', 'dlr'])
def test_an_attack_raises_what_the_best_other_class_gains(clips, kind):
    inputs, labels = clips
    net = make_adversarial(
        Conv3dNet().eval(), Recipe(objective=dict(type='margin', kind=kind), eps=0.5, steps=5)
    )
    margin = Margin(kind=kind)
    found = [values(margin, net(x), labels) for x in (inputs, net.perturb(inputs, labels))]
    assert (found[1] > found[0]).all()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: Margin(kind='ce'), "kind='ce' is unknown; write kind='cw' or kind='dlr'"),
        (lambda: Targeted(label='wrong'), "label='wrong' must be 'random', 'least_likely' or"),
        (lambda: Targeted(label=-1), 'label=-1 must be'),
        (lambda: Targeted(label=True), 'label=True must be'),
        (lambda: values(Targeted(label=7), *drawn()), r'label=7 must lie in 0\.\.4'),
        (lambda: values(Margin(kind='dlr'), *drawn(2)), "at least 3 classes.*kind='cw'"),
        (lambda: Recipe(objective=FeatureShift(layer='fc'), eps=1), 'write random_start=True'),
        (
            lambda: make_adversarial(
                Conv3dNet(), Recipe(objective=FeatureShift(layer='fx'), eps=1, random_start=True)
            ),
            "layer='fx' is no module of Conv3dNet; write layer='fc'",
        ),
    ],
)
def test_bad_options_of_objectives(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize('multilabel', [False, True])
def test_the_divergence_equals_pytorchs_and_only_the_adversary_is_differentiated(multilabel):
    clean, moved = (torch.randn(4, 5).double().requires_grad_() for _ in range(2))
    objective = KL(multilabel=multilabel)
    targets = objective.targets(record(clean, None))
    found = objective(record(moved, None), targets)
    if multilabel:
        p, q = clean.detach().sigmoid(), moved.sigmoid()
        each = F.binary_cross_entropy(q, p, reduction='none')
        each = each - F.binary_cross_entropy(p, p, reduction='none')
        expected = each.mean(1)
    else:
        p = clean.detach().softmax(1)
        expected = F.kl_div(moved.log_softmax(1), p, reduction='none').sum(1)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(value.sum(), moved)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes)
    assert not targets.requires_grad


class Embedding(nn.Module):
    """Returns a vector for each clip, and knows no classes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)
        self.out = nn.Linear(4, 7)

    def forward(self, x):
        return dict(embedding=self.out(self.conv(x).relu().mean(dim=(2, 3, 4))))


def alike(output, target):
    return 1 - F.cosine_similarity(output['embedding'], target).mean()


@pytest.mark.parametrize('layer', ['conv', 'out'])
def test_features_move_without_labels_or_classes(clips, layer):
    net, anchors = Embedding().double(), torch.randn(5, 7).double()
    x = clips[0].double()
    recipe = PGDTraining(
        objective=dict(type='FeatureShift', layer=layer), eps=0.1, step_size=0.02, steps=5
    )
    model = make_adversarial(copy.deepcopy(net), recipe, loss_fn=alike)
    start = Recipe(objective='TrainingLoss', eps=0.1, step_size=0, random_start=True)
    still = make_adversarial(copy.deepcopy(net), start, loss_fn=alike)
    delta = still.perturb(x, anchors) - x

    def shift(delta):
        features = []
        handle = net.get_submodule(layer).register_forward_hook(
            lambda module, args, output: features.append(output.flatten(1))
        )
        net(x), net(x + delta)
        handle.remove()
        return (features[1] - features[0].detach()).norm(dim=1)

    moved = model.perturb(x, anchors)
    first = shift(delta)
    for _ in range(5):
        delta = delta.detach().requires_grad_()
        (slope,) = torch.autograd.grad(shift(delta).sum(), delta)
        delta = (delta + 0.02 * slope.sign()).clamp(-0.1, 0.1)
    torch.testing.assert_close(moved, (x + delta).detach())
    assert (shift(delta) > first).all()
    losses = model.adversarial_loss(x, anchors)
    losses['loss'].backward()
    torch.testing.assert_close(losses['loss'], alike(net(moved), anchors))
    assert not any(module._forward_hooks for module in model.modules())


def test_features_of_frames_belong_to_their_clip():
    """TSM's maps are (B·T, C, H, W); a part of the batch is compared with its own."""
    model = build_recognizer(tsm_config(dropout=0.0)).eval()
    inputs, samples = torch.randn(3, 4, 3, 32, 32), data_samples([0, 1, 2])
    objective = FeatureShift(layer='backbone.layer3')
    recipe = Recipe(objective=objective, eps=4 / 255, steps=2, random_start=True, fraction=0.6)
    make_adversarial(model, recipe)
    logged = model.adversarial_loss(inputs, samples)
    assert logged['adv_unmoved'] == 0 and logged['loss_cls'].isfinite()
    whole = model.perturb(inputs, samples)
    targets = []
    original = FeatureShift.targets
    try:
        FeatureShift.targets = lambda self, rec: targets.append(original(self, rec)) or targets[-1]
        assert torch.equal(model.perturb(inputs, samples), whole)
    finally:
        FeatureShift.targets = original
    assert targets[0].shape == (3, 4 * 256 * 2 * 2)


class Pooled(Conv3dNet):
    """Has a layer that never runs, and one that sees the batch as a whole."""

    def __init__(self):
        super().__init__()
        self.spare, self.total = nn.Identity(), nn.Identity()

    def forward(self, x):
        scores = super().forward(x)
        return scores - self.total(scores.mean(dim=0, keepdim=True))


@pytest.mark.parametrize(
    ('layer', 'message'),
    [('spare', "'spare' takes no part in the forward"), ('total', r'returns \(1, 6\)')],
)
def test_a_layer_that_does_not_run_or_mixes_samples(clips, layer, message):
    recipe = Recipe(objective=FeatureShift(layer=layer), eps=0.1, random_start=True)
    model = make_adversarial(Pooled(), recipe)
    with pytest.raises(ValueError, match=message):
        model.adversarial_loss(*clips)


def test_all_objectives_are_known_by_name():
    assert set(OBJECTIVES) >= {
        'CrossEntropy', 'FeatureShift', 'KL', 'Margin', 'Targeted', 'TemporalCAM', 'TrainingLoss',
    }  # fmt: skip
