"""Pictures while training: at the right steps, of the same clips, and without a trace."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NUM_CLASSES, Clips, clips_loader, slowonly_config

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')
pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS

from adv_plugins.hooks import visualization_hook
from adv_plugins.hooks.visualization_hook import AdversarialVisualizationHook

RECIPE = dict(type='CEAugmentation', eps=8 / 255, step_size=8 / 255)
HOOK = dict(type='AdversarialVisualizationHook', recipe=RECIPE)
MODEL = slowonly_config()
# A picture that drew random numbers would change the training.
MODEL['cls_head']['dropout_ratio'] = 0.5
LOADER = clips_loader(MODEL)


def validated(max_epochs=1, **changes):
    """What a config with a validation after every epoch adds."""
    return dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1),
        val_dataloader=copy.deepcopy(LOADER),
        val_cfg=dict(),
        val_evaluator=dict(type='AccMetric'),
        model=copy.deepcopy(MODEL),
        **changes,
    )


def images(folder):
    return sorted(path.name for path in Path(folder).rglob('vis_image/*.png'))


@pytest.fixture
def looks(monkeypatch):
    """What the hook looked at: model weights at that time, and what was seen."""
    seen = []
    look = visualization_hook.look

    def listening(model, *args, **kwargs):
        assert not model.training
        (found,) = look(model, *args, **kwargs)
        seen.append((copy.deepcopy(model.state_dict()), found))
        return [found]

    monkeypatch.setattr(visualization_hook, 'look', listening)
    return seen


def test_same_clips_at_every_interval_and_the_same_training(train, tmp_path, looks):
    plain = train('plain', **validated(4))
    runner = train('drawn', **validated(4, custom_hooks=[dict(HOOK, interval=2)]))
    assert images(tmp_path / 'drawn') == [
        f'adversarial_val_{index}_{step}.png' for index in (2, 6) for step in (2, 4)
    ]
    for (_, seen), index in zip(looks, (2, 6, 2, 6), strict=True):
        pixels = Clips()[index]['inputs'][0].permute(1, 2, 3, 0).numpy()
        np.testing.assert_array_equal(seen.frames, pixels)
        assert seen.label == index % NUM_CLASSES
        assert 0 < np.abs(seen.perturbation).max() <= 8 + 1e-3
    assert runner.model.training == plain.model.training
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[name]), name


def test_after_a_test_and_what_is_written(train, tmp_path):
    import cv2

    runner = train(
        **validated(),
        test_dataloader=copy.deepcopy(LOADER),
        test_cfg=dict(),
        test_evaluator=dict(type='AccMetric'),
        custom_hooks=[dict(HOOK, num_videos=1, interval=5)],
    )
    assert images(tmp_path) == []
    # Positive weights, with which every clip has evidence for its class, and so bars.
    runner.model.cls_head.fc_cls.weight.data.abs_()
    runner.test()
    assert images(tmp_path) == ['adversarial_test_4_1.png']
    (file,) = tmp_path.rglob('vis_image/*.png')
    page = cv2.imread(str(file))
    # As RGB: the bars of the clean clip are blue (C0) and those of the adversarial one red (C3).
    assert (page == (180, 119, 31)).all(-1).sum() > 1000
    assert (page == (40, 39, 214)).all(-1).sum() > 1000


def test_iterations_are_steps_where_the_run_counts_them(train, tmp_path):
    train(
        **validated()
        | dict(
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3),
            train_dataloader=dict(LOADER, sampler=dict(type='InfiniteSampler', shuffle=False)),
            custom_hooks=[dict(HOOK, num_videos=1)],
            param_scheduler=None,
        )
    )
    assert images(tmp_path) == ['adversarial_val_4_3.png']


def test_beside_adversarial_training(train, tmp_path, looks):
    """The clean path is shown, and neither path is touched."""
    taf = dict(type='TAFHook', eps=8 / 255, step_size=8 / 255)
    plain = train('plain', **validated(2, custom_hooks=[taf]))
    runner = train('drawn', **validated(2, custom_hooks=[taf, HOOK]))
    assert len(images(tmp_path / 'drawn')) == 4
    values = dict([*plain.model.named_parameters(), *plain.model.named_buffers()])
    drawn = dict([*runner.model.named_parameters(), *runner.model.named_buffers()])
    assert any('adv_' in name for name in values)
    for name, value in values.items():
        assert torch.equal(value, drawn[name]), name
    assert all(seen.adversarial is not None for _, seen in looks)


def test_the_validated_weights_are_shown(train, looks):
    """EMAHook swaps them in for a validation, and out after it."""
    runner = train(**validated(custom_hooks=[dict(type='EMAHook', momentum=0.5), HOOK]))
    (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    shown, averaged = looks[0][0], ema.ema_model.module.state_dict()
    assert torch.equal(shown['cls_head.fc_cls.weight'], averaged['cls_head.fc_cls.weight'])
    trained = runner.model.state_dict()['cls_head.fc_cls.weight']
    assert not torch.equal(shown['cls_head.fc_cls.weight'], trained)


def test_a_broken_picture_is_a_warning(train, tmp_path):
    hook = dict(HOOK, cam_layer='backbone.layer5')
    runner = train(**validated(2, custom_hooks=[hook]))
    assert runner.epoch == 2 and images(tmp_path) == []
    (log,) = tmp_path.rglob('*.log')
    lines = [line for line in log.read_text().splitlines() if 'drew nothing' in line]
    # mmengine says the same thing once.
    assert len(lines) == 1
    assert 'WARNING' in lines[0] and "cam_layer='backbone.layer4'" in lines[0]


def test_random_streams_are_kept():
    import random

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with pytest.raises(KeyError), visualization_hook._random_streams_kept():
        random.random()
        np.random.rand()
        torch.rand(1)
        raise KeyError
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_tensorboard(train, tmp_path):
    pytest.importorskip('tensorboard', reason='needs adv_plugins[test]')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    visualizer = dict(type='ActionVisualizer', vis_backends=backends)
    train(**validated(custom_hooks=[HOOK]), visualizer=visualizer)
    (events,) = tmp_path.rglob('events.out.*')
    board = EventAccumulator(str(events))
    board.Reload()
    names = ['adversarial_val_2', 'adversarial_val_6']
    assert board.Tags()['images'] == names
    assert [[event.step for event in board.Images(name)] for name in names] == [[1], [1]]
    assert images(tmp_path) == [f'{name}_1.png' for name in names]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(interval=0), 'interval=0 must be 1'),
        (dict(num_videos=0), 'num_videos=0 must be 1'),
        (dict(recipe=dict(type='TUF')), "'TAF'"),
    ],
)
def test_a_wrong_option_is_told_before_the_run(options, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='AdversarialVisualizationHook', **options))


def test_without_attack_and_by_default():
    assert AdversarialVisualizationHook(recipe=None).recipe is None
    assert AdversarialVisualizationHook().recipe.name == 'TAF'
