"""Stock recognizers: called as they are, read where they know."""

import copy
import warnings
import weakref
from collections import Counter

import pytest
import torch
from helpers import (
    MEAN,
    NUM_CLASSES,
    STD,
    ConvCounter,
    assert_same,
    build_recognizer,
    data_samples,
    looked_at,
    slowonly_config,
    snapshot,
    tsm_config,
)

from adv_plugins import TAF, CEAugmentation, Regularizer, make_adversarial, remove_adversarial
from adv_plugins.adapters import RecognizerAdapter
from adv_plugins.core.adversary import Adversary
from adv_plugins.core.autograd import graph_nodes, leaves_of
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary
from adv_plugins.core.step import Step

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

FAMILIES = {
    'Recognizer2D': (tsm_config, (3, 4, 3, 32, 32)),
    'Recognizer3D': (slowonly_config, (3, 1, 3, 4, 32, 32)),
}


@pytest.fixture(params=FAMILIES)
def case(request):
    config, shape = FAMILIES[request.param]
    return build_recognizer(config()), torch.randn(shape), data_samples([1, 0, 2])


def test_losses_and_their_names(case):
    model, inputs, samples = case
    plain = copy.deepcopy(model)
    make_adversarial(model, 'taf')
    torch.manual_seed(1)
    losses = model(inputs, samples, mode='loss')
    torch.manual_seed(1)
    expected = plain(inputs, samples, mode='loss')
    added = {'adv_nonfinite', 'adv_eps', 'adv_ratio', 'adv_unmoved'}
    assert set(losses) == set(expected) | {f'adv_{name}' for name in expected} | added
    torch.testing.assert_close(losses['loss_cls'], 0.7 * expected['loss_cls'])
    assert losses['top1_acc'] == expected['top1_acc']
    total, log_vars = model.parse_losses(losses)
    assert log_vars['loss'] == losses['loss_cls'] + losses['adv_loss_cls']
    total.backward()
    assert all(value.grad is not None for value in model.parameters())


def test_taf_is_two_forwards_one_input_backward_and_two_full_backwards():
    """Counted at the stem of the backbone, which the gradient of the inputs has to pass."""
    model = make_adversarial(build_recognizer(tsm_config()), 'taf')
    inputs, samples = torch.randn(2, 4, 3, 32, 32), data_samples([1, 0])
    looked_at(model, inputs, samples)
    with ConvCounter(model.backbone.conv1.conv.weight.shape) as counter:
        model.parse_losses(model(inputs, samples, mode='loss'))[0].backward()
    assert (counter.forwards, counter.input_only, counter.full) == (2, 1, 2)


def test_everything_but_training_losses_is_the_plain_model(case):
    model, inputs, samples = case
    plain = copy.deepcopy(model)
    make_adversarial(model, 'taf')
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        torch.manual_seed(1)
        ours = model(inputs, samples, mode='loss')
        torch.manual_seed(1)
        theirs = plain(inputs, samples, mode='loss')
        assert ours == theirs, 'hooks that refresh statistics run the losses without gradients'
        assert torch.equal(model(inputs), plain(inputs))
        model.eval(), plain.eval()
        for mine, other in zip(
            model(inputs, samples, mode='predict'),
            plain(inputs, copy.deepcopy(samples), mode='predict'),
            strict=True,
        ):
            assert torch.equal(mine.pred_score, other.pred_score)
    plain.load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize('recipe', [TAF(steps=2, fraction=0.5), CEAugmentation()], ids=str)
def test_nothing_is_left_behind(case, recipe):
    model, inputs, samples = case
    make_adversarial(model, recipe)
    model.parse_losses(model(inputs, samples, mode='loss'))[0].backward()
    copied, keys = inputs.clone(), [list(sample.keys()) for sample in samples]
    before = snapshot(model)
    perturbed = model.perturb(inputs, samples)
    assert_same(before, snapshot(model))
    model.eval()
    model(inputs, samples, mode='loss')
    model.train()
    before = snapshot(model)
    torch.manual_seed(1)
    model(inputs, samples, mode='loss')
    after = snapshot(model)
    for name in ('state', 'auxiliary', 'rng'):
        del before[name], after[name]
    assert_same(before, after)
    assert torch.equal(inputs, copied) and [list(sample.keys()) for sample in samples] == keys
    assert perturbed.shape == inputs.shape


def test_eps_is_in_grey_levels_of_the_recognizers_own_normalisation(case):
    model, _, samples = case
    make_adversarial(model.eval(), TAF(eps=8 / 255, step_size=8 / 255))
    grey = [torch.full((3, 4, 32, 32), 128.0) for _ in range(3)]
    if model.data_preprocessor.format_shape == 'NCHW':
        grey = [frames.transpose(0, 1) for frames in grey]
    else:
        grey = [frames[None] for frames in grey]
    inputs = model.data_preprocessor(dict(inputs=grey, data_samples=samples))['inputs']
    delta = model.perturb(inputs, samples) - inputs
    levels = (delta * model.data_preprocessor.std).abs()
    torch.testing.assert_close(levels.amax(), torch.tensor(8.0), rtol=1e-4, atol=1e-4)
    channel = 2 if inputs.ndim == 5 else 2
    per_channel = delta.abs().amax(dim=[i for i in range(delta.ndim) if i != channel])
    torch.testing.assert_close(
        per_channel * torch.tensor(STD), torch.full((3,), 8.0), rtol=1e-4, atol=1e-4
    )


def test_adversarial_pixels_stay_valid_unless_asked_otherwise():
    model = build_recognizer(tsm_config())
    samples = data_samples([1])
    white = (255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    inputs = white.expand(1, 4, 3, 32, 32)
    make_adversarial(model, 'taf')
    assert (model.perturb(inputs, samples) <= inputs).all()
    make_adversarial(remove_adversarial(model), 'taf', clamp=False)
    assert (model.perturb(inputs, samples) > inputs).any()


def test_without_normalisation_pixels_are_0_to_255():
    config = tsm_config()
    config['data_preprocessor'] = dict(type='ActionDataPreprocessor', to_float32=True)
    model = make_adversarial(build_recognizer(config), TAF(eps=8 / 255, step_size=8 / 255))
    inputs = 255 * torch.rand(2, 4, 3, 32, 32)
    delta = model.perturb(inputs, data_samples([1, 2])) - inputs
    torch.testing.assert_close(delta.abs().amax(), torch.tensor(8.0), rtol=1e-4, atol=1e-4)


def test_heatmaps_without_normalisation_keep_their_own_units():
    """PoseC3D: joint heatmaps between 0 and 1 where other recognizers take frames."""
    config = slowonly_config()
    config['backbone']['in_channels'] = 17
    config['data_preprocessor'] = dict(type='ActionDataPreprocessor', format_shape='NCTHW')
    model = make_adversarial(build_recognizer(config), TAF(eps=0.1, step_size=0.1))
    inputs = torch.rand(2, 1, 17, 4, 32, 32)
    with pytest.warns(UserWarning, match='units of the input'):
        delta = model.perturb(inputs, data_samples([1, 2])) - inputs
    torch.testing.assert_close(delta.abs().amax(), torch.tensor(0.1))


def test_cam_layer_is_the_last_stage():
    assert RecognizerAdapter(build_recognizer(tsm_config())).find_cam_layer() == 'backbone.layer4'
    config = tsm_config()
    config['backbone'] = dict(
        type='ResNet',
        depth=18,
        num_stages=3,
        out_indices=(2,),
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        norm_eval=False,
    )
    config['cls_head'].update(type='TSMHead', in_channels=256)
    assert RecognizerAdapter(build_recognizer(config)).find_cam_layer() == 'backbone.layer3'


@pytest.mark.parametrize('policy', ['norm_eval', 'partial_bn', 'frozen_stages'])
def test_frozen_norms_stay_frozen_on_both_paths(policy):
    value = 2 if policy == 'frozen_stages' else True
    model = build_recognizer(tsm_config())
    setattr(model.backbone, policy, value)
    if policy == 'frozen_stages':
        model.backbone._freeze_stages()
    make_adversarial(model, 'taf')
    model.train()
    inputs, samples = torch.randn(2, 4, 3, 32, 32), data_samples([1, 0])
    model.parse_losses(model(inputs, samples, mode='loss'))[0].backward()
    norms = [m for m in model.modules() if type(m).__name__ == 'DualBatchNorm2d']
    frozen = 0
    for norm in norms:
        assert norm.adv_weight.requires_grad == norm.weight.requires_grad
        assert (norm.adv_weight.grad is None) == (norm.weight.grad is None)
        assert norm.adv_num_batches_tracked == norm.num_batches_tracked == int(norm.training)
        frozen += not norm.training
    assert frozen == {'norm_eval': 20, 'partial_bn': 19, 'frozen_stages': 10}[policy]


def test_blended_labels_are_refused_by_taf_and_fine_for_cross_entropy():
    config = tsm_config()
    config['data_preprocessor']['blending'] = dict(
        type='MixupBlending', num_classes=NUM_CLASSES, alpha=0.5
    )
    model = build_recognizer(config)
    batch = dict(
        inputs=[torch.randint(256, (4, 3, 32, 32)).float() for _ in range(2)],
        data_samples=data_samples([1, 2]),
    )
    data = model.data_preprocessor(batch, training=True)
    make_adversarial(model, 'taf')
    with pytest.raises(ValueError, match='label blending'):
        model(**data, mode='loss')
    make_adversarial(remove_adversarial(model), 'ceaugmentation')
    assert model(**data, mode='loss')['adv_loss_cls'].isfinite()


@pytest.mark.parametrize('begin', [0, 1])
def test_losses_that_are_lists_and_auxiliary_losses(begin):
    """parse_losses takes lists too; the objective of CEAugmentation is the whole of it."""
    plain = build_recognizer(tsm_config())
    inputs, samples = torch.randn(2, 4, 3, 32, 32), data_samples([1, 0])

    class Auxiliary(type(plain)):
        def loss(self, inputs, data_samples, **kwargs):
            losses = super().loss(inputs, data_samples, **kwargs)
            return {'loss_aux': [losses['loss_cls'], losses['loss_cls'] ** 2], **losses}

    plain.__class__ = Auxiliary
    model = make_adversarial(copy.deepcopy(plain), CEAugmentation(begin=begin, alpha=1.0))
    totals = []
    for net in (plain, model):
        torch.manual_seed(1)
        total, _ = net.parse_losses(net(inputs, samples, mode='loss'))
        total.backward()
        totals.append(total)
    assert torch.equal(*totals)
    ours = [p.grad for name, p in model.named_parameters() if 'adv_' not in name]
    for value, grad in zip(plain.parameters(), ours, strict=True):
        torch.testing.assert_close(value.grad, grad)


def test_recognizer_without_logits():
    config = tsm_config()
    del config['cls_head']
    with pytest.raises(ValueError, match='no cls_head'):
        make_adversarial(build_recognizer(config), 'taf')


def test_options_of_plain_classifiers_are_refused():
    with pytest.raises(ValueError, match='data_preprocessor'):
        make_adversarial(build_recognizer(tsm_config()), 'taf', mean=0.5)


@pytest.mark.parametrize('begin', [0, 5])
def test_with_cp_is_refused_at_the_first_iteration(begin):
    model = make_adversarial(build_recognizer(tsm_config(depth=50, with_cp=True)), TAF(begin=begin))
    with pytest.raises(RuntimeError, match='with_cp=False'):
        model(torch.randn(2, 4, 3, 32, 32), data_samples([1, 0]), mode='loss')


def test_peak_of_saved_tensors_is_that_of_a_clean_step():
    """Eager clean gradients: the adversarial graph is built when the clean one is gone."""

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor

    def peak(model):
        held, top = Counter(), 0

        def release(storage):
            held[storage] -= 1

        def pack(tensor):
            nonlocal top
            storage = (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
            held[storage] += 1
            top = max(top, sum(size for (_, size), count in held.items() if count))
            saved = Saved(tensor)
            weakref.finalize(saved, release, storage)
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            losses = model(torch.randn(2, 4, 3, 32, 32), data_samples([1, 0]), mode='loss')
            model.parse_losses(losses)[0].backward()
        return top

    plain = build_recognizer(tsm_config())
    clean = peak(plain)
    for recipe in ('taf', 'ceaugmentation'):
        model = make_adversarial(copy.deepcopy(plain), recipe)
        looked_at(model, torch.randn(2, 4, 3, 32, 32), data_samples([1, 0]))
        assert peak(model) <= 1.05 * clean


def omni_recognizer():
    return build_recognizer(
        dict(
            type='RecognizerOmni',
            backbone=dict(type='OmniResNet', layers=[1, 1, 1, 1]),
            cls_head=dict(
                type='OmniHead',
                image_classes=4,
                video_classes=NUM_CLASSES,
                in_channels=2048,
                average_clips='prob',
            ),
            data_preprocessor=dict(
                type='ActionDataPreprocessor', mean=MEAN, std=STD, format_shape='MIX2d3d'
            ),
        )
    )


def omni_sources():
    clips, images = torch.randn(2, 1, 3, 4, 32, 32), torch.randn(3, 3, 32, 32)
    return (
        dict(inputs=clips, data_samples=data_samples([1, 4])),
        dict(inputs=images, data_samples=data_samples([0, 3, 2])),
    )


def test_omnisource_answers_for_each_of_its_sources():
    plain = omni_recognizer()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    sources = omni_sources()
    expected = copy.deepcopy(plain)(*sources, mode='loss')
    model = make_adversarial(copy.deepcopy(plain), 'ceaugmentation')
    losses = model(*sources, mode='loss')
    for number in (0, 1):
        assert losses[f'loss_cls_{number}'].item() == pytest.approx(
            0.7 * expected[f'loss_cls_{number}'].item(), rel=1e-5
        )
        assert losses[f'adv_loss_cls_{number}'] > 0
    # Images have no frames: TAF leaves them as they are, at their full weight.
    model = make_adversarial(copy.deepcopy(plain), 'taf')
    losses = model(*sources, mode='loss')
    assert losses['loss_cls_1'].item() == pytest.approx(expected['loss_cls_1'].item(), rel=1e-5)
    assert 'adv_loss_cls_0' in losses and 'adv_loss_cls_1' not in losses
    # A layer's output can be moved in both.
    shift = dict(type='FeatureShift', layer='backbone')
    model = make_adversarial(copy.deepcopy(plain), 'pgdtraining', objective=shift, steps=1)
    assert {'adv_loss_cls_0', 'adv_loss_cls_1'} <= set(model(*sources, mode='loss'))
    model = make_adversarial(copy.deepcopy(plain), 'taf')
    # Anything else is the recognizer's own.
    scores = [sample.pred_score for sample in model.eval()(sources[0], mode='predict')]
    assert torch.stack(scores).shape == (2, NUM_CLASSES)


@pytest.mark.parametrize(
    'recipe', ['taf', 'art', 'pgdtraining', 'trades', 'mart', TAF(weight_eps=0.1)], ids=str
)
def test_what_the_trainer_sums_is_the_total(recipe):
    model = make_adversarial(build_recognizer(slowonly_config()), recipe)
    adversary = get_adversary(model)
    inputs, samples = torch.randn(2, 1, 3, 4, 32, 32), data_samples([0, 1])
    step = Step(adversary.attacker, adversary.recipe)
    gradients = []
    for trained in (False, True):
        torch.manual_seed(1)
        result = step(Batch(inputs), samples, seed=1)
        total, _ = model.parse_losses(adversary.adapter.report(result, adversary.recipe))
        torch.testing.assert_close(total, result.total)
        model.zero_grad()
        (total if trained else result.total).backward()
        gradients.append(
            [value.grad.clone() for value in model.parameters() if value.grad is not None]
        )
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_every_parameter_is_reached_without_eager_gradients():
    """A regularizer keeps the clean graph, and DDP wants a gradient for each parameter."""

    class Nothing(Regularizer):
        name = 'nothing'
        weight = 1.0

        def __call__(self, clean, adversarial):
            return 0 * (clean.logits - adversarial.logits).sum()

    model = make_adversarial(omni_recognizer(), 'taf', regularizers=[Nothing()])
    losses = model(*omni_sources(), mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    reached = leaves_of(graph_nodes(total))
    assert {
        n for n, value in model.named_parameters() if not any(value is leaf for leaf in reached)
    } == set()


def test_each_source_rehearses_a_schedule_that_begins_later(monkeypatch):
    model = make_adversarial(omni_recognizer(), 'ceaugmentation', begin=5)
    rehearsed = []
    rehearse = Adversary._rehearse
    monkeypatch.setattr(
        Adversary,
        '_rehearse',
        lambda self, batch, target: (
            rehearsed.append(batch.inputs.ndim) or rehearse(self, batch, target)
        ),
    )
    for _ in range(2):
        model(*omni_sources(), mode='loss')
    assert rehearsed == [6, 4]


@pytest.mark.parametrize('order', [(0, 1), (1, 0)], ids=['clips first', 'images first'])
def test_sources_of_an_iteration_share_its_place_in_the_schedule(order):
    model = make_adversarial(omni_recognizer(), 'taf', interval=2)
    number = order.index(0)
    taken = []
    for _ in range(4):
        sources = [omni_sources()[i] for i in order]
        taken.append(f'adv_loss_cls_{number}' in model(*sources, mode='loss'))
    assert taken == [True, False, True, False] and get_adversary(model).schedule.iteration == 4


def test_every_source_is_attacked_in_the_same_iterations():
    """By a recipe that attacks images too, so that each source takes a step of its own."""
    model = make_adversarial(omni_recognizer(), 'ceaugmentation', interval=2)
    taken = []
    for _ in range(4):
        losses = model(*omni_sources(), mode='loss')
        taken.append([f'adv_loss_cls_{number}' in losses for number in (0, 1)])
    assert taken == [[True, True], [False, False]] * 2


class TwoTasks(torch.nn.Module):
    """A head with tasks of its own, which reads its own fields of the data samples."""

    num_classes = 4

    def __init__(self, channels):
        super().__init__()
        self.verb, self.noun = torch.nn.Linear(channels, 4), torch.nn.Linear(channels, 3)

    def forward(self, x, **_):
        x = x.mean(dim=(2, 3, 4))
        return self.verb(x), self.noun(x)

    def loss(self, x, samples, **_):
        verb, noun = self(x)
        labels = [torch.tensor([getattr(s, task) for s in samples]) for task in ('verb', 'noun')]
        return {
            'loss_verb': torch.nn.functional.cross_entropy(verb, labels[0]),
            'loss_noun': torch.nn.functional.cross_entropy(noun, labels[1]),
        }


def two_task_model():
    model = build_recognizer(slowonly_config())
    model.cls_head = TwoTasks(model.cls_head.in_channels)
    samples = data_samples([0, 0, 0])
    for index, sample in enumerate(samples):
        del sample.gt_label
        sample.verb, sample.noun = index, 2 - index
    return model, torch.randn(3, 1, 3, 4, 32, 32), samples


@pytest.mark.parametrize('recipe', ['art', 'advprop', 'ceaugmentation'])
@pytest.mark.parametrize('fraction', [1.0, 0.7])
def test_labels_that_only_the_head_knows_do_where_none_are_needed(recipe, fraction):
    model, inputs, samples = two_task_model()
    make_adversarial(model, recipe, eps=0.1, fraction=fraction)
    losses = model(inputs, samples, mode='loss')
    assert losses['adv_loss_verb'].isfinite() and losses['adv_unmoved'] == 0


def test_labels_that_only_the_head_knows_are_one_clear_error_where_one_is_needed():
    model, inputs, samples = two_task_model()
    make_adversarial(model, 'taf')
    with pytest.raises(ValueError, match='logits of the shape'):
        model(inputs, samples, mode='loss')
    model = make_adversarial(build_recognizer(slowonly_config()), 'taf')
    model.cls_head.loss = lambda x, _, **__: {'loss_cls': model.cls_head(x).square().mean()}
    with pytest.raises(ValueError, match='one hard label per sample.*got none'):
        model(inputs, samples, mode='loss')


@pytest.mark.parametrize('case', ['Recognizer3D'], indirect=True)
@pytest.mark.parametrize('form', [int, lambda y: [y], lambda y: torch.tensor([y])])
def test_labels_in_any_form_that_the_head_takes(case, form):
    """Data samples of one's own, with labels that are no tensors."""
    model, inputs, samples = case
    torch.manual_seed(1)
    expected = make_adversarial(copy.deepcopy(model), 'taf')
    wanted = expected(inputs, samples, mode='loss')

    class Sample:
        def __init__(self, label):
            self.gt_label = form(label)

    own = [Sample(int(sample.gt_label)) for sample in samples]
    plain_loss = model.loss
    model.loss = lambda given, own: plain_loss(
        given, data_samples([int(torch.as_tensor(sample.gt_label)) for sample in own])
    )
    torch.manual_seed(1)
    make_adversarial(model, 'taf')
    found = model(inputs, own, mode='loss')
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize('case', ['Recognizer3D'], indirect=True)
def test_data_samples_that_the_model_edits_are_its_own(case):
    model, inputs, samples = case
    plain_loss = model.loss

    def loss(given, own):
        labels = data_samples([int(sample.gt_label) for sample in own])
        for sample in own:
            sample.gt_label.fill_(0)
            del sample.gt_label
        own.clear()
        return plain_loss(given, labels)

    model.loss = loss
    make_adversarial(model, 'advprop', steps=2)
    before = [sample.gt_label.clone() for sample in samples]
    for _ in range(2):
        model(inputs, samples, mode='loss')
    assert [sample.gt_label for sample in samples] == before


COLLISIONS = {
    'a loss, first': lambda own, extra: dict(adv_loss_cls=extra, **own),
    'a loss, last': lambda own, extra: dict(**own, adv_loss_cls=extra),
    'twice': lambda own, extra: dict(adv_adv_loss_cls=extra, adv_loss_cls=extra, **own),
    'a metric': lambda own, extra: dict(**own, adv_ratio=extra.detach(), loss_extra=extra),
    'of a regularizer': lambda own, extra: dict(loss_gap=extra, gap=extra.detach(), **own),
}


class Gap(Regularizer):
    name = 'gap'
    weight = 0.5

    def __call__(self, clean, adversarial):
        return (clean.logits - adversarial.logits).square().mean()


@pytest.mark.parametrize('case', ['Recognizer3D'], indirect=True)
@pytest.mark.parametrize('kind', COLLISIONS)
@pytest.mark.parametrize('regularizers', [(), (Gap(),)], ids=['alone', 'regularized'])
def test_names_of_the_model_stay_its_own(case, kind, regularizers):
    """Value and gradient are those of the two losses' sum, whatever the model calls its losses."""
    model, inputs, samples = case
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    plain_loss = model.loss

    def loss(given, own):
        losses = plain_loss(given, own)
        return COLLISIONS[kind](losses, losses['loss_cls'].square())

    model.loss = loss
    plain = copy.deepcopy(model)
    own = type(plain).loss(plain, inputs, samples)
    own = COLLISIONS[kind](own, own['loss_cls'].square())
    plain.parse_losses(own)[0].backward()
    make_adversarial(
        model, 'ceaugmentation', alpha=0.25, eps=0.0, dual_bn=False, regularizers=regularizers
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        losses = model(inputs, samples, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    torch.testing.assert_close(total, plain.parse_losses(own)[0])
    for name, value in own.items():
        scale = 0.25 if 'loss' in name else 1
        torch.testing.assert_close(losses[name].float(), scale * value.float())
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    collides = kind != 'of a regularizer' or regularizers
    assert bool(collides) == any('the model itself logs' in str(w.message) for w in caught)


def test_regularizer_called_a_loss_is_refused():
    """The trainer would add its unweighted value to the total."""

    class KL(Gap):
        name = 'kl_loss'

    with pytest.raises(ValueError, match="'kl_loss'.*leave 'loss' out"):
        TAF(regularizers=[KL()])


class TwoPathways(torch.nn.Module):
    """A backbone over frames and heatmaps, as small as one can be."""

    def __init__(self):
        super().__init__()
        self.rgb = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), torch.nn.BatchNorm3d(4))
        self.pose = torch.nn.Sequential(torch.nn.Conv3d(5, 4, 1), torch.nn.BatchNorm3d(4))

    def forward(self, imgs, heatmap_imgs):
        return self.rgb(imgs), self.pose(heatmap_imgs)


@pytest.mark.parametrize('recipe', ['advprop', 'art'])
def test_recognizer_of_frames_and_heatmaps(recipe):
    """MMRecognizer3D edits its inputs; each modality has the preprocessor of its own."""
    from mmengine.registry import MODELS

    MODELS.register_module(module=TwoPathways, force=True)
    parts = dict(imgs=slowonly_config()['data_preprocessor'])
    parts['heatmap_imgs'] = dict(type='ActionDataPreprocessor')
    model = build_recognizer(
        dict(
            type='MMRecognizer3D',
            backbone=dict(type='TwoPathways'),
            cls_head=dict(
                type='RGBPoseHead',
                num_classes=NUM_CLASSES,
                in_channels=(4, 4),
                loss_components=('rgb', 'pose'),
                average_clips='prob',
            ),
            data_preprocessor=dict(type='MultiModalDataPreprocessor', preprocessors=parts),
        )
    )
    make_adversarial(model, recipe, eps=0.1, step_size=0.1, steps=2)
    frames, maps = torch.randn(3, 1, 3, 4, 8, 8), torch.rand(3, 1, 5, 8, 4, 4)
    inputs, samples = dict(imgs=frames, heatmap_imgs=maps), data_samples([1, 0, 2])
    with pytest.warns(UserWarning, match=r'units of the input.*heatmap_imgs.*data_preprocessor'):
        losses = model(inputs, samples, mode='loss')
    model.parse_losses(losses)[0].backward()
    assert all(value.grad is not None for value in model.parameters())
    assert inputs['imgs'] is frames and inputs['heatmap_imgs'] is maps and frames.ndim == 6
    moved = model.perturb(inputs, samples)
    assert moved['imgs'].shape == frames.shape and (moved['heatmap_imgs'] != maps).any()


def test_a_name_that_is_taken_is_told_once(case):
    model, inputs, samples = case
    plain_loss = model.loss
    model.loss = lambda *given: dict(plain_loss(*given), adv_ratio=torch.ones(()))
    make_adversarial(model, 'advprop', steps=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(3):
            model(inputs, samples, mode='loss')
    assert sum('the model itself logs' in str(w.message) for w in caught) == 1


def test_a_head_without_a_loss_is_told(case):
    model, inputs, samples = case
    plain_loss = model.loss
    model.loss = lambda *given: dict(ce=plain_loss(*given)['loss_cls'])
    make_adversarial(model, 'advprop', steps=1)
    with pytest.raises(ValueError, match='returns no loss.*only ce'):
        model(inputs, samples, mode='loss')
