"""What is tested, and by which protocol; what cannot be is told in a line."""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from adv_plugins.commands import protocols
from adv_plugins.commands.configs import configs_folder
from adv_plugins.commands.errors import CommandError

CONFIG = configs_folder() / 'baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'


def built(folder: Path, *options: str, config: Path = CONFIG, changes: tuple[str, ...] = ()) -> Any:
    parser = argparse.ArgumentParser()
    protocols.add_arguments(parser)
    # mmengine goes by this name when it tells runs of the same second apart.
    changes = (f'experiment_name={uuid.uuid4().hex}', *changes)
    args = parser.parse_args([str(config), 'epoch_1.pth', *options, '--cfg-options', *changes])
    args.out = folder
    return protocols.build_runner(args)


def plan(folder: Path, *options: str) -> Any:
    few = 'test_dataloader.dataset.clips_per_class=1'
    return built(folder, *options, changes=(few, 'test_cfg.attention=False')).test_loop.plan


def test_protocols_by_name_and_by_file(tmp_path):
    assert list(plan(tmp_path).severities) == [1, 3, 5]
    assert plan(tmp_path, '--protocol', 'full').attack_videos == 1000
    own = tmp_path / 'own.py'
    own.write_text("robustness = dict(type='RobustnessTestLoop', severities=[2], deepfool=None)\n")
    assert list(plan(tmp_path, '--protocol', str(own)).severities) == [2]


def test_options_change_the_protocol_as_well(tmp_path):
    changes = ('test_dataloader.dataset.clips_per_class=1', 'test_cfg.num_videos=7')
    runner = built(tmp_path, changes=changes)
    assert runner.test_loop.plan.num_videos == 7
    assert len(runner.test_loop.dataloader.dataset) == 12
    assert runner.work_dir == str(tmp_path)


def test_options_of_the_training_do_no_harm(tmp_path):
    few = 'test_dataloader.dataset.clips_per_class=1'
    training = ('train_cfg.max_epochs=2', 'custom_hooks=[]', 'optim_wrapper.optimizer.lr=0.1')
    runner = built(tmp_path, changes=(few, *training))
    assert runner.cfg.train_cfg is runner.cfg.optim_wrapper is None


@pytest.mark.parametrize(
    ('text', 'options', 'message'),
    [
        (None, (), 'nowhere.py cannot be read: FileNotFoundError'),
        ('a = ', (), 'cannot be read: SyntaxError'),
        ('a = 1', (), 'has no test_dataloader'),
        ('test_dataloader = 1', (), 'cannot be tested: '),
        ('a = 1', ('--protocol', 'quik'), '--protocol quik: neither one of quick, full nor a file'),
        ('a = 1', ('--protocol', str(CONFIG)), 'the file has no robustness=dict'),
    ],
)
def test_what_cannot_be_used(tmp_path, text, options, message):
    file = tmp_path / 'nowhere.py'
    if text is not None:
        file.write_text(text)
    with pytest.raises(CommandError, match=message):
        built(tmp_path, *options, config=file)
