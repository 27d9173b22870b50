"""The whole evaluation through Runner.test, against each of its numbers computed by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers import runner_config, tsm_config, two_ranks
from torch import nn

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

import mmaction.models  # noqa: F401
from mmaction.models.heads import TSMHead
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from adv_plugins.adapters.mmaction import RecognizerAdapter
from adv_plugins.core.recipe import RECIPES
from adv_plugins.datasets import OrderedDigits
from adv_plugins.datasets.corruptions import VideoCorruption
from adv_plugins.evaluation import attacks, deepfool, robustness, robustness_loop
from adv_plugins.evaluation.deployed import Deployed, rank_labels
from adv_plugins.evaluation.labels import LabelError
from adv_plugins.evaluation.measurements import Measurements
from adv_plugins.evaluation.results import Robustness
from adv_plugins.evaluation.selection import evenly_spread
from adv_plugins.evaluation.videos import Videos, corrupted, read

ATTACKS = dict(
    noise=dict(type='UniformNoise', restarts=2),
    fgsm=dict(type='FGSM'),
    pgd=dict(type='PGD', steps=4),
    cam=dict(type='TAF', steps=2, step_size=None),
)
LOOP = dict(
    type='RobustnessTestLoop',
    corruptions=('gaussian_noise', 'jumble'),
    severities=(2, 5),
    attacks=ATTACKS,
    eps=2 / 255,
    curve_eps=(1 / 255,),
    deepfool=dict(num_candidates=3, max_iter=5),
    attack_videos=6,
)
SMALL = dict(
    corruptions=(),
    attacks=dict(fgsm='FGSM'),
    curve=None,
    deepfool=None,
    attention=False,
    attack_videos=None,
)
PIPELINE = [
    dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8, test_mode=True),
    dict(type='ArrayDecode'),
    dict(type='Resize', scale=(32, 32), keep_ratio=False),
    dict(type='FormatShape', input_format='NCHW'),
    dict(type='PackActionInputs'),
]


class RelabelledDigits(OrderedDigits):
    """Clips with labels out of a list, where the model is right or wrong as the test needs it."""

    def __init__(self, labels=(), unreadable=(), **kwargs):
        self.given, self.unreadable = labels, unreadable
        super().__init__(split='val', clips_per_class=1, test_mode=True, **kwargs)

    def get_data_info(self, idx):
        if idx in self.unreadable:
            raise OSError(f'file {idx} is broken')
        info = super().get_data_info(idx)
        return {**info, 'label': self.given[idx]} if self.given else info


DATASETS.register_module(module=RelabelledDigits, force=True)


def config(work_dir, labels=(), unreadable=(), workers=0, head='TSMHead', **loop):
    loader = dict(
        batch_size=5,
        num_workers=workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='RelabelledDigits', labels=list(labels), unreadable=unreadable, pipeline=PIPELINE
        ),
    )
    cfg = runner_config(
        work_dir,
        model=tsm_config(num_segments=8, dropout=0.0),
        train_dataloader=None,
        train_cfg=None,
        optim_wrapper=None,
        param_scheduler=None,
        test_dataloader=loader,
        test_evaluator=dict(type='AccMetric'),
        test_cfg={**LOOP, **loop},
    )
    cfg.model.cls_head.type = head
    cfg.model.cls_head.num_classes = 12
    return cfg


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A model with an opinion, and what it takes the twelve clips for; four labels are wrong."""
    folder = tmp_path_factory.mktemp('weights')
    torch.manual_seed(0)
    runner = Runner.from_cfg(config(folder))
    nn.init.normal_(runner.model.cls_head.fc_cls.weight, std=0.3)
    # Statistics of the very clips: the features of a model at its start hardly differ.
    runner.model.train()
    loader = runner.build_dataloader(runner.cfg.test_dataloader)
    with torch.no_grad():
        for _ in range(30):
            for batch in loader:
                runner.model(**runner.model.data_preprocessor(batch, False))
    runner.model.eval()
    labels = []
    for batch in loader:
        labels += [int(sample.pred_label) for sample in runner.model.test_step(batch)]
    file = folder / 'weights.pth'
    torch.save({'state_dict': runner.model.state_dict()}, file)
    wrong = {1, 4, 7, 10}
    return str(file), [(x + 1) % 12 if i in wrong else x for i, x in enumerate(labels)]


def run(work_dir, weights, **options):
    file, labels = weights
    cfg = config(work_dir, options.pop('labels', labels), **options)
    cfg.load_from = file
    runner = Runner.from_cfg(cfg)
    return runner, runner.test()


def results(work_dir):
    (file,) = work_dir.glob('robustness_*.json')
    return Robustness.load(file)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, weights):
    """One uninterrupted run that several tests look at."""
    folder = tmp_path_factory.mktemp('whole')
    runner, metrics = run(folder, weights)
    return runner, metrics, results(folder), folder


def test_clean_is_what_the_plain_test_says(whole, weights, tmp_path):
    _, metrics, stored, _ = whole
    file, labels = weights
    cfg = config(tmp_path, labels)
    cfg.test_cfg, cfg.load_from = dict(type='TestLoop'), file
    plain = Runner.from_cfg(cfg).test()
    for key in ('acc/top1', 'acc/top5'):
        assert metrics[key] == pytest.approx(plain[key]), key
    assert stored.top('clean') == pytest.approx(100 * 8 / 12)
    assert stored.labels == dict(enumerate(labels))
    assert stored.checkpoint == file


def test_corruptions_are_those_of_the_pipeline(whole, weights):
    runner, _, stored, _ = whole
    dataset = runner.test_loop.dataloader.dataset
    steps = copy.deepcopy(PIPELINE)
    steps.insert(3, dict(type='VideoCorruption', name='gaussian_noise', severity=5))
    by_hand = RelabelledDigits(labels=weights[1], pipeline=steps)
    for seen, wanted in zip(
        read(
            runner.test_loop.dataloader,
            corrupted(dataset, VideoCorruption('gaussian_noise', 5)),
            range(12),
        ),
        torch.utils.data.DataLoader(
            by_hand, batch_size=5, collate_fn=runner.test_loop.dataloader.collate_fn
        ),
        strict=True,
    ):
        assert all(map(torch.equal, seen.batch['inputs'], wanted['inputs']))
    model, predictions = runner.model, []
    for batch in torch.utils.data.DataLoader(
        by_hand, batch_size=5, collate_fn=runner.test_loop.dataloader.collate_fn
    ):
        predictions += [int(sample.pred_label) for sample in model.test_step(batch)]
    assert stored.cells['corruption/gaussian_noise/5'].predictions == predictions
    # The dataset itself has not changed.
    names = [type(step).__name__ for step in dataset.pipeline.transforms]
    assert names == [step['type'] for step in PIPELINE]
    keys = [f'corruption/{n}/{s}' for n in ('gaussian_noise', 'jumble') for s in (2, 5)]
    assert stored.mpc() == pytest.approx(np.mean([stored.top(key) for key in keys]))


def attacked_by_hand(runner, attack):
    deployed, loader = Deployed(runner.model.eval()), runner.test_loop.dataloader
    rows, inputs = {}, []
    for items in read(loader, loader.dataset, evenly_spread(12, 6)):
        data = runner.model.data_preprocessor(items.batch, False)
        x, samples = data['inputs'], data['data_samples']
        labels = torch.cat([sample.gt_label for sample in samples])

        def logits(values, index, samples=samples):
            return deployed.scores(values, [samples[i] for i in index])

        moved = attack(logits, x, labels, deployed.space(x), torch.tensor(items.videos))
        with torch.no_grad():
            ranked = rank_labels(deployed.scores(moved, samples), labels)
        rows |= dict(zip(items.videos, ranked['rank'].tolist(), strict=True))
        inputs.append((x, moved))
    return rows, inputs


@pytest.mark.parametrize('name', ['noise', 'fgsm', 'pgd'])
def test_attacks_are_those_of_the_library(whole, name):
    runner, _, stored, _ = whole
    attack = attacks.build_attack(dict(ATTACKS[name], eps=2 / 255))
    rows, _ = attacked_by_hand(runner, attack)
    cell = stored.cells[f'attack/{name}']
    assert dict(zip(cell.videos, cell.ranks, strict=True)) == rows
    assert cell.level == 2 / 255


def test_the_order_of_the_attacks(whole):
    _, _, stored, _ = whole
    order = [stored.top(f'attack/{name}') for name in ('noise', 'fgsm', 'pgd')]
    assert order == sorted(order, reverse=True)
    assert order[-1] < order[0]
    assert stored.top('attack/pgd') <= stored.top('curve/pgd/1/255')


def test_attention_is_measured_where_videos_were_attacked(whole):
    _, _, stored, _ = whole
    right = stored.correct('clean', videos=stored.videos('attack/cam'))
    for name in ('fgsm', 'cam'):
        values = stored.cells[f'attack/{name}'].values
        for key in ('entropy', 'cam_shift'):
            # A clip without evidence has no attention either.
            known = np.isfinite(values[key])
            assert known.any() and not known[~right].any()
            assert all(0 <= value <= 1 for value in np.array(values[key])[known])
    assert np.nanmean(stored.cells['attack/cam'].values['cam_shift']) > 0


def test_deepfool_is_the_librarys(whole):
    runner, _, stored, _ = whole
    deployed, loader = Deployed(runner.model.eval()), runner.test_loop.dataloader
    rho = []
    for items in read(loader, loader.dataset, evenly_spread(12, 6)):
        data = runner.model.data_preprocessor(items.batch, False)
        x, samples = data['inputs'], data['data_samples']
        result = deepfool(
            lambda values, samples=samples: deployed.scores(values, samples),
            x,
            num_candidates=3,
            max_iter=5,
        )
        rho += robustness(result, x).tolist()
    assert stored.cells['deepfool'].values['rho'] == pytest.approx(rho, rel=1e-4)


def test_two_classes_have_no_dlr(tmp_path):
    dlr = dict(type='APGD', steps=2, loss='dlr')
    cfg = config(tmp_path, labels=[0, 1] * 6, **{**SMALL, 'attacks': dict(fgsm='FGSM', dlr=dlr)})
    cfg.model.cls_head.num_classes = 2
    Runner.from_cfg(cfg).test()
    (stored,) = map(Robustness.load, tmp_path.glob('robustness_*.json'))
    assert 'attack/fgsm' in stored.cells and 'attack/dlr' not in stored.cells
    assert 'compares three classes' in stored.missing['attack/dlr']


def test_recipes_with_a_ball_for_each_view_have_no_worst_case_with_attacks(weights, tmp_path):
    """Sixteen frames are two views. A part of the videos first, as where a run goes on."""
    balls = {
        'l2': dict(norm='l2', eps=0.5),
        'frames': dict(frames=2),
        't': dict(shared='t'),
        'hw': dict(shared='h w'),
    }
    kinds = dict(fgsm=dict(type='FGSM'), ce=dict(type='CEAugmentation', step_size=None))
    chosen = {f'{a}_{b}': kinds[a] | balls[b] for a in kinds for b in balls}
    for views, count, kept in ((2, 1, 1), (2, 2, 3), (1, 1, 1)):
        cfg = config(
            tmp_path / str(views), weights[1], **{**SMALL, 'attacks': chosen, 'num_videos': count}
        )
        cfg.load_from = weights[0]
        cfg.test_dataloader.dataset.pipeline[0]['num_clips'] = 8 * views
        Runner.from_cfg(cfg).test()
        found = results(tmp_path / str(views))
        together = {frozenset(group) for group in found.attack_groups()}
        alone = {'l2', 'frames', 't'} if views == 2 else set()
        pairs = {name: {f'attack/fgsm_{name}', f'attack/ce_{name}'} for name in balls}
        assert {name for name, pair in pairs.items() if pair not in together} == alone
        assert len(found.cells['attack/ce_t'].videos) == kept and not found.earlier
        text = 'l2, per view' if views == 2 else 'l2'
        assert found.cells['attack/ce_l2'].threat == text


def test_ensembles_and_universal_perturbations_are_attacks_like_others(
    weights, tmp_path, monkeypatch
):
    """Of the ensemble's clock, a forward takes a second."""
    clock = iter(range(10**6))
    monkeypatch.setattr('time.monotonic', clock.__next__)
    eps, file = 8 / 255, str(tmp_path / 'universal.pt')
    delta = eps * torch.randn(1, 8, 3, 32, 32).sign()
    attacks.UniversalPerturbation(delta, eps, 'linf').save(file)
    ensemble = dict(type='StandardEnsemble', steps=2, targets=2, queries=3, eps=1e-5)
    chosen = dict(
        whole=dict(ensemble, eps=2 / 255),
        short=dict(ensemble, seconds=2.5),
        uni=dict(type='Universal', file=file, eps=eps),
    )
    runner, _ = run(tmp_path, weights, **{**SMALL, 'attacks': chosen})
    stored = results(tmp_path)
    whole, short = (stored.cells[f'attack/{name}'] for name in ('whole', 'short'))
    right = stored.correct('clean')
    fooled = np.isfinite(whole.values['fooled_by'])
    assert fooled.any() and (fooled == right & ~stored.correct('attack/whole')).all()
    assert np.isnan(whole.values['stopped_in']).all() and 'attack/whole' not in stored.missing
    # Three forwards of Auto-PGD, seven of each of the next two: five videos have 12 seconds and
    # the two of the last batch 5.
    stopped = np.array(short.values['stopped_in'])
    assert stopped[:10][right[:10]].tolist() == [3] * right[:10].sum()
    assert stopped[10:][right[10:]].tolist() == [2] * right[10:].sum()
    assert np.isnan(stopped[~right]).all()
    told = stored.missing['attack/short']
    assert 'of 12, left out or not run to the end were APGD for 0, APGDTargeted for 1' in told
    page = (tmp_path / f'robustness_{stored.weights}.md').read_text()
    assert '| short | Square | 0 | 8 |' in page
    moved, _ = attacked_by_hand(
        runner, lambda logits, x, labels, space, _: space.clamp(x + space.to_input(delta), x)
    )
    uni = stored.cells['attack/uni']
    for video, rank in moved.items():
        if right[video]:
            assert uni.ranks[video] == rank


def test_flags_files_and_metrics(whole):
    _, metrics, stored, folder = whole
    assert [flag.raised for flag in stored.flags[:5]] == [False] * 5
    assert not stored.missing
    page = (folder / f'robustness_{stored.weights}.md').read_text()
    assert f'| fgsm | 2/255 | {stored.top("attack/fgsm"):.1f}' in page
    # As MMAction2 logs accuracies: shares.
    assert metrics['attack/pgd/top1'] == pytest.approx(stored.top('attack/pgd') / 100)
    assert metrics['mPC'] == pytest.approx(stored.mpc() / 100)
    assert metrics['rPC'] == pytest.approx(stored.rpc() / 100)


def without_times(stored):
    for cell in stored.cells.values():
        cell.seconds = 0
    return stored


def same(a, b):
    """Equal, NaN included."""
    assert str(without_times(a)) == str(without_times(b))


def test_an_interrupted_run_goes_on(whole, weights, tmp_path, monkeypatch):
    def stop(self, attack, *args):
        raise KeyboardInterrupt

    from adv_plugins.evaluation.robustness_loop import RobustnessTestLoop as Loop

    with monkeypatch.context() as patch:
        patch.setattr(Measurements, 'attack', stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, weights)
    assert list(results(tmp_path).cells)[-1] == 'corruption/jumble/5'
    seen = []
    rows = Loop._rows
    monkeypatch.setattr(
        Loop, '_rows', lambda self, c, *rest: seen.append(c.cell.key) or rows(self, c, *rest)
    )
    run(tmp_path, weights)
    assert seen[0] == 'attack/noise'
    same(results(tmp_path), copy.deepcopy(whole[2]))
    # Other options make another cell; what is the same stays.
    seen.clear()
    run(tmp_path, weights, severities=(2, 4), seed=0)
    assert seen == ['corruption/gaussian_noise/4', 'corruption/jumble/4']


def test_other_weights_get_a_file_of_their_own(weights, tmp_path):
    small = dict(corruptions=(), attacks={}, curve=None, deepfool=None, attention=False)
    run(tmp_path, weights, **small)
    state = torch.load(weights[0])
    state['state_dict']['cls_head.fc_cls.bias'] += 1
    other = str(tmp_path / 'other.pth')
    torch.save(state, other)
    run(tmp_path, (other, weights[1]), **small)
    assert len(list(tmp_path.glob('robustness_*.json'))) == 2


def test_unreadable_videos_and_attacks_that_do_not_fit_leave_the_rest(weights, tmp_path):
    options = dict(
        corruptions=('jumble',),
        severities=(2,),
        attacks=dict(fgsm='FGSM', bad=dict(type='Square', channel_dim=4)),
        curve=None,
        deepfool=None,
        unreadable=(4, 5),
        workers=2,
    )
    run(tmp_path, weights, **options)
    stored = results(tmp_path)
    assert set(stored.cells) == {'clean', 'corruption/jumble/2', 'attack/fgsm', 'sanity'}
    assert stored.cells['clean'].videos == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    told = stored.missing
    assert 'file 4 is broken' in told['video 4']
    assert 'channel_dim=4' in told['attack/bad']
    page = (tmp_path / f'robustness_{stored.weights}.md').read_text()
    assert all(key in page for key in told)
    # What can be read again is evaluated, and nothing else.
    run(tmp_path, weights, **{**options, 'unreadable': (5,), 'attacks': dict(fgsm='FGSM')})
    again = results(tmp_path)
    assert again.cells['clean'].videos == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert list(again.missing) == ['video 5']


def test_nothing_readable_is_no_number(weights, tmp_path):
    small = dict(corruptions=(), attacks={}, curve=None, deepfool=None)
    _, metrics = run(tmp_path, weights, unreadable=range(12), **small)
    stored = results(tmp_path)
    assert metrics == {}
    assert not stored.cells
    assert 'none of the videos could be read' in stored.missing['clean']


def test_a_checkpoint_of_another_model_is_told(weights, tmp_path):
    state = torch.load(weights[0])
    del state['state_dict']['cls_head.fc_cls.bias']
    file = str(tmp_path / 'other.pth')
    torch.save(state, file)
    with pytest.raises(ValueError, match='other.pth does not fit'):
        run(tmp_path, (file, weights[1]))


def test_many_labels_a_video_have_another_loop(weights, tmp_path):
    with pytest.raises(LabelError, match='AdversarialTestLoop'):
        run(tmp_path, weights, labels=[[1, 2]] * 12, **SMALL)


@pytest.mark.parametrize('listed', [True, False])
def test_videos_without_a_label_are_told(weights, tmp_path, monkeypatch, listed):
    """Before the first video is read, or, without a list, before the first is attacked."""
    if listed:
        monkeypatch.setattr(robustness_loop, 'read', None)
    else:
        monkeypatch.setattr(robustness_loop, 'listed_labels', lambda *_: {})
    labels = [-1 if index in (3, 7) else label for index, label in enumerate(weights[1])]
    with pytest.raises(LabelError, match='videos have no label .*: 3'):
        run(tmp_path, weights, labels=labels, **SMALL)
    assert not list(tmp_path.glob('robustness_*.json'))
    with pytest.raises(LabelError, match=r'12 classes of the model.* 3 \(label 12\)'):
        run(tmp_path, weights, labels=[12 if label < 0 else label for label in labels], **SMALL)


def test_options_are_told_before_the_weights_are_loaded(weights, tmp_path):
    for options, message in (
        (dict(corruptions=['snw']), "'snow'"),
        (dict(eps='8'), "eps='8/255'"),
        (dict(attacks=dict(cam=dict(type='TAF', cam_layer='backbone.layr4'))), 'cam_layer'),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, ('nowhere.pth', weights[1]), **{**SMALL, **options})


def test_attention_that_cannot_be_found_is_told(weights, tmp_path, monkeypatch):
    """Or else every cell would fail at it."""
    monkeypatch.setattr(RecognizerAdapter, 'find_cam_layer', lambda self: '')
    monkeypatch.setattr(RecognizerAdapter, 'clip_axes', lambda self, values, name: ())
    with pytest.raises(ValueError, match='attention=True, but the CAM .* attention=False'):
        run(tmp_path, weights, **{**SMALL, 'attention': True})


def told(monkeypatch):
    """What the loop logs from now on."""
    lines = []
    monkeypatch.setattr(robustness_loop, 'print_log', lambda text, *_, **__: lines.append(text))
    return lines


def test_more_is_never_overwritten_by_less(weights, tmp_path, monkeypatch):
    """Fewer videos, more videos, other options, and a failure, one after the other."""
    run(tmp_path, weights, **SMALL, num_videos=6)
    six = without_times(results(tmp_path))
    assert {key: len(cell.videos) for key, cell in six.cells.items()} == {
        'clean': 6,
        'attack/fgsm': 6,
        'sanity': 6,
    }
    lines = told(monkeypatch)

    def fail(*_):
        raise RuntimeError('out of memory')

    _, metrics = run(tmp_path, weights, **SMALL, num_videos=2)
    same(results(tmp_path), six)
    assert metrics['acc/top1'] == six.top('clean') / 100
    assert any(
        'clean: kept from' in line and '6 videos, 2 were asked for' in line for line in lines
    )

    with monkeypatch.context() as patch:
        patch.setattr(Measurements, 'attack', fail)
        run(tmp_path, weights, **SMALL, num_videos=12)
        assert 'failed' in results(tmp_path).missing['attack/fgsm']
        run(tmp_path, weights, **{**SMALL, 'eps': '8/255'})
    failed = results(tmp_path)
    assert failed.cells['attack/fgsm'].videos == six.cells['attack/fgsm'].videos
    assert failed.cells['attack/fgsm'].level == 2 / 255
    assert 'keeps the numbers of an earlier' in failed.missing['attack/fgsm']
    assert len(failed.cells['clean'].videos) == 12

    lines.clear()
    run(tmp_path, weights, **{**SMALL, 'eps': '8/255'}, num_videos=2)
    run(tmp_path, weights, **SMALL, num_videos=12)
    found = results(tmp_path)
    assert found.cells['attack/fgsm'].level == 2 / 255 and not found.missing
    assert found.cells['attack/fgsm'].videos == list(range(12))
    assert [(cell.level, len(cell.videos)) for cell in found.earlier] == [(8 / 255, 2)]
    kept = [place for place, video in enumerate(range(12)) if video in six.labels]
    ranks = np.array(found.cells['attack/fgsm'].ranks)[kept]
    assert ranks.tolist() == six.cells['attack/fgsm'].ranks


def test_the_plan_is_told(weights, tmp_path, monkeypatch):
    lines = told(monkeypatch)
    run(tmp_path, weights, **{**SMALL, 'corruptions': ['jumble'], 'severities': 3}, num_videos=6)
    text = '\n'.join(lines)
    assert '1 corruptions × 1 severities; 1 attacks at eps 2/255 (fgsm)' in text
    assert '4 of 4 cells to run, at most' in text
    assert 'cell 1 of 4, about 0:' in text and 'cell 4 of 4; sanity' in text
    right = round(results(tmp_path).clean_top('attack/fgsm') * 6 / 100)
    assert f'6 videos, {right} of them right when clean and thus attacked' in text


def test_a_corruption_that_fails_leaves_the_videos(weights, tmp_path, monkeypatch):
    transform = VideoCorruption.transform

    def fails(self, data):
        if self.name == 'snow' or (self.severity == 2 and data['sample_idx'] < 2):
            raise RuntimeError('no snow today')
        return transform(self, data)

    monkeypatch.setattr(VideoCorruption, 'transform', fails)
    options = dict(corruptions=['snow', 'jumble'], severities=(2, 5), num_videos=6)
    _, metrics = run(tmp_path, weights, **{**SMALL, **options})
    stored = results(tmp_path)
    count = {key: len(cell.videos) for key, cell in stored.cells.items()}
    assert count['corruption/jumble/5'] == count['attack/fgsm'] == 6
    assert count['corruption/jumble/2'] == 5 and 'corruption/snow/2' not in count
    assert '6 of 6 videos could not be corrupted' in stored.missing['corruption/snow/5']
    assert '1 of 6 videos could not be' in stored.missing['corruption/jumble/2']
    assert np.isnan(metrics['mPC'])


def test_scores_that_are_not_finite_count_as_wrong(weights, tmp_path):
    _, metrics = run(tmp_path, weights, **SMALL, head='BrokenHead')
    stored = results(tmp_path)
    clean = Robustness.load(next(tmp_path.glob('*.json'))).cells['clean']
    assert len(clean.videos) == 12 and np.isfinite(metrics['acc/top1'])
    broken = sum(
        rank == 11 and not name for rank, name in zip(clean.ranks, clean.predictions, strict=True)
    )
    assert f'{broken} of 12 videos have scores that are NaN' in stored.missing['clean']
    assert 'attack/fgsm' in stored.cells and 'sanity' in stored.cells


def test_the_attack_of_every_recipe_can_be_measured(tmp_path):
    names = [name for name in RECIPES if name not in ('Recipe', 'Madry')]
    cfg = config(tmp_path, attacks={n: dict(type=n, eps=4 / 255) for n in names}, curve=None)
    assert set(Runner.from_cfg(cfg).test_loop.plan.attacks) == {*names}
    shift = dict(type='FeatureShift', layer='backbone.layer9')
    for attack in (
        dict(type='TAF', cam_layer='backbone.layer9'),
        dict(type='PGDTraining', objective=shift),
    ):
        cfg = config(tmp_path / 'bad', attacks=dict(own=attack), curve=None)
        with pytest.raises(ValueError, match='backbone.layer4'):
            Runner.from_cfg(cfg).test_loop  # noqa: B018


def test_options_are_checked(weights, tmp_path):
    with pytest.raises(ValueError, match='num_videos=0'):
        run(tmp_path, weights, num_videos=0)


class NoisyHead(TSMHead):
    """Says something else each time."""

    def forward(self, *args, **kwargs):
        scores = super().forward(*args, **kwargs)
        return scores + 0.1 * torch.randn_like(scores)


class BrokenHead(TSMHead):
    """Gives NaN for the videos of some classes."""

    def forward(self, *args, **kwargs):
        scores = super().forward(*args, **kwargs)
        return scores.masked_fill(scores.argmax(dim=1, keepdim=True) < 6, float('nan'))


class ProbabilityHead(TSMHead):
    """Gives probabilities."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs).softmax(dim=1)


class RoundingHead(TSMHead):
    """Masks its gradient: a staircase."""

    def forward(self, *args, **kwargs):
        return (super().forward(*args, **kwargs) * 4).round() / 4


for kind in (BrokenHead, NoisyHead, ProbabilityHead, RoundingHead):
    MODELS.register_module(module=kind, force=True)


@pytest.mark.parametrize(
    ('head', 'raised'),
    [
        ('NoisyHead', {'randomised model'}),
        ('ProbabilityHead', {'softmax as logits'}),
        (
            'RoundingHead',
            {'zero gradients', 'accuracy at huge eps', 'black box beats white box'},
        ),
    ],
)
def test_models_built_to_raise_flags(weights, tmp_path, head, raised):
    options = dict(
        corruptions=(),
        curve=None,
        deepfool=None,
        attention=False,
        head=head,
        eps=32 / 255,
        attacks=dict(noise=dict(type='UniformNoise', restarts=20), pgd=dict(type='PGD', steps=10)),
    )
    run(tmp_path, weights, **options)
    seen = {flag.name for flag in results(tmp_path).flags if flag.raised}
    assert raised <= seen
    assert seen <= raised | ({'black box beats white box'} if head == 'NoisyHead' else set())


def test_an_attack_that_is_set_up_wrong(weights, tmp_path):
    options = dict(corruptions=(), curve=None, deepfool=None, attention=False, eps=8 / 255)
    weak = dict(fgsm='FGSM', pgd=dict(type='PGD', steps=2, step_size=1e-6))
    run(tmp_path, weights, attacks=weak, **options)
    seen = {flag.name for flag in results(tmp_path).flags if flag.raised}
    assert seen == {'one step beats many'}


# Half a minute where bfloat16 is slow.
@pytest.mark.exhaustive
def test_half_precision_and_workers(whole, weights, tmp_path):
    run(tmp_path, weights, workers=2, fp16=True, attack_videos=2, deepfool=None)
    stored = results(tmp_path)
    assert not stored.missing
    assert stored.cells['clean'].options == {'fp16': True}
    agree = np.mean(stored.correct('clean') == whole[2].correct('clean'))
    assert agree >= 10 / 12


def _rank(rank, folder, weights, options):
    run(folder / 'run', weights, **options)


def test_two_processes_find_the_same(whole, weights, tmp_path):
    two_ranks(_rank, tmp_path, weights, {})
    stored, wanted = results(tmp_path / 'run'), copy.deepcopy(whole[2])
    # Random labels of the CAM attack are drawn batch by batch, and the batches are others.
    for each in (stored, wanted):
        each.cells.pop('attack/cam')
        for cell in each.cells.values():
            cell.values = {}
    same(stored, wanted)


def test_what_two_processes_began_one_goes_on_with(whole, weights, tmp_path, monkeypatch):
    from adv_plugins.evaluation.robustness_loop import RobustnessTestLoop as Loop

    begun = dict(attacks={}, curve=None, deepfool=None)
    two_ranks(_rank, tmp_path, weights, begun)
    seen, rows = [], Loop._rows
    monkeypatch.setattr(
        Loop, '_rows', lambda self, c, *rest: seen.append(c.cell.key) or rows(self, c, *rest)
    )
    run(tmp_path / 'run', weights)
    assert 'attack/noise' in seen and 'clean' not in seen and 'corruption/jumble/5' not in seen
    stored, wanted = results(tmp_path / 'run'), copy.deepcopy(whole[2])
    for each in (stored, wanted):
        for cell in each.cells.values():
            # Batches of another size round differently.
            cell.values = {}
    assert stored.cells.keys() == wanted.cells.keys()
    for key, cell in without_times(stored).cells.items():
        assert str(cell) == str(without_times(wanted).cells[key]), key


def test_two_processes_leave_out_the_same_videos(weights, tmp_path):
    """One rank alone meets the broken file; both must plan the next cells without it."""
    options = dict(
        unreadable=(4,), corruptions=('jumble',), severities=(2,), attacks={}, curve=None
    )
    two_ranks(_rank, tmp_path, weights, dict(options, deepfool=None))
    stored = results(tmp_path / 'run')
    assert 'file 4 is broken' in stored.missing['video 4']
    rest = [index for index in range(12) if index != 4]
    assert stored.cells['clean'].videos == stored.cells['corruption/jumble/2'].videos == rest


def test_wrapped_datasets_are_corrupted_too():
    from mmengine.dataset import ConcatDataset, RepeatDataset

    parts = [RelabelledDigits(pipeline=PIPELINE), RelabelledDigits(pipeline=PIPELINE)]
    for wrapped in (ConcatDataset(parts), RepeatDataset(parts[0], 2)):
        changed = corrupted(wrapped, VideoCorruption('brightness', 5))
        for index in (3, 15):
            assert changed[index]['inputs'].float().mean() > 20 + (
                wrapped[index]['inputs'].float().mean()
            )
    with pytest.raises(ValueError, match='no place for a corruption'):
        corrupted(RelabelledDigits(pipeline=PIPELINE[:1]), VideoCorruption('snow', 1))
    with pytest.raises(ValueError, match='no pipeline'):
        corrupted([1, 2], VideoCorruption('snow', 1))


def test_unreadable_videos_are_named():
    videos = Videos(RelabelledDigits(pipeline=PIPELINE, unreadable=(3,)), [2, 3])
    assert videos[0][0] == 2
    index, problem = videos[1]
    assert index == 3
    assert 'file 3 is broken' in problem
    assert json.dumps(problem)
