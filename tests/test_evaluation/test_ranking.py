"""Ranking metrics against cases done by hand and a slow version that takes item by item."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adv_plugins.evaluation.ranking import (
    RankingSummary,
    global_average_precision,
    hit_at_one,
    mean_average_precision,
    precision_at_equal_recall_rate,
)


def videos(
    seed: int, num: int = 200, classes: int = 30, density: float = 0.1, dtype: Any = np.float32
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores without ties that know something of the labels; some videos have no label."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num, classes)) < density).astype(np.float32)
    grid = rng.permutation(num * classes).reshape(num, classes) / (num * classes)
    return (0.6 * grid + 0.4 * labels * rng.random()).astype(dtype), labels


def average_precision(items: list[tuple[float, int]], positives: int) -> float:
    """Of (score, label) pairs; what counts is the order after a stable sort by score."""
    hits, total = 0, 0.0
    for rank, (_, label) in enumerate(sorted(items, key=lambda item: -item[0]), start=1):
        if label:
            hits += 1
            total += hits / rank
    return total / positives if positives else 0.0


def slow(scores: NDArray[Any], labels: NDArray[Any], top_k: int = 20) -> dict[str, float]:
    """All metrics video by video, class by class and item by item, in Python floats."""
    num, classes = scores.shape
    hits = perr = 0.0
    pool: list[tuple[float, int]] = []
    per_class: list[list[tuple[float, int]]] = [[] for _ in range(classes)]
    positives = [0] * classes
    for row, truth in zip(scores.tolist(), labels.astype(int).tolist(), strict=True):
        ranking = sorted(range(classes), key=lambda c: -row[c])
        hits += truth[ranking[0]]
        n = sum(truth)
        if n:
            perr += sum(truth[c] for c in ranking[:n] if row[c] > 0) / n
        for c in ranking[:top_k]:
            pool.append((row[c], truth[c]))
            per_class[c].append((row[c], truth[c]))
        for c in range(classes):
            positives[c] += truth[c]
    by_class = [average_precision(per_class[c], positives[c]) for c in range(classes)]
    present = [value for value, n in zip(by_class, positives, strict=True) if n]
    return {
        'GAP': average_precision(pool, sum(positives)),
        'PERR': perr / num,
        'Hit@1': hits / num,
        'mAP': sum(present) / len(present),
        'mAP all': sum(by_class) / classes,
    }


def fast(scores: Any, labels: Any, top_k: int = 20) -> dict[str, float]:
    return {
        'GAP': global_average_precision(scores, labels, top_k),
        'PERR': precision_at_equal_recall_rate(scores, labels),
        'Hit@1': hit_at_one(scores, labels),
        'mAP': mean_average_precision(scores, labels, top_k),
        'mAP all': mean_average_precision(scores, labels, top_k, classes='all'),
    }


@pytest.mark.parametrize(
    ('num', 'classes', 'density', 'top_k'),
    [
        (200, 30, 0.1, 20),
        (1, 30, 0.1, 20),
        (300, 7, 0.3, 20),  # fewer classes than top_k
        (100, 50, 0.7, 20),  # more labels than top_k in most videos
        (400, 300, 0.01, 5),  # class ids need 16 bits; classes without any label
        (50, 1, 0.5, 20),
        (100, 40, 0.1, 1),
    ],
)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_equals_item_by_item(
    num: int, classes: int, density: float, top_k: int, dtype: Any
) -> None:
    for seed in range(3):
        scores, labels = videos(seed, num, classes, density, dtype)
        if labels.any():
            assert fast(scores, labels, top_k) == pytest.approx(
                slow(scores, labels, top_k), abs=1e-9
            )


def test_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]])
    labels = np.array([[1, 0, 1], [0, 0, 1]])
    # Pooled: 0.9 + | 0.8 - | 0.7 - | 0.6 + | 0.2 - | 0.1 +
    assert global_average_precision(scores, labels) == pytest.approx((1 + 2 / 4 + 3 / 6) / 3)
    assert global_average_precision(scores, labels, top_k=2) == pytest.approx((1 + 2 / 4) / 3)
    assert precision_at_equal_recall_rate(scores, labels) == pytest.approx((1 / 2 + 0) / 2)
    assert hit_at_one(scores, labels) == 0.5
    # Class 0: 0.9 + | 0.2 -. Class 2: 0.6 + | 0.1 +. Class 1 has no label.
    assert mean_average_precision(scores, labels) == pytest.approx((1 + 1) / 2)
    assert mean_average_precision(scores, labels, classes='all') == pytest.approx(2 / 3)
    # Among the best two of each video, class 2 keeps one of its two labels.
    assert mean_average_precision(scores, labels, top_k=2) == pytest.approx((1 + 1 / 2) / 2)


def test_gap_does_not_threshold_and_perr_does() -> None:
    scores, labels = np.array([[0.5, 0.0]]), np.array([[1, 1]])
    assert global_average_precision(scores, labels) == 1
    assert precision_at_equal_recall_rate(scores, labels) == 0.5


def test_video_without_labels_counts() -> None:
    scores, labels = np.array([[0.6, 0.1], [0.9, 0.2]]), np.array([[1, 0], [0, 0]])
    assert hit_at_one(scores, labels) == 0.5
    assert precision_at_equal_recall_rate(scores, labels) == 0.5
    assert global_average_precision(scores, labels) == 0.5
    assert RankingSummary.from_scores(scores, labels).num_unlabelled == 1


def test_no_labels_at_all() -> None:
    scores, labels = np.full((3, 4), 0.5), np.zeros((3, 4))
    assert np.isnan(global_average_precision(scores, labels))
    assert precision_at_equal_recall_rate(scores, labels) == 0
    assert hit_at_one(scores, labels) == 0
    assert np.isnan(mean_average_precision(scores, labels))
    assert mean_average_precision(scores, labels, classes='all') == 0


def test_float32_labels_accumulate_in_float64() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((20_000, 30), np.float32)
    labels[np.arange(20_000), rng.integers(30, size=20_000)] = 1
    assert fast(labels * 0.5, labels) == dict.fromkeys(fast(labels, labels), 1.0)


@pytest.mark.parametrize('convert', [torch.from_numpy, lambda a: torch.from_numpy(a).bool()])
def test_tensors_equal_arrays(convert: Any) -> None:
    scores, labels = videos(0)
    tensor = torch.from_numpy(scores).requires_grad_()
    assert fast(tensor, convert(labels)) == fast(scores, labels)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_scores(dtype: torch.dtype) -> None:
    scores, labels = videos(0)
    half = torch.from_numpy(scores).to(dtype)
    assert fast(half, torch.from_numpy(labels)) == fast(half.float().numpy(), labels)


def test_float64_scores_are_not_rounded() -> None:
    scores = np.array([[0.5, 0.5 + 1e-12]])
    assert hit_at_one(scores, np.array([[0, 1]])) == 1
    assert global_average_precision(scores, np.array([[0, 1]])) == 1


# ---- ties


def tied(seed: int, num: int = 40, classes: int = 12) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 4, (num, classes)) / 4).astype(np.float32)
    return scores, (rng.random((num, classes)) < 0.25).astype(np.float32)


def test_equal_scores_of_one_video_keep_the_first_classes() -> None:
    scores = np.array([[0.5, 0.7, 0.5, 0.5]])
    summary = RankingSummary.from_scores(scores, np.zeros((1, 4)), top_k=3)
    assert summary.records['ids'].tolist() == [[1, 0, 2]]


def test_equal_scores_of_several_videos_are_the_mean_over_all_orders() -> None:
    # One prediction each: a positive at 0.9, then five equal scores with two positives.
    scores = np.array([[0.9], [0.5], [0.5], [0.5], [0.5], [0.5], [0.1]])
    labels = np.array([[1], [1], [1], [0], [0], [0], [1]])
    orders = set(itertools.permutations((1, 1, 0, 0, 0)))
    values = [
        average_precision([(-rank, label) for rank, label in enumerate((1, *order, 1))], 4)
        for order in orders
    ]
    assert global_average_precision(scores, labels) == pytest.approx(np.mean(values), abs=1e-12)
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('top_k', [3, 20])
def test_ties_stay_within_the_bounds(seed: int, top_k: int) -> None:
    scores, labels = tied(seed)
    # The best and the worst that an order of equal scores can do.
    nudge = (labels - 0.5) * 1e-3
    above_zero = scores > 0  # a score of 0 must stay 0 for PERR
    best = slow(scores + 0.01 + nudge, labels, top_k)
    worst = slow(scores + 0.01 - nudge, labels, top_k)
    best['PERR'] = slow(scores + nudge * above_zero, labels, top_k)['PERR']
    worst['PERR'] = slow(scores - nudge * above_zero, labels, top_k)['PERR']
    for name, value in fast(scores, labels, top_k).items():
        assert worst[name] - 1e-12 <= value <= best[name] + 1e-12, name


@pytest.mark.parametrize('make', [tied, videos])
def test_order_of_videos_does_not_matter(make: Any) -> None:
    scores, labels = make(3)
    order = np.random.default_rng(0).permutation(len(scores))
    assert fast(scores[order], labels[order], 5) == fast(scores, labels, 5)


@pytest.mark.parametrize('make', [tied, videos])
@pytest.mark.parametrize('batch', [1, 7, 64])
def test_batches_add_up(make: Any, batch: int) -> None:
    scores, labels = make(0)
    entries = []
    for first in range(0, len(scores), batch):
        rows = slice(first, first + batch)
        entries += RankingSummary.from_scores(scores[rows], labels[rows], 5).entries()
    whole = RankingSummary.from_scores(scores, labels, 5)
    joined = RankingSummary.from_entries(entries, scores.shape[1], 5)
    assert len(entries) == len(scores)
    np.testing.assert_array_equal(joined.records, whole.records)
    np.testing.assert_array_equal(joined.missed, whole.missed)


@pytest.mark.parametrize('classes', [255, 256, 257, 65_535, 65_536, 70_000])
def test_many_labels_and_class_ids_survive_packing(classes: int) -> None:
    scores = np.linspace(0, 1, classes, dtype=np.float32)[None]
    labels = np.ones((1, classes))
    summary = RankingSummary.from_scores(scores, labels)
    joined = RankingSummary.from_entries(summary.entries(), classes)
    assert joined.records['num_labels'][0] == classes
    assert joined.records['ids'][0, 0] == classes - 1
    assert joined.precision_at_equal_recall_rate() == pytest.approx((classes - 1) / classes)
    assert joined.mean_average_precision('all') == pytest.approx(20 / classes)


def test_entries_are_small() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((2, 3862), dtype=np.float32), np.zeros((2, 3862))
    labels[:, [5, 3000, 3861]] = 1
    entries = RankingSummary.from_scores(scores, labels).entries()
    assert max(map(len, entries)) < 160


# ---- bad input


@pytest.mark.parametrize(
    ('scores', 'labels', 'message'),
    [
        ([[0.5, np.nan]], [[0, 1]], 'NaN for video 0, class 1'),
        ([[0.5, -2.0]], [[0, 1]], 'torch.sigmoid'),
        ([[0.5, 3.0]], [[0, 1]], 'torch.sigmoid'),
        ([[0.5, np.inf]], [[0, 1]], 'torch.sigmoid'),
        ([[0.5, 0.2]], [[0, 0.5]], '0.5 for video 0, class 1'),
        ([[0.5, 0.2]], [[0, 2]], '2 for video 0, class 1'),
        ([[0.5, 0.2]], [[0, np.nan]], 'nan for video 0, class 1'),
        ([[0.5, 0.2]], [1], r'\(1, 2\) and \(1,\)'),
        ([[0.5, 0.2]], [[1]], r'\(1, 2\) and \(1, 1\)'),
        ([0.5, 0.2], [0, 1], r'\(2,\) and \(2,\)'),
        (np.zeros((0, 3)), np.zeros((0, 3)), 'not be empty'),
    ],
)
@pytest.mark.parametrize(
    'metric',
    [
        global_average_precision,
        precision_at_equal_recall_rate,
        hit_at_one,
        mean_average_precision,
    ],
)
def test_bad_input_is_told(metric: Any, scores: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(np.array(scores), np.array(labels))


def test_rounding_above_one_is_no_logit() -> None:
    one = np.nextafter(np.float32(1), np.float32(2))
    assert hit_at_one(np.array([[one, 0]], np.float32), np.array([[1, 0]])) == 1


@pytest.mark.parametrize('top_k', [0, -1, 2.5, True, None])
def test_bad_top_k_is_told(top_k: Any) -> None:
    scores, labels = videos(0)
    with pytest.raises(ValueError, match='top_k must be a whole number'):
        global_average_precision(scores, labels, top_k=top_k)


def test_unknown_classes_are_told() -> None:
    with pytest.raises(ValueError, match="one of .*'present'.* got 'some'"):
        mean_average_precision(*videos(0), classes='some')


def test_inputs_are_not_changed() -> None:
    scores, labels = videos(0, density=0.8)
    before = scores.copy(), labels.copy()
    fast(scores, labels)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(labels, before[1])
