"""Private random streams, so that an attack leaves the global random state unchanged.

The streams are those of PyTorch, of Python and of NumPy: speech models draw the masks of their
SpecAugment from the last.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist

RandomState = list[tuple[Callable[[Any], Any], Any]]
"""What puts each stream back, and its state."""


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
    kept = random_state(device)
    try:
        for generator in _generators(device):
            generator.manual_seed(seed)
        random.seed(seed)
        if (numpy := _numpy()) is not None:
            numpy.random.seed(seed % 2**32)
        yield
    finally:
        set_random_state(kept)


def random_state(device: torch.device) -> RandomState:
    """The state of the random streams that a forward on a device uses."""
    state: RandomState = [(stream.set_state, stream.get_state()) for stream in _generators(device)]
    state.append((random.setstate, random.getstate()))
    if (numpy := _numpy()) is not None:
        state.append((numpy.random.set_state, numpy.random.get_state()))
    return state


def set_random_state(state: RandomState) -> None:
    """Restore a state from :func:`random_state`."""
    for put_back, value in state:
        put_back(value)


def _numpy() -> Any:
    """NumPy, where anything has imported it: nothing else draws from it."""
    return sys.modules.get('numpy')


def _generators(device: torch.device) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.type == 'cuda':
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators
