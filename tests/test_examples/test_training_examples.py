"""The quickstart, the tables and the sweep, end to end on a narrow model and a handful of clips."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmengine.config import Config  # noqa: E402
from mmengine.registry import DATASETS, MODELS, init_default_scope  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import cheaper  # noqa: E402
import ordered_digits_table  # noqa: E402
import quickstart  # noqa: E402
import taf_sweep  # noqa: E402

TINY = """
_base_ = '{base}'
clean_epochs = 1
train_cfg = dict(max_epochs=2)
train_dataloader = dict(dataset=dict(clips_per_class=1))
val_dataloader = dict(dataset=dict(clips_per_class=1))
test_dataloader = dict(dataset=dict(clips_per_class=1))
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = {hooks}
model = dict(
    backbone=dict(
        _delete_=True, type='MobileNetV2TSM', num_segments=8, shift_div=8, widen_factor=0.1,
        pretrained2d=False),
    cls_head=dict(in_channels=1280))
"""
SHORT = """
_base_ = '{base}'
clean_epochs = 1
train_cfg = dict(max_epochs=2, val_begin=1, val_interval=1)
train_dataloader = dict(dataset=dict(clips_per_class=1))
val_dataloader = dict(dataset=dict(clips_per_class=1))
test_dataloader = dict(dataset=dict(clips_per_class=1))
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = {hooks}
"""
HOOKS = {
    'baseline': '[]',
    'TAF': "[dict(type='TAFHook', begin=1)]",
    'CE': "[dict(type='AdversarialHook', recipe=dict(type='CEAugmentation', begin=1))]",
    'AdvProp': "[dict(type='AdvPropHook', steps=1)]",
}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Tiny configs under the names of the real ones."""
    files = {}
    for model in ('tsm', 'gst'):
        for method, hooks in HOOKS.items():
            real = ordered_digits_table.config_file(model, method)
            file = tmp_path / 'configs' / real.relative_to(quickstart.CONFIGS)
            file.parent.mkdir(parents=True, exist_ok=True)
            base = ordered_digits_table.config_file(model, 'baseline')
            file.write_text(TINY.format(base=base, hooks=hooks))
            files[model, method] = file
    for module in (ordered_digits_table, taf_sweep):
        monkeypatch.setattr(module, 'CONFIGS', tmp_path / 'configs')
    return files


def test_quickstart(tmp_path, monkeypatch):
    for name in ('BASELINE', 'TAF'):
        file = tmp_path / f'{name}.py'
        hooks = HOOKS['TAF' if name == 'TAF' else 'baseline']
        file.write_text(SHORT.format(base=getattr(quickstart, name), hooks=hooks))
        monkeypatch.setattr(quickstart, name, file)
    monkeypatch.setattr(quickstart, 'SHOWN', ((10, 0), (11, 0)))
    arguments = ['--work-dir', str(tmp_path / 'out'), '--seed', '3']
    monkeypatch.setattr(sys, 'argv', ['quickstart.py', *arguments])
    quickstart.main()
    numbers = json.loads((tmp_path / 'out/quickstart.json').read_text())
    assert set(numbers) == {'baseline', 'TAF'}
    assert numbers['baseline'].keys() == {'train', 'val', 'val_loss', 'entropy'}
    assert all(0 <= value <= 100 for result in numbers.values() for value in result.values())
    assert (tmp_path / 'out/quickstart.png').stat().st_size > 20_000
    table = (tmp_path / 'out/quickstart.md').read_text()
    assert 'val top-1' in table and 'attention entropy' in table and 'lift then drop' in table
    assert table.rstrip().endswith(quickstart.CONCLUSION)
    baseline, taf = (
        next((tmp_path / 'out' / name).glob('*/*.log')).read_text() for name in ('baseline', 'taf')
    )
    assert 'adv_loss_cls' in taf and 'adv_loss_cls' not in baseline
    assert 'resumed epoch: 1' in taf
    # The seed draws the clips, too.
    for file in ('baseline/BASELINE.py', 'taf/TAF.py'):
        config = Config.fromfile(tmp_path / 'out' / file)
        assert config.train_dataloader.dataset.seed == config.val_dataloader.dataset.seed == 3


def test_evaluation_gives_the_cross_entropy(configs):
    config = Config.fromfile(configs['tsm', 'baseline'])
    init_default_scope('mmaction')
    model = MODELS.build(config.model).eval()
    nn.init.normal_(model.cls_head.fc_cls.weight)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    result = quickstart.evaluate(model, dataset)
    data = quickstart.preprocess(model, [dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        scores = model(**data, mode='tensor')
        expected = model.cls_head(scores, 8)
    labels = torch.tensor([int(sample.gt_label) for sample in data['data_samples']])
    losses = nn.functional.cross_entropy(expected, labels, reduction='none')
    torch.testing.assert_close(result['losses'], losses)
    torch.testing.assert_close(result['predictions'], expected.argmax(dim=1))


SCRIPTS = (
    'aart_pictures',
    'aart_sweep',
    'aart_table',
    'cheaper',
    'ordered_digits_table',
    'quickstart',
    'taf_sweep',
)
FIRST_TORCH = """
import importlib.abc, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'torch':
            print(os.environ.get('OMP_WAIT_POLICY'), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Finder())
import {script}
"""


@pytest.mark.parametrize(
    ('script', 'given', 'expected'),
    [*((script, None, 'PASSIVE') for script in SCRIPTS), ('quickstart', 'ACTIVE', 'ACTIVE')],
)
def test_threads_wait_passively_before_torch_is_imported(script, given, expected):
    """OpenMP reads the policy when torch loads it, and never again."""
    environment = {key: value for key, value in os.environ.items() if key != 'OMP_WAIT_POLICY'}
    if given is not None:
        environment['OMP_WAIT_POLICY'] = given
    command = [sys.executable, '-c', FIRST_TORCH.format(script=script)]
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize(
    'methods', [['TAF'], pytest.param(['TAF', 'CE', 'AdvProp'], marks=pytest.mark.exhaustive)]
)
def test_table_keeps_finished_cells(configs, tmp_path, monkeypatch, methods):
    folder = tmp_path / 'out'
    arguments = ['--work-dir', str(folder), '--seeds', '0', '1', '--methods', *methods]
    monkeypatch.setattr(sys, 'argv', ['table', *arguments])
    ordered_digits_table.main()
    assert len(list(folder.glob('*/result.json'))) == 2 * (1 + len(methods))
    table = (folder / 'table.md').read_text()
    # Two accuracies and the attention of each, and what a method gains.
    assert table.count('±') == 3 + 4 * len(methods)
    assert table.count('fine-tuned') == len({'TAF', 'CE'}.intersection(methods))
    with monkeypatch.context() as patch:
        patch.setattr(ordered_digits_table, 'train', None)
        ordered_digits_table.main()
    assert (folder / 'table.md').read_text() == table
    sys.argv += ['--models', 'tsm', 'gst', '--methods', 'TAF', '--seeds', '0']
    ordered_digits_table.main()
    names = {file.parent.name for file in folder.glob('*/result.json')}
    assert 'taf-gst_r18_1x1x8_ordered-digits-rgb-0' in names
    rows = (folder / 'table.md').read_text().splitlines()[2:]
    assert [row.split(' | ')[:2] for row in rows] == [
        ['| TSM', 'baseline'],
        ['| TSM', 'TAF, fine-tuned'],
        ['| GST', 'baseline'],
        ['| GST', 'TAF, fine-tuned'],
    ]


@pytest.mark.exhaustive
def test_sweep_of_table_2(configs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'out'
    monkeypatch.setattr(sys, 'argv', ['sweep', '--work-dir', str(folder), '--seeds', '0', '1'])
    taf_sweep.main()
    printed = capsys.readouterr().out
    assert (folder / 'sweep.md').read_text() in printed
    assert [printed.count(f'table 2{table}') for table in 'abc'] == [1, 1, 1]
    rows = [line for line in printed.splitlines() if '±' in line]
    assert len(rows) == 4 + 5 + 5
    # α=0.7 is the paper's value, as are ε=64 and K=1: one run serves the three tables.
    same = {tuple(row.split(' | ')[1:]) for row in rows if 'α=0.7' in row or 'ε=64, K=1' in row}
    assert len(same) == 1
    logs = {file.parts[-3]: file.read_text() for file in folder.glob('*-0/*/*.log')}
    assert len(logs) == 4 + 3 + 3
    small = next(log for name, log in logs.items() if 'eps0.0235' in name and 'steps3' in name)
    assert 'steps=3' in small and f'eps={6 / 255}' in small and 'resumed epoch: 1' in small
    assert (folder / 'sweep.png').stat().st_size > 10_000
    monkeypatch.setattr(taf_sweep, 'Runner', None)
    taf_sweep.main()


def test_rows_of_the_sweep_change_what_they_say(configs, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    class Runner:
        def from_cfg(cfg):
            raise Stop(cfg.custom_hooks[0], cfg.experiment_name)

    monkeypatch.setattr(taf_sweep, 'Runner', Runner)
    args = argparse.Namespace(
        dataset='ordered-digits', work_dir=tmp_path, checkpoint=tmp_path / 'x.pth', launcher='none'
    )
    hooks, folders = {}, {}
    for row in (*taf_sweep.TABLES['b'][1:], *taf_sweep.TABLES['c'][1:]):
        with pytest.raises(Stop) as stop:
            taf_sweep.cell(row, 0, args)
        hooks[row.name], folders[row.name] = stop.value.args
    for alpha in (0.2, 0.5, 0.7, 0.8):
        assert hooks[f'TAF, α={alpha}'].get('alpha', 0.7) == alpha
    small = hooks['TAF, ε=6, K=3']
    assert (small['eps'], small['step_size'], small['steps']) == (6 / 255, 2 / 255, 3)
    # The paper's own values are one run for all tables.
    assert folders['TAF, α=0.7'] == folders['TAF, ε=64, K=1'] and len(set(folders.values())) == 7


def test_sweep_fine_tunes_a_checkpoint(configs, tmp_path, monkeypatch):
    """As in the paper, where all rows start from one trained model."""
    names = {
        method: str(file.relative_to(tmp_path / 'configs'))
        for (model, method), file in configs.items()
        if model == 'tsm'
    }
    monkeypatch.setitem(taf_sweep.DATASETS, 'sthv1', names)
    model = Config.fromfile(configs['tsm', 'baseline']).model
    init_default_scope('mmaction')
    torch.manual_seed(3)
    checkpoint = tmp_path / 'trained.pth'
    torch.save(dict(state_dict=MODELS.build(model).state_dict()), checkpoint)
    arguments = ['--dataset', 'sthv1', '--checkpoint', str(checkpoint), '--tables', 'a']
    monkeypatch.setattr(sys, 'argv', ['sweep', '--work-dir', str(tmp_path / 'out'), *arguments])
    taf_sweep.main()
    logs = {file.parts[-3]: file.read_text() for file in tmp_path.glob('out/*/*/*.log')}
    started = {name.split('-')[0] for name, log in logs.items() if f'from {checkpoint}' in log}
    assert started == {'tsm_r18_1x1x8_ordered', 'taf', 'ceaug'}
    baseline = logs['tsm_r18_1x1x8_ordered-digits-rgb-0']
    assert 'Epoch(test)' in baseline and 'Epoch(train)' not in baseline
    sys.argv[sys.argv.index(str(checkpoint))] = 'another.pth'
    with pytest.raises(SystemExit, match='not another.pth; write another'):
        taf_sweep.main()
    sys.argv[sys.argv.index('sthv1')] = 'ordered-digits'
    with pytest.raises(SystemExit):
        taf_sweep.main()


COSTS = {
    'full': ('| TAF', '1.44'),
    'budget': ('| `budget=1.25`', '1.24'),
    'low': ("| `attack_scale=0.5, attack_dtype='bfloat16'`", '1.39'),
}


@pytest.mark.parametrize(
    ('rows', 'seeds'),
    [
        (['full', 'budget'], ['0']),
        pytest.param(list(COSTS), ['0', '1'], marks=pytest.mark.exhaustive),
    ],
)
def test_cheaper_rows_are_compared_with_the_baseline(
    configs, tmp_path, monkeypatch, capsys, rows, seeds
):
    folder = tmp_path / 'out'
    common = ['--dataset', 'ordered-digits', '--work-dir', str(folder), '--rows']
    arguments = [*common, *rows, '--seeds', *seeds]
    cheaper.main(arguments)
    table = (folder / 'cheaper-ordered-digits.md').read_text()
    assert table in capsys.readouterr().out
    printed = [tuple(row.split(' | ')[:2]) for row in table.splitlines()[2:]]
    assert printed == [('| baseline', '1.00'), *(COSTS[row] for row in rows)]
    numbers = [json.loads(file.read_text()) for file in folder.glob('*/*/result.json')]
    assert len(numbers) == len(seeds) * (1 + len(rows))
    assert all(0 <= cell['pgd'] <= cell['clean'] <= 1 for cell in numbers)
    # One of the training, one of the test.
    logs = (folder / f'ordered-digits/budget-{seeds[-1]}').glob('*/*.log')
    log = ''.join(file.read_text() for file in logs)
    assert 'resumed epoch: 1' in log and 'budget=1.25: interval=' in log
    monkeypatch.setattr(cheaper, 'train', None)
    cheaper.main(arguments)
    assert (folder / 'cheaper-ordered-digits.md').read_text() == table
    with pytest.raises(SystemExit):
        cheaper.main([*common, 'dearer'])
    assert 'ordered-digits has full budget' in capsys.readouterr().err
