"""GAP, PERR, Hit@1 and mAP of multi-label predictions, as YouTube-8M defines them.

The functions on (N, C) arrays and the streaming :class:`adv_plugins.evaluation.YT8MMetric` both
use :class:`adv_plugins.evaluation.RankingSummary`, so they agree to the last bit.

Equal scores are always treated alike. Within a video, the class with the lower index comes first.
Between videos, GAP and mAP take the expectation over all orders of equal scores, which makes them
independent of the order of the videos.
"""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor

from .ranking_summary import RankingSummary


def global_average_precision(
    scores: ArrayLike | Tensor, labels: ArrayLike | Tensor, top_k: int = 20
) -> float:
    """GAP@k: average precision of the pooled ``top_k`` predictions of all videos.

    Recall counts every label of every video, also those outside its video's ``top_k``.
    (YouTube-8M, arXiv 1609.08675; the evaluation of google/youtube-8m.)

    Args:
        scores (array or Tensor): Probabilities, shape (N, C).
        labels (array or Tensor): 1 where a video has a label and 0 elsewhere, shape (N, C).
        top_k (int): Predictions kept per video. Defaults to 20.

    Returns:
        float: Between 0 and 1; NaN if no video has a label.

    Raises:
        ValueError: Scores are NaN or no probabilities, labels are not binary, or shapes differ.

    Example:
        >>> scores = np.array([[0.9, 0.8, 0.1]])
        >>> global_average_precision(scores, np.array([[1, 0, 1]]))  # (1/1 + 2/3) / 2
        0.8333333333333333
    """
    return RankingSummary.from_scores(scores, labels, top_k).global_average_precision()


def precision_at_equal_recall_rate(scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """PERR: precision of a video's n best predictions, for its n labels; mean of videos.

    A prediction of exactly 0 is never a hit, and a video without labels counts 0.
    (YouTube-8M, arXiv 1609.08675; the evaluation of google/youtube-8m.)

    Args:
        scores (array or Tensor): Probabilities, shape (N, C).
        labels (array or Tensor): 1 where a video has a label and 0 elsewhere, shape (N, C).

    Returns:
        float: Between 0 and 1.

    Raises:
        ValueError: Scores are NaN or no probabilities, labels are not binary, or shapes differ.
    """
    return RankingSummary.from_scores(scores, labels).precision_at_equal_recall_rate()


def hit_at_one(scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """Hit@1: the share of videos whose best prediction is one of their labels.

    Of equal best predictions that of the first class counts; a video without labels is no hit.
    (YouTube-8M, arXiv 1609.08675; the evaluation of google/youtube-8m.)

    Args:
        scores (array or Tensor): Probabilities, shape (N, C).
        labels (array or Tensor): 1 where a video has a label and 0 elsewhere, shape (N, C).

    Returns:
        float: Between 0 and 1.

    Raises:
        ValueError: Scores are NaN or no probabilities, labels are not binary, or shapes differ.
    """
    return RankingSummary.from_scores(scores, labels, top_k=1).hit_at_one()


def mean_average_precision(
    scores: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    top_k: int = 20,
    classes: str = 'present',
) -> float:
    """mAP: average precision per class among the videos' ``top_k`` predictions; mean of classes.

    A label outside its video's ``top_k`` is a miss; with ``top_k=C`` all predictions are ranked.

    Args:
        scores (array or Tensor): Probabilities, shape (N, C).
        labels (array or Tensor): 1 where a video has a label and 0 elsewhere, shape (N, C).
        top_k (int): Predictions kept per video. Defaults to 20.
        classes (str): ``'present'`` averages over the classes that occur among the labels, as
            google/youtube-8m does; ``'all'`` over all C, with 0 for the others, as TensorFlow's
            Model Garden does. Defaults to ``'present'``.

    Returns:
        float: Between 0 and 1; NaN if no class is present.

    Raises:
        ValueError: Scores are NaN or no probabilities, labels are not binary, shapes differ, or
            ``classes`` is unknown.
    """
    return RankingSummary.from_scores(scores, labels, top_k).mean_average_precision(classes)
