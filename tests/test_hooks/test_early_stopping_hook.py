"""An interrupted run stops where the whole run does, and testing needs no training data."""

import pytest
from helpers import feature_config
from mmengine.registry import METRICS
from mmengine.runner import Runner

from adv_plugins.evaluation import YT8MMetric

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

STOP = dict(type='ResumableEarlyStoppingHook', monitor='GAP', rule='greater', patience=4)


@pytest.fixture
def falling():
    """A GAP that rises until the second validation, and falls from there on."""

    @METRICS.register_module(force=True)
    class ScriptedGAP(YT8MMetric):
        runner = None

        def compute_metrics(self, results):
            iteration = ScriptedGAP.runner.iter
            return {'GAP': 0.5 + (0.01 * iteration if iteration <= 4 else -0.01 * iteration)}

    return ScriptedGAP


def train(work_dir, falling, max_iters, **changes):
    loader = feature_config(work_dir).test_dataloader
    runner = Runner.from_cfg(
        feature_config(
            work_dir,
            train_iters=max_iters,
            val_dataloader=loader,
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type='ScriptedGAP'),
            param_scheduler=[
                dict(
                    type='ReduceOnPlateauLR', monitor='GAP', rule='greater', factor=0.1, patience=2
                )
            ],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
                early_stopping=STOP,
            ),
            **changes,
        )
    )
    falling.runner = runner
    runner.train()
    return runner


@pytest.mark.parametrize('cut', [2, 4, 8, 10])
def test_interrupted_run_stops_where_the_whole_run_does(tmp_path, falling, cut):
    whole = train(tmp_path / 'whole', falling, 40)
    # Best at 4, worse at 6, 8, 10 (the rate is cut) and 12.
    assert whole.iter == 12
    rates = whole.message_hub.get_scalar('train/lr').data[0].tolist()
    assert rates == pytest.approx([1e-2] * 10 + [1e-3] * 2)
    checkpoint = str(tmp_path / 'whole' / f'iter_{cut}.pth')
    rest = train(tmp_path / 'rest', falling, 40, resume=True, load_from=checkpoint)
    assert rest.iter == 12
    rest = rest.message_hub.get_scalar('train/lr').data[0].tolist()
    assert rest[-(12 - cut) :] == pytest.approx(rates[cut:])


def test_testing_needs_no_training_data(tmp_path):
    config = feature_config(tmp_path, default_hooks=dict(early_stopping=STOP))
    train = feature_config(tmp_path, train_iters=1)
    config.train_cfg, config.optim_wrapper = train.train_cfg, train.optim_wrapper
    config.train_dataloader = dict(train.train_dataloader, dataset=dict(type='NotThere'))
    assert Runner.from_cfg(config).test()['GAP'] > 0


def test_min_delta_is_zero_by_default():
    from mmengine.registry import HOOKS

    assert HOOKS.build(STOP).min_delta == 0
