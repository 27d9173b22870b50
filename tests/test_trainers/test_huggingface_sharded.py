"""transformers.Trainer with FSDP2, on two processes.

accelerate shards on no CPU: it wraps in DDP, whatever is asked for. Here its state is told that the
run is one of FSDP2. From there on everything is Trainer's and accelerate's own.
"""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import pytest
import torch
from helpers import default_tier, ranks, two_ranks
from torch import Tensor, nn

transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
pytest.importorskip('accelerate', reason='needs adv_plugins[trainers]')
pytest.importorskip('torch', minversion='2.13', reason='the step under FSDP2 needs it')

from test_huggingface import Samples, trainer_for, videomae  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_model_state_dict,
)

from adv_plugins import (  # noqa: E402
    TAF,
    AdvProp,
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
)
from adv_plugins.core.sharding import is_sharded  # noqa: E402

DUAL = AdvProp(steps=1, dual_ln=True, interval=2)


def build(start: nn.Module, recipe: Any) -> nn.Module:
    torch.manual_seed(0)
    return make_adversarial(copy.deepcopy(start), recipe)


def rank_trainer(rank: int, model: nn.Module, folder: Any, world: int = 2, **changes: Any) -> Any:
    """Trainer of one process, told what torchrun would tell it; DDP unless ``fsdp`` is given."""
    fsdp = changes.pop('fsdp', None)
    os.environ |= dict(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1',
        MASTER_PORT='0', ACCELERATE_USE_CPU='true',
    )  # fmt: skip
    settings = dict(max_grad_norm=0.0, ddp_backend='gloo') | changes
    # Eight samples of which no process sees one twice.
    trainer = trainer_for(model, folder, Samples(model, 8), **settings)
    if fsdp is not None:
        from accelerate import PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        state = trainer.accelerator.state
        plugin = dict(state_dict_type='FULL_STATE_DICT', cpu_ram_efficient_loading=False) | fsdp
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy='transformer_based_wrap',
            transformer_cls_names_to_wrap=['VideoMAELayer'], **plugin,
        )  # fmt: skip
        PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
        trainer.is_fsdp_enabled = True
    return trainer


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """All that a model has, whatever it is sharded by; each process has to call this."""
    plain = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return plain | adversarial_state_dict(model)


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def run_both(
    rank: int, folder: str, start: nn.Module, recipe: Any, fsdp: Any, settings: Any
) -> None:
    # FSDP2 averages the gradients of whatever calls the model.
    warnings.filterwarnings('error', 'adversarial_loss was not called by')
    states = []
    for kind in (None, fsdp):
        model = build(start, recipe)
        if rank > 0 and kind and 'cpu_ram_efficient_loading' in kind:
            # Only the main process has read the weights, which become those of all.
            for value in model.parameters():
                value.data.fill_(torch.nan)
        rank_trainer(rank, model, folder, fsdp=kind, **settings).train()
        assert is_sharded(model) == (kind is not None)
        states.append(whole_state(model))
    assert_equal(*states)
    assert not torch.equal(states[0]['classifier.weight'], start.classifier.weight)


RUNS = {
    'from the meta device': (DUAL, dict(cpu_ram_efficient_loading=True), {}),
    'accumulated': (TAF(), {}, dict(gradient_accumulation_steps=2)),
    'plain': (DUAL, {}, {}),
    'checkpointed': (DUAL, dict(activation_checkpointing=True), {}),
    'begun late, evaluated': (
        AdvProp(steps=1, dual_ln=True, begin=2),
        {},
        dict(eval_strategy='steps', eval_steps=1),
    ),
}


@pytest.mark.parametrize('name', default_tier('from the meta device'.__eq__, RUNS))
def test_fsdp2_is_ddp(tmp_path, name):
    """All bits, of which rounding leaves some: the sum of two gradients has one order."""
    two_ranks(run_both, str(tmp_path), videomae().double(), *RUNS[name])


class Beginning(transformers.TrainerCallback):
    """Keeps what Trainer has loaded before the first step."""

    def on_train_begin(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.state = copy.deepcopy(whole_state(model))


def save_and_resume(rank: int, folder: str, start: nn.Module, fsdp: dict[str, Any]) -> None:
    saving = dict(save_strategy='steps', save_steps=2, fsdp=fsdp)
    whole = build(start, DUAL)
    rank_trainer(rank, whole, folder, **saving).train()
    expected = whole_state(whole)
    other = build(videomae(), DUAL)
    torch.manual_seed(7)
    rank_trainer(rank, other, folder, **saving).train(f'{folder}/checkpoint-2')
    assert_equal(expected, whole_state(other))
    assert expected['adversary.iteration'] == 4
    plain = get_model_state_dict(whole, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        torch.save(expected, f'{folder}/whole.pt')
        # Nobody else is here.
        with pytest.warns(UserWarning, match='in all processes: state = adversarial_state_dict'):
            whole.save_pretrained(f'{folder}/by_hand', state_dict=plain)


def resume(rank: int, world: int, folder: str, step: int, fsdp: dict[str, Any]) -> None:
    begun = Beginning()
    settings = dict(save_strategy='steps', save_steps=1, max_steps=step + 1, fsdp=fsdp)
    trainer = rank_trainer(rank, build(videomae(), DUAL), folder, world, **settings)
    trainer.add_callback(begun)
    trainer.train(f'{folder}/checkpoint-{step}')
    assert is_sharded(trainer.model)
    end = whole_state(trainer.model)
    if rank == 0:
        torch.save((begun.state, end), f'{folder}/{world}.pt')


@pytest.mark.parametrize(
    'kind', default_tier('FULL_STATE_DICT'.__eq__, ['FULL_STATE_DICT', 'SHARDED_STATE_DICT'])
)
def test_checkpoints_resume(tmp_path, kind):
    fsdp, folder = dict(state_dict_type=kind), str(tmp_path)
    two_ranks(save_and_resume, folder, videomae(), fsdp)
    if kind == 'SHARDED_STATE_DICT':
        return
    whole = torch.load(tmp_path / 'whole.pt')
    ranks(1, resume, 1, folder, 4, fsdp)
    ranks(2, resume, 2, folder, 5, fsdp)
    alone, together = (torch.load(tmp_path / f'{count}.pt') for count in (1, 2))
    assert_equal(whole, alone[0])
    assert_equal(alone[1], together[0])
    assert together[1]['adversary.iteration'] == 6

    # And it is the checkpoint of a model that was never sharded.
    saved = type(videomae()).from_pretrained(tmp_path / 'checkpoint-4')
    model = make_adversarial(saved, DUAL)
    load_adversarial_state_dict(model, torch.load(tmp_path / 'checkpoint-4/adversarial.pt'))
    assert_equal(whole, {**model.state_dict(), **adversarial_state_dict(model)})
