"""Leading the model to a wrong class of one's choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.checks import check_choice, is_integer
from ..core.functional import random_wrong_labels
from ..core.objectives import Objective, register_objective
from ..core.record import IGNORED, Record
from .scores import margins

_CHOICES = ('random', 'least_likely')


@register_objective
@dataclass(frozen=True, kw_only=True, repr=False)
class Targeted(Objective):
    """What a wrong class gains: its cross-entropy falls, or its margin over the others grows.

    Args:
        label (str | int): The class for each sample: ``'random'``, a wrong one, drawn anew at each
            iteration; ``'least_likely'``, the wrong one with the lowest clean score; or the index
            of a class, to which all samples of other classes are led. Defaults to ``'random'``.
        kind (str): ``'ce'``, minus the cross-entropy at that class; or ``'cw'``, its score minus
            the best other one. Defaults to ``'ce'``.
    """

    label: str | int = 'random'
    kind: str = 'ce'

    def __post_init__(self) -> None:
        check_choice('kind', self.kind, ('ce', 'cw'))
        if self.label not in _CHOICES and not (is_integer(self.label) and int(self.label) >= 0):
            raise ValueError(
                f"label={self.label!r} must be 'random', 'least_likely' or the index of a class"
            )

    def targets(self, record: Record) -> Tensor:
        """The classes to go to, shape (B,); a sample that the loss leaves out is not attacked.

        Raises:
            ValueError: There is no such class.
        """
        labels = record.hard_labels('the objective Targeted')
        scores = record.logits.detach()
        count = scores.shape[1]
        if self.label == 'random':
            chosen = random_wrong_labels(labels, count)
        elif self.label == 'least_likely':
            own = labels.clamp(min=0)[:, None]
            chosen = scores.scatter(1, own, torch.inf).argmin(dim=1)
        elif int(self.label) < count:
            chosen = torch.full_like(labels, int(self.label))
        else:
            raise ValueError(f'label={self.label} must lie in 0..{count - 1}, the classes')
        return torch.where((labels == IGNORED) | (chosen == labels), IGNORED, chosen)

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """One value per sample, shape (B,)."""
        assert targets is not None
        if self.kind == 'ce':
            logits = record.logits.to(torch.promote_types(record.logits.dtype, torch.float32))
            return -F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='none')
        return torch.where(targets == IGNORED, 0, margins(record.logits, targets.clamp(min=0)))
