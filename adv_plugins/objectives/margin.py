"""The margin between the true class and the best other one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.checks import check_choice
from ..core.objectives import Objective, register_objective
from ..core.record import IGNORED, Record
from .scores import logits_ratio, margins


@register_objective
@dataclass(frozen=True, kw_only=True, repr=False)
class Margin(Objective):
    """The best other score minus that of the label: positive where the model is fooled.

    Args:
        kind (str): ``'cw'``, the difference of the scores (Carlini & Wagner, S&P 2017); or
            ``'dlr'``, the difference relative to the gap between the first and the third score, so
            that the scale of the scores does not matter (Croce & Hein, ICML 2020), which needs 3
            classes. Defaults to ``'cw'``.
    """

    kind: str = 'cw'

    def __post_init__(self) -> None:
        check_choice('kind', self.kind, ('cw', 'dlr'))

    def targets(self, record: Record) -> Tensor:
        """The true labels, shape (B,); a sample that the loss leaves out is not attacked."""
        return record.hard_labels('the objective Margin')

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """One value per sample, shape (B,)."""
        assert targets is not None
        logits, labels = record.logits, targets.clamp(min=0)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        value = -margins(logits, labels) if self.kind == 'cw' else logits_ratio(logits, labels)
        return torch.where(targets == IGNORED, 0, value)
