"""mmengine's Runner with what a config may switch on: precision, compilation, loops, BN hooks."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')

from helpers import (  # noqa: E402
    build_recognizer,
    default_tier,
    runner_config,
    slowonly_config,
    tsm_config,
)
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402
from mmengine.runner import FlexibleRunner  # noqa: E402

from adv_plugins.core.conversion import get_adversary  # noqa: E402
from adv_plugins.core.norm import dual_norms  # noqa: E402

HOOKS_OF = {
    'TAF': dict(type='TAFHook', eps=0.1, step_size=0.05),
    'CE': dict(type='AdversarialHook', recipe=dict(type='CEAugmentation')),
    'AdvProp': dict(type='AdvPropHook', steps=2),
}


def assert_same_weights(first: Any, second: Any, **tolerance: float) -> None:
    one, other = (dict(run.model.named_parameters()) for run in (first, second))
    shared = one.keys() & other.keys()
    assert len(shared) > 60
    for name in shared:
        torch.testing.assert_close(
            one[name], other[name], **(tolerance or dict(rtol=0, atol=0)), msg=name
        )


@pytest.fixture
def amp(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """AmpOptimWrapper in bfloat16. It asserts a GPU, though its autocast runs on a CPU as well."""
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    monkeypatch.setattr(f'{module}.is_cuda_available', lambda: True)
    return dict(
        type='AmpOptimWrapper',
        dtype='bfloat16',
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
        clip_grad=dict(max_norm=20),
        accumulative_counts=2,
    )


@pytest.mark.filterwarnings('ignore:.*GradScaler')
@pytest.mark.parametrize('name', HOOKS_OF)
def test_amp_optim_wrapper(train, amp, name):
    """Both paths run under its autocast, and the clean one is the plain run's."""
    seen, counts = [], []

    @HOOKS.register_module(force=True)
    class TraceDtypes(Hook):
        def before_train(self, runner: Any) -> None:
            conv = runner.model.backbone.layer1[0].conv1.conv
            conv.register_forward_hook(lambda module, args, output: seen.append(output.dtype))

        def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
            counts.append(len(seen))

    trace = dict(type='TraceDtypes', _scope_='mmengine')
    runner = train(custom_hooks=[HOOKS_OF[name], trace], optim_wrapper=amp)
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    assert set(seen) == {torch.bfloat16}
    # The first step also has the look at the first batch.
    each = [after - before for before, after in pairwise(counts)]
    assert each == [4 if name == 'AdvProp' else 2] * 3
    for value in runner.model.parameters():
        assert value.dtype is torch.float32 and value.isfinite().all()
    for norm in dual_norms(runner.model):
        assert not torch.equal(norm.adv_weight, norm.weight), 'the adversarial path was trained'


@pytest.mark.filterwarnings('ignore:.*GradScaler')
def test_amp_without_an_adversarial_weight_is_the_plain_run(train, amp):
    ours = train('a', custom_hooks=[dict(type='TAFHook', alpha=1.0)], optim_wrapper=amp)
    assert_same_weights(ours, train('b', optim_wrapper=amp))


@pytest.mark.parametrize(
    'case',
    default_tier(
        ('TAF', 'aot_eager').__eq__,
        product(HOOKS_OF, ('eager', 'aot_eager')),
    ),
    ids='-'.join,
)
def test_compile_in_the_config(train, case):
    """cfg.compile compiles train_step, around the adversarial step."""
    name, backend = case
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    runs = [
        train(folder, custom_hooks=[HOOKS_OF[name]], max_epochs=1, **options)
        for folder, options in (('a', {}), ('b', dict(compile=dict(backend=backend))))
    ]
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    assert get_adversary(runs[1].model).schedule.adversarial_steps == 2
    assert_same_weights(*runs, rtol=1e-4, atol=1e-5)


def test_precise_statistics_are_those_of_clean_clips(train):
    """mmpretrain's PreciseBNHook recomputes what the deployed path reads, and nothing else."""
    pytest.importorskip('mmpretrain', reason='needs adv_plugins[test]')
    import mmpretrain.engine.hooks  # noqa: F401 (registers)

    precise = dict(type='mmpretrain.PreciseBNHook', num_samples=8, priority='ABOVE_NORMAL')
    auxiliary = []

    @HOOKS.register_module(force=True)
    class TraceAuxiliary(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner: Any, batch_idx: int, **kwargs: Any) -> None:
            auxiliary.append([norm.adv_running_mean.clone() for norm in dual_norms(runner.model)])

    trace = dict(type='TraceAuxiliary', _scope_='mmengine')
    ours = train('a', custom_hooks=[dict(type='TAFHook', alpha=1.0), precise, trace])
    plain = train('b', custom_hooks=[precise])
    usual = train('c')
    states = [run.model.state_dict() for run in (ours, plain, usual)]
    means = [name for name in states[0] if name.endswith('running_mean')]
    for name in means:
        assert torch.equal(states[0][name], states[1][name]), name
        assert not torch.equal(states[1][name], states[2][name]), name
    for norm, last in zip(dual_norms(ours.model), auxiliary[-1], strict=True):
        assert torch.equal(norm.adv_running_mean, last)
        assert norm.momentum == 0.1


def test_reentrant_checkpoints_of_mmaction_are_one_clear_error(train, tmp_path):
    model = tsm_config(depth=50, with_cp=True)
    with pytest.raises(RuntimeError, match='with_cp=False'):
        train(custom_hooks=[dict(type='TAFHook')], model=model)
    assert not list(tmp_path.glob('*/*.pth'))


def test_resumes_after_another_trainer_of_the_same_process(train, tmp_path):
    """torch's context of safe globals, which transformers' Trainer opens to resume, takes away
    what was on the list before."""
    train('a', custom_hooks=[dict(type='TAFHook')], max_epochs=1)
    with torch.serialization.safe_globals([np.ndarray]):
        pass
    assert np.ndarray not in torch.serialization.get_safe_globals()
    latest = dict(resume=True, load_from=str(tmp_path / 'a/epoch_1.pth'))
    runner = train('b', custom_hooks=[dict(type='TAFHook')], max_epochs=2, **latest)
    assert runner.iter == 4


@pytest.fixture
def one_process(monkeypatch):
    """What torchrun sets for the only process of a job."""
    values = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT='0', RANK=0, WORLD_SIZE=1, LOCAL_RANK=0)
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    # mmengine chooses a GPU whatever the backend is.
    monkeypatch.setattr(torch.cuda, 'set_device', lambda index: None)
    yield
    torch.distributed.destroy_process_group()


def flexible_run(folder, **options):
    config = runner_config(folder, custom_hooks=[dict(type='TAFHook')], max_epochs=1)
    config.env_cfg = dict(dist_cfg=dict(backend='gloo'))
    config.merge_from_dict(options)
    runner = FlexibleRunner.from_cfg(config)
    runner.train()
    return runner


def test_flexible_runner(tmp_path):
    """Its strategy for one device; the checkpoint is a plain one with the adversarial entry."""
    runner = flexible_run(tmp_path, strategy=dict(type='SingleDeviceStrategy'))
    assert get_adversary(runner.model).schedule.adversarial_steps == 2
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    build_recognizer(slowonly_config()).load_state_dict(checkpoint['state_dict'], strict=True)
    norm = next(name for name in checkpoint['adversarial'] if name.endswith('adv_weight'))
    plain = checkpoint['state_dict'][norm.replace('adv_', '')]
    assert not torch.equal(checkpoint['adversarial'][norm], plain)


def test_flexible_runner_under_ddp(tmp_path, one_process):
    """Its strategy for many processes, of which one gives what the one for one device gives."""
    single = flexible_run(tmp_path / 'a', strategy=dict(type='SingleDeviceStrategy'))
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    ddp = dict(type='DDPStrategy', model_wrapper=wrapper)
    several = flexible_run(tmp_path / 'b', strategy=ddp, launcher='pytorch')
    assert several.strategy.model is several.model
    states = [torch.load(tmp_path / name / 'epoch_1.pth', weights_only=True) for name in 'ab']
    # This strategy saves the wrapper's names, and mmengine takes the prefix away on loading.
    states[1]['state_dict'] = {
        name.removeprefix('module.'): value for name, value in states[1]['state_dict'].items()
    }
    for part in ('state_dict', 'adversarial'):
        assert states[0][part].keys() == states[1][part].keys()
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    assert get_adversary(single.model).schedule.adversarial_steps == 2
