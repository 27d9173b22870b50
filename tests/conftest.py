"""Fixtures that the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helpers import Conv3dNet
    from torch import Tensor
    from two_ranks import TwoRanks

# One core a test, and a test of two processes the same: pytest-xdist gives the other cores work.
os.environ['OMP_NUM_THREADS'] = '1'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker of pytest-xdist runs all tests of two processes, which are started once."""
    for item in items:
        if 'two_ranks' in getattr(item, 'fixturenames', ()):
            item.add_marker(pytest.mark.xdist_group('two_ranks'))


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


@pytest.fixture(scope='session')
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRanks]:
    """Call a function of a module as ``function(rank, *args)`` on two ranks of a gloo group."""
    from two_ranks import TwoRanks

    ranks = TwoRanks(tmp_path_factory.mktemp('two_ranks'))
    yield ranks
    ranks.close()
