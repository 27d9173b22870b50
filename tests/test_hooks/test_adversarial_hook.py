"""The hooks inside a real Runner, on an unmodified recognizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import (
    build_recognizer,
    clips_loader,
    data_samples,
    runner_config,
    slowonly_config,
    tsm_config,
)
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner, load_checkpoint

from adv_plugins import adversarial_state_dict, make_adversarial
from adv_plugins.core.conversion import get_adversary, is_adversarial
from adv_plugins.core.norm import dual_norms


def scalars(runner):
    """What the run logged, one dict a line."""
    file = next(Path(runner.log_dir).glob('vis_data/scalars.json'))
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_equal_state(a, b):
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A finished run with TAF, and its last checkpoint, for tests that only look at them."""
    folder = tmp_path_factory.mktemp('finished')
    runner = Runner.from_cfg(runner_config(folder, custom_hooks=[dict(type='TAFHook')]))
    runner.train()
    return runner, str(folder / 'epoch_2.pth')


def test_one_line_in_a_config_trains_with_taf(finished):
    runner, file = finished
    logged = scalars(runner)[-1]
    for key in ('loss_cls', 'top1_acc', 'adv_loss_cls', 'adv_top1_acc', 'adv_nonfinite'):
        assert key in logged
    assert logged['loss'] == pytest.approx(logged['loss_cls'] + logged['adv_loss_cls'], rel=1e-4)
    untouched = build_recognizer(slowonly_config())
    checkpoint = torch.load(file, weights_only=True)
    untouched.load_state_dict(checkpoint['state_dict'], strict=True)
    assert_equal_state(untouched.state_dict(), runner.model.state_dict())
    inputs, samples = torch.randn(1, 1, 3, 4, 32, 32), data_samples([0])
    ours = runner.model.eval()(inputs, samples, mode='predict')[0].pred_score
    assert torch.equal(ours, untouched.eval()(inputs, samples, mode='predict')[0].pred_score)


def test_zero_adversarial_weight_is_the_plain_run(train):
    adversarial = train('a', custom_hooks=[dict(type='TAFHook', alpha=1.0)])
    plain = train('b')
    assert_equal_state(adversarial.model.state_dict(), plain.model.state_dict())


def test_auxiliary_parameters_join_the_groups_of_the_clean_ones(train):
    wrapper = dict(
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3),
        constructor='TSMOptimWrapperConstructor',
        paramwise_cfg=dict(fc_lr5=True),
    )
    model = tsm_config(dropout=0.0)
    runner = train(custom_hooks=[dict(type='TAFHook')], optim_wrapper=wrapper, model=model)
    groups = runner.optim_wrapper.optimizer.param_groups
    home = {}
    for index, group in enumerate(groups):
        for value in group['params']:
            assert id(value) not in home, 'a parameter is in two groups'
            home[id(value)] = index
    assert set(home) == {id(value) for value in runner.model.parameters()}
    norms = dual_norms(runner.model)
    assert len(norms) == 20
    for norm in norms:
        assert home[id(norm.adv_weight)] == home[id(norm.weight)]
        assert home[id(norm.adv_bias)] == home[id(norm.bias)]
        assert not torch.equal(norm.adv_weight, norm.weight), 'the adversarial norm was not trained'


@pytest.mark.parametrize('ema', [False, True])
@pytest.mark.parametrize(
    'hook',
    [
        dict(type='TAFHook', steps=2, random_start=True),
        dict(type='AdvPropHook', steps=2, random_start=True),
        pytest.param(
            dict(type='AdversarialHook', recipe=dict(type='FastTraining', check_interval=3)),
            marks=pytest.mark.exhaustive,
        ),
        dict(type='AdversarialHook', recipe=dict(type='TRADES', steps=1, weight_eps=0.01)),
    ],
    ids=lambda hook: hook.get('recipe', hook)['type'],
)
def test_resume_is_bit_exact(train, tmp_path, ema, hook):
    hooks = [hook]
    if ema:
        hooks.insert(0, dict(type='EMAHook', momentum=0.1))
    straight = train('a', max_epochs=3, custom_hooks=hooks)
    train('b', max_epochs=2, custom_hooks=hooks)
    last = str(tmp_path / 'b/epoch_2.pth')
    resumed = train('b', max_epochs=3, custom_hooks=hooks, resume=True, load_from=last)
    assert_equal_state(straight.model.state_dict(), resumed.model.state_dict())
    states = [adversarial_state_dict(runner.model) for runner in (straight, resumed)]
    assert_equal_state(*states)
    files = [torch.load(tmp_path / f'{run}/epoch_3.pth', weights_only=True) for run in 'ab']
    assert_equal_state(files[0]['state_dict'], files[1]['state_dict'])
    assert_equal_state(files[0]['adversarial'], files[1]['adversarial'])
    if ema:
        assert_equal_state(files[0]['ema_state_dict'], files[1]['ema_state_dict'])
        build_recognizer(slowonly_config()).load_state_dict(files[0]['state_dict'], strict=True)


@pytest.mark.parametrize('constructor', [None, 'TSMOptimWrapperConstructor'])
def test_plain_run_resumed_with_the_hook_is_the_one_run(train, tmp_path, constructor):
    """Clean epochs, then TAF: in one run, or by resuming the clean run's checkpoint."""
    wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-3))
    model = slowonly_config()
    if constructor:
        wrapper.update(constructor=constructor, paramwise_cfg=dict(fc_lr5=True))
        model = tsm_config(dropout=0.0)
    options = dict(optim_wrapper=wrapper, model=model)
    hooks = [dict(type='TAFHook', begin=1)]
    straight = train('a', custom_hooks=hooks, **options)
    train('b', **options)
    last = str(tmp_path / 'b/epoch_1.pth')
    resumed = train('c', custom_hooks=hooks, load_from=last, resume=True, **options)
    assert_equal_state(straight.model.state_dict(), resumed.model.state_dict())
    states = [adversarial_state_dict(runner.model) for runner in (straight, resumed)]
    assert_equal_state(*states)


def test_plain_run_resumed_with_other_groups_of_parameters_is_an_error(train, tmp_path):
    wrapper = dict(
        optimizer=dict(type='SGD', lr=0.01),
        paramwise_cfg=dict(custom_keys=dict(fc=dict(lr_mult=5))),
    )
    train('a', optim_wrapper=wrapper)
    model = dict(type='AdversarialModel', model=slowonly_config(), recipe=dict(type='TAF'))
    with pytest.raises(ValueError, match='custom_hooks=.*recipe.*in place of AdversarialModel'):
        train(
            'b', optim_wrapper=wrapper, model=model, custom_hooks=[dict(type='AdversarialHook')],
            load_from=str(tmp_path / 'a/epoch_1.pth'), resume=True,
        )  # fmt: skip


def test_plain_run_saved_without_its_optimizer_is_resumed(train, tmp_path):
    train(
        'a',
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, save_optimizer=False)
        ),
    )
    last = str(tmp_path / 'a/epoch_1.pth')
    hooks = [dict(type='TAFHook')]
    runner = train('b', custom_hooks=hooks, load_from=last, resume=True)
    assert get_adversary(runner.model).schedule.adversarial_steps == 2


def test_fine_tuning_starts_both_paths_from_the_loaded_statistics(train, tmp_path):
    trained = train('a', max_epochs=1)
    seen = {}

    @HOOKS.register_module(name='LookAtNorms', force=True)
    class LookAtNorms(Hook):
        priority = 'VERY_LOW'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 0:
                norm = runner.model.backbone.conv1.bn
                seen['updates'] = norm.adv_num_batches_tracked.item()

    runner = train(
        'b',
        max_epochs=1,
        custom_hooks=[dict(type='TAFHook', eps=0, step_size=0), dict(type='LookAtNorms')],
        load_from=str(tmp_path / 'a/epoch_1.pth'),
    )
    HOOKS.module_dict.pop('LookAtNorms')
    clean = trained.model.backbone.conv1.bn.num_batches_tracked.item()
    assert seen['updates'] == clean + 1
    norm = runner.model.backbone.conv1.bn
    # eps=0: both paths saw the same clips, from the same start.
    torch.testing.assert_close(norm.adv_running_mean, norm.running_mean, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize(
    ('options', 'iterations'),
    [
        (dict(begin=1), [2, 3, 4, 5]),
        (dict(begin=1, end=2), [2, 3]),
        (dict(begin=3, by_epoch=False), [3, 4, 5]),
        (dict(interval=2), [0, 2, 4]),
        (dict(begin=1, end=5, interval=3, by_epoch=False), [3]),
    ],
)
def test_schedule(train, options, iterations):
    active = []

    @HOOKS.register_module(force=True)
    class LookAtOutputs(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if 'adv_loss_cls' in outputs:
                active.append(runner.iter)

    hooks = [dict(type='TAFHook', **options), dict(type='LookAtOutputs', _scope_='mmengine')]
    train(max_epochs=3, custom_hooks=hooks)
    assert active == iterations


def test_iteration_based_loop(train):
    loop = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=100)
    hooks = [dict(type='TAFHook', begin=1, by_epoch=False)]
    default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3))
    scheduler = [dict(type='MultiStepLR', milestones=[1], by_epoch=False)]
    options = dict(train_cfg=loop, default_hooks=default_hooks, param_scheduler=scheduler)
    runner = train(custom_hooks=hooks, **options)
    assert get_adversary(runner.model).schedule.started
    with pytest.raises(ValueError, match='by_epoch=False'):
        train(custom_hooks=[dict(type='TAFHook', begin=1)], **options)


def test_gradient_accumulation_and_clipping(train):
    wrapper = dict(
        optimizer=dict(type='SGD', lr=0.01), accumulative_counts=2, clip_grad=dict(max_norm=20)
    )
    runner = train(custom_hooks=[dict(type='TAFHook', interval=2)], optim_wrapper=wrapper)
    assert runner.optim_wrapper._inner_count == 4


def test_recipe_that_does_not_fit_fails_before_anything_is_trained(train, tmp_path):
    """num_frames is checked against the feature map although TAF begins an epoch later."""
    with pytest.raises(ValueError, match='num_frames=4'):
        train(custom_hooks=[dict(type='TAFHook', num_frames=5, begin=1)])
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (dict(custom_hooks=[dict(type='TAFHook', epz=1)]), ValueError, 'write eps'),
        (
            dict(custom_hooks=[dict(type='TAFHook', cam_layer='backbone.layer5')]),
            ValueError,
            "cam_layer='backbone.layer4'",
        ),
        (dict(custom_hooks=[dict(type='AdversarialHook')]), ValueError, 'has no recipe'),
        (
            dict(custom_hooks=[dict(type='AdversarialHook', recipe=dict(type='TUF'))]),
            ValueError,
            "write 'TAF'",
        ),
        (
            dict(custom_hooks=[dict(type='TAFHook')], activation_checkpointing='backbone.layer1'),
            ValueError,
            'activation_checkpointing',
        ),
    ],
)
def test_bad_config_is_one_clear_error_before_the_first_iteration(train, changes, error, message):
    with pytest.raises(Exception, match=message) as caught:
        train(**changes)
    assert isinstance(caught.value, error)


def test_models_that_the_hook_would_leave_clean_are_refused(train):
    from mmengine.model import BaseModel
    from mmengine.registry import MODELS

    @MODELS.register_module(force=True)
    class Other(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer4 = torch.nn.Conv2d(3, 3, 1)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=sum(self.layer4(clip).mean() for clip in inputs))

    with pytest.raises(TypeError, match='trains recognizers of MMAction2 .*, got Other'):
        train(model=dict(type='Other', _scope_='mmengine'), custom_hooks=[dict(type='TAFHook')])


def test_other_wrappers_are_refused(tmp_path):
    from mmengine.registry import MODEL_WRAPPERS

    config = runner_config(tmp_path, custom_hooks=[dict(type='TAFHook')])
    runner = Runner.from_cfg(config)

    @MODEL_WRAPPERS.register_module(name='FancyWrapper', force=True)
    class FancyWrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    runner.model = FancyWrapper(runner.model)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    with pytest.raises(
        TypeError, match=r'in FancyWrapper.*MMDistributedDataPar.*trainers/fsdp2\.py'
    ):
        runner.call_hook('before_run')
    MODEL_WRAPPERS.module_dict.pop('FancyWrapper')


def test_testing_needs_no_conversion(finished, tmp_path):
    config = runner_config(tmp_path, custom_hooks=[dict(type='TAFHook')])
    config.test_dataloader = config.train_dataloader
    config.test_cfg = dict(type='TestLoop')
    config.test_evaluator = dict(type='AccMetric')
    config.load_from = finished[1]
    runner = Runner.from_cfg(config)
    metrics = runner.test()
    assert not is_adversarial(runner.model) and 'acc/top1' in metrics


def test_validation_is_the_clean_path(train):
    """The val metric of the adversarial run is the plain run's when the weight is 0."""
    runners = []
    for hooks in ([dict(type='TAFHook', alpha=1.0)], []):
        config = runner_config('unused')
        runners.append(
            train(
                f'run{len(hooks)}',
                custom_hooks=hooks,
                val_dataloader=config.train_dataloader,
                val_cfg=dict(type='ValLoop'),
                val_evaluator=dict(type='AccMetric'),
                train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1),
            )
        )
    values = [[line['acc/top1'] for line in scalars(r) if 'acc/top1' in line] for r in runners]
    assert len(values[0]) == 2 and values[0] == values[1]


def test_checkpoint_loads_with_mmengine(finished):
    runner, file = finished
    model = build_recognizer(slowonly_config())
    load_checkpoint(model, file, strict=True)
    assert_equal_state(model.state_dict(), runner.model.state_dict())


def test_adversarial_state_of_a_checkpoint_fits_make_adversarial(finished):
    from adv_plugins import load_adversarial_state_dict

    runner, file = finished
    checkpoint = torch.load(file, weights_only=True)
    model = make_adversarial(build_recognizer(slowonly_config()), 'taf')
    load_adversarial_state_dict(model, checkpoint['adversarial'])
    ours, theirs = adversarial_state_dict(model), adversarial_state_dict(runner.model)
    del ours['adversary.iteration'], theirs['adversary.iteration']
    assert_equal_state(ours, theirs)


def test_tpn_validates_with_its_current_classifier(train, tmp_path):
    """The stock TPN of Something-Something under TAF, validated twice (mmaction2#831)."""
    stock = 'mmaction::recognition/tpn/tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb.py'
    model = get_config(stock).model
    model.backbone.update(pretrained=None, pretrained2d=False, num_segments=4)
    model.cls_head.update(num_classes=6)
    model.neck.aux_head_cfg.update(out_channels=6)
    model.test_cfg = dict(fcn_test=True, num_segs=4)
    seen = []

    @HOOKS.register_module(force=True)
    class LookAtClassifier(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            head = runner.model.cls_head
            seen.append(torch.equal(head.new_cls.weight.flatten(1), head.fc_cls.weight))

    loader = clips_loader(model)
    loader['dataset']['size'] = 2
    runner = train(
        model=model,
        train_dataloader=loader,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1),
        val_dataloader=loader,
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='AccMetric'),
        custom_hooks=[dict(type='TAFHook'), dict(type='LookAtClassifier', _scope_='mmengine')],
    )
    assert seen == [True] * 2
    assert 'adv_loss_aux' in scalars(runner)[0]
    state = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=True)['state_dict']
    assert not [name for name in state if 'new_cls' in name]
    build_recognizer(model).load_state_dict(state, strict=True)


@pytest.mark.parametrize('place', ['hook', 'model', 'both'])
def test_a_budget_is_chosen_for_the_run_and_measured(tmp_path, place):
    """Half of the run is clean: what it saves the other half may spend."""
    from adv_plugins import CEAugmentation
    from adv_plugins.core.cost import within_budget

    recipe = dict(type='CEAugmentation', begin=2, budget=1.25)
    hook = dict(type='AdversarialHook', recipe=None if place == 'model' else recipe)
    config = runner_config(tmp_path, max_epochs=4, custom_hooks=[hook])
    if place != 'hook':
        config.model = dict(type='AdversarialModel', model=config.model, recipe=recipe)
    runner = Runner.from_cfg(config)
    runner.train()
    adversary = get_adversary(runner.model)
    wanted = within_budget(CEAugmentation(begin=2, budget=1.25), 4, share=0.5)
    assert adversary.recipe == wanted
    assert (wanted.interval, wanted.fraction) == (1, 0.5)
    # Two iterations in each of the last two epochs.
    assert adversary.schedule.adversarial_steps == 4
    # The same model in another run: what the budget has chosen is the recipe that was given.
    again = Runner.from_cfg(runner_config(tmp_path / 'again', max_epochs=4, custom_hooks=[hook]))
    again.model = runner.model
    again.train()
    assert adversary.recipe == wanted
    costs = runner.message_hub.get_scalar('train/adv_cost').data[0]
    assert len(costs) >= 1
    assert all(cost > 0 for cost in costs)


@pytest.mark.parametrize(
    'options',
    [
        dict(begin=2),
        dict(begin=5, end=7),
        dict(begin=1, interval=100),
        dict(begin=1000, by_epoch=False),
    ],
    ids=str,
)
def test_schedule_without_an_adversarial_iteration_is_told(tmp_path, options, caplog):
    hook = dict(type='AdvPropHook', steps=1, **options)
    runner = Runner.from_cfg(runner_config(tmp_path, 1, custom_hooks=[hook]))
    runner.logger.addHandler(caplog.handler)
    runner.train()
    (message,) = [m for m in caplog.messages if 'no iteration of this run' in m]
    assert f'begin={options["begin"]}' in message and 'write begin=0' in message
    assert get_adversary(runner.model).schedule.adversarial_steps == 0


@pytest.mark.parametrize('begin', [0, 2])
def test_where_the_attack_looks_is_logged_once(tmp_path, begin, caplog):
    """By the first iteration, with a rehearsal too."""
    hook = dict(type='TAFHook', begin=begin, by_epoch=False)
    runner = Runner.from_cfg(runner_config(tmp_path, 1, custom_hooks=[hook]))
    runner.logger.addHandler(caplog.handler)
    runner.train()
    (message,) = [m for m in caplog.messages if 'CAM layer' in m]
    assert message.startswith('CAM layer: backbone.layer4, T×H×W = 4×')


def test_schedule_of_the_last_iteration_alone_is_fine(tmp_path, caplog):
    hook = dict(type='AdvPropHook', begin=1, end=9, steps=1, by_epoch=False)
    runner = Runner.from_cfg(runner_config(tmp_path, max_epochs=1, custom_hooks=[hook]))
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert get_adversary(runner.model).schedule.adversarial_steps == 1
    assert not [message for message in caplog.messages if 'no iteration' in message]


OWN_STEPS = {
    'loss': lambda self, data: self.loss(data['inputs'], data['data_samples']),
    'head': lambda self, data: self.cls_head.loss(
        self.extract_feat(data['inputs'])[0], data['data_samples']
    ),
    'through the call': lambda self, data: self(**data, mode='loss'),
}


@pytest.mark.parametrize('kind', OWN_STEPS)
def test_train_step_past_the_adversarial_one_is_an_error(tmp_path, kind):
    from mmaction.models import Recognizer3D

    class OwnStep(Recognizer3D):
        def train_step(self, data, optim_wrapper):
            data = self.data_preprocessor(data, True)
            loss, logs = self.parse_losses(OWN_STEPS[kind](self, data))
            optim_wrapper.update_params(loss)
            return logs

    MODELS.register_module(module=OwnStep, force=True)
    model = dict(slowonly_config(), type='OwnStep')
    config = runner_config(tmp_path, 1, model, custom_hooks=[dict(type='AdvPropHook', steps=1)])
    runner = Runner.from_cfg(config)
    if kind == 'through the call':
        assert runner.train()
        return
    with pytest.raises(RuntimeError, match=r"announced AdvProp.*OwnStep.*mode='loss'"):
        runner.train()
    assert runner.iter == 0
