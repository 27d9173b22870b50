"""What an attack raises: one value a sample, the higher the nearer the model is to being fooled."""

from __future__ import annotations

import math

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
            f"loss='dlr' needs at least 3 classes, the model has {logits.shape[1]}; write loss='ce'"
        )
    top = logits.topk(3, dim=1).values
    return -margins(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES = {'ce': log_odds, 'dlr': logits_ratio}


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of the true classes (B,), and all scores with those at -inf (B, C)."""
    column = labels[:, None]
    return logits.gather(1, column).squeeze(1), logits.scatter(1, column, -math.inf)
