"""What a sweep knows of a model: how it is built, fed and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins.core.conversion import is_adversarial

CLASSES = 5
Losses = Mapping[str, Tensor]


def plain_losses(model: nn.Module, inputs: Any, target: Any) -> Losses:
    """The losses of a classifier that returns its class scores."""
    if is_adversarial(model):
        return model.adversarial_loss(inputs, target)
    return {'loss': F.cross_entropy(model(inputs), target)}


def as_is(value: Any) -> Any:
    """What a model takes, where it takes clips (B, C, T, H, W) or images, and labels."""
    return value


@dataclass(frozen=True)
class Entry:
    """A model of a zoo.

    Args:
        build (Callable): Builds it, with random weights.
        shape (tuple[int, ...]): One sample: a clip (C, T, H, W), an image (C, H, W) or a wave.
        recipes (tuple[str, ...]): The recipes that are tried on it.
        feed (Callable): Makes the inputs of its ``forward`` from a batch of samples. Defaults to
            leaving it as it is.
        target (Callable): Makes what its loss takes from labels, likewise.
        losses (Callable): The losses of a training step, plain or converted.
        options (Mapping[str, Any]): What ``make_adversarial`` has to be told. Defaults to nothing.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    recipes: tuple[str, ...]
    feed: Callable[[Tensor], Any] = as_is
    target: Callable[[Tensor], Any] = as_is
    losses: Callable[[nn.Module, Any, Any], Losses] = plain_losses
    options: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """The model in training mode, always with the same weights, and nothing left to chance.

        Weights that start at zero would hide the layers in front of them, and stochastic depth
        leaves out layers that the attack goes through.
        """
        torch.manual_seed(0)
        model = self.build().train()
        for value in model.parameters():
            if not value.detach().count_nonzero():
                nn.init.normal_(value, std=0.02)
        for module in model.modules():
            for option in ('p', 'drop_prob', 'layerdrop'):
                if isinstance(getattr(module, option, None), float):
                    setattr(module, option, 0.0)
        return model


def total(losses: Losses) -> Tensor:
    """What a trainer differentiates: a classifier's total, or the sum of a recognizer's losses."""
    if 'clean_loss' in losses:
        return losses['loss']
    return sum(value for name, value in losses.items() if 'loss' in name)


def clean_part(losses: Losses) -> Tensor:
    """The clean losses of a step without regularizers, added up."""
    if 'clean_loss' in losses:
        return losses['clean_loss']
    return sum(v for name, v in losses.items() if 'loss' in name and not name.startswith('adv_'))
