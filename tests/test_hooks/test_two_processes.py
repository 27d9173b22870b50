"""Two gloo processes: the hook rebuilds DDP, both ranks stay bit-equal, one or two resume."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import runner_config, two_ranks

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')


def worker(rank: int, folder: str, hook: dict[str, Any], settings: dict[str, Any]) -> None:
    """Train on one of two ranks and write down what the rank ended with."""
    from mmengine.hooks import Hook
    from mmengine.model import MMDistributedDataParallel
    from mmengine.registry import HOOKS
    from mmengine.runner import Runner

    config = runner_config(f'{folder}/rank{rank}', custom_hooks=[hook], max_epochs=4)
    config.train_dataloader.batch_size = 2
    trace = []

    @HOOKS.register_module(force=True)
    class TraceAuxiliary(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            auxiliary = runner.model.module.backbone.layer4[0].conv1.bn.adv_weight
            trace.append(('adv_loss_cls' in outputs, auxiliary.detach().clone()))

    config.custom_hooks.append(dict(type='TraceAuxiliary', _scope_='mmengine'))
    runner = Runner.from_cfg(config)
    # mmengine's own wrapping needs a GPU (launcher='pytorch' calls torch.cuda.set_device).
    runner.model = MMDistributedDataParallel(runner.model, broadcast_buffers=False, **settings)
    before = runner.model
    runner.train()
    wrapper, model = runner.model, runner.model.module
    assert wrapper is not before and type(wrapper) is type(before)
    for name in ('find_unused_parameters', 'broadcast_buffers', 'static_graph'):
        assert getattr(wrapper, name) == getattr(before, name)
    torch.save(
        {
            'parameters': dict(model.named_parameters()),
            'statistics': dict(model.named_buffers()),
            'trace': trace,
        },
        f'{folder}/{rank}.pt',
    )


@pytest.mark.parametrize(
    ('hook', 'settings'),
    [
        (dict(type='TAFHook', interval=1), {}),
        (dict(type='TAFHook', interval=2), {}),
        (dict(type='TAFHook', interval=2), dict(find_unused_parameters=True)),
        (dict(type='TAFHook', begin=2), dict(gradient_as_bucket_view=True)),
        (dict(type='AdvPropHook', steps=1, clean_weight=0.0), {}),
    ],
    ids=str,
)
def test_ranks_stay_bit_equal(tmp_path, hook, settings):
    two_ranks(worker, str(tmp_path), hook, settings)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    auxiliary = [name for name in first['parameters'] if 'adv_' in name]
    assert len(auxiliary) == 40
    for name, value in first['parameters'].items():
        assert torch.equal(value, second['parameters'][name]), name
    for name in auxiliary:
        clean = first['parameters'][name.replace('adv_', '')]
        assert not torch.equal(first['parameters'][name], clean), f'{name} was not trained'
    for (_, before), (active, after) in pairwise(first['trace']):
        # Neither weight decay nor momentum moves what took no part in an iteration.
        assert active != torch.equal(before, after)
    different = [
        name
        for name, value in first['statistics'].items()
        if 'running_mean' in name and not torch.equal(value, second['statistics'][name])
    ]
    assert different, 'the ranks saw the same clips'


def train_and_trace(rank: int, ranks: int, folder: str, epochs: int, checkpoint: str) -> None:
    """Train on one of ``ranks`` ranks and write down where the rank began and ended."""
    from mmengine.hooks import Hook
    from mmengine.model import MMDistributedDataParallel
    from mmengine.registry import HOOKS
    from mmengine.runner import Runner

    hook = dict(type='TAFHook', random_start=True)
    config = runner_config(f'{folder}/rank{rank}', custom_hooks=[hook], max_epochs=epochs)
    config.train_dataloader.batch_size = 2
    if checkpoint:
        config.load_from, config.resume = checkpoint, True
    began: dict[str, Any] = {}

    @HOOKS.register_module(force=True)
    class TraceStart(Hook):
        priority = 'LOWEST'

        def before_train(self, runner: Any) -> None:
            began.update(state=copy.deepcopy(everything(runner.model)), iteration=runner.iter)
            began['optimizer'] = copy.deepcopy(runner.optim_wrapper.state_dict())

    config.custom_hooks.append(dict(type='TraceStart', _scope_='mmengine'))
    runner = Runner.from_cfg(config)
    if ranks > 1:
        runner.model = MMDistributedDataParallel(runner.model, broadcast_buffers=False)
    runner.train()
    end = dict(state=everything(runner.model), epoch=runner.epoch, iteration=runner.iter)
    torch.save((began, end), f'{folder}/{rank}.pt')


def everything(model: Any) -> dict[str, Any]:
    """All parameters and statistics, those of the adversarial path too."""
    model = getattr(model, 'module', model)
    return dict([*model.named_parameters(), *model.named_buffers()])


@pytest.mark.parametrize('ranks', [(2, 1), (1, 2)], ids=['two, then one', 'one, then two'])
def test_another_number_of_ranks_resumes_the_run(tmp_path, ranks):
    """All begin with the checkpoint's state, both paths' and the optimizer's, and end as one.

    With as many clips a rank there are half or twice the iterations an epoch, and the learning
    rate is the user's to adapt, as in any run of mmengine.
    """
    checkpoint = ''
    for count, epochs in zip(ranks, (1, 2), strict=True):
        folder = tmp_path / f'{count}'
        folder.mkdir()
        if count == 1:
            train_and_trace(0, 1, str(folder), epochs, checkpoint)
        else:
            two_ranks(train_and_trace, 2, str(folder), epochs, checkpoint)
        checkpoint = checkpoint or str(folder / 'rank0/epoch_1.pth')
    saved = torch.load(checkpoint, weights_only=True)
    saved_state = saved['state_dict'] | saved['adversarial']
    ends = [torch.load(folder / f'{rank}.pt') for rank in range(ranks[1])]
    for began, end in ends:
        names = [name for name in began['state'] if name in saved_state]
        assert len(names) > 200 and sum('adv_' in name for name in names) == 100
        for name in names:
            assert torch.equal(began['state'][name], saved_state[name]), name
        assert began['iteration'] == 4 // ranks[0]
        assert (end['epoch'], end['iteration']) == (2, 4 // ranks[0] + 4 // ranks[1])
        momenta = began['optimizer']['state']
        assert len(momenta) == len(saved['optimizer']['state']) > 100
        for key, value in saved['optimizer']['state'].items():
            assert torch.equal(momenta[key]['momentum_buffer'], value['momentum_buffer'])
        for name in names:
            if 'running' not in name and 'batches' not in name:
                assert torch.equal(end['state'][name], ends[0][1]['state'][name]), name
                assert not torch.equal(end['state'][name], saved_state[name]), name
