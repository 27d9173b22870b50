"""A recognizer as it is deployed, against what MMAction2 itself predicts."""

import importlib.util

import numpy as np
import pytest
import torch
from helpers import (
    assert_same,
    build_recognizer,
    data_samples,
    default_tier,
    slowonly_config,
    snapshot,
    tsm_config,
)
from test_zoo import FAMILIES, KINDS, build
from torch import nn

from adv_plugins.evaluation.deployed import (
    Deployed,
    hard_labels,
    rank_labels,
)
from adv_plugins.recipes import TAF, CEAugmentation

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

LABELS = [0, 3]


def recognizer(kind, average):
    config = tsm_config() if kind == '2d' else slowonly_config()
    config['cls_head']['average_clips'] = average
    torch.manual_seed(0)
    model = build_recognizer(config).eval()
    # A head at its start gives every class nearly the same score.
    nn.init.normal_(model.cls_head.fc_cls.weight, std=0.5)
    return model


def clips(kind, views):
    generator = torch.Generator().manual_seed(views)
    shape = (2, 4 * views, 3, 32, 32) if kind == '2d' else (2, views, 3, 4, 32, 32)
    return torch.randn(shape, generator=generator)


def test_a_sharded_model_is_refused():
    class FSDPModule:
        pass

    model = recognizer('3d', 'prob')
    model.__class__ = type('FSDPRecognizer3D', (FSDPModule, type(model)), {})
    with pytest.raises(TypeError, match='FSDPRecognizer3D is sharded, .* into a whole model'):
        Deployed(model)


@pytest.mark.parametrize('kind', ['2d', '3d'])
@pytest.mark.parametrize('views', [1, 3])
@pytest.mark.parametrize('average', ['prob', 'score'])
def test_scores_are_the_prediction(kind, views, average):
    model, inputs, samples = recognizer(kind, average), clips(kind, views), data_samples(LABELS)
    before = snapshot(model)
    scores = Deployed(model).scores(inputs, samples)
    assert_same(before, snapshot(model))
    with torch.no_grad():
        predicted = model(inputs, data_samples(LABELS), mode='predict')
    own = torch.stack([sample.pred_score for sample in predicted])
    probabilities = scores.softmax(dim=1) if average == 'prob' else scores
    torch.testing.assert_close(probabilities, own)


def test_every_view_has_a_gradient():
    model, inputs, samples = recognizer('3d', 'prob'), clips('3d', 3), data_samples(LABELS)
    inputs.requires_grad_()
    Deployed(model).scores(inputs, samples)[:, 0].sum().backward()
    assert (inputs.grad.abs().amax(dim=(0, 2, 3, 4, 5)) > 0).all()


def test_tiny_probabilities_have_a_gradient():
    """In the average of float32 probabilities they are 0, and so would be the gradient."""
    deployed = Deployed(recognizer('3d', 'prob'))
    views = torch.tensor([[[0.0, 300.0], [0.0, 200.0]]], requires_grad=True)
    assert views.softmax(dim=2).mean(dim=1)[0, 0] == 0
    score = deployed.average(views)[0, 0] - deployed.average(views)[0, 1]
    score.backward()
    # log(e^-300 + e^-200) - log(2): the second view decides.
    torch.testing.assert_close(score.item(), -200 - torch.tensor(2.0).log().item())
    torch.testing.assert_close(views.grad[0, 1], torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize('kind', ['2d', '3d'])
def test_views_are_looked_at_one_by_one(kind):
    model, inputs = recognizer(kind, 'prob'), clips(kind, 3)
    deployed, samples = Deployed(model), data_samples(LABELS)
    assert deployed.views(inputs, samples).shape == (2, 3, 6)
    shares = deployed.frame_attention(inputs, samples, 3)
    # Of a view without evidence there are none.
    known = shares.isfinite().all(dim=2)
    assert known.any()
    torch.testing.assert_close(shares.sum(dim=2)[known], torch.ones(int(known.sum())))
    for view in range(3):
        alone = inputs[:, 4 * view : 4 * view + 4] if kind == '2d' else inputs[:, view : view + 1]
        single = deployed.frame_attention(alone, samples, 1)[:, 0]
        torch.testing.assert_close(shares[:, view], single, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize('kind', ['2d', '3d'])
def test_a_recipe_attacks_every_view(kind):
    model, inputs = recognizer(kind, 'prob'), clips(kind, 2)
    deployed, samples = Deployed(model), data_samples(LABELS)
    before = snapshot(model)
    recipe = CEAugmentation(eps=4 / 255, step_size=4 / 255, clamp=False)
    moved = deployed.perturb(recipe, inputs, samples, 2, seed=0)
    assert_same(before, snapshot(model))
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    std = std if kind == '2d' else std.unsqueeze(-1)
    pixels = (moved - inputs) * std
    assert pixels.abs().max() <= 4 + 1e-4
    # Every view lies at the corner that its own gradient points to.
    views = pixels.view(2, 2, -1)
    assert (views.abs() > 3.9).float().mean(dim=2).min() > 0.5
    taf = deployed.perturb(TAF(eps=4 / 255), inputs, samples, 2, seed=3)
    again = deployed.perturb(TAF(eps=4 / 255), inputs, samples, 2, seed=3)
    assert torch.equal(taf, again)
    assert not torch.equal(taf, moved)


def test_tpn_follows_its_weights():
    """TPNHead keeps the classifier of its first test (mmaction2#831)."""
    from mmengine.config import Config

    config = Config.fromfile('mm_configs/baselines/tpn-tsm_r18_1x1x8_ordered-digits-rgb.py').model
    config.test_cfg = dict(fcn_test=True)
    model = build_recognizer(config).eval()
    inputs, samples = torch.randn(2, 8, 3, 48, 48), data_samples([0, 1])
    first = Deployed(model).scores(inputs.requires_grad_(), samples)
    assert torch.autograd.grad(first.sum(), inputs)[0].abs().sum() > 0
    with torch.no_grad():
        model.cls_head.fc_cls.bias[0] += 5
    second = Deployed(model).scores(inputs, samples)
    assert ((second - first)[:, 0] > 1).all()


def test_ranks_against_sorting():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(4, (200, 7), generator=generator).float()
    labels = torch.randint(7, (200,), generator=generator)
    ranked = rank_labels(scores, labels)
    columns = (scores, labels, ranked['prediction'], ranked['rank'])
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for row, label, prediction, rank in rows:
        order = sorted(range(7), key=lambda c: (-row[c], c))
        assert prediction == order[0]
        assert rank == order.index(label)


@pytest.mark.parametrize('broken', [float('nan'), float('inf')])
def test_broken_scores_are_wrong(broken):
    scores = torch.tensor([[broken, 1.0, 2.0], [0.0, broken, 1.0], [1.0, 0.0, 0.0]])
    ranked = rank_labels(scores, torch.tensor([0, 1, 0]))
    assert ranked['rank'].tolist() == [2, 2, 0]
    assert ranked['prediction'].tolist() == [1, 0, 0]


def test_labels_must_be_hard():
    assert hard_labels(data_samples(LABELS)).tolist() == LABELS
    soft = data_samples(LABELS)
    soft[1].set_field(torch.tensor([0.5, 0.5]), 'gt_label')
    with pytest.raises(ValueError, match='AdversarialTestLoop'):
        hard_labels(soft)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match='PGD'):
        Deployed(nn.Linear(2, 2))


# Beside a member of each kind: several paths, heads with an average of their own, random frames.
ODD = ('mvit', 'slowfast', 'timesformer divided', 'tpn tsm', 'trn')


@pytest.mark.parametrize('name', default_tier({*KINDS, *ODD}.__contains__, FAMILIES))
@pytest.mark.filterwarnings('ignore')
def test_every_family_is_attacked_as_it_predicts(name):
    """Scores, their gradient and the frames' attention, for each family of MMAction2."""
    family = FAMILIES[name]
    if family.needs and importlib.util.find_spec(family.needs) is None:
        pytest.skip(f'{name} needs {family.needs}')
    torch.manual_seed(0)
    model = build(family).eval()
    if type(model).__name__ == 'RecognizerOmni':
        with pytest.raises(TypeError, match='no recognizer with one cls_head'):
            Deployed(model)
        return
    model.cls_head.average_clips = 'prob'
    if 'max_testing_views' in (model.test_cfg or {}):
        # Only for batches of one video.
        model.test_cfg = None
    inputs, samples = torch.randn(family.shape), data_samples([0, 1])
    # TRN draws frames at random, in tests too.
    np.random.seed(0)
    with torch.no_grad():
        predicted = model(inputs, data_samples([0, 1]), mode='predict')
    own = torch.stack([sample.pred_score for sample in predicted])
    before = snapshot(model)
    deployed = Deployed(model)
    inputs.requires_grad_()
    np.random.seed(0)
    scores = deployed.scores(inputs, samples)
    torch.testing.assert_close(scores.softmax(dim=1), own)
    (slope,) = torch.autograd.grad(scores[:, 0].sum(), inputs)
    assert (slope.flatten(1).abs().amax(dim=1) > 0).all()
    views = deployed.views(inputs.detach(), samples).shape[1]
    shares = deployed.frame_attention(inputs.detach(), samples, views)
    known = shares.isfinite().all(dim=2)
    torch.testing.assert_close(shares.sum(dim=2)[known], torch.ones(int(known.sum())))
    assert_same(before, snapshot(model))
