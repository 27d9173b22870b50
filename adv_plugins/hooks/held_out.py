"""Data that a run does not train on, for what a recipe watches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..core.randomness import private_random


def first_batch(loader: DataLoader, model: nn.Module) -> tuple[Any, Any] | None:
    """Inputs and data samples of the first batch; None if its samples cannot be chosen."""
    if loader.batch_sampler is None:
        return None
    # Neither workers nor the run's random numbers are used for it.
    with private_random(torch.device('cpu'), seed=0):
        samples = [loader.dataset[index] for index in next(iter(loader.batch_sampler))]
        batch = model.data_preprocessor(loader.collate_fn(samples), training=False)
    return batch['inputs'], batch['data_samples']
