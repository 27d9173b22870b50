"""The metrics of a config on clean and on attacked videos, and means of single videos' numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from torch import Tensor

from ..core.recipe import Recipe
from .deepfool import robustness_summary


class PerVideo(BaseMetric):
    """The mean over videos of numbers that each video has.

    Numbers that are not finite are left out of the mean and counted: ``<name>_undefined`` is
    reported where there are any. The column ``finite`` says whether a video's scores are;
    ``num_not_finite`` is reported where some are not.
    """

    default_prefix = ''

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the numbers of a batch.

        Args:
            data_batch (Mapping[str, Tensor]): Values by name, shape (B,).
            data_samples (Sequence): Not used.
        """
        columns = {name: values.tolist() for name, values in data_batch.items()}
        rows = zip(*columns.values(), strict=True)
        self.results.extend(dict(zip(columns, row, strict=True)) for row in rows)

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """The means, and how many videos are in none."""
        broken = sum(not row.pop('finite') for row in results)
        numbers = {'num_not_finite': broken} if broken else {}
        for name in results[0]:
            known = [row[name] for row in results if math.isfinite(row[name])]
            numbers[name] = sum(known) / len(known) if known else math.nan
            if len(known) < len(results):
                numbers[f'{name}_undefined'] = len(results) - len(known)
        return numbers


class PerVideoRobustness(PerVideo):
    """A summary of DeepFool over all videos.

    Args:
        max_iter (int): That of DeepFool.
    """

    def __init__(self, max_iter: int) -> None:
        super().__init__()
        self.max_iter = max_iter

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """See :func:`adv_plugins.evaluation.robustness_summary`."""
        rho, success, iterations = (
            torch.tensor([r[name] for r in results]) for name in ('rho', 'success', 'iterations')
        )
        return robustness_summary(rho, success.bool(), iterations.long(), self.max_iter)


class AttackedEvaluator:
    """The evaluator of a config for clean videos, and a copy of it for every attack.

    Args:
        clean (Evaluator): The evaluator of the config.
        recipes (Mapping[str, Recipe]): The attacks by name.
        deepfool (Mapping, optional): Options of DeepFool, or None.
    """

    def __init__(
        self,
        clean: Evaluator,
        recipes: Mapping[str, Recipe],
        deepfool: Mapping[str, Any] | None,
    ) -> None:
        self.clean = clean
        self.recipes = recipes
        self.attacked = {name: _copy(clean, name) for name in recipes}
        self.per_video = {name: PerVideo() for name in recipes}
        self.clean_per_video = PerVideo()
        self.robustness = None if deepfool is None else PerVideoRobustness(deepfool['max_iter'])
        self.num_deepfool = 0

    def process(self, data_samples: Any, data_batch: Any) -> None:
        """Clean predictions."""
        self.clean_per_video.process(_finite(data_samples), [])
        self.clean.process(_without_chance(data_samples), data_batch)

    def process_attacked(
        self, name: str, data_batch: Any, data_samples: Any, columns: Mapping[str, Tensor]
    ) -> None:
        """Predictions under an attack, and numbers that it has for each video."""
        self.attacked[name].process(_without_chance(data_samples), data_batch)
        self.per_video[name].process({**columns, **_finite(data_samples)}, [])

    def process_deepfool(self, columns: Mapping[str, Tensor]) -> None:
        """The results of DeepFool for each video: ``rho``, ``success`` and ``iterations``."""
        assert self.robustness is not None
        self.robustness.process(columns, [])
        self.num_deepfool += len(columns['rho'])

    def evaluate(self, size: int) -> dict[str, float]:
        """All metrics: the clean ones under their own names, then those of each attack.

        Args:
            size (int): Number of videos.

        Returns:
            dict[str, float]: The metrics by name, ``<attack>/<metric>`` under an attack.
        """
        metrics = self.clean.evaluate(size) | self.clean_per_video.evaluate(size)
        for name, evaluator in self.attacked.items():
            attacked = {'eps': self.recipes[name].eps, **self.per_video[name].evaluate(size)}
            attacked |= evaluator.evaluate(size)
            metrics |= {f'{name}/{key}': value for key, value in attacked.items()}
        if self.robustness is not None:
            # The size cuts off what a sampler has repeated to fill the last batch.
            summary = self.robustness.evaluate(size)
            metrics |= {f'deepfool/{key}': value for key, value in summary.items()}
            self.num_deepfool = 0
        return metrics


def _finite(data_samples: Sequence[Any]) -> dict[str, Tensor]:
    """Whether all scores of each video are finite, where there are scores."""
    return {'finite': torch.tensor([_has_finite_scores(sample) for sample in data_samples])}


def _has_finite_scores(sample: Any) -> bool:
    scores = getattr(sample, 'pred_score', None)
    return not isinstance(scores, Tensor) or bool(scores.isfinite().all())


def _without_chance(data_samples: Sequence[Any]) -> list[Any]:
    """The data samples for metrics; a video of one class whose scores are not finite is wrong.

    MMAction2's metrics would sort its scores, and find the true class wherever that ends. Metrics
    of several labels see the scores as they are.
    """
    samples = list(data_samples)
    for place, sample in enumerate(samples):
        label = getattr(sample, 'gt_label', None)
        if isinstance(label, Tensor) and label.numel() == 1 and not _has_finite_scores(sample):
            scores = torch.zeros_like(sample.pred_score)
            scores[label.item()] = -1
            samples[place] = copy.deepcopy(sample)
            samples[place].pred_score = scores
    return samples


def _copy(evaluator: Evaluator, name: str) -> Evaluator:
    """The evaluator for an attack; what it writes to a file goes to another file."""
    evaluator = copy.deepcopy(evaluator)
    for metric in evaluator.metrics:
        path = getattr(metric, 'out_file_path', None)
        if path:
            metric.out_file_path = str(Path(path).with_suffix(f'.{name}{Path(path).suffix}'))
    return evaluator
