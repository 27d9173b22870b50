"""A trained net that the tests of attacks share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attack_cases import smooth_net
from torch import Tensor, nn


@pytest.fixture(scope='module')
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A net that tells four noisy patterns apart, with images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        patterns = torch.rand(4, 3, 6, 6).double()
        labels = torch.arange(400) % 4
        noise = 0.25 * torch.randn(400, 3, 6, 6).double()
        x = (0.5 + 0.2 * (patterns[labels] - 0.5) + noise).clamp(0, 1)
        net = smooth_net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()
    net.zero_grad()
    right = net(x).argmax(1) == labels
    assert right.double().mean() > 0.9
    return net, x[right], labels[right]
