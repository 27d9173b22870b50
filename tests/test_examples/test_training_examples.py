"""The quickstart and the table, end to end on a handful of clips."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import ordered_digits_table  # noqa: E402
import quickstart  # noqa: E402

TINY = """
_base_ = '{base}'
clean_epochs = 1
train_cfg = dict(max_epochs=2)
train_dataloader = dict(dataset=dict(clips_per_class=1))
val_dataloader = dict(dataset=dict(clips_per_class=1))
param_scheduler = []
default_hooks = dict(checkpoint=dict(interval=1))
custom_hooks = {hooks}
"""
HOOKS = {
    'baseline': '[]',
    'TAF, fine-tuned': "[dict(type='TAFHook', begin=1)]",
    'CE, fine-tuned': "[dict(type='AdversarialHook', recipe=dict(type='CEAugmentation', begin=1))]",
    'AdvProp, from scratch': "[dict(type='AdvPropHook', steps=1)]",
}


@pytest.fixture
def configs(tmp_path):
    files = {}
    for method, hooks in HOOKS.items():
        files[method] = tmp_path / f'{method.split(",")[0]}.py'
        files[method].write_text(TINY.format(base=quickstart.BASELINE, hooks=hooks))
    return files


@pytest.mark.slow
def test_quickstart(configs, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, 'BASELINE', configs['baseline'])
    monkeypatch.setattr(quickstart, 'TAF', configs['TAF, fine-tuned'])
    monkeypatch.setattr(quickstart, 'SHOWN', ((10, 0), (11, 0)))
    monkeypatch.setattr(sys, 'argv', ['quickstart.py', '--work-dir', str(tmp_path / 'out')])
    quickstart.main()
    numbers = json.loads((tmp_path / 'out/quickstart.json').read_text())
    assert set(numbers) == {'baseline', 'TAF'}
    assert all(0 <= value <= 100 for result in numbers.values() for value in result.values())
    assert (tmp_path / 'out/quickstart.png').stat().st_size > 20_000
    table = (tmp_path / 'out/quickstart.md').read_text()
    assert 'val top-1' in table and 'attention entropy' in table and 'lift then drop' in table
    baseline, taf = (
        next((tmp_path / 'out' / name).glob('*/*.log')).read_text() for name in ('baseline', 'taf')
    )
    assert 'adv_loss_cls' in taf and 'adv_loss_cls' not in baseline
    assert 'resumed epoch: 1' in taf


@pytest.mark.slow
def test_table_keeps_finished_cells(configs, tmp_path, monkeypatch):
    monkeypatch.setattr(ordered_digits_table, 'BASELINE', configs['baseline'])
    monkeypatch.setattr(ordered_digits_table, 'METHODS', configs)
    folder = tmp_path / 'out'
    monkeypatch.setattr(sys, 'argv', ['table', '--work-dir', str(folder), '--seeds', '0', '1'])
    ordered_digits_table.main()
    assert len(list(folder.glob('*/result.json'))) == 2 * len(HOOKS)
    table = (folder / 'table.md').read_text()
    assert table.count('±') == 4 * 3 + 3
    monkeypatch.setattr(ordered_digits_table, 'train', None)
    ordered_digits_table.main()
    assert (folder / 'table.md').read_text() == table
