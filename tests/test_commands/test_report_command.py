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
    label_map = tmp_path / 'label_map.txt'
    label_map.write_text('\n'.join(f'<b>motion {label}</b>' for label in range(12)))
    command = ['report', CONFIG, *checkpoints, '--names', *names, '--out', str(tmp_path / 'out')]
    command += ['--protocol', str(protocol), '--num-videos', '1', '--label-map', str(label_map)]
    command += ['--transfer', 'fgsm', '--transfer-videos', '3']
    # One of them cannot be evaluated.
    assert main(command) == 1
    html = (tmp_path / 'out/report.html').read_text()
    text = re.sub(r'base64,[\w+/=]+', '', html).replace('\u00a0', ' ')
    found = {}
    for file in (tmp_path / 'out').glob('robustness_*.json'):
        result = Robustness.load(file)
        found[result.model] = result
    assert set(found) == {'one', 'two'}
    # A column for each model, with the interval of its number.
    row = '<td>clean, 12 videos</td>'
    for name in ('one', 'two'):
        value, low, high = found[name].interval('clean')
        row += f'\n<td style="text-align:right">{value:.1f} [{low:.1f}, {high:.1f}]</td>'
        assert found[name].checkpoint in checkpoints
    assert row in text
    # On twelve videos there is no verdict.
    first = text[text.index('>In short</h2>') : text.index('>Comparison</h2>')]
    assert '<strong>Too few videos to say whether two is more robust than one</strong>' in first
    assert '<strong>broken could not be evaluated</strong>' in first
    assert 'worst case at ε = 2/255: 1 attack, 4 videos' in first
    titles = ('Comparison', 'Class by class', 'Corruptions', 'Attacks', 'Transfer')
    titles += ('Confused classes',)
    for title in (*titles, 'Video 240', 'Missing'):
        assert f'>{title}</h2>' in text
    # Two attacks, two models: a sheet and a video each; a chart of classes, one of corruptions, and
    # one of confusions for each model.
    assert html.count('src="data:video/mp4') == 4
    assert html.count('src="data:image/png') == 4 + 4
    # Each model on the examples of each, in the files and on the page.
    for source in found.values():
        for target in found.values():
            cell = target.cells[f'transfer/{source.weights}']
            assert cell.level == 2 / 255 and cell.options['attack'] == 'fgsm'
            assert len(cell.videos) == 3 < len(target.cells['attack/fgsm'].videos)
    transfer = text[text.index('>Transfer</h2>') :]
    assert 'in percent on 3 videos' in transfer and 'fgsm at ε = 2/255, run to the' in transfer
    # The names of the label map, as text.
    assert '&lt;b&gt;motion 6&lt;/b&gt;' in text and '<b>motion' not in text
    assert found['one'].classes[6] == '<b>motion 6</b>'
    # The numbers of the page as files, which it links.
    for target in re.findall(r'<a href="(tables/[^"]+)"', text):
        assert (tmp_path / 'out' / target).is_file()
    summary = (tmp_path / 'out/tables/summary.csv').read_text().splitlines()
    assert len(summary) == 3
    assert float(summary[1].split(',')[2]) == pytest.approx(found['one'].top('clean'))
    assert 'href="tables/summary.csv"' in text and 'href="tables/comparison.tex"' in text
    missing = text[text.index('>Missing</h2>') :]
    for what in ('broken.pth does not fit', 'training curves of one'):
        assert what in missing
    # All is kept: a second call evaluates nothing of one; what is damaged of the other is told.
    seconds = found['one'].cells['clean'].seconds
    damaged = tmp_path / f'out/robustness_{found["two"].weights}.json'
    damaged.write_text(damaged.read_text()[:99])
    assert main(command) == 1
    for file in (tmp_path / 'out').glob('robustness_*.json'):
        again = Robustness.load(file)
        assert again.top('clean') == found[again.model].top('clean')
        assert again.model == 'two' or again.cells['clean'].seconds == seconds
    text = (tmp_path / 'out/report.html').read_text()
    assert 'damaged-1' in text[text.index('>Missing</h2>') :]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--transfer', 'pdg'], "no attack 'pdg'; write one of noise, fgsm, pgd, apgd_ce"),
        (['--transfer-videos', '0'], '--transfer-videos 0 must be at least 1'),
        (['--transfer', 'fgsm'], '--transfer fgsm shows models .* there is one checkpoint; give'),
    ],
)
def test_mistakes_in_the_transfer_are_told_first(options, message, tmp_path, capsys):
    command = ['report', CONFIG, 'nowhere.pth', '--out', str(tmp_path / 'out'), *options]
    assert main(command) == 2
    assert re.search(message, capsys.readouterr().err)


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
