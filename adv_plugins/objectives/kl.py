"""How far an attack moves the model's predictions: as its objective, and as a penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.objectives import Objective, register_objective
from ..core.record import IGNORED, Record
from ..core.regularizers import Regularizer, register_regularizer
from .scores import divergence, log_probabilities


@register_objective
@dataclass(frozen=True, kw_only=True, repr=False)
class KL(Objective):
    """KL(p(x) ‖ p(x')), how far the prediction moves from the clean one, as in TRADES.

    It needs no labels. Its gradient is zero at the clean input, so write ``random_start=True``.

    Args:
        multilabel (bool): Whether a sample may have several labels, so that p is a sigmoid for each
            class instead of a softmax over all. Defaults to False.
    """

    multilabel: bool = False

    compares: ClassVar[bool] = True

    def targets(self, record: Record) -> Tensor:
        """The clean log-probabilities, which the attack holds constant."""
        return _predictions(record, 'the objective KL', self.multilabel).detach()

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """One value per sample, shape (B,)."""
        assert targets is not None
        return divergence(targets, log_probabilities(record.logits, self.multilabel))


@register_regularizer
@dataclass(frozen=True, kw_only=True, repr=False)
class PredictionKL(Regularizer):
    """The mean of KL(p(x) ‖ p(x')) over the batch; the gradient flows through both predictions.

    Args:
        weight (float): Its weight: β of TRADES, λ of MART. Defaults to 6.0.
        misclassified (bool): Whether a sample counts by 1 - p_y(x), i.e. the more, the less the
            model is sure of its label y, as in MART. That needs one label a sample, and only
            samples with one count. Defaults to False.
        multilabel (bool): See :class:`KL`. Defaults to False.

    Raises:
        ValueError: The weight is negative or not finite, or both flags are set.
    """

    weight: float = 6.0
    misclassified: bool = False
    multilabel: bool = False

    name: ClassVar[str] = 'prediction_kl'

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f'weight={self.weight} must be finite and not negative')
        if self.misclassified and self.multilabel:
            raise ValueError(
                'misclassified=True needs one label a sample, and multilabel=True says that there '
                'may be several; write one of them'
            )

    def __call__(self, clean: Record, adversarial: Record) -> Tensor:
        """The penalty, a scalar."""
        before = _predictions(clean, 'PredictionKL', self.multilabel)
        after = log_probabilities(adversarial.class_scores('PredictionKL'), self.multilabel)
        moved = divergence(before, after)
        if not self.misclassified:
            return moved.mean()
        labels = clean.hard_labels('PredictionKL(misclassified=True)')
        counted, chosen = labels != IGNORED, labels.clamp(min=0)[:, None]
        doubt = 1 - before[:, 0].gather(1, chosen).squeeze(1).exp()
        return (moved * doubt)[counted].mean()


def _predictions(record: Record, purpose: str, multilabel: bool) -> Tensor:
    """The log-probabilities of a record, after checking that they are what the model predicts.

    Raises:
        ValueError: There are no class scores, or a softmax over them means nothing.
    """
    logits, labels = record.class_scores(purpose), record.labels
    several = False
    if labels is not None and logits.shape[1] > 1 and labels.shape == logits.shape:
        sums = labels.sum(dim=1, dtype=torch.float32)
        several = bool((sums - 1).abs().gt(1e-2).any())
    if not multilabel and (several or logits.shape[1] < 2):
        what = 'samples have several labels' if several else 'the model gives a single score'
        raise ValueError(
            f'{purpose} compares probabilities of classes that exclude each other, but {what}; '
            'write multilabel=True'
        )
    return log_probabilities(logits, multilabel)
