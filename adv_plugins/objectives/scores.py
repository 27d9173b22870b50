"""Functions of class scores, one value a sample, as pure tensor functions.

Attacks raise them, in training and in an evaluation: the higher, the nearer the model is to being
fooled. ``margins`` alone falls.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Score of the true class minus the best other one: negative where the model is fooled.

    A tie does not count as fooled. Neither does a NaN among the scores, which makes the margin
    NaN: breaking a model is not fooling it.

    Args:
        logits (Tensor): Logits or log-probabilities, shape (B, C).
        labels (Tensor): True classes, integers of shape (B,).

    Returns:
        Tensor: Shape (B,).

    Raises:
        ValueError: There is no other class.
    """
    if logits.shape[1] < 2:
        raise ValueError(f'a margin needs at least 2 classes, got scores {tuple(logits.shape)}')
    own, others = _own_and_others(logits, labels)
    return own - others.amax(dim=1)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-odds ``v`` against the true class, which attacks raise in place of cross-entropy.

    The cross-entropy is ``softplus(v)``: it rises with ``v``, and its gradient has the same
    direction, which is all that an attack uses. But ``v`` neither saturates nor rounds to 0 where
    the model is confident.

    Args:
        logits (Tensor): Logits or log-probabilities, shape (B, C).
        labels (Tensor): True classes, integers of shape (B,).

    Returns:
        Tensor: Shape (B,).
    """
    own, others = _own_and_others(logits, labels)
    return others.logsumexp(dim=1) - own


def logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """DLR: the negative margin over the gap between first and third (Auto-PGD paper, eq. 6).

    Args:
        logits (Tensor): Logits or log-probabilities, shape (B, C).
        labels (Tensor): True classes, integers of shape (B,).

    Returns:
        Tensor: Shape (B,).

    Raises:
        ValueError: There are fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"DLR needs at least 3 classes, the model has {logits.shape[1]}; write loss='ce', or "
            "kind='cw' for the objective Margin"
        )
    top = logits.topk(3, dim=1).values
    return -margins(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR: the score of a wrong class against that of the true one, over a gap of scores.

    The gap is that between the first and the mean of third and fourth (Croce & Hein, ICML 2020,
    arXiv 2003.01690, eq. 7).

    Args:
        logits (Tensor): Logits or log-probabilities, shape (B, C).
        labels (Tensor): True classes, integers of shape (B,).
        targets (Tensor): The classes to go to, integers of shape (B,).

    Returns:
        Tensor: Shape (B,).

    Raises:
        ValueError: There are fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(
            f'targeted DLR needs at least 4 classes, the model has {logits.shape[1]}; take DLR for '
            '3, and the cross-entropy for 2'
        )
    top = logits.topk(4, dim=1).values
    own, aim = (logits.gather(1, index[:, None]).squeeze(1) for index in (labels, targets))
    return (aim - own) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def log_probabilities(logits: Tensor, multilabel: bool = False) -> Tensor:
    """The predictions of a batch, at least in float32.

    Args:
        logits (Tensor): Class scores, shape (B, C).
        multilabel (bool): Whether each class is a yes or no of its own (sigmoid), instead of one of
            classes that exclude each other (softmax). Defaults to False.

    Returns:
        Tensor: Log-probabilities: (B, 1, C), or with ``multilabel`` (B, C, 2).
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if multilabel:
        return torch.stack([F.logsigmoid(scores), F.logsigmoid(-scores)], dim=-1)
    return scores.log_softmax(dim=1)[:, None]


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(p ‖ p') of predictions from :func:`log_probabilities`, shape (B,).

    With several labels a sample it is the mean over the classes, as their cross-entropy is.
    """
    return (clean.exp() * (clean - adversarial)).sum(dim=-1).mean(dim=-1)


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of the true classes (B,), and all scores with those at -inf (B, C)."""
    column = labels[:, None]
    return logits.gather(1, column).squeeze(1), logits.scatter(1, column, -math.inf)
