"""Private random streams: what an attack draws leaves the global streams as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

RandomState = list[tuple[torch.Generator, Tensor]]


def stream_seed(seed: int, iteration: int = 0) -> int:
    """Where the private stream of an iteration starts: of seed, iteration and rank alone."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    step = (iteration + 1) * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03
    return (seed + step) % 2**63


@contextmanager
def private_random(device: torch.device, seed: int) -> Iterator[None]:
    """Let everything inside draw from a stream of ``seed`` alone.

    Args:
        device (torch.device): Where forwards run; beside it the CPU's stream is set aside.
        seed (int): Where the stream starts.
    """
    generators = _generators(device)
    devices = [generator.device for generator in generators if generator.device.type == 'cuda']
    with torch.random.fork_rng(devices=devices):
        for generator in generators:
            generator.manual_seed(seed)
        yield


def random_state(device: torch.device) -> RandomState:
    """The state of the streams that a forward on a device draws from."""
    return [(generator, generator.get_state()) for generator in _generators(device)]


def set_random_state(state: RandomState) -> None:
    """Put back what :func:`random_state` gave."""
    for generator, value in state:
        generator.set_state(value)


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type == 'cuda':
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators
