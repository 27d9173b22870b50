"""The study on robustness: its measure on a net that is known, its table, a tiny run."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
pytest.importorskip('sklearn', reason='needs adv_plugins[data]')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import robust_study  # noqa: E402
import taf_study  # noqa: E402
from studies.clips import Clips  # noqa: E402
from studies.store import Results  # noqa: E402


class Brightness(torch.nn.Module):
    """Classes 0 and 1 are dark and bright; its border is at 100 grey levels."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        mean = 255 * x.flatten(1).mean(dim=1)
        rest = torch.full_like(mean, -1e3)
        return torch.stack([100 - mean, mean - 100, rest, rest], dim=1)


def clips_of(levels, labels):
    frames = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None, None]
    return Clips(frames.expand(-1, 8, 3, 8, 8).contiguous(), torch.tensor(labels))


def test_the_worst_case_is_the_distance_to_the_border():
    clips = clips_of([101, 103, 94, 110, 60], [1, 1, 0, 1, 1])
    found = robust_study.worst_case(Brightness().eval(), clips)
    # At 1, 3, 6 and 10 grey levels from the border, and one that is wrong when clean.
    assert [found[f'worst{eps}'] for eps in (2, 4, 8)] == [60, 40, 20]
    # The first attack fools all that can be fooled, and the others see only what is left.
    assert [found[f'APGD{eps}'] for eps in (2, 4, 8)] == [60, 40, 20]


def test_a_clip_that_was_fooled_is_not_attacked_again():
    net = Brightness().eval()
    found = robust_study.worst_case(net, clips_of([101, 60], [1, 1]))
    # All is lost at the smallest ε: what is left to do costs no forward.
    assert found['Square8'] == found['worst2'] == 0 and len(net.seen) < 30


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A study of a few clips, one epoch and short attacks, in this process."""
    frames = torch.randint(0, 256, (32, 8, 3, 32, 32), dtype=torch.uint8)
    clips = Clips(frames, torch.arange(32) % 12)
    monkeypatch.setattr(taf_study, 'load_clips', lambda data, seed: (clips, clips))
    short = dict(BASE_EPOCHS=1, EPOCHS=1, ATTACKED=2, ATTACKS=(dict(type='APGD', steps=2),))
    for name, value in short.items():
        monkeypatch.setattr(robust_study, name, value)
    monkeypatch.setattr(
        robust_study, 'in_processes', lambda work, tasks, count: [work(*task) for task in tasks]
    )

    def run(*arguments, name='out.json'):
        folder = ['--out', str(tmp_path / name), '--work-dir', str(tmp_path / 'bases')]
        robust_study.main([*map(str, arguments), *folder])
        return json.loads((tmp_path / name).read_text())['cells']

    return run


@pytest.mark.exhaustive
def test_an_interrupted_study_goes_on_to_the_same_numbers(tiny, monkeypatch, capsys):
    arms = ('--arms', 'clean', 'fast')
    whole = tiny('--seeds', 1, 2, *arms, name='whole.json')
    assert [(c['arm'], c['seed']) for c in whole] == [
        (arm, seed) for arm in ('clean', 'fast') for seed in (1, 2)
    ]
    table = capsys.readouterr().out
    tiny('--seeds', 1, *arms)
    run, calls = robust_study.run, []
    monkeypatch.setattr(robust_study, 'run', lambda *args: calls.append(args) or run(*args))
    again = tiny('--seeds', 1, 2, *arms)
    assert [study.seed for study, _ in calls] == [2, 2]
    for cell, other in zip(again, whole, strict=True):
        times = dict(seconds=0, attack_seconds=0)
        assert cell | times == other | times
    assert capsys.readouterr().out.splitlines()[-4:] == table.splitlines()[-4:]


@pytest.mark.exhaustive
def test_arms_train_another_net(tiny, monkeypatch):
    """Every recipe changes the net, and what is measured is the plain one."""
    found = []

    def measured(net, clips):
        found.append(net)
        return {f'worst{eps}': 0.0 for eps in robust_study.EPS}

    monkeypatch.setattr(robust_study, 'worst_case', measured)
    tiny('--seeds', 1)
    sums = {sum(p.double().sum() for p in net.parameters()).item() for net in found}
    assert len(sums) == len(robust_study.ARMS) == 7
    assert not any(hasattr(net, 'adversarial_loss') or net.training for net in found)


def test_the_table_has_cost_spread_and_paired_differences(tmp_path):
    results = Results(tmp_path / 'r.json', robust_study.KEYS)
    for arm, level in (('pgd', 40.0), ('trades', 43.0)):
        for seed in (10, 11, 12):
            values = dict.fromkeys(('train', 'val', 'worst2', 'worst4'), 90.0)
            cell = dict(arm=arm, seed=seed, **values, worst8=level + seed % 3)
            results.cells[results._key(cell)] = cell
    pgd, trades = robust_study.markdown(results).splitlines()[2:]
    assert pgd.startswith('| PGDTraining | 4.33 | 3 | 90.0 ± 0.0 |')
    # Paired by seed the three points are exact, whatever the seeds do.
    assert trades.startswith('| TRADES | 5.33 |') and '+3.0 (+3.0 to +3.0) |' in trades


def test_the_page_has_the_table_of_the_results():
    studies = EXAMPLES / 'studies'
    results = Results(studies / 'results/robust.json', robust_study.KEYS)
    assert robust_study.markdown(results) in (studies / 'robust.md').read_text()
    assert {cell['seed'] for cell in results.cells.values()} == {10, 11, 12}
    assert len(results.cells) == 3 * len(robust_study.ARMS)
