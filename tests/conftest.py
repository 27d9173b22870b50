"""Fixtures that the tests share."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

# Fixtures import what they need: the controller of pytest-xdist runs no test, and needs no torch.
if TYPE_CHECKING:
    from helpers import Conv3dNet
    from torch import Tensor

# One core a test, and a test of two processes the same: pytest-xdist gives the other cores work.
os.environ['OMP_NUM_THREADS'] = '1'


def pytest_configure() -> None:
    """Let yapf, which mmengine imports, write its grammar files before there are several processes.

    The first import after an installation writes them in place: another process may read half.
    """
    with suppress(ImportError):
        import yapf  # noqa: F401


def pytest_collection_finish() -> None:
    """Modules and collected tests stay: each data set of mmengine would look through them again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def net() -> Conv3dNet:
    from helpers import Conv3dNet

    return Conv3dNet()


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    """Clips (B, C, T, H, W) and labels."""
    import torch
    from helpers import NUM_CLASSES

    return torch.randn(5, 3, 4, 6, 6), torch.randint(NUM_CLASSES, (5,))


@pytest.fixture
def train(tmp_path: Any) -> Any:
    """Train a config in ``tmp_path / name``; returns the runner."""

    def run(name: str = 'run', **changes: Any) -> Any:
        from helpers import runner_config
        from mmengine.runner import Runner

        runner = Runner.from_cfg(runner_config(tmp_path / name, **changes))
        runner.train()
        return runner

    return run
