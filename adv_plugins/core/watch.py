"""Noticing a run that trains nothing adversarial although it was announced."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .norm import auxiliary_parameters
from .sharding import local, shards

_PATIENCE = 3
"""Training forwards without the step before that is told: a few may well be meant."""


class BypassWatch:
    """Warns if a converted model trains, but not through the step."""

    def __init__(self) -> None:
        self._forwards = 0
        self._stopped = False

    def stop(self) -> None:
        """The step, or its attack, was called."""
        self._stopped = True

    def note(self, call: str) -> None:
        """Count a training forward that is no part of a step; ``call`` is what takes one."""
        if self._stopped:
            return
        self._forwards += 1
        if self._forwards == _PATIENCE:
            self.stop()
            warnings.warn(
                f'{_PATIENCE} training forwards, and none of them adversarial: they took the clean '
                f'path, as if the model was not converted. To train it with the recipe call {call}',
                stacklevel=4,
            )


class OptimizerWatch:
    """Warns if an optimizer trains the clean norms and none of the auxiliary ones.

    The values after an adversarial step, and when an optimizer has stepped, show which it has.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Parameter, Tensor]] = []
        self._twins: list[tuple[nn.Parameter, Tensor]] = []
        self._settled = False

    def note(self, model: nn.Module) -> None:
        """An adversarial step was taken, so all auxiliary parameters are about to be trained."""
        if self._settled or self._before:
            return
        # An optimizer has the shards of a sharded model.
        with shards(model):
            for clean, twin in auxiliary_parameters(model):
                if twin.requires_grad:
                    self._before.append((clean, clean.detach().clone()))
                    self._twins.append((twin, twin.detach().clone()))

    def look(self) -> None:
        """See whether an optimizer has stepped since, and on what."""
        trained, moved = _changed(self._before), _changed(self._twins)
        if not any(trained) and not any(moved):
            return
        # An optimizer that has a parameter also drops its gradient.
        kept = [not any(moved) or _has_gradient(twin) for twin, _ in self._twins]
        lost = sum(t and k and not m for t, m, k in zip(trained, moved, kept, strict=True))
        self._before, self._twins, self._settled = [], [], True
        if lost:
            warnings.warn(
                f'an optimizer trains {lost} parameters of the norms, but none trains their '
                'auxiliary twins: it was built before make_adversarial. Build it afterwards, from '
                'model.parameters(), or call optimizer.add_param_group(dict(params=[value for '
                "name, value in model.named_parameters() if name.rpartition('.')[2].startswith("
                "'adv_')]))",
                stacklevel=4,
            )


def _changed(values: Sequence[tuple[Tensor, Tensor]]) -> list[bool]:
    # By value, because fused optimizers do not raise the version of what they write.
    return [not torch.equal(local(now), local(before)) for now, before in values]


def _has_gradient(value: Tensor) -> bool:
    return value.grad is not None and bool(local(value.grad).any())
