"""The plain loop under FSDP2: examples/trainers/fsdp2.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ranks, two_ranks
from torch import Tensor

from adv_plugins import adversarial_state_dict, load_adversarial_state_dict, make_adversarial

pytest.importorskip('torch', minversion='2.13', reason='the step under FSDP2 needs it')

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples/trainers'
sys.path.insert(0, str(EXAMPLES))

import fsdp2  # noqa: E402


def run(rank: int, world: int, *arguments: str) -> None:
    """The script in one process of torchrun's."""
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    fsdp2.main(arguments)


def tensors(entry: Any, name: str = '') -> dict[str, Tensor]:
    """All tensors in nested dicts."""
    if isinstance(entry, dict):
        parts = (tensors(value, f'{name}/{key}') for key, value in entry.items())
        return {key: value for part in parts for key, value in part.items()}
    return {name: entry} if isinstance(entry, Tensor) else {}


def test_a_run_ends_alike_in_one_go_and_resumed_and_goes_on_in_one_process(tmp_path):
    whole, half, again, more = (str(tmp_path / f'{name}.pt') for name in 'abcd')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    told = subprocess.run(
        [*command, EXAMPLES / 'fsdp2.py', '--steps=4', '--out', whole],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.count('accuracy') == 1
    assert 'gradients are not averaged' not in told.stderr

    two_ranks(run, 2, '--steps=2', '--out', half)
    two_ranks(run, 2, '--steps=4', '--resume', half, '--out', again)
    first, second = (tensors(torch.load(file)) for file in (whole, again))
    assert first.keys() == second.keys()
    assert any('exp_avg' in name and 'adv_weight' in name for name in first)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

    ranks(1, run, 1, '--steps=5', '--resume', whole, '--out', more)
    entries = torch.load(more)
    assert entries['adversarial']['adversary.iteration'] == entries['step'] == 5
    # A plain file, for a model that is whole.
    net = fsdp2.VideoNet()
    net.load_state_dict(entries['weights'])
    load_adversarial_state_dict(make_adversarial(net, 'advprop'), entries['adversarial'])
    assert not torch.equal(net.blocks[0].bn.adv_weight, net.blocks[0].bn.weight)
    assert adversarial_state_dict(net).keys() == entries['adversarial'].keys()
