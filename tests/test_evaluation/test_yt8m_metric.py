"""The streaming metric against the functions on whole arrays, on one and on two processes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from helpers import two_ranks
from torch import Tensor

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')

from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS

from adv_plugins.evaluation import (
    YT8MMetric,
    global_average_precision,
    hit_at_one,
    mean_average_precision,
    precision_at_equal_recall_rate,
)

NAMES = ('GAP', 'PERR', 'Hit@1', 'mAP')
VERTICALS = {'Arts': list(range(25)), 'Finance': [30, 3, 17], 'Nobody': [39]}


def videos(num: int = 103, classes: int = 40) -> tuple[Tensor, Tensor]:
    """Scores with ties between videos and labels; class 39 is nobody's."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(num, classes, generator=generator) < 0.08).float()
    labels[:, 39] = 0
    labels[::10] = 0
    scores = 0.3 * labels + 0.7 * torch.rand(num, classes, generator=generator)
    return (scores * 256).round() / 256, labels


def functional(scores: Any, labels: Any, top_k: int = 20) -> dict[str, float]:
    return {
        'GAP': global_average_precision(scores, labels, top_k),
        'PERR': precision_at_equal_recall_rate(scores, labels),
        'Hit@1': hit_at_one(scores, labels),
        'mAP': mean_average_precision(scores, labels, top_k),
    }


def feed(metric: YT8MMetric, scores: Tensor, labels: Tensor, batch: int = 16) -> YT8MMetric:
    for rows in torch.arange(len(scores)).split(batch):
        samples = [dict(pred_score=scores[i], gt_label=labels[i]) for i in rows]
        metric.process(None, samples)
    return metric


@pytest.mark.parametrize('batch', [1, 16, 200])
@pytest.mark.parametrize('top_k', [3, 20])
def test_equals_the_functions(batch: int, top_k: int) -> None:
    scores, labels = videos()
    result = feed(YT8MMetric(top_k=top_k), scores, labels, batch).evaluate(size=len(scores))
    unlabelled = int((labels.sum(1) == 0).sum())
    assert unlabelled >= 10
    assert result == functional(scores, labels, top_k) | {
        'num_videos': 103,
        'num_unlabelled': unlabelled,
    }


def test_all_classes_is_an_option() -> None:
    scores, labels = videos()
    result = feed(YT8MMetric(classes='all'), scores, labels).evaluate(size=len(scores))
    assert result['mAP'] == mean_average_precision(scores, labels, classes='all')
    assert result['mAP'] < mean_average_precision(scores, labels)


def test_a_million_videos_fit() -> None:
    scores, labels = videos(num=64, classes=3862)
    metric = feed(YT8MMetric(), scores, labels * (torch.rand(3862) < 0.01))
    sizes = [len(entry) for (entry,) in metric.results]
    assert len(sizes) == 64
    assert np.mean(sizes) < 200


def test_partitions() -> None:
    scores, labels = videos()
    result = feed(YT8MMetric(partitions=5), scores, labels).evaluate(size=len(scores))
    parts = [functional(scores[i::5], labels[i::5]) for i in range(5)]
    for name in NAMES:
        values = [part[name] for part in parts]
        mean = sum(values) / 5
        std = (sum((value - mean) ** 2 for value in values) / 4) ** 0.5
        assert result[f'{name}_mean'] == pytest.approx(mean, abs=1e-12)
        assert result[f'{name}_std'] == pytest.approx(std, abs=1e-12)
        assert result[name] == functional(scores, labels)[name]


def test_verticals() -> None:
    scores, labels = videos()
    result = feed(YT8MMetric(verticals=VERTICALS), scores, labels).evaluate(size=len(scores))
    for name, ids in VERTICALS.items():
        ids = sorted(ids)
        member = labels[:, ids].any(dim=1)
        assert result[f'{name}/num_videos'] == int(member.sum())
        if name == 'Nobody':
            assert all(np.isnan(result[f'Nobody/{metric}']) for metric in NAMES)
            continue
        assert 0 < member.sum() < len(scores)
        expected = functional(scores[member][:, ids], labels[member][:, ids])
        for metric in NAMES:
            assert result[f'{name}/{metric}'] == expected[metric]


def test_through_the_evaluator() -> None:
    """As MMAction2 feeds it: data samples, a prefix, and a last batch that was filled up."""
    from mmengine.structures import BaseDataElement

    scores, labels = videos(num=7)
    evaluator = Evaluator(dict(type='YT8MMetric', prefix='adv', partitions=5))
    for rows in ([0, 1, 2, 3], [4, 5, 6, 0]):
        evaluator.process(
            [BaseDataElement(pred_score=scores[i], gt_label=labels[i]) for i in rows], None
        )
    result = evaluator.evaluate(size=7)
    assert result['adv/num_videos'] == 7
    assert result['adv/GAP'] == global_average_precision(scores, labels)


def test_evaluates_again_from_scratch() -> None:
    scores, labels = videos()
    metric = YT8MMetric()
    feed(metric, scores, labels).evaluate(size=len(scores))
    again = feed(metric, scores[:50], labels[:50]).evaluate(size=50)
    assert again == feed(YT8MMetric(), scores[:50], labels[:50]).evaluate(size=50)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_other_precisions_and_integer_labels(dtype: torch.dtype) -> None:
    scores, labels = videos()
    scores = scores.to(dtype)
    other = feed(YT8MMetric(), scores, labels.long()).evaluate(size=103)
    assert other == feed(YT8MMetric(), scores.float(), labels).evaluate(size=103)


# ---- two processes


def build(folder: str) -> YT8MMetric:
    return YT8MMetric(partitions=5, verticals=VERTICALS, collect_dir=f'{folder}/collect')


def worker(rank: int, folder: str) -> None:
    """One of two ranks, with the videos that mmengine's sampler gives it."""
    from mmengine.dataset import DefaultSampler

    scores, labels = videos()
    rows = list(DefaultSampler(range(len(scores)), shuffle=False))
    assert len(rows) == 52  # of 103 videos: one is repeated
    result = feed(build(folder), scores[rows], labels[rows], 5 + rank).evaluate(len(scores))
    with open(f'{folder}/{rank}.json', 'w') as file:
        json.dump(result, file)


def test_two_processes_equal_one(tmp_path: Any) -> None:
    two_ranks(worker, str(tmp_path))
    scores, labels = videos()
    alone = feed(build(str(tmp_path)), scores, labels).evaluate(size=len(scores))
    # As text: bit for bit, and NaN equals NaN.
    for rank in range(2):
        assert (tmp_path / f'{rank}.json').read_text() == json.dumps(alone)


# ---- bad input


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(top_k=0), 'top_k must be a whole number of at least 1, got 0'),
        (dict(classes='most'), "'present', 'all'.* got 'most'"),
        (dict(partitions=1), 'partitions must be at least 2, got 1'),
        (dict(verticals={'Arts': []}), "'Arts' must be a list of different class indices"),
        (dict(verticals={'Arts': [1, 1]}), "'Arts' must be a list of different class indices"),
        (dict(verticals={'Arts': [-1, 1]}), "'Arts' must be a list of different class indices"),
        (dict(verticals={'Arts': [0.5]}), "'Arts' must be a list of different class indices"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METRICS.build(dict(type='YT8MMetric', **options))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(pred_score=torch.tensor([3.0, -1.0])), 'torch.sigmoid.*after the first 2 of this'),
        (dict(gt_label=torch.tensor([0.5, 1.0])), '0.5 for video 1, class 0'),
        (dict(gt_label=torch.tensor([1])), 'one-hot: give the dataset multi_class=True'),
        (dict(gt_label=None), "needs 'gt_label' in each data sample, sample 1"),
    ],
)
def test_bad_samples_are_told(change: dict[str, Any], message: str) -> None:
    good = dict(pred_score=torch.tensor([0.2, 0.9]), gt_label=torch.tensor([0.0, 1.0]))
    metric = YT8MMetric()
    metric.process(None, [good, good])
    with pytest.raises(ValueError, match=message):
        metric.process(None, [good, good | change])


def test_class_index_labels_are_told() -> None:
    sample = dict(pred_score=torch.tensor([0.2, 0.9]), gt_label=torch.tensor([1]))
    with pytest.raises(ValueError, match='labels are one-hot'):
        YT8MMetric().process(None, [sample])


def test_a_vertical_outside_the_label_space_is_told() -> None:
    metric = YT8MMetric(verticals={'Finance': [1, 40]})
    with pytest.raises(ValueError, match="'Finance' has class 40, but .* classes 0 to 39"):
        feed(metric, *videos())


def test_another_number_of_classes_is_told() -> None:
    scores, labels = videos()
    metric = feed(YT8MMetric(), scores, labels)
    with pytest.raises(ValueError, match='39 classes in this batch and had 40 before'):
        feed(metric, scores[:, :39], labels[:, :39])


def test_no_videos_are_told() -> None:
    with pytest.raises(ValueError, match='seen no video'):
        YT8MMetric().evaluate(size=0)


def test_verticals_by_the_names_of_the_dataset() -> None:
    scores, labels = videos()
    metric = YT8MMetric(verticals=['Finance'])
    metric.dataset_meta = dict(verticals=VERTICALS)
    expected = feed(YT8MMetric(verticals={'Finance': VERTICALS['Finance']}), scores, labels)
    size = len(scores)
    assert feed(metric, scores, labels).evaluate(size) == expected.evaluate(size)
    with pytest.raises(ValueError, match=r"'Finanze'.*\['Arts', 'Finance', 'Nobody'\]"):
        YT8MMetric(verticals=['Finanze']).dataset_meta = dict(verticals=VERTICALS)


def evaluated(metric: YT8MMetric, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    feed(metric, scores, labels)
    return metric.evaluate(len(scores))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_video_that_is_not_finite_is_in_no_metric(value: float) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((7, 40)), (rng.random((7, 40)) < 0.1).astype(float)
    labels[:, 3] = 1
    options: dict[str, Any] = dict(verticals={'Finance': [1, 3]}, partitions=2)
    rest = np.arange(7) != 2
    expected = evaluated(YT8MMetric(**options), scores[rest], labels[rest])
    scores[2, 5] = value
    found = evaluated(YT8MMetric(**options), scores, labels)
    assert found.pop('num_not_finite') == 1
    assert found == expected and found['num_videos'] == 6
    nothing = evaluated(YT8MMetric(), np.full((3, 40), value), labels[:3])
    assert all(np.isnan(nothing[name]) for name in NAMES) and nothing['num_not_finite'] == 3
