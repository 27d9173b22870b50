"""The cross-entropy at the true label."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..core.objectives import Objective, register_objective
from ..core.record import IGNORED, Record


@register_objective
@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(Objective):
    """Cross-entropy of the logits at the true label, without other terms of the training loss."""

    def targets(self, record: Record) -> Tensor:
        """The true labels, shape (B,); a sample that the loss leaves out is not attacked."""
        return record.hard_labels('the objective CrossEntropy')

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """One value per sample, shape (B,)."""
        assert targets is not None
        logits = record.logits.float()
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='none')
