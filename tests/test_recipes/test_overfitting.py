"""The check for catastrophic overfitting: right numbers, nothing left behind, a clear warning."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import NUM_CLASSES, Conv3dNet, assert_same, clips_loader, slowonly_config, snapshot

from adv_plugins import FastTraining, OverfittingWatch, PGDTraining, make_adversarial
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary
from adv_plugins.recipes import overfitting

EPS = 0.3


def fitted(count=24):
    """A net that is right about most of its clips, with statistics of its own."""
    net, x = Conv3dNet(), torch.randn(count, 3, 4, 6, 6)
    y = torch.arange(count) % NUM_CLASSES
    x += 0.5 * y.view(-1, 1, 1, 1, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, x, y


def accuracy(net, x, y, start, steps, step_size):
    """Of the deployed net, under ascent from a start, written down."""
    delta = start
    for _ in range(steps):
        point = (x + delta).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), y, reduction='sum'), point)
        delta = (delta + step_size * slope.sign()).clamp(-EPS, EPS)
    return (net(x + delta).argmax(dim=1) == y).float().mean()


@pytest.mark.parametrize('held_out', [False, True])
def test_the_accuracies_are_those_of_the_deployed_net(held_out):
    net, x, y = fitted()
    model = make_adversarial(copy.deepcopy(net), FastTraining(eps=EPS))
    given = (x[:12], y[:12])
    if held_out:
        get_adversary(model).watch.held_out, given = given, (x[12:], y[12:])
    seen = x[:12], y[:12]
    still = copy.deepcopy(model).eval()
    get_adversary(still).attacker.recipe = PGDTraining(eps=EPS, steps=1, step_size=0.0)
    start = still.perturb(*seen) - seen[0]
    losses = model.adversarial_loss(*given)
    net.eval()
    single = accuracy(net, *seen, start, 1, 1.25 * EPS)
    several = accuracy(net, *seen, start, 10, 0.25 * EPS)
    assert 0 < several < single < 1
    assert losses['adv_fgsm_acc'] == single and losses['adv_pgd_acc'] == several
    assert not losses['adv_pgd_acc'].requires_grad


def test_a_check_is_made_at_the_first_of_so_many_adversarial_iterations(clips):
    model = make_adversarial(Conv3dNet(), FastTraining(check_interval=3, interval=2))
    logged = ['adv_pgd_acc' in model.adversarial_loss(*clips) for _ in range(13)]
    assert [i for i, seen in enumerate(logged) if seen] == [0, 6, 12]
    with torch.no_grad():
        get_adversary(model).schedule.go_to(6)
        assert 'adv_pgd_acc' not in model.adversarial_loss(*clips), 'this trains nothing'
    off = make_adversarial(Conv3dNet(), FastTraining(check_interval=None))
    assert 'adv_pgd_acc' not in off.adversarial_loss(*clips)


@pytest.mark.parametrize('fails_at', [None, 1, 3])
def test_a_check_leaves_nothing_behind(clips, fails_at):
    net = Conv3dNet(dropout=0.5)
    net.bn1.eval()
    model = make_adversarial(net, FastTraining())
    model.adversarial_loss(*clips)['loss'].backward()
    adversary = get_adversary(model)
    adversary.schedule.go_to(0)
    before, forwards = snapshot(model), []

    def explode(*_):
        forwards.append(None)
        if len(forwards) == fails_at:
            raise OSError('boom')

    handle = model.fc.register_forward_pre_hook(explode)
    x, y = clips[0].clone(), clips[1].clone()
    if fails_at is None:
        adversary.watch(adversary, Batch(x), y)
        # Of each attack, its forwards and one for its labels; and one forward of what it found.
        assert len(forwards) == (1 + 1 + 1) + (1 + 10 + 1)
    else:
        with pytest.raises(OSError, match='boom'):
            adversary.watch(adversary, Batch(x), y)
    handle.remove()
    assert_same(before, snapshot(model))
    assert torch.equal(x, clips[0]) and torch.equal(y, clips[1])


def test_training_is_the_same_with_and_without_checks(clips):
    """Also under autocast, which would keep what a forward without a graph has cast."""
    ends = []
    for interval in (1, None):
        torch.manual_seed(0)
        model = make_adversarial(Conv3dNet(dropout=0.3), FastTraining(check_interval=interval))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast('cpu', torch.bfloat16):
                loss = model.adversarial_loss(*clips)['loss']
            loss.backward()
            optimizer.step()
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


def test_models_have_watches_of_their_own(clips):
    recipe = FastTraining()
    first, second = (make_adversarial(Conv3dNet(), recipe) for _ in range(2))
    get_adversary(first).watch.held_out = clips
    assert get_adversary(second).watch.held_out is None and recipe.watch.held_out is None
    twin = get_adversary(copy.deepcopy(first)).watch
    assert twin is not get_adversary(first).watch and twin == recipe.watch


@pytest.mark.parametrize(
    ('course', 'told'),
    [
        # Pairs of PGD's accuracy and that of the single step.
        ([(0.5, 0.55), (0.05, 0.9)], [1]),
        ([(0.2, 0.3), (0.5, 0.6), (0.0, 0.9), (0.0, 0.95), (0.45, 0.6), (0.02, 0.9)], [2, 5]),
        # A model that unlearns everything has another problem.
        ([(0.5, 0.55), (0.05, 0.1)], []),
        ([(0.5, 0.6), (0.3, 0.9)], []),
        # Three of 60 samples are no collapse when there were seven.
        ([(0.12, 0.2), (0.02, 0.9)], []),
    ],
)
def test_a_collapse_under_pgd_alone_is_told_with_the_way_out(clips, monkeypatch, course, told):
    model = make_adversarial(Conv3dNet(), FastTraining(check_interval=1))
    scripted = [value for pgd, single in course for value in (single, pgd)]
    monkeypatch.setattr(overfitting, 'accuracy', lambda *_: (torch.tensor(scripted.pop(0)), 60))
    found = []
    for step in range(len(course)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            model.adversarial_loss(*clips)
        texts = [str(w.message) for w in caught if 'catastrophic' in str(w.message)]
        found += [step] * len(texts)
        assert all('checkpoint of iteration' in text and 'PGDTraining(' in text for text in texts)
    assert found == told


@pytest.mark.parametrize('begin', [0, 5])
def test_blended_labels_need_held_out_ones(clips, begin):
    mixed = torch.rand(5, NUM_CLASSES).softmax(1)
    model = make_adversarial(Conv3dNet(), FastTraining(begin=begin))
    with pytest.raises(ValueError, match=r'check of FastTraining \(check_interval=None leaves'):
        model.adversarial_loss(clips[0], mixed)
    get_adversary(model).watch.held_out = clips
    assert 'adv_pgd_acc' in model.adversarial_loss(clips[0], mixed)


def test_repr():
    recipe = FastTraining(check_interval=5)
    assert 'watch=OverfittingWatch(interval=5)' in repr(recipe).replace(', steps=10', '')
    assert recipe == FastTraining(check_interval=5) != FastTraining()
    assert recipe.watch == OverfittingWatch(interval=5)


def test_an_mmengine_run_checks_on_the_first_validation_batch(train):
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    loader = clips_loader(slowonly_config())
    validation = dict(
        val_dataloader=dict(loader, batch_size=3),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='AccMetric'),
    )
    hook = dict(type='AdversarialHook', recipe=dict(type='FastTraining', check_interval=1))
    ends = []
    for name, changes in (('a', validation), ('b', {})):
        runner = train(name, max_epochs=1, custom_hooks=[hook], **changes)
        ends.append(runner.model.state_dict())
        watch = get_adversary(runner.model).watch
        if not changes:
            assert watch.held_out is None
            continue
        inputs, samples = watch.held_out
        assert inputs.shape == (3, 1, 3, 4, 32, 32)
        assert [int(sample.gt_label) for sample in samples] == [0, 1, 2]
        logged = runner.message_hub.get_scalar('train/adv_pgd_acc').data
        assert len(logged[0]) == 2 and all(value * 3 % 1 < 1e-5 for value in logged[0])
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
