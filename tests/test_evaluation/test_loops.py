"""Clean and attacked metrics in one pass, against each of them computed by hand."""

import warnings

import pytest
import torch
from helpers import (
    assert_same,
    data_samples,
    feature_config,
    runner_config,
    slowonly_config,
    snapshot,
    tsm_config,
    two_ranks,
)
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from adv_plugins import make_adversarial
from adv_plugins.attention import AttentionMap, capture_attention
from adv_plugins.attention.distances import attention_mse
from adv_plugins.core.functional import relative_size
from adv_plugins.core.recipe import build_recipe
from adv_plugins.evaluation import deepfool, global_average_precision, robustness
from adv_plugins.evaluation.attacked_evaluator import AttackedEvaluator, PerVideo
from adv_plugins.evaluation.labels import LabelError
from adv_plugins.evaluation.loops import AdversarialTestLoop, _check_labelled, _distances

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from mmaction.evaluation import AccMetric
from mmaction.structures import ActionDataSample


def runner(work_dir, **changes):
    return Runner.from_cfg(feature_config(work_dir, **changes))


def batches(run):
    """The batches as the model is fed them, one after the other."""
    for batch in run.build_dataloader(run.cfg.test_dataloader):
        yield run.model.data_preprocessor(batch, False)


ATTACKS = dict(
    fgm=dict(type='ART', eps=2.0),
    pgd=dict(type='ART', eps=2.0, steps=5),
    noise=dict(type='ART', eps=2.0, step_size=0.0, random_start=True),
)


def test_every_number_is_what_it_says(tmp_path):
    run = runner(
        tmp_path,
        test_cfg=dict(
            type='AdversarialTestLoop',
            attacks=ATTACKS,
            attention=True,
            deepfool=dict(max_iter=20, num_videos=5),
        ),
    )
    plain = runner(tmp_path, test_cfg=dict(type='TestLoop'))
    plain.model.load_state_dict(run.model.state_dict())
    before = snapshot(run.model.eval())
    metrics = run.test()
    # A data loader draws its base seed.
    after = snapshot(run.model) | {'rng': before['rng']}
    assert_same(before, after)
    for key, value in plain.test().items():
        assert metrics[key] == value, key

    model = plain.model.eval()
    attacker = make_adversarial(runner(tmp_path).model.eval(), 'art', eps=2.0)
    attacker.load_state_dict(model.state_dict())
    scores, labels, ratios, moved_by, fooled = [], [], [], [], []
    for data in batches(plain):
        inputs, samples = data['inputs'], data['data_samples']
        moved = attacker.perturb(inputs, samples)
        with torch.no_grad(), capture_attention(model) as clean_maps:
            model(inputs)
        with torch.no_grad(), capture_attention(model) as maps:
            scores.append(model(moved).sigmoid())
        labels += [sample.gt_label for sample in samples]
        ratios.append(relative_size(moved['rgb'] - inputs['rgb'], inputs['rgb']))
        moved_by.append(
            torch.stack(
                [
                    attention_mse(a.weights, b.weights, inputs[f'{name}_mask'])
                    for a, b, name in zip(clean_maps, maps, ('rgb', 'audio'), strict=True)
                ]
            )
        )
        x = {name: inputs[name] for name in ('rgb', 'audio')}
        valid = {name: inputs[f'{name}_mask'][..., None] for name in x}
        masks = {name: inputs[name] for name in ('rgb_mask', 'audio_mask')}
        result = deepfool(lambda v, masks=masks: model({**v, **masks}), x, max_iter=20, valid=valid)
        fooled.append(torch.stack([robustness(result, x, valid), result.success]))
    gap = global_average_precision(torch.cat(scores), torch.stack(labels))
    assert metrics['fgm/GAP'] == pytest.approx(gap)
    assert metrics['fgm/eps'] == 2.0
    assert metrics['fgm/ratio_rgb'] == pytest.approx(torch.cat(ratios).mean().item())
    moved_by = torch.cat(moved_by, dim=1).mean(dim=1)
    assert metrics['fgm/attention_mse'] == pytest.approx(moved_by.mean().item())
    each = [value for key, value in metrics.items() if key.startswith('fgm/attention_mse/')]
    assert each == pytest.approx(moved_by.tolist())
    rho, success = torch.cat(fooled, dim=1)[:, :5]
    assert success.any()
    assert metrics['deepfool/rho_mean'] == pytest.approx(rho[success.bool()].mean().item())
    assert metrics['pgd/GAP'] <= metrics['fgm/GAP'] < metrics['noise/GAP'] <= metrics['GAP'] + 0.05
    assert run.test() == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def test_validation_in_a_training_with_a_hook(tmp_path):
    """The loop is built before the hook converts the model."""
    loader = runner(tmp_path).cfg.test_dataloader
    run = runner(
        tmp_path,
        train_iters=4,
        val_dataloader=loader,
        val_evaluator=dict(type='YT8MMetric'),
        val_cfg=dict(type='AdversarialValLoop', attacks=dict(fgm=dict(type='ART', eps=1.0))),
        custom_hooks=[dict(type='AARTHook', by_epoch=False)],
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook',
                by_epoch=False,
                interval=4,
                save_best='fgm/GAP',
                rule='greater',
            ),
        ),
    )
    run.train()
    scalars = run.message_hub.log_scalars
    for key in ('train/loss_cls', 'train/adv_loss_cls', 'train/loss_attention_frobenius'):
        assert len(scalars[key].data[0]) == 4, key
    assert scalars['train/adv_eps'].current() == 0.5
    assert 0 < scalars['train/adv_ratio_rgb'].current() < 1
    assert scalars['val/fgm/GAP'].current() <= scalars['val/GAP'].current()
    # The checkpoint is the plain model's.
    state = torch.load(tmp_path / 'iter_4.pth', weights_only=True)['state_dict']
    runner(tmp_path).model.load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(attacks=dict(fgm=dict(type='ARTT'))), "attacks.'fgm'.: .*write 'ART'"),
        (dict(attacks={'a/b': dict(type='ART')}), 'a/b'),
        (dict(attacks=dict(deepfool=dict(type='ART'))), "not 'deepfool'"),
        (dict(attacks=dict(taf=dict(type='TAF'))), 'FeatureTransformer is not known.*cam_layer'),
        (dict(attacks=dict(taf=dict(type='TAF', cam_layer='head'))), "cam_layer='cls_head'"),
        (dict(attacks={1: 'ART'}), 'attacks has the name 1'),
        (dict(attacks=dict(a=dict(type='ART', eps='two'))), r"attacks\['a'\]: eps='two'"),
        (dict(deepfool=dict(max_iter=0)), 'max_iter'),
        (dict(deepfool=dict(num_videos='many')), "num_videos='many'"),
        (dict(deepfool=3), 'deepfool=3 must be a dict'),
        (dict(deepfool=dict(num_videos=0)), 'num_videos=0'),
        (dict(deepfool=dict(maxiter=3)), 'maxiter.*max_iter'),
        (dict(deepfool=dict(criterion='top5')), 'top1_change.*top5'),
    ],
)
def test_bad_options_are_told_before_the_first_video(tmp_path, options, message):
    run = runner(tmp_path, test_cfg=dict(type='AdversarialTestLoop', **options))
    with pytest.raises(ValueError, match=message):
        run.test_loop  # noqa: B018 (built on access)


def test_grey_levels_are_told_where_the_range_is_known(tmp_path):
    """A text may be a fraction; features have no range."""
    config = dict(type='AdversarialTestLoop', attacks=dict(a=dict(type='CEAugmentation', eps='8')))
    run = runner(tmp_path, model=tsm_config(), test_cfg=config)
    with pytest.raises(ValueError, match=r"attacks\['a'\]: eps=8 is 8 times .*'8/255'"):
        run.test_loop  # noqa: B018 (built on access)
    run.cfg.test_cfg.attacks.a.eps = '8/255'
    run._test_loop = run.cfg.test_cfg
    assert run.test_loop.recipes['a'].eps == 8 / 255
    runner(tmp_path, test_cfg=config).test_loop  # noqa: B018


def test_every_attack_dumps_its_own_predictions(tmp_path):
    import pickle

    metrics = [
        dict(type='YT8MMetric'),
        dict(type='DumpResults', out_file_path=f'{tmp_path}/out.pkl'),
    ]
    attacks = dict(fgm=dict(type='ART', eps=50.0))
    run = runner(
        tmp_path,
        test_evaluator=metrics,
        test_cfg=dict(type='AdversarialTestLoop', attacks=attacks),
    )
    reported = run.test()
    for name, prefix in (('out.pkl', ''), ('out.fgm.pkl', 'fgm/')):
        dumped = pickle.loads((tmp_path / name).read_bytes())
        scores, labels = (
            torch.stack([sample[key] for sample in dumped]) for key in ('pred_score', 'gt_label')
        )
        gap = global_average_precision(scores, labels)
        assert reported[f'{prefix}GAP'] == pytest.approx(gap)
    assert reported['fgm/GAP'] < reported['GAP']


def test_several_clips_a_video_are_told(tmp_path):
    run = runner(tmp_path, model=tsm_config(), test_cfg=dict(type='AdversarialTestLoop'))
    with pytest.raises(ValueError, match='6 scores for 2 videos'):
        run.test_loop._attack(
            next(iter(run.test_loop.recipes.values())),
            0,
            torch.randn(2, 12, 3, 32, 32),
            data_samples([0, 1]),
        )


def test_videos_of_a_batch_without_attention_maps_of_their_own():
    weights = torch.rand(4, 3, 3)
    maps = [AttentionMap('a', weights), AttentionMap('a', weights)]
    moved = [AttentionMap('a', weights + 1), AttentionMap('a', weights)]
    distances = _distances(maps, moved, count=4)
    # Two calls of one module: the mean of both, not the last.
    assert distances['attention_mse/a'].tolist() == pytest.approx([0.5] * 4)
    empty = [AttentionMap('a', weights, torch.zeros(4, 3, dtype=torch.bool))]
    assert _distances(empty, moved[:1], count=4)['attention_mse'].tolist() == [0.0] * 4


def test_model_without_attention_says_so(tmp_path):
    config = dict(type='AdversarialTestLoop', attention=True)
    run = runner(tmp_path, model=tsm_config(), test_cfg=config)
    assert isinstance(run.test_loop, AdversarialTestLoop)
    with pytest.raises(ValueError, match='attention=False'):
        run.test_loop._predict(torch.zeros(2, 4, 3, 32, 32), data_samples([0, 0]))


def worker(rank, folder, config):
    """Test on one of two ranks; the sampler repeats a video to give both as many."""
    metrics = runner(f'{folder}/{rank}', test_cfg=config).test()
    torch.save(metrics, f'{folder}/{rank}.pt')


def test_two_processes_report_what_one_does(tmp_path):
    attacks = {name: ATTACKS[name] for name in ('fgm', 'pgd')}
    config = dict(
        type='AdversarialTestLoop', attacks=attacks, attention=True, deepfool=dict(max_iter=5)
    )
    two_ranks(worker, str(tmp_path), config)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert first == pytest.approx(second, rel=0, abs=0, nan_ok=True)
    alone = runner(tmp_path / 'alone', test_cfg=config).test()
    assert first == pytest.approx(alone, rel=1e-5, nan_ok=True)
    assert first['num_videos'] == 7


def test_half_precision_evaluation(tmp_path):
    """Autocast changes digits, not the picture; the attack is found with scaled gradients."""
    attacks = dict(fgm=dict(type='ART', eps=2.0))
    full, half = (
        runner(
            tmp_path, test_cfg=dict(type='AdversarialTestLoop', attacks=attacks, fp16=fp16)
        ).test()
        for fp16 in (False, True)
    )
    assert half['fgm/ratio_rgb'] == pytest.approx(full['fgm/ratio_rgb'], rel=1e-2)
    for key in ('GAP', 'fgm/GAP'):
        assert half[key] == pytest.approx(full[key], abs=0.05)


class Scores(Hook):
    """What the hooks of an evaluation are given."""

    def __init__(self):
        self.seen = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen += [sample.pred_score for sample in outputs]


def test_hooks_get_the_clean_predictions(tmp_path):
    attacks = dict(fgm=dict(type='ART', eps=50.0))
    run = runner(tmp_path, test_cfg=dict(type='AdversarialTestLoop', attacks=attacks))
    scores = Scores()
    run.register_hook(scores)
    run.test()
    with torch.no_grad():
        expected = [run.model(data['inputs']).sigmoid() for data in batches(run)]
    torch.testing.assert_close(torch.stack(scores.seen), torch.cat(expected))


def test_deepfool_leaves_the_only_label_of_a_recognizer(tmp_path):
    """Class indices, which most datasets have: criterion='hit1' is about sets of labels."""
    model = slowonly_config()
    run = runner(
        tmp_path,
        model=model,
        test_dataloader=runner_config(tmp_path).train_dataloader,
        test_evaluator=dict(type='AccMetric'),
        test_cfg=dict(
            type='AdversarialTestLoop',
            attacks={},
            deepfool=dict(criterion='hit1', max_iter=2, num_videos=3, num_candidates=2),
        ),
    )
    metrics = run.test()
    wrong = metrics['deepfool/already_wrong']
    assert 0 <= wrong <= metrics['deepfool/success_rate'] <= 1 and 3 * wrong == round(3 * wrong)


def test_a_video_that_is_not_finite_does_not_end_the_loop(tmp_path):
    """Nor is it in a mean: neither clean nor attacked, with DeepFool and attention."""
    config = dict(
        type='AdversarialTestLoop',
        attacks=dict(fgm=dict(type='ART', eps='2.0')),
        attention=True,
        deepfool=dict(max_iter='3'),
    )
    run = runner(tmp_path, test_cfg=config)
    fine = run.test()

    def breaks(module, inputs, output):
        return output.index_fill(0, torch.tensor([0]), float('nan'))

    run.model.cls_head.register_forward_hook(breaks)
    metrics = run.test()
    # Three batches: their first videos.
    for prefix in ('', 'fgm/'):
        assert metrics[f'{prefix}num_not_finite'] == 3
        assert 0 < metrics[f'{prefix}GAP'] <= 1
    assert 'num_not_finite' not in fine and fine.keys() <= metrics.keys()
    assert not [key for key, value in metrics.items() if value != value]


@pytest.mark.parametrize('broken', [float('nan'), float('inf'), -float('inf')])
def test_a_video_of_one_class_that_is_not_finite_is_wrong(broken):
    """However sorting leaves its scores; what hooks get stays as it is."""
    evaluator = AttackedEvaluator(Evaluator(AccMetric()), {'a': build_recipe('art')}, None)
    samples = [
        ActionDataSample().set_gt_label(label).set_pred_score(torch.full((6,), broken))
        for label in range(6)
    ]
    evaluator.process(samples, None)
    evaluator.process_attacked('a', None, samples, {})
    metrics = evaluator.evaluate(6)
    assert metrics['acc/top1'] == metrics['acc/top5'] == metrics['a/acc/top5'] == 0
    assert metrics['num_not_finite'] == metrics['a/num_not_finite'] == 6
    assert not any(sample.pred_score.isfinite().any() for sample in samples)


def test_numbers_that_are_not_finite_are_counted_and_in_no_mean():
    metric = PerVideo()
    columns = dict(ratio=torch.tensor([0.1, float('nan'), 0.3]), mse=torch.tensor([1.0] * 3))
    metric.process({**columns, 'finite': torch.tensor([True, False, True])}, [])
    found = metric.compute_metrics(metric.results)
    assert found == pytest.approx(
        {'num_not_finite': 1, 'ratio': 0.2, 'ratio_undefined': 1, 'mse': 1.0}
    )
    metric.results = [{'ratio': float('inf'), 'finite': True}]
    assert str(metric.compute_metrics(metric.results)) == "{'ratio': nan, 'ratio_undefined': 1}"


def test_videos_without_a_label_are_told(tmp_path, monkeypatch):
    run = runner(tmp_path)
    dataset = run.test_loop.dataloader.dataset
    labels = {index: {'label': -1 if index == 5 else 0} for index in range(len(dataset))}
    monkeypatch.setattr(dataset, 'get_data_info', labels.get, raising=False)
    monkeypatch.setattr(run.test_loop, 'run_iter', None)
    with pytest.raises(LabelError, match='1 of 7 videos have no label .*: 5'):
        run.test()
    # A dataset without a list is asked batch by batch.
    with pytest.raises(LabelError, match='batch 3 has videos without a label .* places 1,'):
        _check_labelled(3, data_samples([0, -1]))


def test_an_attack_tells_of_its_units_once_not_at_every_batch(tmp_path):
    loop = dict(type='AdversarialTestLoop', attacks=dict(far=dict(type='ART', eps=1e6)))
    run = runner(tmp_path, model=tsm_config(), test_cfg=loop)
    inputs = torch.randn(1, 4, 3, 32, 32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for idx in range(3):
            run.test_loop._attack(run.test_loop.recipes['far'], idx, inputs, data_samples([0]))
    assert sum('larger than the inputs' in str(w.message) for w in caught) == 1
