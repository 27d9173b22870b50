"""Every config loads, and every one that needs no download builds and takes a training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config
from mmengine.registry import HOOKS, METRICS, MODELS, init_default_scope
from mmengine.runner import Runner

from adv_plugins import AART, ART
from adv_plugins.core.conversion import get_adversary, is_adversarial
from adv_plugins.core.recipe import build_recipe
from adv_plugins.datasets import LabelSpace
from adv_plugins.evaluation import YT8MMetric

ROOT = Path(__file__).resolve().parents[1] / 'mm_configs'
CONFIGS = sorted(file for file in ROOT.rglob('*.py') if '_base_' not in file.parts)
EMBEDDED = [file for file in CONFIGS if 'ordered-digits' in file.name]
SAMPLE = [file for file in CONFIGS if 'yt8m-sample' in file.name]


def test_there_are_configs():
    assert len(CONFIGS) >= 19 and len(EMBEDDED) >= 5 and len(SAMPLE) == 3


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.stem)
def test_config_loads_and_its_model_builds(file):
    config = Config.fromfile(file)
    assert 'adv_plugins' in config.custom_imports['imports']
    init_default_scope('mmaction')
    model = MODELS.build(config.model)
    assert not is_adversarial(model), 'the model of a config is the untouched recognizer'
    if file.parent.name == 'taf' or file.stem.startswith(('art', 'aart')):
        assert config.custom_hooks
    if file.parent.name == 'aart' and file not in SAMPLE:
        labels = LabelSpace.from_config(config.train_dataloader.dataset.label_space)
        assert config.model.num_classes == labels.num_classes
        assert set(config.test_evaluator.verticals or ()) <= set(labels.verticals)


def test_the_papers_protocol_on_youtube8m():
    """a-art.txt 3.1: Adam 2e-4, batch 64, GAP every 10,000 iterations, patience 3 and 5."""
    files = ('transformer', 'art-transformer', 'aart-transformer')
    configs = [Config.fromfile(ROOT / f'aart/{name}_1xb64_yt8m-317.py') for name in files]
    for config in configs:
        assert config.optim_wrapper.optimizer == dict(type='Adam', lr=2e-4)
        assert config.train_dataloader.batch_size == 64 and config.train_cfg.val_interval == 10_000
        (scheduler,) = config.param_scheduler
        assert (scheduler.type, scheduler.factor, scheduler.patience) == (
            'ReduceOnPlateauLR',
            0.1,
            3,
        )
        stop = config.default_hooks.early_stopping
        assert (stop.patience, stop.rule, stop.monitor) == (5, 'greater', 'GAP')
        assert HOOKS.build(stop).min_delta == 0
        assert config.val_dataloader.dataset.indices == 64_000
        assert config.test_dataloader.dataset.skip == 64_000
        assert config.test_evaluator.partitions == 5
        assert config.model.num_heads == 8 and config.model.depth == 1
    plain, art, aart = (
        [build_recipe(_recipe(h)) for h in c.get('custom_hooks', [])] for c in configs
    )
    assert (plain, art, aart) == ([], [ART()], [AART()])


def _recipe(hook):
    return dict(hook, type=hook['type'].removesuffix('Hook'))


@pytest.mark.slow
def test_sample_trains_stops_and_tests(tmp_path):
    """The paper's protocol on a tiny sample: the rate is cut before the run is stopped."""

    @METRICS.register_module(force=True)
    class FallingGAP(YT8MMetric):
        asked = 0

        def compute_metrics(self, results):
            FallingGAP.asked += 1
            return {**super().compute_metrics(results), 'GAP': 0.5 - 0.01 * FallingGAP.asked}

    config = Config.fromfile(ROOT / 'aart/aart-transformer_1xb64_yt8m-sample.py')
    config.merge_from_dict(
        {
            'work_dir': str(tmp_path / 'work'),
            'train_cfg.max_iters': 40,
            'train_cfg.val_interval': 1,
            'train_dataloader.batch_size': 8,
            'default_hooks.checkpoint.interval': 10,
            'val_evaluator.type': 'FallingGAP',
        }
    )
    sizes = dict(train=16, validate=8, test=8)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.dataset.update(data_root=str(tmp_path / 'sample'), sizes=sizes)
    runner = Runner.from_cfg(config)
    runner.train()
    # The first validation is the best; the fourth worse one cuts the rate, the fifth stops.
    assert runner.iter == 6
    rates = runner.message_hub.get_scalar('train/lr').data[0]
    assert rates.tolist() == pytest.approx([1e-3] * 5 + [1e-4])
    metrics = runner.test()
    for prefix in ('', 'fgm/', 'pgd/'):
        for metric in ('GAP', 'PERR', 'Hit@1', 'GAP_mean', 'GAP_std'):
            assert 0 <= metrics[prefix + metric] <= 1
    assert metrics['fgm/attention_mse'] > 0 and metrics['deepfool/rho_mean'] > 0
    assert 0 < metrics['fgm/ratio_rgb'] < 1 and metrics['fgm/eps'] == 0.5


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
