"""The commands: each explains itself, runs in a small way, and tells a mistake in a line."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from test_extras import run_without

from adv_plugins.commands import COMMANDS, main
from adv_plugins.commands.configs import configs_folder
from adv_plugins.version import __version__

ROOT = Path(__file__).resolve().parents[2]
FEW = 'test_dataloader.dataset.clips_per_class=1'


@pytest.mark.parametrize('command', COMMANDS)
def test_help(command, capsys):
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    with pytest.raises(SystemExit) as ended:
        main([command, '--help'])
    assert ended.value.code == 0
    assert f'usage: adv-plugins {command}' in capsys.readouterr().out


def test_the_list_of_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['--help'])
    listed = capsys.readouterr().out
    assert ended.value.code == 0 and all(f'    {command} ' in listed for command in COMMANDS)
    with pytest.raises(SystemExit) as ended:
        main(['--version'])
    assert capsys.readouterr().out.strip() == __version__ and ended.value.code == 0
    for wrong in ([], ['evalute']):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2 and 'usage: adv-plugins' in capsys.readouterr().err


def test_configs(capsys):
    """Nothing else on the standard output: a shell puts it into another command."""
    assert main(['configs']) == 0
    folder = Path(capsys.readouterr().out.removesuffix('\n'))
    assert folder == ROOT / 'mm_configs' == configs_folder()


def test_without_mmengine():
    """The list and the configs are there; the other commands name what they need."""
    run_without(
        ('mmengine', 'mmaction', 'mmcv'),
        """
from adv_plugins.commands import main
assert main(['configs']) == 0
try:
    main(['--help'])
except SystemExit as error:
    assert error.code == 0
assert main(['evaluate', 'config.py', 'epoch_1.pth']) == 2
assert 'mmengine' not in sys.modules
""",
    )


def test_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['adv_plugins', 'configs'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module('adv_plugins', run_name='__main__')
    assert ended.value.code == 0 and capsys.readouterr().out == f'{configs_folder()}\n'


def test_dry_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    monkeypatch.chdir(tmp_path)
    config = str(configs_folder() / 'taf/taf-tsm_r18_1x1x8_ordered-digits-rgb.py')
    few = [f'{stage}_dataloader.dataset.clips_per_class=1' for stage in ('train', 'val', 'test')]
    few += ['train_dataloader.batch_size=4', 'train_dataloader.num_workers=0', 'load_from=None']
    assert main(['dry-run', config, '--cfg-options', *few]) == 0
    assert 'adversarial: TAF' in capsys.readouterr().out
    assert list(tmp_path.glob('work_dirs/taf-tsm_r18_1x1x8_ordered-digits-rgb/*/*.log'))
    assert main(['dry-run', config, '--cfg-options', *few, 'model.cls_head.num_classes=3']) == 1
    assert 'problem(s):' in capsys.readouterr().out
    assert main(['dry-run', config, '--cfg-options', 'visualizer.type=Nothing']) == 2
    assert capsys.readouterr().err.startswith('adv-plugins dry-run: error: no Runner can be built')


def test_evaluate(tmp_path, capsys):
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from helpers import build_recognizer
    from mmengine.config import Config

    from adv_plugins.evaluation import Robustness

    config = configs_folder() / 'baselines/tsm_r18_1x1x8_ordered-digits-rgb.py'
    state = build_recognizer(Config.fromfile(config).model).state_dict()
    good, bad = tmp_path / 'good.pth', tmp_path / 'bad.pth'
    torch.save(dict(state_dict=state), good)
    bad.write_bytes(b'no checkpoint')
    protocol = tmp_path / 'protocol.py'
    protocol.write_text(
        "robustness = dict(type='RobustnessTestLoop', corruptions=['jumble'], severities=[5],\n"
        "    attacks=dict(fgsm=dict(type='FGSM')), curve=None, deepfool=None)\n"
    )
    command = ['evaluate', str(config), str(bad), str(good), '--out', str(tmp_path / 'out')]
    options = ['--protocol', str(protocol), '--cfg-options', FEW, 'test_cfg.num_videos=3']
    assert main([*command, *options]) == 1
    (file,) = tmp_path.glob('out/robustness_*.json')
    found = Robustness.load(file)
    assert found.checkpoint == str(good) and len(found.cells['clean'].videos) == 3
    assert set(found.cells) == {'clean', 'corruption/jumble/5', 'attack/fgsm', 'sanity'}
    assert file.with_suffix('.md').exists()
    told = capsys.readouterr().out
    assert f'{good}: acc/top1 ' in told
    assert f'not evaluated: {bad} is no whole checkpoint' in told.splitlines()[-1]


def test_a_mistake_is_told_in_a_line(tmp_path, capsys):
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    assert main(['evaluate', 'nowhere.py', 'epoch_1.pth', '--out', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith('adv-plugins evaluate: error: nowhere.py cannot be read')
    assert 'Traceback' not in said and said.count('\n') == 1
