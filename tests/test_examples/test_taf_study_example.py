"""The study on TAF: its statistics, its arms, its store and a tiny run from end to end."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
pytest.importorskip('sklearn', reason='needs adv_plugins[data]')
EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
sys.path.insert(0, str(EXAMPLES))

import taf_sign  # noqa: E402
import taf_study  # noqa: E402
from scipy import stats  # noqa: E402
from studies import store, taf_figure, taf_tables  # noqa: E402
from studies.arms import ARMS  # noqa: E402
from studies.clips import Clips, augment, flipped_labels, load_clips  # noqa: E402
from studies.fit import fit  # noqa: E402
from studies.measure import (  # noqa: E402
    accuracy,
    attention_under_attack,
    measure,
    measure_attacked,
    top1,
    under_pgd,
)
from studies.nets import CAM_LAYER, CAM_LAYOUT, MODELS, SmallVideoNet, build_net  # noqa: E402
from studies.paired import holm, paired  # noqa: E402

from adv_plugins import TAF, make_adversarial  # noqa: E402
from adv_plugins.datasets.corruptions import CORRUPTIONS  # noqa: E402


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
    shown = (seen[:, 0, 0, 16, -1] - seen[:, 0, 0, 16, 0]).abs()
    assert shown.min() > math.sqrt(0.7 / 1.18) - 0.05 and shown.max() <= 1


def trained_after(disturbance, recipe=None):
    """The weights after an epoch; the global random numbers are disturbed before it."""
    torch.manual_seed(0)
    net = build_net('tsm', 12, 8)
    if recipe is not None:
        make_adversarial(net, recipe, value_range=(0, 1))
    torch.manual_seed(disturbance)
    fit(net, few_clips(32), flipped_labels('ordered-digits'), 1, lambda part: 0.01, seed=5)
    return torch.cat([p.flatten() for n, p in net.named_parameters() if 'adversarial' not in n])


def test_order_crops_and_dropout_depend_on_the_seed_alone():
    """Otherwise the arms would not be paired: neither a disturbance nor an attack changes them."""
    clean = trained_after(1)
    assert torch.equal(clean, trained_after(2))
    # With weight 1 on the clean loss, TAF attacks and trains on the clean clips only.
    taf = TAF(alpha=1.0, cam_layer=CAM_LAYER, cam_layout=CAM_LAYOUT, dual_bn=False)
    assert taf.adv_weight == 0
    torch.testing.assert_close(trained_after(1, taf), clean)


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


@pytest.mark.parametrize(('arm', 'block'), [('noise', 1), ('blocks', 2)])
def test_the_controls_move_as_far_as_taf_and_look_at_nothing(arm, block):
    clips = few_clips(6)
    x = clips.inputs()
    deltas = []
    for weights in (0, 7):
        torch.manual_seed(weights)
        net = build_net('tsm', 12, 8)
        torch.manual_seed(1)
        make_adversarial(net, ARMS[arm].build(), value_range=(0, 1))
        deltas.append(net.perturb(x, clips.labels) - x)
    # Another net, the same perturbation: half of the pixels up, half down, by TAF's step.
    assert torch.equal(*deltas)
    inside = (x > 32 / 255) & (x < 1 - 32 / 255)
    assert torch.allclose(deltas[0][inside].abs() * 255, torch.tensor(32.0), atol=1e-3)
    assert abs((deltas[0][inside] > 0).float().mean() - 0.5) < 0.02
    # Two neighbours in a square move together, all others by chance.
    both = inside[..., 0::2] & inside[..., 1::2]
    together = (deltas[0][..., 0::2] > 0) == (deltas[0][..., 1::2] > 0)
    assert together[both].float().mean() == pytest.approx(0.5 if block == 1 else 1, abs=0.02)


@pytest.mark.parametrize('arm', [arm for arm in ARMS if ARMS[arm].recipe])
def test_arms_say_what_they_change(arm):
    recipe, taf = ARMS[arm].build(), ARMS['taf'].build()
    assert (recipe == taf) == (arm == 'taf')
    for name, value in ARMS[arm].options.items():
        where = recipe.objective if name in ('cam_of', 'num_frames', 'block') else recipe
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


def test_overlap_is_one_for_attention_that_no_attack_moves():
    """The evidence of a net that weighs all frames alike, however bright they are."""

    class Constant(SmallVideoNet):
        def forward(self, x):
            return super().forward(torch.ones_like(self.input(x)) + 0 * x)

    torch.manual_seed(0)
    nets = [kind('tsm', 12, 8).eval() for kind in (SmallVideoNet, Constant)]
    for net in nets:
        torch.nn.init.normal_(net.fc.weight, std=0.1)
    moving, constant = (attention_under_attack(net, few_clips(6)) for net in nets)
    for name in ('overlap_taf', 'overlap_ce', 'overlap_noise'):
        assert constant[name] == pytest.approx(1, abs=1e-5) and 0 < moving[name] < 0.999
    assert 1 / 8 <= moving['top_frame'] <= 1 and 0 <= moving['entropy'] <= 1
    assert all(type(net) in (SmallVideoNet, Constant) for net in nets)


def test_all_measurements_of_a_real_net_and_real_clips():
    train, val = load_clips('ordered-digits', 0)
    assert len(train) == 120 and train.labels.bincount().tolist() == [10] * 12
    assert val.about(240).labels.bincount().tolist() == [20] * 12
    assert val.about(120).labels.bincount().tolist() == [10] * 12
    half, same = load_clips('ordered-digits-few', 0)
    assert torch.equal(same.frames, val.frames) and half.labels.bincount().tolist() == [10] * 12
    assert len(half.frames.flatten(1).unique(dim=0)) == 60
    few = val.about(24)
    assert len(few.about(240)) == 24
    torch.manual_seed(0)
    net = build_net('tsm', 12, 8).eval()
    torch.nn.init.normal_(net.fc.weight, std=0.1)
    corrupted = {name: few.corrupted(name, 3) for name in ('brightness', 'freeze')}
    corrupted |= dict.fromkeys([n for n in CORRUPTIONS if n not in corrupted], few)
    found = measure(net, train, few, corrupted) | measure_attacked(net, few)
    plain, bright, frozen = (
        top1(net, c) for c in (few, *map(corrupted.get, ('brightness', 'freeze')))
    )
    assert found['val'] == pytest.approx(plain, abs=1e-3)
    assert found['paper_corruptions'] == pytest.approx((7 * plain + bright) / 8, abs=1e-3)
    assert found['video_corruptions'] == pytest.approx((5 * plain + frozen) / 6, abs=1e-3)
    assert found['pgd4'] <= found['pgd2'] <= found['val']
    # Frozen from the middle on: the second half of a clip stands still.
    damage = corrupted['freeze'].frames.float()
    assert (damage[:, 1:] == damage[:, :-1]).flatten(2).all(2).any(1).float().mean() > 0.9


def test_real_footage_is_split_in_time():
    pytest.importorskip('decord', reason='needs adv_plugins[mmaction]')
    train, val = load_clips('arrow-of-time', 3)
    for clips in (train, val):
        assert clips.frames.shape[1:] == (8, 3, 32, 32)
        assert clips.labels.bincount().tolist() == [len(clips) // 3] * 3
    forward, backward = (train.frames[train.labels == label] for label in (0, 1))
    assert torch.equal(forward, backward.flip(1))
    assert len(train) == 153 and len(val) == 84


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A study of a few clips, one epoch, in this process."""
    clips = few_clips(24)
    monkeypatch.setattr(taf_study, 'load_clips', lambda data, seed: (clips, few_clips(30, seed)))
    monkeypatch.setattr(taf_study, 'damaged', lambda val: {})
    monkeypatch.setattr(taf_study, 'measure_attacked', lambda net, val: {})
    short = {name: dataclasses.replace(arm, epochs=1) for name, arm in ARMS.items()}
    monkeypatch.setattr(taf_study, 'ARMS', short)
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
    monkeypatch.setattr(store.metadata, 'version', lambda name: '0.0')
    with pytest.raises(SystemExit, match='must not mix them; write another --out'):
        tiny('--seeds', 2, '--arms', 'clean')


@pytest.fixture
def made_up(tmp_path):
    """Results of seeds 8 to 31: TAF and CE gain a point over the others."""
    results = store.Results(tmp_path / 'r.json', taf_study.KEYS)
    rng = np.random.default_rng(0)
    gains = {'base': -2.0, 'clean': 0.0, 'taf': 1.0, 'noise': 0.0, 'ce': 1.0}
    others = ('train', 'ce', 'paper_corruptions', 'video_corruptions', 'pgd2', 'pgd4', 'seconds')
    others += ('entropy', 'top_frame', 'overlap_taf', 'overlap_ce', 'overlap_noise')
    for seed in range(8, 32):
        level = rng.normal(50, 5)
        for arm, gain in gains.items():
            name = dict(data='ordered-digits', model='tsm', base_epochs=80, arm=arm, seed=seed)
            val = level + gain + (rng.normal(0, 0.3) if arm != 'ce' else 0.5 * (-1) ** seed)
            # A seed that was not planned would turn the claims around.
            val += 0 if 10 <= seed < 30 or arm != 'taf' else -1000
            cell = dict(name, val=val, **dict.fromkeys(others, float(seed)))
            results.cells[results._key(cell)] = cell
    return results


def claims(results):
    lines = taf_tables.markdown(results).splitlines()
    return [line.split(' | ') for line in lines if '| 10 to 29 |' in line]


def test_claims_are_those_of_the_plan(made_up):
    found = claims(made_up)
    assert [claim[-1].strip(' |') for claim in found] == ['+', '+', 'noise']
    assert float(found[0][2].split(' ')[0]) == pytest.approx(1, abs=0.3)
    # Neither with a seed that is missing, nor in another regime.
    cells = dict(made_up.cells)
    made_up.cells = {k: c for k, c in cells.items() if (c['arm'], c['seed']) != ('ce', 12)}
    assert claims(made_up) == []
    made_up.cells = {k: dict(c, base_epochs=200) for k, c in cells.items()}
    assert claims(made_up) == [] and '| TAF |' in taf_tables.markdown(made_up)


def test_tables_of_a_study_that_is_not_finished(made_up):
    made_up.cells = {k: c for k, c in made_up.cells.items() if c['arm'] == 'base'}
    assert '| base, before fine-tuning | 24 |' in taf_tables.markdown(made_up)


def test_the_cost_in_the_table_is_what_a_step_costs(made_up):
    column = taf_tables.columns(made_up, taf_tables.CONFIRMATION)
    costs = {arm: taf_tables._cost(lambda *_: column('val', 'taf'), arm) for arm in ARMS}
    # TAF: a backward for the perturbation, and forward and backward of the perturbed clips.
    assert costs['taf'].startswith('2.33; ') and costs['ce'].startswith('2.00; ')
    assert costs['interval'].startswith('1.67; ') and costs['longer'].startswith('2.33; ')
    assert float(costs['budget'].split(';')[0]) <= 1.25


def test_figure_has_the_means_of_the_table(made_up, tmp_path, monkeypatch):
    means = []
    original = taf_figure.paired

    def spy(some, other):
        means.append(original(some, other).mean)
        return original(some, other)

    monkeypatch.setattr(taf_figure, 'paired', spy)
    taf_figure.draw([made_up], tmp_path / 'gains.png')
    assert (tmp_path / 'gains.png').stat().st_size > 10_000
    # TAF, CE and the control in each of four panels; validation comes first.
    assert means[1:3] == pytest.approx([1, 0], abs=0.3) and means[3:] == [0.0] * 9
    with pytest.raises(ValueError, match='as an earlier file has'):
        taf_figure.draw([made_up, made_up], tmp_path / 'gains.png')


def test_processes_have_one_thread_and_an_error_in_one_is_the_commands(tmp_path):
    with pytest.raises(ZeroDivisionError):
        store.in_processes(_threads_over, [(tmp_path / 'a', 1), (tmp_path / 'b', 0)], 1)
    assert (tmp_path / 'a').read_text() == '1.0' and not (tmp_path / 'b').exists()


def _threads_over(file, divisor):
    file.write_text(f'{torch.get_num_threads() / divisor}')


def test_sign_of_eq_2_from_the_base_to_the_table(tmp_path, monkeypatch, capsys):
    """The losses of clips that the net gets right and wrong, before and after one step."""

    class Brightness(SmallVideoNet):
        """Class 0 is bright. Its evidence is everywhere, so the attacks move all pixels alike."""

        def forward(self, x):
            pooled = (
                self.stages(self.input(x).flatten(0, 1)).mean(dim=(1, 2, 3)).unflatten(0, (-1, 8))
            )
            return 20 * torch.stack([pooled.mean(1) - 0.5, 0.5 - pooled.mean(1)], dim=1)

    net = Brightness('tsm', 2, 8)
    net.stages = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(3)))
    frames = torch.randint(80, 136, (8, 8, 3, 32, 32), dtype=torch.uint8)
    frames[::2] += 40
    clips = Clips(frames, torch.tensor([0, 1, 0, 1, 1, 0, 1, 0]))
    fake = SimpleNamespace(base=lambda: net, val=clips)
    monkeypatch.setattr(taf_sign, 'Seed', lambda *_: fake)
    monkeypatch.setattr(
        taf_sign, 'in_processes', lambda work, tasks, count: [work(*task) for task in tasks]
    )
    out = tmp_path / 'sign.json'
    taf_sign.main(['--seeds', '0', '1', '--out', str(out)])
    cells = {(c['cam_of'], c['step_size']): c for c in json.loads(out.read_text())['cells']}
    scores = net(clips.inputs())
    losses = torch.nn.functional.cross_entropy(scores, clips.labels, reduction='none')
    right = scores.argmax(1) == clips.labels
    assert right.tolist() == [True] * 4 + [False] * 4
    for source in ('loss', 'score'):
        assert cells[source, 0]['right'] == pytest.approx(losses[right].mean().item(), abs=1e-3)
        assert cells[source, 0]['wrong'] == pytest.approx(losses[~right].mean().item(), abs=1e-3)
    # As printed, hard clips become harder; with the score they become easier.
    assert cells['loss', 8]['wrong'] > cells['loss', 0]['wrong'] + 0.1
    assert cells['score', 8]['wrong'] < cells['score', 0]['wrong'] - 0.1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('| 8 |'))
    gain = cells['score', 8]['wrong'] - cells['score', 0]['wrong']
    assert row.split(' | ')[4].startswith(f'{gain:+.2f} ')
