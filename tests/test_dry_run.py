"""The dry run: what a run would trip over is reported, all of it, and nothing is changed."""

from __future__ import annotations

import copy
import itertools
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import (
    NUM_CLASSES,
    build_recognizer,
    feature_config,
    runner_config,
    slowonly_config,
    two_ranks,
)

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmaction.models import Recognizer3D
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, MODELS, RUNNERS

from adv_plugins.core.norm import auxiliary_parameters
from adv_plugins.dry_run import DryRunner
from adv_plugins.dry_run.data import same_data

CONFIG = Path(__file__).resolve().parents[1] / 'mm_configs/taf'
CONFIG = CONFIG / 'taf-tsm_r18_1x1x8_ordered-digits-rgb.py'
PIPELINE = [
    dict(type='SampleFrames', clip_len=4, frame_interval=1, num_clips=1, test_mode=True),
    dict(type='RawFrameDecode'),
    dict(type='FormatShape', input_format='NCTHW'),
    dict(type='PackActionInputs'),
]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Folders of frames, a video of each class to train on and others to test, and the list."""
    for label, part in itertools.product(range(NUM_CLASSES), ('frames', 'others')):
        folder = tmp_path / part / str(label)
        folder.mkdir(parents=True)
        for number in range(1, 5):
            image = np.full((32, 32, 3), 40 * label, np.uint8)
            cv2.imwrite(str(folder / f'img_{number:05}.jpg'), image)
    write_list(tmp_path, range(NUM_CLASSES))
    return tmp_path


def write_list(folder: Path, labels: Any) -> None:
    lines = [f'{video} 4 {label}\n' for video, label in enumerate(labels)]
    (folder / 'list.txt').write_text(''.join(lines))


def loader(folder: Path, part: str = 'frames', **changes: Any) -> dict:
    """A data loader over the folders of frames, with MMAction2's own dataset."""
    dataset = dict(
        type='RawframeDataset',
        ann_file=str(folder / 'list.txt'),
        data_prefix=dict(img=str(folder / part)),
        pipeline=PIPELINE,
    )
    return dict(
        batch_size=2,
        num_workers=0,
        dataset={**dataset, **changes},
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )


def dry_runner(config: Any) -> DryRunner:
    return RUNNERS.build({**config, 'runner_type': 'DryRunner'})


class Report:
    """The outcome of a dry run: the error, and the text of the log."""

    def __init__(self, config: Any, caplog: pytest.LogCaptureFixture) -> None:
        config = copy.deepcopy(config)
        config.log_level = 'INFO'
        self.runner = dry_runner(config)
        self.error = ''
        # mmengine's loggers do not pass records on.
        self.runner.logger.addHandler(caplog.handler)
        try:
            self.runner.train()
        except RuntimeError as error:
            self.error = str(error)
        records = [r.getMessage() for r in caplog.records if 'Dry run of' in r.getMessage()]
        assert len(records) == 1
        self.text = records[0]


@pytest.fixture
def report(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO)
    return lambda config: Report(config, caplog)


def full_config(folder: Path, **changes: Any) -> Any:
    config = dict(
        train_dataloader=loader(folder),
        val_dataloader=loader(folder, 'others', test_mode=True),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='AccMetric'),
        test_dataloader=loader(folder, 'others', test_mode=True),
        test_cfg=dict(type='TestLoop'),
        test_evaluator=dict(type='AccMetric'),
    )
    return runner_config(folder / 'run', **{**config, **changes})


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('hooks', [[], [dict(type='TAFHook', begin=1, interval=3)]], ids=str)
def test_a_good_config_passes_and_nothing_is_changed(frames, report, hooks):
    run = frames / 'run'
    run.mkdir()
    (run / 'config.py').write_text('# of an earlier run')
    before = files(frames)
    found = report(full_config(frames, custom_hooks=hooks))
    assert not found.error and 'All is well.' in found.text and 'warning' not in found.text
    for stage in ('train', 'val', 'test'):
        assert f'{stage}: 6 videos, 6 classes (RawframeDataset)' in found.text
    assert 'Recognizer3D, 499,' in found.text
    assert 'inputs 2 x (1, 3, 4, 32, 32)' in found.text and 'loss_cls' in found.text
    # However late the schedule starts, the adversarial step is tried.
    assert ('adv_loss_cls' in found.text) == bool(hooks)
    assert ('adversarial: TAF(' in found.text) == bool(hooks)
    assert {name for name in files(frames) - before if not name.endswith('.log')} == set()
    assert (run / 'config.py').read_text() == '# of an earlier run'
    model, optimizer = found.runner.model, found.runner.optim_wrapper.optimizer
    assert not optimizer.state and all(value.grad is None for value in model.parameters())
    assert found.runner.iter == 0


def test_no_parameter_moves(frames, monkeypatch):
    runner = dry_runner(full_config(frames, custom_hooks=[dict(type='TAFHook')]))
    seen = []
    step = DryRunner._check_step

    def check_step(self):
        seen.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
        step(self)

    monkeypatch.setattr(DryRunner, '_check_step', check_step)
    runner.train()
    for name, value in runner.model.named_parameters():
        assert torch.equal(value, seen[0][name]), name
    assert 'step' not in vars(runner.optim_wrapper)


def test_missing_files(frames, report):
    for image in (frames / 'frames/5').iterdir():
        image.unlink()
    (frames / 'frames/5').rmdir()
    (frames / 'others/5').rename(frames / 'others/moved')
    found = report(full_config(frames))
    assert f'train files: 1 of 6 listed videos are not on disk: {frames}/frames/5' in found.error
    assert f"({frames}/list.txt, line 6: '5 4 5')" in found.error
    assert 'val files: 1 of 6' in found.error and 'test files: 1 of 6' in found.error


def test_files_of_a_remote_backend_are_not_looked_for(frames, report):
    pipeline = [PIPELINE[0], dict(type='RawFrameDecode', io_backend='petrel'), *PIPELINE[2:]]
    found = report(full_config(frames, train_dataloader=loader(frames, pipeline=pipeline)))
    assert 'train files' not in found.error and 'train first video' in found.error


def test_labels_outside_the_classes_of_the_head(frames, report):
    write_list(frames, [1, 2, 3, 4, 5, 6])
    found = report(full_config(frames))
    assert 'train labels: 1 labels lie outside 0..5' in found.error
    assert 'model.cls_head.num_classes=6' in found.error and 'val labels' in found.error
    assert 'not checked, because of train labels: first batch' in found.text


def test_a_class_without_videos_is_a_warning(frames, report):
    write_list(frames, [0, 0, 0, 3, 4, 5])
    found = report(full_config(frames))
    assert not found.error
    assert 'warning: 2 classes have no training video: 1, 2' in found.text


def test_many_more_classes_than_labels_are_unmistakable(frames, report):
    config = full_config(frames)
    config.model.cls_head.num_classes = 400
    text = report(config).text
    assert 'warning: model.cls_head.num_classes=400, but the training videos have only 6' in text
    assert '394 classes have no training video' in text and 'All is well' not in text


def test_a_test_set_to_predict_has_no_labels(frames, report):
    (frames / 'predict.txt').write_text('0 4\n1 4\n')
    test = loader(frames, ann_file=str(frames / 'predict.txt'), test_mode=True)
    found = report(full_config(frames, test_dataloader=test))
    assert not found.error and 'test: 2 videos, 0 classes' in found.text
    found = report_again(full_config(frames, train_dataloader=test))
    assert 'train labels: 2 labels lie outside' in found


def report_again(config: Any) -> str:
    with pytest.raises(RuntimeError) as caught:
        dry_runner(config).train()
    return str(caught.value)


def test_a_pipeline_that_fails(frames, report):
    for part in ('frames', 'others'):
        (frames / part / '0/img_00003.jpg').write_bytes(b'no picture')
    found = report(full_config(frames))
    assert 'train first video: ' in found.error and 'val first video: ' in found.error


def test_without_the_training_data_the_rest_is_checked(frames, report):
    config = full_config(frames, custom_hooks=[dict(type='TAFHook')])
    config.train_dataloader.dataset.ann_file = str(frames / 'none.txt')
    found = report(config)
    assert '1 problem(s)' in found.error and 'train dataset: FileNotFoundError' in found.error
    assert 'val: 6 videos' in found.text and 'adversarial: TAF(' in found.text
    skipped = 'train files, train labels, train first video, val overlap, test overlap, first batch'
    assert f'not checked, because of train dataset: {skipped}, training step' in found.text


def test_wrapped_datasets_are_looked_into(frames, report):
    write_list(frames, [0, 1, 2, 3, 4, 7])
    data = loader(frames)
    inner = data['dataset']
    twice = dict(type='RepeatDataset', times=2, dataset=inner, _scope_='mmengine')
    data['dataset'] = dict(
        type='ConcatDataset',
        datasets=[dict(inner, _scope_='mmaction'), twice],
        _scope_='mmengine',
    )
    (frames / 'frames/3').rename(frames / 'frames/moved')
    twice['dataset'] = dict(inner, _scope_='mmaction')
    found = report(full_config(frames, train_dataloader=data))
    assert 'train files: 2 of 12' in found.error and 'train labels: 2 labels' in found.error
    assert 'train: 18 videos' in found.text


def test_data_that_tell_no_labels_are_said_to(tmp_path, report):
    found = report(runner_config(tmp_path))
    assert not found.error and 'labels not compared' in found.text


def test_feature_models(tmp_path, report):
    config = feature_config(tmp_path, train_iters=2, custom_hooks=[dict(type='AARTHook')])
    found = report(config)
    assert not found.error, found.error
    assert 'AART(' in found.text and 'adv_' in found.text


@pytest.mark.parametrize('resume', [False, True])
def test_a_checkpoint_that_is_not_there(frames, report, resume):
    found = report(full_config(frames, load_from=str(frames / 'no.pth'), resume=resume))
    assert 'load_from and resume: FileNotFoundError' in found.error
    assert 'no.pth' in found.error


def checkpoint(folder: Path, num_classes: int = NUM_CLASSES, **changes: Any) -> str:
    config = slowonly_config()
    config['cls_head']['num_classes'] = num_classes
    state = {**build_recognizer(config).state_dict(), **changes}
    state = {name: value for name, value in state.items() if value is not None}
    torch.save(dict(state_dict=state, meta={}), folder / 'loaded.pth')
    return str(folder / 'loaded.pth')


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 cut short'])
def test_a_checkpoint_that_is_damaged_is_named(frames, report, content):
    file = frames / 'cut.pth'
    file.write_bytes(content)
    assert (
        f'{file} is no whole checkpoint: ' in report(full_config(frames, load_from=str(file))).error
    )


def test_nothing_to_resume(frames, report):
    found = report(full_config(frames, resume=True))
    assert not found.error and 'All is well' not in found.text
    assert f'resume=True, but {frames}/run has no checkpoint' in found.text


def test_a_model_that_is_frozen_as_a_whole(frames, report):
    @HOOKS.register_module(force=True)
    class Freeze(Hook):
        """Freezes the model."""

        def before_run(self, runner):
            runner.model.requires_grad_(False)

    error = report(full_config(frames, custom_hooks=[dict(type='Freeze')])).error
    assert 'no parameter of the model requires a gradient' in error


def test_a_checkpoint_that_fits(frames, report):
    found = report(full_config(frames, load_from=checkpoint(frames)))
    assert not found.error and 'warning' not in found.text
    assert 'weights: ' in found.text


def test_a_checkpoint_for_another_number_of_classes(frames, report):
    path = checkpoint(frames, num_classes=9)
    found = report(full_config(frames, load_from=path))
    assert not found.error and '2 weights of the head start untrained' in found.text
    assert 'cls_head.fc_cls.weight ((9, 64) in the file, (6, 64) wanted)' in found.text
    found = report_again(full_config(frames, load_from=path, resume=True))
    assert 'cls_head.fc_cls.weight ((9, 64) in the file' in found


def test_a_checkpoint_of_another_model(frames, report):
    name = 'backbone.layer1.0.conv1.conv.weight'
    path = checkpoint(frames, other=torch.zeros(1), **{'module.' + name: None, name: None})
    found = report(full_config(frames, load_from=path))
    assert f'1 weights of the model do not come from {path}: {name} (not in' in found.error
    assert '1 weights of' in found.text and 'are not in the model: other' in found.text


def test_pretrained_weights_that_are_not_there(frames, report):
    config = full_config(frames)
    config.model.backbone.update(pretrained=str(frames / 'no.pth'), pretrained2d=True)
    assert 'pretrained weights: FileNotFoundError' in report(config).error


@pytest.mark.parametrize(
    ('stage', 'labels', 'told'),
    [
        ('val', range(6), ['6 of the 6 val videos are training videos']),
        ('test', [3] * 5, ['5 of the 5 test videos', '4 of them have another label in test: ']),
    ],
)
def test_training_videos_that_are_evaluated(frames, report, stage, labels, told):
    lines = [f'./{video} 4 {label}\n' for video, label in enumerate(labels)]
    (frames / 'again.txt').write_text(''.join(lines))
    again = loader(frames, ann_file=str(frames / 'again.txt'), test_mode=True)
    found = report(full_config(frames, **{f'{stage}_dataloader': again}))
    assert not found.error and 'All is well' not in found.text
    assert all(f'warning: {text}' in found.text for text in told)
    assert f'{frames}/frames/0' in found.text
    if stage == 'test':
        assert f'{frames}/frames/0 (0 in train, 3 in test)' in found.text


@pytest.mark.parametrize('size', [8, 4])
def test_the_same_dataset_that_lists_no_videos(tmp_path, report, size):
    train = runner_config(tmp_path).train_dataloader
    config = runner_config(
        tmp_path,
        val_dataloader=train,
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='AccMetric'),
    )
    config.train_dataloader.dataset.size = 8
    config.val_dataloader.dataset.size = size
    text = report(config).text
    assert ('warning: the val dataset is the training dataset' in text) == (size == 8)
    assert ('All is well.' in text) == (size == 4)


def test_wrappers_do_not_hide_the_same_data():
    digits = dict(type='OrderedDigits', split='train', pipeline=[])
    wrapped = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=digits)])
    for other, same in ((digits, True), (dict(digits, split='val'), False), (wrapped, True)):
        tested = dict(dataset=dict(other, test_mode=True))
        assert same_data(dict(dataset=wrapped), tested) == same


def video_loader(folder: Path, lines: str, **changes: Any) -> dict:
    (folder / 'videos.txt').write_text(lines)
    (folder / 'v').mkdir(exist_ok=True)
    return loader(
        folder,
        type='VideoDataset',
        ann_file=str(folder / 'videos.txt'),
        data_prefix=dict(video=str(folder / 'v')),
        pipeline=[dict(type='PyAVInit'), *PIPELINE],
        **changes,
    )


@pytest.mark.parametrize(
    ('fault', 'told'),
    [
        (lambda file: file.write_bytes(b''), 'is empty (0 bytes)'),
        (lambda file: file.mkdir(), 'is a folder'),
        (lambda file: file.symlink_to('nowhere'), 'is a link to nothing'),
        (lambda file: None, 'are not on disk'),
        (lambda file: (file.write_bytes(b'x'), file.chmod(0)), 'is not readable'),
    ],
    ids=['empty', 'folder', 'link', 'missing', 'unreadable'],
)
def test_a_video_that_cannot_be_read_anywhere_in_the_list(frames, report, monkeypatch, fault, told):
    if 'readable' in told:
        # Root may read everything.
        monkeypatch.setattr('os.access', lambda path, mode: not path.endswith('3.mp4'))
    train = video_loader(frames, ''.join(f'{i}.mp4 {i}\n' for i in range(6)))
    for number in range(6):
        if number == 3:
            fault(frames / 'v/3.mp4')
        else:
            (frames / f'v/{number}.mp4').write_bytes(b'x')
    found = report(full_config(frames, train_dataloader=train))
    (line,) = [line for line in found.error.splitlines() if 'train files' in line]
    assert told in line and f'{frames}/v/3.mp4' in line and '1 of 6' in line
    assert f"({frames}/videos.txt, line 4: '3.mp4 3')" in line


def test_a_file_in_place_of_a_folder_of_frames(frames, report):
    (frames / 'frames/2').rename(frames / 'frames/moved')
    (frames / 'frames/2').write_bytes(b'x')
    assert f'{frames}/frames/2 is no folder of frames' in report(full_config(frames)).error


def test_an_empty_folder_of_frames(frames, report):
    (frames / 'frames/3').rename(frames / 'frames/moved')
    (frames / 'frames/3').mkdir()
    assert f'{frames}/frames/3 is an empty folder' in report(full_config(frames)).error


@pytest.mark.parametrize(
    ('encoding', 'videos', 'told'),
    [
        ('utf-8', 0, '{list} is empty: it lists no video'),
        ('utf-16', 6, '{list} is no text in UTF-8: .*; save it as UTF-8'),
        ('utf-8-sig', 6, '{list}, line 1: .* a byte order mark stands before it'),
    ],
)
def test_a_list_that_cannot_be_read_as_a_whole(frames, report, encoding, videos, told):
    write_list(frames, range(videos))
    (frames / 'list.txt').write_text((frames / 'list.txt').read_text(), encoding=encoding)
    error = report(full_config(frames)).error
    assert re.search(told.replace('{list}', re.escape(f'{frames}/list.txt')), error)


def test_a_first_video_that_fails_is_named(frames, report):
    train = video_loader(frames, '0.mp4 0\n1.mp4 1\n')
    for number in range(2):
        (frames / f'v/{number}.mp4').write_bytes(b'no video')
    error = report(full_config(frames, train_dataloader=train)).error
    assert 'train first video: RuntimeError in runner.py' in error
    assert f'{frames}/v/0.mp4: ' in error


def test_no_batch_is_left_of_a_short_list(frames, report):
    train = {**loader(frames), 'batch_size': 64, 'drop_last': True}
    error = report(full_config(frames, train_dataloader=train)).error
    assert f'{NUM_CLASSES} videos make no batch of 64, and drop_last=True' in error


def test_it_is_said_that_only_the_first_video_was_opened(frames, report):
    assert 'only the first video of train, val, test was opened' in report(full_config(frames)).text


@pytest.mark.parametrize(
    ('line', 'changes', 'told'),
    [
        ('a b.mp4 1', {}, 'too many values'),
        ('x.mp4 walking', {}, 'walking'),
        ('x.mp4 1.0', {}, '1.0'),
        ('x.mp4,1', dict(delimiter=';'), None),
        ('x.mp4\t1', {}, None),
        ('x.mp4', {}, None),
        ('x.mp4;1;2', dict(delimiter=';'), 'too many values'),
    ],
)
def test_a_badly_split_line_is_named(frames, report, line, changes, told):
    good = changes.get('delimiter', ' ').join(('0.mp4', '0'))
    train = video_loader(frames, f'{good}\n{line}\n{good}\n', **changes)
    (frames / 'v/0.mp4').write_bytes(b'x')
    error = report(full_config(frames, train_dataloader=train)).error
    assert f'{frames}/videos.txt, line 2: {line!r}' in error
    if told:
        assert f'cannot be split: {told}' in error or told in error
        assert "delimiter=','" in error
    else:
        # MMAction2 takes the whole line as the path of a video without a label.
        assert '1 labels lie outside 0..5' in error and '-1 (' in error


@pytest.mark.parametrize('line', ['', '3', '3 four 1', '3 4 1 2'])
def test_a_badly_split_line_of_frames_is_named(frames, report, line):
    (frames / 'list.txt').write_text(f'0 4 0\n{line}\n1 4 1\n')
    error = report(full_config(frames)).error
    assert 'train dataset: ValueError' in error
    assert f'{frames}/list.txt, line 2: {line!r} cannot be split' in error


@pytest.mark.parametrize(
    ('changes', 'warned'),
    [
        ({}, True),
        (dict(recipe='TAF'), True),
        (dict(recipe='CEAugmentation'), True),
        (dict(recipe=dict(type='Recipe', eps=0.1, objective='TemporalCAM')), True),
        (dict(recipe=dict(type='TAF', begin=1)), False),
        (dict(recipe='AdvProp'), False),
        (dict(load_from=True), False),
        (dict(resume=True), True),
        (dict(pretrained=True), False),
        (dict(init_cfg=True), False),
    ],
    ids=str,
)
def test_fine_tuning_that_starts_with_random_weights(frames, report, changes, warned):
    hook = dict(type='AdversarialHook', recipe=changes.pop('recipe', 'TAF'))
    config = full_config(frames, custom_hooks=[hook])
    path = checkpoint(frames)
    if changes.pop('load_from', False):
        config.load_from = path
    # Nothing to resume from.
    config.resume = changes.pop('resume', False)
    if changes.pop('pretrained', False):
        config.model.backbone.update(pretrained=path, pretrained2d=False)
    if changes.pop('init_cfg', False):
        init = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
        config.model.backbone.init_cfg = init
    found = report(config)
    assert not found.error, found.error
    assert ('starts with random weights; write load_from=' in found.text) == warned
    assert ('All is well.' in found.text) != warned


def test_mixed_precision_without_a_gpu_is_not_checked(frames, report, monkeypatch):
    monkeypatch.setattr('adv_plugins.dry_run.runner.get_device', lambda: 'cpu')
    config = full_config(frames)
    config.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    found = report(config)
    assert not found.error and 'loss_cls' in found.text
    assert 'not checked here: AmpOptimWrapper, which needs a GPU' in found.text
    assert 'All is well' not in found.text and 'No problem found in what was' in found.text
    # The rest of its options counts.
    config.optim_wrapper.no_such_option = 1
    assert 'no_such_option' in report_again(config)


@MODELS.register_module(force=True)
class OwnTrainStep(Recognizer3D):
    """A recognizer whose train_step passes by its forward."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss, logged = self.parse_losses(self.loss(data['inputs'], data['data_samples']))
        optim_wrapper.update_params(loss)
        return logged


def test_a_train_step_that_passes_by_the_recipe(frames, report):
    config = full_config(frames, custom_hooks=[dict(type='TAFHook', begin=1)])
    config.model.type = 'OwnTrainStep'
    error = report(config).error
    assert 'training step: nothing adversarial happened: the train_step of ' in error
    assert "mode='loss'" in error


def test_what_was_set_up_is_told(frames, report):
    hooks = [dict(type='TAFHook', begin=1, interval=2)]
    text = report(full_config(frames, max_epochs=4, custom_hooks=hooks)).text
    assert 'CAM layer: backbone.layer4, T×H×W = 4×' in text
    assert 'norms: 20 doubled; 40 of 40 auxiliary parameters are in the optimizer' in text
    # (4/3) * 3/4 / 2 beside the clean run.
    assert 'an adversarial step is 2.33 clean ones, the run 1.50 clean runs' in text


@HOOKS.register_module(force=True)
class ForgetsTheTwins(Hook):
    """Takes the auxiliary parameters out of the optimizer, as one built too early lacks them."""

    priority = 'LOW'

    def before_run(self, runner):
        twins = {id(twin) for _, twin in auxiliary_parameters(runner.model)}
        for group in runner.optim_wrapper.optimizer.param_groups:
            group['params'] = [value for value in group['params'] if id(value) not in twins]


def test_auxiliary_parameters_in_no_optimizer(frames, report):
    hooks = [dict(type='TAFHook', begin=1), dict(type='ForgetsTheTwins')]
    text = report(full_config(frames, max_epochs=4, custom_hooks=hooks)).text
    assert '0 of 40 auxiliary parameters are in the optimizer' in text
    assert 'warning: 40 auxiliary parameters are in no optimizer' in text


@HOOKS.register_module(force=True)
class Grumbles(Hook):
    """Says in two ways, and twice, that something is odd."""

    def before_run(self, runner):
        warnings.warn('odd weather\n today', stacklevel=2)
        warnings.warn('of no interest', DeprecationWarning, stacklevel=2)
        print_log('odd tides', logger='current', level=logging.WARNING)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before_run(runner)


def test_what_the_hooks_warn_of_is_listed_once(frames, report):
    found = report(full_config(frames, custom_hooks=[dict(type='Grumbles')]))
    assert not found.error and 'No problem found; 2 warning(s) to read.' in found.text
    assert found.text.count('warning: odd weather today') == 1
    assert found.text.count('warning: odd tides') == 1


def test_what_the_step_warns_of_is_listed(tmp_path, report):
    hooks = [dict(type='AdvPropHook', eps=1.0, step_size=1.0, clamp=False)]
    config = runner_config(tmp_path, custom_hooks=hooks)
    found = report(config)
    assert 'warning: the perturbation may be larger than the inputs' in found.text


@HOOKS.register_module(force=True)
class FailsBeforeRun(Hook):
    def before_run(self, runner):
        raise LookupError('not today')


def test_a_hook_that_fails(frames, report):
    hooks = [dict(type='FailsBeforeRun'), dict(type='TAFHook', eps=-1), dict(type='NoSuchHook')]
    found = report(full_config(frames, custom_hooks=hooks))
    assert 'hook TAFHook: ValueError in ' in found.error and 'eps=-1' in found.error
    assert 'hook NoSuchHook: ' in found.error
    assert 'before_run of FailsBeforeRun: LookupError in test_dry_run.py:' in found.error
    assert 'not today' in found.error


def test_a_recipe_that_does_not_fit(frames, report):
    hooks = [dict(type='TAFHook', cam_layer='backbone.layer9')]
    found = report(full_config(frames, custom_hooks=hooks))
    assert 'before_run of TAFHook: ' in found.error and 'layer9' in found.error


def test_a_model_that_does_not_build(frames, report):
    config = full_config(frames)
    config.model.backbone.type = 'NoSuchBackbone'
    found = report(config)
    assert 'model: ' in found.error and 'NoSuchBackbone' in found.error
    assert 'train: 6 videos' in found.text


def test_an_evaluator_and_an_optimizer_that_do_not_build(frames, report):
    config = full_config(frames, val_evaluator=dict(type='NoSuchMetric'))
    config.optim_wrapper.optimizer.no_such_option = 1
    found = report(config)
    assert 'val loop: ' in found.error and 'NoSuchMetric' in found.error
    assert 'optimizer: TypeError' in found.error and 'no_such_option' in found.error


def test_losses_that_are_not_finite(frames, report):
    config = full_config(frames)
    config.model.data_preprocessor.std = [0.0, 57.12, 57.375]
    assert 'training step: not finite: loss' in report(config).error


@HOOKS.register_module(force=True)
class AddsAnIdleParameter(Hook):
    def before_run(self, runner):
        runner.model.idle = torch.nn.Parameter(torch.zeros(1))


def test_a_parameter_without_gradient_is_a_warning(frames, report):
    config = full_config(frames, custom_hooks=[dict(type='AddsAnIdleParameter')])
    config.model.backbone.frozen_stages = 1
    found = report(config)
    assert not found.error and '1 parameters got no gradient: idle' in found.text


def test_several_problems_are_all_reported(frames, report):
    write_list(frames, [0, 1, 2, 3, 4, 99])
    (frames / 'frames/2').rename(frames / 'frames/moved')
    config = full_config(
        frames, load_from='no.pth', custom_hooks=[dict(type='NoSuchHook')], val_evaluator=dict()
    )
    found = report(config)
    for expected in ('train files', 'train labels', 'load_from', 'NoSuchHook', 'val loop'):
        assert expected in found.error and expected in found.text
    assert f'The dry run found {len(found.runner._found.problems)} problem(s):' in found.error


def worker(rank: int, folder: str) -> None:
    """A dry run on one of two ranks, of which the second has lost a video."""
    from mmengine.model import MMDistributedDataParallel

    texts = []
    for lost in (False, True):
        config = full_config(Path(folder), custom_hooks=[dict(type='TAFHook')])
        config.work_dir = f'{folder}/rank{rank}'
        if lost and rank == 1:
            config.train_dataloader.dataset.data_prefix.img = folder
        runner = dry_runner(config)
        # mmengine's own wrapping needs a GPU (launcher='pytorch' calls torch.cuda.set_device).
        runner.model = MMDistributedDataParallel(runner.model)
        try:
            runner.train()
            texts.append('')
        except RuntimeError as error:
            texts.append(str(error))
    torch.save(texts, f'{folder}/{rank}.pt')


def test_all_ranks_end_with_what_one_has_found(frames):
    two_ranks(worker, str(frames))
    first, second = (torch.load(frames / f'{rank}.pt') for rank in range(2))
    assert first[0] == second[0] == ''
    assert first[1] == second[1]
    assert 'train files: 6 of 6' in first[1] and '(rank 1)' in first[1]


def mim(*args: str, folder: Path) -> subprocess.CompletedProcess:
    call = [sys.executable, '-m', 'mim', 'train', 'mmaction2', *args]
    call += ['--work-dir', str(folder / 'work')]
    return subprocess.run(call, capture_output=True, text=True, check=False, cwd=folder)


def test_the_command(tmp_path):
    options = ['--cfg-options', 'runner_type=DryRunner', 'train_dataloader.batch_size=4']
    done = mim(str(CONFIG), *options, folder=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    assert 'All is well.' in output and 'adv_loss_cls' in output
    assert 'CAM layer: backbone.layer4, T×H×W = 8×3×3' in output
    assert not [name for name in files(tmp_path) if not name.endswith('.log')]


# The next one fails as well, and takes the option on the same way.
@pytest.mark.exhaustive
def test_the_command_fails_where_the_dry_run_does(tmp_path):
    options = ['runner_type=DryRunner', 'model.cls_head.num_classes=10']
    done = mim(str(CONFIG), '--cfg-options', *options, folder=tmp_path)
    assert done.returncode != 0
    assert 'labels lie outside 0..9' in done.stdout + done.stderr


def test_the_command_on_a_stock_config(tmp_path):
    config = 'tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb.py'
    options = ['runner_type=adv_plugins.dry_run.DryRunner', 'model.backbone.pretrained=no.pth']
    done = mim(config, '--cfg-options', *options, folder=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert 'train dataset: FileNotFoundError' in output and 'sthv2_train_list_videos' in output
    assert 'pretrained weights: FileNotFoundError' in output and 'val dataset' in output
