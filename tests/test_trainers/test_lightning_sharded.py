"""Lightning's ModelParallelStrategy (FSDP2), on two processes."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import torch
from helpers import Conv3dNet, ranks, two_ranks
from torch import Tensor

pytest.importorskip('lightning', reason='needs adv_plugins[trainers]')
pytest.importorskip('torch', minversion='2.13', reason='the step under FSDP2 needs it')

from lightning.pytorch.strategies import ModelParallelStrategy  # noqa: E402
from test_lightning import Module, fit  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_model_state_dict,
)
from torch.distributed.fsdp import fully_shard  # noqa: E402

from adv_plugins import AdvProp, adversarial_state_dict, make_adversarial  # noqa: E402
from adv_plugins.core.sharding import is_sharded  # noqa: E402
from adv_plugins.integrations.lightning import AdversarialCallback  # noqa: E402

RECIPE = AdvProp(steps=1, random_start=True, interval=2)


class Sharded(Module):
    """Shards its network where Lightning says."""

    start: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        mesh = self.device_mesh['data_parallel']
        fully_shard(self.net.layer4, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def on_train_start(self) -> None:
        self.start = copy.deepcopy(whole_state(self))


class Late(Sharded):
    """Builds its network there, too, and so converts it itself."""

    def __init__(self, net: Any) -> None:
        super().__init__(torch.nn.Identity())
        self.late = [net]

    def configure_model(self) -> None:
        self.net = make_adversarial(self.late.pop(), RECIPE)
        super().configure_model()


def whole_state(module: Module) -> dict[str, Tensor]:
    """The whole parameters and the adversarial state; each process has to call this.

    Without the clean statistics: each process has its own, and any one's are saved.
    """
    plain = get_model_state_dict(module.net, options=StateDictOptions(full_state_dict=True))
    parameters = {name: plain[name] for name, _ in module.net.named_parameters() if name in plain}
    return parameters | adversarial_state_dict(module.net)


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def rank_fit(rank: int, module: Module, folder: str, world: int = 2, **changes: Any) -> Any:
    """Train in one process, told what torchrun would tell it."""
    os.environ |= dict(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        GROUP_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='0', TORCHELASTIC_RUN_ID='test',
    )  # fmt: skip
    if 'strategy' not in changes:
        changes['strategy'] = ModelParallelStrategy(world, 1)
    callback = AdversarialCallback(None if isinstance(module, Late) else RECIPE)
    return fit(module, folder, callback, devices=world, **changes)


def train(rank: int, folder: str, net: Conv3dNet) -> None:
    # FSDP2 averages the gradients of whatever calls the model.
    warnings.filterwarnings('error', 'adversarial_loss was not called by')
    torch.manual_seed(rank)
    plain, sharded, late = (kind(copy.deepcopy(net)) for kind in (Module, Sharded, Late))
    rank_fit(rank, plain, folder, strategy='ddp')
    rank_fit(rank, sharded, folder).save_checkpoint(f'{folder}/half')
    rank_fit(rank, late, folder)
    assert is_sharded(sharded.net) and is_sharded(late.net)
    states = [whole_state(module) for module in (plain, sharded, late)]
    for name, _ in plain.net.named_parameters():
        assert torch.equal(states[0][name], states[1][name]), name
        assert torch.equal(states[0][name], states[2][name]), name

    whole, resumed = Sharded(copy.deepcopy(net)), Sharded()
    rank_fit(rank, whole, folder, max_epochs=3)
    torch.manual_seed(7)
    rank_fit(rank, resumed, folder, max_epochs=3, ckpt_path=f'{folder}/half')
    states += [whole_state(whole), whole_state(resumed)]
    if rank == 0:
        # The adversarial statistics are saved by this process.
        assert_equal(*states[-2:])
        torch.save(states[1], f'{folder}/half.pt')


def resume(rank: int, folder: str) -> None:
    module = Sharded()
    rank_fit(rank, module, folder, 1, max_epochs=3, ckpt_path=f'{folder}/half')
    assert_equal(torch.load(f'{folder}/half.pt'), module.start)


def test_sharded_is_ddp_and_resumes_on_any_number_of_processes(tmp_path):
    two_ranks(train, str(tmp_path), Conv3dNet())
    ranks(1, resume, str(tmp_path))
