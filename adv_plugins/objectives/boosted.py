"""The margin that MART's boosted cross-entropy adds to the cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.record import IGNORED, Record
from ..core.regularizers import Regularizer, register_regularizer
from .scores import log_probabilities


@register_regularizer
@dataclass(frozen=True, kw_only=True, repr=False)
class BoostedMargin(Regularizer):
    """-log(1 - max_{k≠y} p_k(x')), the mean over the samples with a label (MART).

    Together with the cross-entropy of x' it is MART's boosted cross-entropy.

    Args:
        weight (float): Its weight. Defaults to 1.0.

    Raises:
        ValueError: The weight is negative or not finite.
    """

    weight: float = 1.0

    name: ClassVar[str] = 'boosted_margin'

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f'weight={self.weight} must be finite and not negative')

    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The penalty, a scalar."""
        labels = adversarial.hard_labels('BoostedMargin')
        counted = labels != IGNORED
        scores = log_probabilities(adversarial.logits)[:, 0][counted]
        wrong = scores.scatter(1, labels[counted, None], -math.inf).argmax(dim=1, keepdim=True)
        # The sum over all other classes: 1 - p would round to 0 where the model is sure.
        return -scores.scatter(1, wrong, -math.inf).logsumexp(dim=1).mean()
