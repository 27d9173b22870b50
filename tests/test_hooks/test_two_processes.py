"""Two gloo processes: the hook rebuilds DDP, and both ranks stay bit-equal."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import runner_config
from torch import distributed as dist
from torch import multiprocessing as mp

pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')


def worker(rank: int, folder: str, hook: dict[str, Any], settings: dict[str, Any]) -> None:
    """Train on one of two ranks and write down what the rank ended with."""
    from mmengine.hooks import Hook
    from mmengine.model import MMDistributedDataParallel
    from mmengine.registry import HOOKS
    from mmengine.runner import Runner

    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    config = runner_config(f'{folder}/rank{rank}', custom_hooks=[hook], max_epochs=4)
    config.train_dataloader.batch_size = 2
    trace = []

    @HOOKS.register_module(force=True)
    class TraceTwin(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            twin = runner.model.module.backbone.layer4[0].conv1.bn.adv_weight
            trace.append(('adv_loss_cls' in outputs, twin.detach().clone()))

    config.custom_hooks.append(dict(type='TraceTwin', _scope_='mmengine'))
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
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('hook', 'settings'),
    [
        (dict(type='TAFHook', interval=1), {}),
        (dict(type='TAFHook', interval=2), {}),
        (dict(type='TAFHook', interval=2), dict(find_unused_parameters=True)),
        (dict(type='TAFHook', begin=2), dict(gradient_as_bucket_view=True)),
    ],
    ids=str,
)
def test_ranks_stay_bit_equal(tmp_path, hook, settings):
    os.environ['OMP_NUM_THREADS'] = '1'
    mp.spawn(worker, (str(tmp_path), hook, settings), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    twins = [name for name in first['parameters'] if 'adv_' in name]
    assert len(twins) == 40
    for name, value in first['parameters'].items():
        assert torch.equal(value, second['parameters'][name]), name
    for name in twins:
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
