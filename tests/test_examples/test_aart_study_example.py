"""The A-ART study: its data, replayed maps, a tiny run, resumption and the tables."""

import dataclasses
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import aart_study  # noqa: E402
from studies import aart_cells, aart_tables, sequences, store  # noqa: E402
from studies.aart_cells import REGIMES, Regime, fit, measure, run_cell  # noqa: E402
from studies.aart_nets import build_net, recorded_maps, replayed_maps  # noqa: E402
from studies.sequences import Sequences, japanese_vowels  # noqa: E402


def made_up(count: int, seed: int = 0) -> Sequences:
    """Three classes, each a direction of its own under noise; sequences of 3 to 6 frames."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    frames = torch.randn(count, 6, 4, generator=generator) + 2 * F.one_hot(labels, 4)[:, None]
    mask = torch.arange(6) < torch.randint(3, 7, (count, 1), generator=generator)
    return Sequences({'lpc': frames.masked_fill(~mask[..., None], 0.0), 'lpc_mask': mask}, labels)


@pytest.fixture
def tiny(monkeypatch):
    """The regimes on made-up data, with a few iterations each."""
    splits = {'train': made_up(48), 'validate': made_up(12, 1), 'test': made_up(12, 2)}
    monkeypatch.setattr(aart_cells, 'load', lambda _: splits)
    monkeypatch.setattr(aart_study, 'load', lambda _: splits)
    for name, regime in list(REGIMES.items()):
        monkeypatch.setitem(REGIMES, name, dataclasses.replace(regime, data='vowels', steps=6))


def serial(work, tasks, _processes):
    """In place of processes, which would not see what a test has replaced."""
    for task in tasks:
        work(*task)


class Chooser(nn.Module):
    """Attends to the one frame whose first entry is large; the second entry is its value."""

    def forward(self, x):
        query = torch.ones(len(x), 1, 1, 1)
        key, value = 100 * x[:, None, :, :1], x[:, None, :, 1:]
        return F.scaled_dot_product_attention(query, key, value)


def test_replay_takes_the_maps_of_one_input_and_the_values_of_another():
    clean = torch.tensor([[[1.0, 10.0], [0.0, 20.0]]])
    attacked = torch.tensor([[[0.0, 11.0], [1.0, 22.0]]])
    net, original = Chooser(), F.scaled_dot_product_attention
    with recorded_maps() as maps:
        outputs = net(clean), net(attacked)
    assert [float(y) for y in outputs] == [10, 22]
    assert [m.flatten().round().tolist() for m in maps] == [[1, 0], [0, 1]]
    with replayed_maps(maps[:1]):
        # Frame 0 of the attacked input, also in a second forward.
        assert [float(net(attacked)), float(net(attacked))] == [11, 11]
    with replayed_maps(maps[1:]):
        assert float(net(clean)) == 20
    assert F.scaled_dot_product_attention is original


@pytest.mark.parametrize('kind', ['transformer', 'pooling', 'slots'])
def test_a_nets_own_maps_change_nothing(kind):
    data = made_up(6)
    net = build_net(kind, data.modalities, 3, False, depth=2).eval()
    with recorded_maps() as maps:
        logits = net(data.inputs)
    assert len(maps) == (2 if kind == 'transformer' else 1)
    assert all(torch.allclose(m.sum(-1), torch.ones(())) for m in maps)
    if kind != 'slots':
        assert not maps[0].masked_select(~data.inputs['lpc_mask'][:, None, None]).any()
    with replayed_maps(maps):
        torch.testing.assert_close(net(data.inputs), logits)


def test_all_damage_goes_through_the_maps_of_slots():
    train, test = made_up(48), made_up(30, 1)
    net = build_net('slots', train.modalities, 3, False)
    fit(net, train, 60, seed=0)
    values = measure(net, test, 4.0)
    assert values['clean'] > 80 > 60 > values['pgd']
    assert values['clean_maps'] == values['held'] == values['clean']
    assert values['attacked_maps'] == values['pgd']
    assert values['moved'] > 0


@pytest.mark.parametrize('kind', ['transformer', 'pooling'])
def test_no_damage_goes_through_attention_that_is_off_and_training_leaves_it_off(kind):
    train, test = made_up(48), made_up(30, 1)
    net = build_net(kind, train.modalities, 3, False, uniform=True)
    fit(net, train, 60, seed=0)
    values = measure(net, test, 4.0)
    assert values['clean'] > 80 > 60 > values['pgd']
    assert values['clean_maps'] == values['held'] == values['pgd']
    assert values['attacked_maps'] == values['clean']
    assert values['moved'] == 0


def test_attacks_keep_to_the_ball_and_to_valid_frames(tiny):
    data = made_up(6)
    net = build_net('transformer', data.modalities, 3, False).eval()
    for steps in (1, 10):
        attacked = aart_cells.attack(net, data, 0.5, steps)
        shift = attacked['lpc'] - data.inputs['lpc']
        torch.testing.assert_close(shift.flatten(1).norm(dim=1), torch.full((6,), 0.5))
        assert not shift[~data.inputs['lpc_mask']].any()


def test_few_takes_as_many_of_each_class_and_others_by_seed():
    train = made_up(48)
    regime = Regime('vowels', 'transformer', 1.0, 1, 1.0, per_class=5)
    some, again, other = (aart_cells._few(train, regime, seed) for seed in (0, 0, 1))
    assert some.labels.bincount().tolist() == [5, 5, 5]
    assert torch.equal(some.inputs['lpc'], again.inputs['lpc'])
    assert not torch.equal(some.inputs['lpc'], other.inputs['lpc'])


def test_arms_are_the_packages_recipes(tiny, monkeypatch):
    seen = []
    convert = aart_cells.make_adversarial
    monkeypatch.setattr(
        aart_cells,
        'make_adversarial',
        lambda net, recipe, **options: (
            seen.append((recipe, options)) or convert(net, recipe, **options)
        ),
    )
    arms = ('non-art', 'art', 'aart', 'aart-10', 'wide')
    found = {arm: run_cell('test', 'vowels', arm, 0) for arm in arms}
    training = [options for options in seen if 'steps' not in options[1]]
    assert training == [
        ('art', {'eps': 1.0}),
        ('aart', {'eps': 1.0, 'beta': REGIMES['vowels'].beta}),
        ('aart', {'eps': 1.0, 'beta': 10.0}),
        ('art', {'eps': 2.0}),
    ]
    assert len({values['pgd_loss'] for values in found.values()}) == 5


def test_an_interrupted_study_goes_on(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out.json'
    arguments = ['--regimes', 'vowels', 'slots', '--seeds', '3', '4', '--out', str(out)]

    def interrupted(work, tasks, processes):
        serial(work, tasks[:2], processes)
        raise KeyboardInterrupt

    monkeypatch.setattr(aart_study, 'in_processes', interrupted)
    with pytest.raises(KeyboardInterrupt):
        aart_study.main(arguments)
    first = json.loads(out.read_text())['cells']
    assert len(first) == 2
    computed = []

    def recording(work, tasks, processes):
        computed.extend(tasks)
        serial(work, tasks, processes)

    monkeypatch.setattr(aart_study, 'in_processes', recording)
    aart_study.main(arguments)
    cells = json.loads(out.read_text())['cells']
    # Two seeds of five arms and of four: slots have no arm without attention.
    assert len(cells) == 18 and len(computed) == 16 and all(c in cells for c in first)
    # Two balls, a row of what is beside them, and one of the replay.
    table = capsys.readouterr().out
    assert table.count('`slots`') == 4
    aart_study.main(arguments)
    assert len(computed) == 16
    capsys.readouterr()
    aart_study.main(['--tables', str(out)])
    assert capsys.readouterr().out in table


def test_exploration_compares_values_of_beta_on_the_other_split(
    tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(aart_study, 'in_processes', serial)
    out = tmp_path / 'out.json'
    aart_study.main(['--explore', '--regimes', 'vowels', '--seeds', '0', '--out', str(out)])
    cells = json.loads(out.read_text())['cells']
    assert {c['split'] for c in cells} == {'validate'}
    assert {c['arm'] for c in cells} == {'art', 'aart-0.1', 'aart-1', 'aart-10'}
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split(' | ')[:2] for row in rows] == [['| `vowels`', b] for b in ('0.1', '1', '10')]


def test_tables_say_what_the_cells_hold(tmp_path, capsys):
    """Gains of 1, 2 and 3 points where half of the damage goes through the maps; and none."""
    same = dict(split='test', clean=90.0, fgm=80.0, fgm2=60.0, pgd2=50.0, strong2=50.0, moved=0.5)
    same |= dict(clean_maps=82.0, attacked_maps=88.0, held=80.0, loss=0.3, pgd_loss=0.9)
    cells = []
    for seed in (10, 11, 12):
        cells += [
            dict(same, regime='vowels', arm='art', seed=seed, pgd=70.0),
            dict(same, regime='vowels', arm='aart', seed=seed, pgd=61.0 + seed),
            dict(same, regime='pooling', arm='art', seed=seed, pgd=70.0),
            dict(same, regime='pooling', arm='aart', seed=seed, pgd=70.0),
        ]
    out = tmp_path / 'out.json'
    out.write_text(json.dumps(dict(environment={}, cells=cells)))
    aart_study.main(['--tables', str(out)])
    rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()]
    claims = {(row[0], row[2]): row[3:] for row in rows if row[2:3] in (['ε'], ['2 ε'])}
    # t = 2 / (1 / sqrt(3)) with two degrees of freedom: p = 0.0742, and four times that by Holm.
    gain = ['+2.00 (-0.48 to +4.48)', '3 of 3', '0.250', '0.2967']
    assert claims['`vowels`', 'ε'] == ['', '70.0 ± 0.0', '72.0 ± 1.0', *gain]
    nothing = ['+0.00 (+0.00 to +0.00)', '0 of 3', '1.000', '1.0000']
    for row in (('`vowels`', '2 ε'), ('`pooling`', 'ε'), ('`pooling`', '2 ε')):
        assert claims[row][3:] == nothing
    # Of 20 points 10 are gone where maps are held, and of 18 points 8.
    replay = next(row for row in rows if row[0] == '`vowels`' and row[1:3] == ['90.0', '70.0'])
    assert replay[3:] == ['82.0', '88.0', '80.0', ' / 50 / 44', ' / 0.500 / 0.500']


TS = """# A comment.
@problemName Made
@data
{}
"""


def test_vowels_are_split_by_speaker_and_standardised(tmp_path, monkeypatch):
    lines = {
        'JapaneseVowels_TRAIN.ts': ['1,3,5:2,2,8:1', '7:4:2'],
        'JapaneseVowels_TEST.ts': ['1,1:0,0:1', '2:0:1', '3:0:1', '4:4:2'],
    }
    for name, rows in lines.items():
        (tmp_path / name).write_text(TS.format('\n'.join(rows)))
    monkeypatch.setattr(sequences, '_shipped', lambda name: tmp_path / name)
    splits = japanese_vowels()
    train = splits['train']
    assert train.inputs['lpc'].shape == (2, 3, 2) and train.modalities == {'lpc': 2}
    assert train.inputs['lpc_mask'].tolist() == [[True] * 3, [True, False, False]]
    valid = train.inputs['lpc'][train.inputs['lpc_mask']]
    torch.testing.assert_close(valid.mean(dim=0), torch.zeros(2))
    torch.testing.assert_close(valid.std(dim=0), torch.ones(2))
    # The first and third utterance of speaker 1, and the first of speaker 2; in turn.
    assert splits['validate'].labels.tolist() == [0, 0, 1]
    assert splits['test'].labels.tolist() == [0]
    # The mean of 1, 3, 5, 7 is 4.
    expected = (2 - 4) / torch.tensor([1.0, 3, 5, 7]).std()
    torch.testing.assert_close(splits['test'].inputs['lpc'][0, 0, 0], expected)


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch):
    def missing(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, 'files', missing)
    with pytest.raises(SystemExit, match='pip install --no-deps aeon'):
        japanese_vowels()


def test_the_shipped_vowels():
    try:
        sequences._shipped('JapaneseVowels_TRAIN.ts')
    except SystemExit as reason:
        pytest.skip(str(reason))
    splits = japanese_vowels()
    assert {name: len(split) for name, split in splits.items()} == {
        'train': 270,
        'validate': 187,
        'test': 183,
    }
    assert splits['train'].labels.bincount().tolist() == [30] * 9
    lengths = torch.cat([split.inputs['lpc_mask'].sum(dim=1) for split in splits.values()])
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)


def test_the_sample_of_youtube8m(tmp_path):
    pytest.importorskip('sklearn', reason='needs adv_plugins[yt8m]')
    splits = sequences.youtube8m_sample(tmp_path / 'sample', dict(train=4, validate=2, test=3))
    assert {name: len(split) for name, split in splits.items()} == {
        'train': 4,
        'validate': 2,
        'test': 3,
    }
    train = splits['train']
    assert train.modalities == {'rgb': 1024, 'audio': 128}
    assert train.labels.shape == (4, 28) and set(train.labels.unique().tolist()) == {0, 1}
    assert train.inputs['rgb'].dtype == torch.float32 and train.inputs['rgb'].abs().max() <= 2.01


def test_the_page_has_the_tables_of_its_results():
    studies = EXAMPLES / 'studies'
    results = store.Results(studies / 'results/aart.json', aart_study.KEYS)
    assert aart_tables.tables(results) in (studies / 'aart.md').read_text()
