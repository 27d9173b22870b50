"""Training a net of the studies: the base, and the fine-tuning of every arm from it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clips import Clips, augment

BATCH = 16


def fit(
    net: nn.Module,
    clips: Clips,
    flipped_labels: Tensor,
    epochs: int,
    rate: Callable[[float], float],
    seed: int,
) -> None:
    """Train a net, plain or converted, with SGD; the order and the crops depend on the seed alone.

    Args:
        net (nn.Module): The net.
        clips (Clips): The training clips.
        flipped_labels (Tensor): The label of each class's mirror image.
        epochs (int): Number of epochs.
        rate (Callable): The learning rate at a fraction of the training, 0 to 1.
        seed (int): Seed of order, crops and dropout.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), 1.0, momentum=0.9, weight_decay=5e-4)
    frames, steps = clips.inputs(), len(clips) // BATCH
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(clips), generator=generator)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            x, y = augment(frames[chosen], clips.labels[chosen], flipped_labels, generator)
            optimizer.param_groups[0]['lr'] = rate((epoch + step / steps) / epochs)
            optimizer.zero_grad()
            if hasattr(net, 'adversarial_loss'):
                loss = net.adversarial_loss(x, y)['loss']
            else:
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
