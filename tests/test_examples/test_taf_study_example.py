"""The study on TAF: its statistics, its arms, its store and a tiny run from end to end."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
pytest.importorskip('sklearn', reason='needs adv_plugins[data]')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import taf_study  # noqa: E402
from scipy import stats  # noqa: E402
from studies import store, taf_figure, taf_tables  # noqa: E402
from studies.arms import ARMS  # noqa: E402
from studies.clips import Clips, augment, flipped_labels  # noqa: E402
from studies.fit import fit  # noqa: E402
from studies.measure import accuracy, attention_under_attack, under_pgd  # noqa: E402
from studies.nets import CAM_LAYER, MODELS, build_net  # noqa: E402
from studies.paired import holm, paired  # noqa: E402

from adv_plugins import make_adversarial  # noqa: E402
from adv_plugins.core.conversion import get_adversary  # noqa: E402


def few_clips(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, 8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Clips(frames, torch.arange(count) % 12)


def test_paired_interval_and_tests_are_scipys():
    rng = np.random.default_rng(0)
    some, other = ({seed: float(v) for seed, v in enumerate(rng.normal(m, 1, 12))} for m in (1, 0))
    other[99] = 1000.0  # a seed that only one arm has
    found = paired(some, other)
    a, b = ([values[seed] for seed in range(12)] for values in (some, other))
    oracle = stats.ttest_rel(a, b)
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert found.t_test == pytest.approx(oracle.pvalue)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.count == 12 and found.positive == sum(x > y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ('differences', 'sign'),
    [([1, 2, 3, 2], '+'), ([-1, -2, -3, -2], '-'), ([1, -1, 2, -2], 'noise'), ([1], 'noise')],
)
def test_sign_is_noise_unless_the_interval_leaves_zero_out(differences, sign):
    assert paired(dict(enumerate(differences)), dict.fromkeys(range(4), 0.0)).sign == sign


def test_arms_without_a_common_seed_are_no_comparison():
    with pytest.raises(ValueError, match='same --seeds'):
        paired({1: 0.0}, {2: 0.0})


def test_holm_by_hand():
    # 0.01 * 3; then max(0.03, 0.02 * 2); then max(0.04, 0.5).
    assert holm([0.5, 0.01, 0.02]) == pytest.approx([0.5, 0.03, 0.04])
    # A smaller product later on does not undercut an earlier one, and nothing exceeds 1.
    assert holm([0.03, 0.04, 0.9]) == pytest.approx([0.09, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_augmentation_mirrors_clips_with_their_labels():
    """The mirror image of a clip that moves right is one that moves left."""
    x = torch.linspace(0, 1, 32).expand(64, 8, 3, 32, 32).contiguous()
    labels = torch.zeros(64, dtype=torch.long)
    flips = flipped_labels('ordered-digits')
    assert flips[flips].tolist() == list(range(12)) and flips.tolist() != list(range(12))
    seen, mirrored = augment(x, labels, flips, torch.Generator().manual_seed(0))
    falls = seen[:, 0, 0, 16, -1] < seen[:, 0, 0, 16, 0]
    assert torch.equal(falls, mirrored == 1) and 16 < int(falls.sum()) < 48
    # The crop is one for all frames and colours, and shows 70 to 100 % of the area.
    assert torch.equal(seen, seen[:, :1, :1].expand_as(seen))
    shown = (seen[:, 0, 0, 16, -1] - seen[:, 0, 0, 16, 0]).abs() * 31 / 31
    assert shown.min() > math.sqrt(0.7 / 1.18) - 0.05 and shown.max() <= 1


def test_order_crops_and_dropout_depend_on_the_seed_alone():
    """Otherwise the arms would not be paired."""
    clips, flips = few_clips(32), flipped_labels('ordered-digits')
    weights = []
    for disturbance in (1, 2):
        torch.manual_seed(0)
        net = build_net('tsm', 12, 8)
        torch.manual_seed(disturbance)
        fit(net, clips, flips, 1, lambda part: 0.01, seed=5)
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize('model', MODELS)
def test_every_net_sees_the_order_of_frames_and_is_attacked(model):
    torch.manual_seed(0)
    net = build_net(model, 12, 8)
    torch.nn.init.normal_(net.fc.weight, std=0.1)
    clips = few_clips(6)
    x = clips.inputs()
    net.eval()
    assert (net(x) - net(x.flip(1))).abs().max() > 1e-4
    make_adversarial(net, ARMS['taf'].build(), value_range=(0, 1))
    moved = (net.perturb(x, clips.labels) - x).abs()
    assert moved.amax() * 255 == pytest.approx(32, abs=1e-3) and (moved > 0).float().mean() > 0.9


def test_the_control_moves_as_far_as_taf_and_looks_at_nothing():
    clips = few_clips(6)
    x = clips.inputs()
    torch.manual_seed(0)
    nets = [build_net('tsm', 12, 8) for _ in range(2)]
    deltas = []
    for net in nets:
        torch.manual_seed(1)
        make_adversarial(net, ARMS['noise'].build(), value_range=(0, 1))
        deltas.append(net.perturb(x, clips.labels) - x)
    # Another net, the same perturbation: half of the pixels up, half down, by TAF's step.
    assert torch.equal(*deltas)
    inside = (x > 32 / 255) & (x < 1 - 32 / 255)
    assert torch.allclose(deltas[0][inside].abs() * 255, torch.tensor(32.0), atol=1e-3)
    assert abs((deltas[0][inside] > 0).float().mean() - 0.5) < 0.01


@pytest.mark.parametrize('arm', [arm for arm in ARMS if ARMS[arm].recipe])
def test_arms_say_what_they_change(arm):
    recipe, taf = ARMS[arm].build(), ARMS['taf'].build()
    assert (recipe == taf) == (arm == 'taf')
    for name, value in ARMS[arm].options.items():
        where = recipe.objective if name in ('cam_of', 'num_frames') else recipe
        shown = recipe.clean_weight if name == 'alpha' else getattr(where, name)
        assert shown == value


def test_measurements_on_a_net_that_is_known():
    """One that looks at the brightness of the first frame alone."""

    class FirstFrame(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(3)))

        def forward(self, x):
            maps = self.stages[2](x.flatten(0, 1))
            first = maps.unflatten(0, (-1, 8))[:, 0].mean(dim=(1, 2, 3))
            return torch.stack([first - 0.5, 0.5 - first], dim=1)

    frames = torch.full((20, 8, 3, 32, 32), 200, dtype=torch.uint8)
    frames[::2] = 20
    labels = torch.tensor([1, 0] * 10)
    labels[:2] = 1 - labels[:2]
    clips, net = Clips(frames, labels), FirstFrame().eval()
    assert accuracy(net(clips.inputs()), labels) == pytest.approx(90)
    # 200 and 20 are 72.5 and 107.5 grey levels from the border of the two classes.
    assert under_pgd(net, clips, 70 / 255) == pytest.approx(90)
    assert under_pgd(net, clips, 80 / 255) == pytest.approx(45)
    assert CAM_LAYER == 'stages.2'


def test_attention_of_a_net_without_a_convolution_over_time():
    torch.manual_seed(0)
    net = build_net('tsm', 12, 8).eval()
    torch.nn.init.normal_(net.fc.weight, std=0.1)
    found = attention_under_attack(net, few_clips(6))
    assert 1 / 8 <= found['top_frame'] <= 1 and 0 <= found['entropy'] <= 1
    assert 0 < found['overlap_taf'] < 1 and 0 < found['overlap_ce'] < 1
    assert not hasattr(net, 'adversarial_loss')


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A study of a few clips, one epoch, in this process."""
    clips = few_clips(24)
    monkeypatch.setattr(taf_study, 'load_clips', lambda data, seed: (clips, few_clips(30, seed)))
    monkeypatch.setattr(taf_study, 'damaged', lambda val: {})
    monkeypatch.setattr(taf_study, 'FINE_TUNING_EPOCHS', 1)
    monkeypatch.setattr(
        taf_study,
        'measure',
        lambda net, *_: {
            'val': float(sum(p.double().sum() for p in net.parameters())),
            **dict.fromkeys(
                ('train', 'ce', 'paper_corruptions', 'video_corruptions', 'pgd2', 'pgd4'), 1.0
            ),
            **dict.fromkeys(('entropy', 'top_frame', 'overlap_taf', 'overlap_ce'), 0.5),
        },
    )
    monkeypatch.setattr(
        taf_study, 'in_processes', lambda work, tasks, count: [work(*task) for task in tasks]
    )

    def run(*arguments, name='out.json', bases='bases'):
        folder = ['--out', str(tmp_path / name), '--work-dir', str(tmp_path / bases)]
        taf_study.main([*map(str, arguments), '--base-epochs', '1', *folder])
        return json.loads((tmp_path / name).read_text())['cells']

    return run


def test_an_interrupted_study_goes_on_to_the_same_numbers(tiny, monkeypatch, capsys):
    whole = tiny('--seeds', 1, 2, '--arms', 'taf', 'noise', name='whole.json', bases='other')
    assert [(c['arm'], c['seed']) for c in whole] == [
        (arm, seed) for arm in ('base', 'clean', 'noise', 'taf') for seed in (1, 2)
    ]
    table = capsys.readouterr().out

    original, calls = taf_study.Seed.run, []

    def dies(self, arm):
        calls.append(arm)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, arm)

    monkeypatch.setattr(taf_study.Seed, 'run', dies)
    with pytest.raises(KeyboardInterrupt):
        tiny('--seeds', 1, 2, '--arms', 'taf', 'noise')
    again = tiny('--seeds', 1, 2, '--arms', 'taf', 'noise')
    # What was finished is not computed again, and the base is read instead of trained.
    assert len(calls) == 3 + 6
    for cell, other in zip(again, whole, strict=True):
        assert {**cell, 'seconds': 0} == {**other, 'seconds': 0}
    last = capsys.readouterr().out
    assert [r for r in last.splitlines() if '| TAF −' in r] == [
        r for r in table.splitlines() if '| TAF −' in r
    ]


def test_arms_are_paired_and_differ(tiny):
    cells = tiny('--seeds', 3, '--arms', 'taf', 'advprop')
    values = [cell['val'] for cell in cells]
    assert len(set(values)) == len(values) == 4


def test_a_table_never_mixes_versions(tiny, monkeypatch):
    tiny('--seeds', 1, '--arms', 'clean')
    monkeypatch.setattr(store.torch, '__version__', '0.0')
    with pytest.raises(SystemExit, match='must not mix them; write another --out'):
        tiny('--seeds', 2, '--arms', 'clean')


@pytest.fixture
def made_up(tmp_path):
    """Results of twelve seeds: TAF and CE gain a point over the others."""
    results = store.Results(tmp_path / 'r.json', taf_study.KEYS)
    rng = np.random.default_rng(0)
    gains = {'base': -2.0, 'clean': 0.0, 'taf': 1.0, 'noise': 0.0, 'ce': 1.0}
    others = ('train', 'ce', 'paper_corruptions', 'video_corruptions', 'pgd2', 'pgd4')
    others += ('entropy', 'top_frame', 'overlap_taf', 'overlap_ce')
    for seed in range(12):
        level = rng.normal(50, 5)
        for arm, gain in gains.items():
            name = dict(data='ordered-digits', model='tsm', base_epochs=1, arm=arm, seed=seed)
            val = level + gain + rng.normal(0, 0.3)
            results.add(dict(name, val=val, **dict.fromkeys(others, float(seed))))
    return results


def test_claims_are_told_as_noise_unless_both_tests_agree(made_up):
    lines = taf_tables.markdown(made_up).splitlines()
    claims = [line.split(' | ') for line in lines if line.startswith('| TAF − ')]
    assert [claim[-1].strip(' |') for claim in claims] == ['+', '+', 'noise']
    assert all(claim[1] == '12' for claim in claims)
    first = next(line for line in lines if line.startswith('| TAF |'))
    gain = float(first.split(' | ')[4].split(' ')[0])
    assert gain == pytest.approx(1, abs=0.3)


def test_the_cost_in_the_table_is_what_a_step_costs():
    # TAF: a backward for the perturbation, and forward and backward of the perturbed clips.
    assert taf_tables._cost('taf') == '2.33' and taf_tables._cost('ce') == '2.00'
    assert taf_tables._cost('interval') == '1.67' and float(taf_tables._cost('budget')) <= 1.25


def test_figure_has_the_means_of_the_table(made_up, tmp_path, monkeypatch):
    means = []
    original = taf_figure.paired

    def spy(some, other):
        means.append(original(some, other).mean)
        return original(some, other)

    monkeypatch.setattr(taf_figure, 'paired', spy)
    taf_figure.draw([made_up], tmp_path / 'gains.png')
    assert (tmp_path / 'gains.png').stat().st_size > 10_000
    # TAF, CE and the control in each panel: validation, cross-entropy, entropy.
    assert means[:3] == pytest.approx([1, 1, 0], abs=0.3) and means[3:] == [0.0] * 6


def test_the_processes_of_a_study_have_one_thread_each(tmp_path):
    store.in_processes(_write_threads, [(tmp_path / 'a',), (tmp_path / 'b',)], 2)
    assert (tmp_path / 'a').read_text() == (tmp_path / 'b').read_text() == '1'


def _write_threads(file):
    file.write_text(str(torch.get_num_threads()))


def test_an_error_in_a_process_is_the_commands():
    with pytest.raises(ZeroDivisionError):
        store.in_processes(divmod, [(1, 0)], 1)


def test_the_control_reads_the_clip():
    net = make_adversarial(build_net('tsm', 12, 8), ARMS['noise'].build(), value_range=(0, 1))
    net.adversarial_loss(few_clips(6).inputs(), few_clips(6).labels)
    assert get_adversary(net).attacker.cam_layer.name == 'input'
