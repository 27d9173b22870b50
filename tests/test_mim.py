"""The commands of the pages: mim train, --resume and mim test on a config of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import build_recognizer

pytest.importorskip('mim', reason='needs adv_plugins[mmaction]')
CONFIG = (
    Path(__file__).resolve().parents[1] / 'mm_configs/taf/taf-tsm_r18_1x1x8_ordered-digits-rgb.py'
)
SHORT = [
    '--cfg-options',
    'train_dataloader.dataset.clips_per_class=2',
    'val_dataloader.dataset.clips_per_class=1',
    'test_dataloader.dataset.clips_per_class=1',
    'train_dataloader.batch_size=8',
    'default_hooks.checkpoint.interval=1',
    'custom_hooks.0.begin=1',
    'param_scheduler=[]',
    'default_hooks.logger.interval=1',
]


def mim(command: str, *args: str) -> str:
    """Run mim away from the checkout, as an installed package is used."""
    call = [sys.executable, '-m', 'mim', command, 'mmaction2', str(CONFIG), *args]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=CONFIG.anchor)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_train_resume_and_test(tmp_path):
    work_dir = ['--work-dir', str(tmp_path)]
    output = mim('train', *work_dir, *SHORT, 'train_cfg.max_epochs=2')
    assert 'Training finished successfully' in output
    lines = [
        json.loads(line)
        for file in tmp_path.glob('*/vis_data/scalars.json')
        for line in file.read_text().splitlines()
    ]
    logged = [line for line in lines if 'adv_loss_cls' in line]
    assert logged and all('adv_top1_acc' in line for line in logged)
    assert min(line['epoch'] for line in logged) == 2

    output = mim('train', '--resume', *work_dir, *SHORT, 'train_cfg.max_epochs=3')
    assert 'resumed epoch: 2' in output and 'Epoch(train) [3]' in output

    from mmengine.config import Config

    checkpoint = torch.load(tmp_path / 'epoch_3.pth', weights_only=True)
    untouched = build_recognizer(Config.fromfile(CONFIG).model)
    untouched.load_state_dict(checkpoint['state_dict'], strict=True)
    assert {'backbone.conv1.bn.adv_weight', 'adversary.seed'} <= set(checkpoint['adversarial'])

    output = mim('test', '--checkpoint', str(tmp_path / 'epoch_3.pth'), *work_dir, *SHORT)
    assert 'acc/top1' in output
