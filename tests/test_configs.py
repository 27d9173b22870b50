"""Every config loads, and every one that needs no download builds and takes a training step."""

from __future__ import annotations

import uuid
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import data_samples, default_tier

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner

from adv_plugins import (
    AART,
    ART,
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    PGDTraining,
)
from adv_plugins.core.conversion import get_adversary, is_adversarial
from adv_plugins.core.recipe import build_recipe
from adv_plugins.datasets import LabelSpace
from adv_plugins.evaluation import YT8MMetric

ROOT = Path(__file__).resolve().parents[1] / 'mm_configs'
CONFIGS = sorted(file for file in ROOT.rglob('*.py') if '_base_' not in file.parts)
EMBEDDED = [file for file in CONFIGS if 'ordered-digits' in file.name]
SAMPLE = [file for file in CONFIGS if 'yt8m-sample' in file.name]
ADVERSARIAL_TRAINING = {
    'pgd_training': PGDTraining(steps=5, begin=18),
    'fast_training': FastTraining(check_interval=12, begin=18),
    'trades': TRADES(steps=5, begin=18, eps=dict(type='LinearEps', start=0, end=8 / 255, epochs=3)),
    'mart': MART(steps=5, begin=18),
}
"""The folders of adversarial training proper, with the recipe of the configs there."""
HOOKED = ('taf', *ADVERSARIAL_TRAINING)
CLASSES = {'sthv1': 174, 'sthv2': 174, 'diving48': 48}
TABLE1 = [file for file in CONFIGS if any(name in file.name for name in CLASSES)]
# Every model with every method, and 16 frames: the other rows differ in what is read from the file.
STEPPED = [
    file
    for file in TABLE1
    if 'sthv1' in file.name and ('1x1x8' in file.name or file.name.startswith('taf'))
]
DATASETS_OF = {
    'sthv1': 'SomethingSomethingV1',
    'sthv2': 'SomethingSomethingV2',
    'diving48': 'Diving48',
}
FLIPS = {
    'sthv1': {2: 4, 4: 2, 30: 41, 41: 30, 52: 66, 66: 52},
    'sthv2': {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166},
    'diving48': None,
}


def test_there_are_configs():
    assert len(CONFIGS) >= 88 and len(EMBEDDED) >= 15 and len(SAMPLE) == 3


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.stem)
def test_config_loads_and_its_model_builds(file):
    config = Config.fromfile(file)
    assert 'adv_plugins' in config.custom_imports['imports']
    init_default_scope('mmaction')
    model = MODELS.build(config.model)
    assert not is_adversarial(model), 'the model of a config is the untouched recognizer'
    if file.parent.name in HOOKED or file.stem.startswith(('art', 'aart')):
        assert config.custom_hooks
    if file.parent.name == 'aart' and 'yt8m' in file.name and file not in SAMPLE:
        labels = LabelSpace.from_config(config.train_dataloader.dataset.label_space)
        assert config.model.num_classes == labels.num_classes
        assert set(config.test_evaluator.verticals or ()) <= set(labels.verticals)


def test_the_papers_protocol_on_youtube8m():
    """A-ART, section 3.1: Adam 2e-4, batch 64, GAP every 10,000 iterations, patience 3 and 5."""
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


# A config of TAF has the model of the clean one; of adversarial training TRADES has all parts.
@pytest.mark.parametrize(
    'file',
    default_tier(
        lambda file: file.parent.name == 'taf' or file.stem.startswith(('tsm', 'tsn', 'trades')),
        EMBEDDED,
    ),
    ids=lambda file: file.stem,
)
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
    if file.parent.name in HOOKED:
        # A schedule that begins later has rehearsed its step all the same.
        assert get_adversary(runner.model).schedule.rehearsed


@pytest.mark.parametrize('folder', ADVERSARIAL_TRAINING)
def test_adversarial_training_follows_the_clean_epochs_of_the_baseline(folder):
    (file,) = (ROOT / folder).glob('*.py')
    config = Config.fromfile(file)
    (hook,) = config.custom_hooks
    assert build_recipe(hook.recipe) == ADVERSARIAL_TRAINING[folder]
    assert config.clean_epochs == 18 < config.train_cfg.max_epochs
    prefix, _, baseline = file.stem.partition('-')
    assert folder.startswith(prefix) and (ROOT / f'baselines/{baseline}.py').exists()


@pytest.mark.parametrize('file', TABLE1, ids=lambda file: file.stem)
def test_row_of_table1_is_as_in_the_paper(file):
    """TAF, section 4.1: one clip, centre crop of 224; 15 epochs, lr / 10 after 10; α, ε, β, K."""
    config = Config.fromfile(file)
    data = next(name for name in CLASSES if name in file.name)
    frames = 16 if '1x1x16' in file.name else 8
    assert config.model.cls_head.num_classes == CLASSES[data]
    for loader in (config.val_dataloader, config.test_dataloader):
        steps = {step.type: step for step in loader.dataset.pipeline}
        assert steps['CenterCrop'].crop_size == 224 and 'ThreeCrop' not in steps
        assert steps['SampleFrames'].num_clips == frames and steps['SampleFrames'].test_mode
        assert not steps['SampleFrames'].get('twice_sample')
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    assert steps['SampleFrames'].num_clips == frames
    assert steps['Flip'].get('flip_label_map') == FLIPS[data]
    assert ('ColorJitter' in steps) == ('tpn' in file.name)
    assert config.train_dataloader.dataset.type == DATASETS_OF[data]
    batch = 8 * config.train_dataloader.batch_size
    assert batch == config.auto_scale_lr.base_batch_size
    assert f'8xb{config.train_dataloader.batch_size}-' in file.name
    fine_tuned = file.stem.startswith(('taf', 'ceaug'))
    epochs = 15 if fine_tuned else config.param_scheduler[-1].end
    assert f'-{epochs}e_' in file.name and config.train_cfg.max_epochs == epochs
    assert config.optim_wrapper.optimizer.lr == (1e-4 if fine_tuned else 0.01)
    recipes = [build_recipe(hook.get('recipe') or _recipe(hook)) for hook in _hooks(config)]
    kind = file.stem.split('-')[0]
    assert recipes == {'taf': [TAF()], 'ceaug': [CEAugmentation()], 'advprop': [AdvProp()]}.get(
        kind, []
    )
    if fine_tuned:
        (schedule,) = config.param_scheduler
        assert (schedule.milestones, schedule.gamma, schedule.end) == ([10], 0.1, 15)
        assert config.model.backbone.pretrained is None, 'the weights come from load_from'
        clean = next(ROOT.glob(f'*/{Path(config.load_from).parent.name}.py'))
        last = Config.fromfile(clean).train_cfg.max_epochs
        assert config.load_from == f'work_dirs/{clean.stem}/epoch_{last}.pth'
    else:
        assert config.model.backbone.pretrained == 'torchvision://resnet50'
        assert config.load_from is None


def _hooks(config):
    return config.get('custom_hooks', [])


def test_clean_rows_train_as_their_authors_do():
    """TSM, GST, TAM and TPN: rate, decay, milestones, dropout, clips a step."""
    found = {}
    for file in TABLE1:
        if file.parent.name == 'taf':
            continue
        config = Config.fromfile(file)
        (schedule,) = config.param_scheduler
        optimizer = config.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
        found.setdefault(file.parent.name, set()).add(
            (
                optimizer.weight_decay,
                optimizer.get('nesterov', False),
                tuple(schedule.get('milestones', ())),
                config.auto_scale_lr.base_batch_size,
                config.model.cls_head.dropout_ratio,
                bool(config.optim_wrapper.get('clip_grad')),
            )
        )
    assert found == {
        'tsm': {(5e-4, False, (20, 40), 64, 0.5, True)},
        'gst': {(3e-4, False, (50, 60), 24, 0.3, True)},
        'tam': {(5e-4, False, (), 72, 0.5, False)},
        'tpn': {(5e-4, True, (75, 125), 64, 0.5, True)},
    }


@pytest.mark.parametrize(
    'file', [f for f in TABLE1 if f.parent.name != 'taf'], ids=lambda f: f.stem
)
def test_pipelines_give_clips_of_the_models_size(file):
    """All but the decoding, on frames of Something-Something's usual size."""
    config = Config.fromfile(file)
    frames = config.model.backbone.get('num_segments', 8)
    for loader in (config.train_dataloader, config.val_dataloader):
        steps = [
            s for s in loader.dataset.pipeline if not s.type.startswith(('Decord', 'RawFrame'))
        ]
        assert len(loader.dataset.pipeline) - len(steps) == (1 if 'sthv1' in file.name else 2)
        sample, *steps = steps
        init_default_scope('mmaction')
        found = TRANSFORMS.build(sample)(
            dict(total_frames=50, start_index=1, modality='RGB', label=4)
        )
        assert len(found['frame_inds']) == frames and set(found['frame_inds']) <= set(range(1, 51))
        found['imgs'] = [
            np.random.default_rng(0).integers(256, size=(100, 176, 3), dtype=np.uint8)
            for _ in found['frame_inds']
        ]
        found['original_shape'] = found['img_shape'] = (100, 176)
        for step in steps:
            found = TRANSFORMS.build(step)(found)
        assert found['inputs'].shape == (frames, 3, 224, 224)
        assert int(found['data_samples'].gt_label) in (4, 2)


@pytest.mark.parametrize(
    'file', default_tier(STEPPED.__contains__, TABLE1), ids=lambda file: file.stem
)
def test_row_of_table1_takes_a_training_step(file, tmp_path):
    """With the config's own model, optimizer, schedule and hooks, on small synthetic clips."""
    config = Config.fromfile(file)
    frames = config.model.backbone.get('num_segments', 8)

    @DATASETS.register_module(force=True)
    class NoiseClips(torch.utils.data.Dataset):
        metainfo: dict = {}

        def __len__(self):
            return 2

        def __getitem__(self, index):
            pixels = torch.randint(256, (frames, 3, 64, 64), dtype=torch.uint8)
            return dict(inputs=pixels, data_samples=data_samples([index + 40])[0])

    config.work_dir, config.load_from = str(tmp_path), None
    config.model.backbone.pretrained = None
    if config.model.backbone.type == 'ResNetTSM':
        config.model.backbone.pretrained2d = False
    config.train_dataloader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='NoiseClips', _scope_='mmengine'),
    )
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_begin=2)
    config.default_hooks.checkpoint = None
    config.experiment_name = uuid.uuid4().hex
    for hook in _hooks(config):
        if hook.type == 'AdvPropHook':
            # A sixth of the time of five steps.
            hook.steps = 1
    runner = Runner.from_cfg(config)
    before = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    changed = [
        name
        for name, value in runner.model.named_parameters()
        if '.adv_' not in name and not torch.equal(value, before[name])
    ]
    # Single weights of 1.0 stay: a small step at a rate of 1e-4 is below their resolution.
    assert len(changed) > 0.9 * len(before)
    assert is_adversarial(runner.model) == (file.parent.name == 'taf')
    assert runner.message_hub.get_scalar('train/loss').current() > 0


METHODS = ('taf', 'ceaug', 'advprop')


def method(file):
    return file.stem.split('-')[0] if file.parent.name == 'taf' else 'clean'


def test_table1_is_complete():
    """Fifteen rows with TAF, each clean, CE-based, AdvProp and TAF."""
    assert Counter(map(method, TABLE1)) == dict.fromkeys(('clean', *METHODS), 15)


def test_every_model_takes_a_step_with_every_method():
    stepped = {
        (file.stem.removeprefix(f'{method(file)}-').split('_')[0], method(file)) for file in STEPPED
    }
    models = ('gst', 'gst-large', 'tam', 'tpn-tsm', 'tsm')
    assert stepped == set(product(models, ('clean', *METHODS)))


def test_metafiles_name_every_config_and_the_papers_numbers():
    found = {}
    for file in ROOT.glob('*/metafile.yml'):
        for entry in yaml.safe_load(file.read_text())['Models']:
            config = ROOT.parent / entry['Config']
            assert config.exists() and config.stem == entry['Name']
            assert config.parent == file.parent
            (result,) = entry['Results']
            found[entry['Name']] = result['Metrics']
    assert set(found) == {file.stem for file in TABLE1}
    rows = {}
    for line in (ROOT / 'taf/README.md').read_text().splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if len(cells) == 8 and cells[3].startswith('`') and cells[7] == 'not measured':
            rows[Path(cells[3].strip('`')).stem] = (cells[4].strip('`'), cells[5], cells[6])
    assert len(rows) == 15
    for clean, (taf, paper_clean, paper_taf) in rows.items():
        for name, printed in ((clean, paper_clean), (Path(taf).stem, paper_taf)):
            metrics = found[name]
            assert metrics['Top 1 Accuracy'] == metrics['Top 5 Accuracy'] == 'not measured'
            top1, top5 = (metrics[f'Top {k} Accuracy (paper)'] for k in (1, 5))
            assert printed == f'{top1} / {top5}'


@pytest.mark.parametrize('file', SAMPLE, ids=lambda file: file.stem)
def test_sample_is_tested_on_videos_that_chose_nothing(file):
    config = Config.fromfile(file)
    stages = ('train', 'val', 'test')
    splits = [config[f'{stage}_dataloader'].dataset.split for stage in stages]
    assert splits == ['train', 'validate', 'test']
