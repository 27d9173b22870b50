"""Labels as they come: ignored, missing, as lists and arrays."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet
from torch import nn

from adv_plugins import make_adversarial

CLIPS = torch.rand(8, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))

LOSSES = {
    'module': (nn.CrossEntropyLoss(ignore_index=-1), -1),
    'default': (None, -100),
    'function': (lambda out, y: F.cross_entropy(out, y, ignore_index=255), 255),
    'partial': (functools.partial(F.cross_entropy, ignore_index=2), 2),
    'module, a class': (nn.CrossEntropyLoss(ignore_index=0), 0),
    'partial of a module': (functools.partial(nn.CrossEntropyLoss(ignore_index=0)), 0),
}
HIDDEN = {
    'function, a class': (lambda out, y: F.cross_entropy(out, y, ignore_index=2), 2),
    'a class of weight 0': (nn.CrossEntropyLoss(torch.arange(NUM_CLASSES).float()), 0),
}


@pytest.mark.parametrize('kind', LOSSES | HIDDEN)
@pytest.mark.parametrize('recipe', ['taf', 'ceaugmentation', 'advprop'])
@pytest.mark.parametrize('part', [dict(fraction=0.25), dict(budget=1.25)], ids=str)
def test_a_part_of_the_batch_has_samples_that_count(kind, recipe, part):
    loss_fn, ignored = (LOSSES | HIDDEN)[kind]
    model = make_adversarial(Conv3dNet(), recipe, loss_fn=loss_fn, eps=0.1, **part)
    y = torch.tensor([1] + [ignored] * 7)
    for _ in range(8):
        losses = model.adversarial_loss(CLIPS, y)
        losses['loss'].backward()
        assert math.isfinite(losses['loss'])
    assert all(value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize(
    'recipe',
    [
        dict(type='TAF'),
        dict(type='TAF', cam_of='score'),
        dict(type='Recipe', objective='CrossEntropy'),
    ],
)
@pytest.mark.parametrize('kind', LOSSES)
def test_a_sample_that_the_loss_leaves_out_is_not_attacked(kind, recipe):
    loss_fn, ignored = LOSSES[kind]
    options = dict(recipe, eps=0.1, steps=2)
    # In eval mode, where no batch statistics make one sample depend on another.
    model = make_adversarial(Conv3dNet().eval(), options, loss_fn=loss_fn)
    y = torch.tensor([1, 3] * 4)
    y[::3] = ignored
    moved = model.perturb(CLIPS, y) != CLIPS
    assert moved.flatten(1).any(1).tolist() == [value != ignored for value in y.tolist()]
    assert model.adversarial_loss(CLIPS, y)['adv_unmoved'] == 3


def test_all_samples_count_as_before():
    """No sample is left out: the part is drawn as it was without a look at the labels."""
    model, seen = make_adversarial(Conv3dNet(), fraction=0.5, steps=1, eps=0.1), []
    other = make_adversarial(Conv3dNet(), fraction=0.5, steps=1, eps=0.1, loss_fn=_one_hot_loss)
    other.load_state_dict(model.state_dict())
    y = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    for net, labels in ((model, y), (other, F.one_hot(y, NUM_CLASSES).float())):
        torch.manual_seed(0)
        net.fc.register_forward_hook(lambda _m, given, _out: seen.append(given[0].detach()))
        net.adversarial_loss(CLIPS, labels)
    assert len(seen) == 6 and all(map(torch.equal, seen[:3], seen[3:]))


def _one_hot_loss(scores, labels):
    return F.cross_entropy(scores, labels.argmax(1))


@pytest.mark.parametrize('make', [list, tuple, np.array, lambda y: list(map(torch.tensor, y))])
@pytest.mark.parametrize('recipe', ['taf', 'advprop'])
@pytest.mark.parametrize('part', [1.0, 0.5])
def test_numbers_in_a_list_or_an_array_are_labels(make, recipe, part):
    y = [0, 1, 2, 3, 4, 5, 0, 1]
    runs = []
    for labels in (torch.tensor(y), make(y)):
        torch.manual_seed(0)
        model = make_adversarial(Conv3dNet(), recipe, fraction=part, eps=0.1)
        losses = model.adversarial_loss(CLIPS, labels)
        runs.append([*losses.values(), model.perturb(CLIPS, labels)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize('part', [1.0, 0.5])
def test_a_list_of_anything_goes_to_the_loss_as_it_is(part):
    names = ['walk', 'run', 'jump', 'sit', 'run', 'walk', 'sit', 'jump']

    def by_name(scores, given):
        assert isinstance(given, list) and len(given) == len(scores)
        assert set(given) <= set(names)
        index = [sorted(set(names)).index(name) for name in given]
        return F.cross_entropy(scores, torch.tensor(index))

    model = make_adversarial(Conv3dNet(), loss_fn=by_name, fraction=part, eps=0.1)
    assert model.adversarial_loss(CLIPS, names)['loss'].isfinite()
    model = make_adversarial(Conv3dNet(), 'taf', loss_fn=by_name)
    with pytest.raises(ValueError, match='one hard label per sample.*got none'):
        model.adversarial_loss(CLIPS, names)


def test_a_single_score_stands_for_two_classes():
    seen = []

    def loss_fn(out, y):
        seen.append(y.tolist())
        return F.binary_cross_entropy_with_logits(out[:, 0], y.float())

    torch.manual_seed(0)
    model = make_adversarial(Conv3dNet(), loss_fn=loss_fn, eps=0.1, steps=1, fraction=0.5)
    model.fc = nn.Linear(model.fc.in_features, 1)
    for _ in range(6):
        model.adversarial_loss(CLIPS, torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]))
    parts = [sum(labels) for labels in seen if len(labels) == 4]
    assert len(set(parts)) > 1 and max(parts) > 1


def test_scores_that_are_not_finite_once_leave_no_label_out_for_good():
    model = make_adversarial(
        Conv3dNet(), fraction=0.25, eps=0.1, steps=1, loss_fn=nn.CrossEntropyLoss(ignore_index=-1)
    )
    y = torch.tensor([3] + [-1] * 7)
    clips = CLIPS.clone()
    clips[0] = torch.nan
    model.adversarial_loss(clips, y)
    model.load_state_dict(Conv3dNet().state_dict())
    for _ in range(4):
        assert model.adversarial_loss(CLIPS, y)['loss'].isfinite()
