"""Fixtures that the tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import NUM_CLASSES, Conv3dNet, runner_config
from torch import Tensor

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def net() -> Conv3dNet:
    return Conv3dNet()


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    """Clips (B, C, T, H, W) and labels."""
    return torch.randn(5, 3, 4, 6, 6), torch.randint(NUM_CLASSES, (5,))


@pytest.fixture
def train(tmp_path: Any) -> Any:
    """Train a config in ``tmp_path / name``; returns the runner."""

    def run(name: str = 'run', **changes: Any) -> Any:
        from mmengine.runner import Runner

        runner = Runner.from_cfg(runner_config(tmp_path / name, **changes))
        runner.train()
        return runner

    return run
