"""One command, from checkpoints to a page; what cannot be had is told on it."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from adv_plugins.commands import main
from adv_plugins.evaluation.results import Robustness

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'mm_configs/baselines/tsm_r18_1x1x8_ordered-digits-rgb.py')
PROTOCOL = """
robustness = dict(
    type='RobustnessTestLoop', corruptions=['jumble'], severities=[5],
    attacks=dict(fgsm=dict(type='FGSM')), eps=2/255, curve=None, deepfool=None,
    num_videos=12, attack_videos=4)
"""


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    from helpers import build_recognizer
    from mmengine.config import Config

    folder = tmp_path_factory.mktemp('checkpoints')
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        state = build_recognizer(Config.fromfile(CONFIG).model).state_dict()
        files.append(folder / f'seed_{seed}.pth')
        torch.save({'state_dict': state}, files[-1])
    state.pop('cls_head.fc_cls.bias')
    files.append(folder / 'broken.pth')
    torch.save({'state_dict': state}, files[-1])
    return [str(file) for file in files]


def test_the_page(checkpoints, tmp_path):
    protocol = tmp_path / 'protocol.py'
    protocol.write_text(PROTOCOL)
    names = ['one', 'two', 'broken']
    command = ['report', CONFIG, *checkpoints, '--names', *names, '--out', str(tmp_path / 'out')]
    assert main([*command, '--protocol', str(protocol), '--num-videos', '1']) == 0
    html = (tmp_path / 'out/report.html').read_text()
    text = re.sub(r'base64,[\w+/=]+', '', html)
    found = {}
    for file in (tmp_path / 'out').glob('robustness_*.json'):
        result = Robustness.load(file)
        found[result.model] = result
    assert set(found) == {'one', 'two'}
    for result in found.values():
        row = (
            f'<td>{result.model}</td>\n<td style="text-align:right">{result.top("clean"):.1f}</td>'
        )
        assert row in text
        assert result.checkpoint in checkpoints
    for title in ('Comparison', 'Class by class', 'Corruptions', 'Video 240', 'Missing'):
        assert f'>{title}</h2>' in text
    # Two attacks, two models: a sheet and a video each; two charts.
    assert html.count('src="data:video/mp4') == 4
    assert html.count('src="data:image/png') == 4 + 2
    missing = text[text.index('>Missing</h2>') :]
    for what in ('broken.pth does not fit', 'training curves of one'):
        assert what in missing
    # All is kept: a second call evaluates nothing of one; what is damaged of the other is told.
    seconds = found['one'].cells['clean'].seconds
    damaged = tmp_path / f'out/robustness_{found["two"].weights}.json'
    damaged.write_text(damaged.read_text()[:99])
    assert main([*command, '--protocol', str(protocol), '--num-videos', '1']) == 0
    for file in (tmp_path / 'out').glob('robustness_*.json'):
        again = Robustness.load(file)
        assert again.top('clean') == found[again.model].top('clean')
        assert again.model == 'two' or again.cells['clean'].seconds == seconds
    text = (tmp_path / 'out/report.html').read_text()
    assert 'damaged-1' in text[text.index('>Missing</h2>') :]


def test_mistakes_in_the_names(capsys):
    assert main(['report', CONFIG, 'a.pth', 'b.pth', '--names', 'x', '--out', 'o']) == 2
    assert 'one distinct name for each checkpoint' in capsys.readouterr().err


def test_the_protocols_are_what_the_loop_takes():
    """The full one leaves all to the loop; the quick one has the same attacks, less of each."""
    import inspect

    from mmengine.config import Config

    from adv_plugins.evaluation import RobustnessTestLoop, build_attack
    from adv_plugins.evaluation.robustness_loop import ATTACKS

    options = inspect.signature(RobustnessTestLoop).parameters
    full, quick = (
        Config.fromfile(ROOT / f'mm_configs/_base_/{name}.py').robustness
        for name in ('robustness', 'robustness_quick')
    )
    for protocol in (full, quick):
        assert set(protocol) - {'type'} <= set(options)
    assert all(options[name].default == full[name] for name in set(full) - {'type'})
    assert quick.attacks.keys() == ATTACKS.keys()
    for attacks in (quick.attacks, ATTACKS):
        for attack in attacks.values():
            if attack['type'] != 'TAF':
                build_attack(attack, eps=quick.eps)
    config = Config.fromfile(ROOT / 'mm_configs/robustness/tsm_r18_1x1x8_ordered-digits-rgb.py')
    assert config.test_cfg.type == 'RobustnessTestLoop'
    assert config.test_cfg.attack_videos == 48
