"""Every config loads, and every one that needs no download builds and takes a training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

import adv_plugins  # noqa: F401
from adv_plugins.core.conversion import get_adversary, is_adversarial

ROOT = Path(__file__).resolve().parents[1] / 'mm_configs'
CONFIGS = sorted(file for file in ROOT.rglob('*.py') if '_base_' not in file.parts)
EMBEDDED = [file for file in CONFIGS if 'ordered-digits' in file.name]


def test_there_are_configs():
    assert len(CONFIGS) >= 7 and len(EMBEDDED) >= 5


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.stem)
def test_config_loads_and_its_model_builds(file):
    config = Config.fromfile(file)
    assert 'adv_plugins' in config.custom_imports['imports']
    init_default_scope('mmaction')
    model = MODELS.build(config.model)
    assert not is_adversarial(model), 'the model of a config is the untouched recognizer'
    if file.parent.name == 'taf':
        assert config.custom_hooks


@pytest.mark.slow
@pytest.mark.parametrize('file', EMBEDDED, ids=lambda file: file.stem)
def test_embedded_config_takes_a_training_step(file, tmp_path):
    config = Config.fromfile(file)
    config.work_dir = str(tmp_path)
    config.train_dataloader.dataset.clips_per_class = 1
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.train_dataloader.batch_size = 6
    config.train_cfg.update(max_epochs=1)
    config.param_scheduler = []
    runner = Runner.from_cfg(config)
    before = [value.clone() for value in runner.model.parameters()]
    runner.train()
    after = list(runner.model.parameters())[: len(before)]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=False)) > 10
    if file.parent.name == 'taf':
        # A schedule that begins later has rehearsed its step all the same.
        assert get_adversary(runner.model)._rehearsed


def test_the_papers_own_config():
    """taf.txt 4.1: 15 epochs, lr divided by 10 after 10, α, ε, β, K, one clip and centre crop."""
    config = Config.fromfile(ROOT / 'taf/taf-tsm_tsm-pre-r50_8xb8-1x1x8-15e_sthv2-rgb.py')
    (hook,) = config.custom_hooks
    assert hook == dict(type='TAFHook', alpha=0.7, eps=64 / 255, step_size=32 / 255, steps=1)
    assert config.train_cfg.max_epochs == 15
    (schedule,) = config.param_scheduler
    assert (schedule.milestones, schedule.gamma) == ([10], 0.1)
    assert config.optim_wrapper.constructor == 'TSMOptimWrapperConstructor'
    assert config.train_dataloader.batch_size == 8
    # The stock training ends at 0.02 / 100 for 8 x 16 clips.
    assert config.optim_wrapper.optimizer.lr == pytest.approx(0.02 / 100 * (8 * 8) / (8 * 16))
    assert config.model.backbone.pretrained is None, 'nothing is downloaded'
    test = config.test_dataloader.dataset.pipeline
    kinds = [step.type for step in test]
    assert 'CenterCrop' in kinds and 'ThreeCrop' not in kinds
    sample = test[kinds.index('SampleFrames')]
    assert sample.num_clips == 8 and not sample.get('twice_sample')
    assert config.dataset_type == 'VideoDataset' and config.sthv2_flip_label_map
