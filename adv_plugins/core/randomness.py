"""Private random streams, so that an attack leaves the global random state unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

RandomState = list[tuple[torch.Generator, Tensor]]


def stream_seed(seed: int, iteration: int = 0) -> int:
    """The seed of an iteration's private stream, a function of seed, iteration and rank only."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    step = (iteration + 1) * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03
    return (seed + step) % 2**63


@contextmanager
def private_random(device: torch.device, seed: int) -> Iterator[None]:
    """Use a private random stream inside the ``with`` block, and restore the global state after it.

    Args:
        device (torch.device): The device of the forwards. The CPU's stream is replaced as well.
        seed (int): The seed of the stream.
    """
    generators = _generators(device)
    devices = [generator.device for generator in generators if generator.device.type == 'cuda']
    with torch.random.fork_rng(devices=devices):
        for generator in generators:
            generator.manual_seed(seed)
        yield


def random_state(device: torch.device) -> RandomState:
    """The state of the random streams that a forward on a device uses."""
    return [(generator, generator.get_state()) for generator in _generators(device)]


def set_random_state(state: RandomState) -> None:
    """Restore a state from :func:`random_state`."""
    for generator, value in state:
        generator.set_state(value)


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type == 'cuda':
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators
