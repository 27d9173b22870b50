"""The table and the sweep of A-ART, end to end on a handful of videos."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import aart_sweep  # noqa: E402
import aart_table  # noqa: E402

TINY = """
_base_ = '{base}'
data = dict(data_root='{root}', sizes=dict(train=16, validate=8, test=10))
train_dataloader = dict(batch_size=8, dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
train_cfg = dict(max_iters=2, val_interval=1)
test_cfg = dict(deepfool=dict(num_videos=4, max_iter=3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
"""


@pytest.fixture
def configs(tmp_path, monkeypatch):
    for name in aart_table.METHODS.values():
        base = aart_table.CONFIGS / f'{name}_1xb64_yt8m-sample.py'
        text = TINY.format(base=base, root=tmp_path / 'sample')
        (tmp_path / f'{name}_1xb64_tiny.py').write_text(text)
    monkeypatch.setattr(aart_table, 'CONFIGS', tmp_path)
    return tmp_path


def test_table_has_the_papers_layout_and_keeps_finished_cells(configs, tmp_path, monkeypatch):
    folder = tmp_path / 'out'
    arguments = ['--dataset', 'tiny', '--work-dir', str(folder), '--seeds', '0', '1']
    monkeypatch.setattr(sys, 'argv', ['aart_table.py', *arguments])
    aart_table.main()
    results = [json.loads(file.read_text()) for file in folder.glob('*/result.json')]
    assert len(results) == 6 and all(0 <= r['fgm/GAP'] <= 1 for r in results)
    table = (folder / 'table.md').read_text()
    # Two tables of three metrics on three sets: three methods and a gain each, all with a spread.
    assert table.count('| Test | GAP |') == table.count('(ten steps) | Hit@1 |') == 2
    rows = [line for line in table.splitlines() if line.startswith(('| Test', '| Adversarial'))]
    assert len(rows) == 18 and all(row.count('±') == 4 for row in rows)
    assert 'attention MSE' in table and 'DeepFool' in table
    monkeypatch.setattr(aart_table, 'Runner', None)
    aart_table.main()
    assert (folder / 'table.md').read_text() == table


def test_sweep(configs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'out'
    arguments = ['--dataset', 'tiny', '--work-dir', str(folder), '--eps', '1']
    arguments += ['--alpha', '2', '--beta', '0.1']
    monkeypatch.setattr(sys, 'argv', ['aart_sweep.py', *arguments])
    aart_sweep.main()
    printed = capsys.readouterr().out
    assert all(f'| {name} |' in printed for name in ('Non-ART', 'eps=1', 'alpha=2', 'beta=0.1'))
    assert (folder / 'sweep.md').read_text() in printed
    assert (folder / 'sweep.png').stat().st_size > 10_000
    log = ''.join(file.read_text() for file in folder.glob('*alpha2*/*/*.log'))
    assert 'alpha=2' in log and 'adv_eps: 0.5000' in log
    log = ''.join(file.read_text() for file in folder.glob('*beta0.1*/*/*.log'))
    assert 'AART(' in log and 'beta=0.1' in log


def test_best_is_the_highest_validation_of_a_run(tmp_path):
    """A run that was resumed has two logs; training and test have entries of their own."""
    for name, gaps in (('first', (0.2, 0.6)), ('second', (0.5, 0.3))):
        file = tmp_path / name / 'vis_data/scalars.json'
        file.parent.mkdir(parents=True)
        lines = [{'loss': 0.9, 'step': 1}, {'GAP': 0.8, 'step': 1}]
        lines += [{'GAP': gap, 'num_videos': 8, 'step': 2} for gap in gaps]
        file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert aart_table.best_gap(tmp_path) == 0.6
