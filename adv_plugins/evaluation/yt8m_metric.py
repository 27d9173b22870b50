"""The metrics of YouTube-8M, streamed: a short byte string per video instead of its (C,) scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from numpy.typing import NDArray
from torch import Tensor

from .ranking_summary import CLASSES, RankingSummary, check_top_k

Entry = tuple[bytes, ...]
"""What is kept of one video: a string for all classes, then one for each vertical, empty where the
video has no label of that vertical; all of them are empty where its scores are not finite. One
entry per video lets collect_results cut off what a sampler has repeated to fill the last batch."""


@METRICS.register_module()
class YT8MMetric(BaseMetric):
    """GAP, PERR, Hit@1 and mAP over a dataset of any size, on any number of processes.

    Each data sample has ``pred_score``, the probabilities of shape (C,), and ``gt_label``, 1 for
    each label and 0 elsewhere, of shape (C,). The results, ``GAP``, ``PERR``, ``Hit@1`` and
    ``mAP`` between 0 and 1, are those of :class:`adv_plugins.evaluation.RankingSummary` on all
    videos together, and depend on neither the batches nor the number of processes. Also reported
    are ``num_videos`` and ``num_unlabelled``: a video without labels counts 0 in PERR and Hit@1,
    and all of its predictions are wrong in GAP and mAP. A video with a score that is NaN or
    infinite is in no metric: the log says so, and where there is one, ``num_not_finite`` is
    reported.

    With C = 3862, a video takes about 0.25 kB, and as much again for each of its verticals.

    Args:
        top_k (int): Predictions kept per video for GAP and mAP. Defaults to 20.
        partitions (int, optional): Also report ``GAP_mean``, ``GAP_std`` and so on over this
            many disjoint parts of the dataset, each taking every ``partitions``-th video; A-ART,
            table 1, has 5 (arXiv 2110.13950). The standard deviation is that of a sample (divided
            by ``partitions - 1``). Defaults to None: only the whole dataset.
        verticals (dict[str, Sequence[int]] | Sequence[str], optional): Class indices by the name
            of a vertical, or names of verticals that the dataset knows. Also report
            ``<name>/GAP`` and so on, for these classes alone and over the videos with at least
            one of them as a label (``<name>/num_videos``); NaN if there is none. Defaults to
            None: no verticals.
        classes (str): The classes that mAP averages over, ``'present'`` or ``'all'``; see
            :func:`adv_plugins.evaluation.mean_average_precision`. Defaults to ``'present'``.
        collect_device (str): Where the results of all processes are collected, ``'cpu'`` or
            ``'gpu'``. Defaults to ``'cpu'``.
        prefix (str, optional): Prepended to each name, with a slash. Defaults to None: no prefix.
        collect_dir (str, optional): A folder that all processes see, for
            ``collect_device='cpu'``. Defaults to None: a temporary one.

    Raises:
        ValueError: An option is out of range, a vertical has a class that does not exist, finite
            scores are no probabilities, or labels are not binary (see
            :func:`adv_plugins.evaluation.global_average_precision`).

    Example:
        >>> val_evaluator = dict(
        ...     type='YT8MMetric', partitions=5, verticals=['Finance', 'Arts & Entertainment']
        ... )
    """

    # Not None, which mmengine warns about: GAP is the name to monitor.
    default_prefix = ''

    def __init__(
        self,
        top_k: int = 20,
        partitions: int | None = None,
        verticals: Mapping[str, Sequence[int]] | Sequence[str] | None = None,
        classes: str = 'present',
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        check_top_k(top_k, num_classes=1)
        if classes not in CLASSES:
            raise ValueError(f'classes must be one of {CLASSES}, got {classes!r}')
        if partitions is not None and partitions < 2:
            raise ValueError(
                f'partitions must be at least 2, got {partitions}; leave it out for the metrics '
                'of the whole dataset alone'
            )
        self.top_k = top_k
        self.partitions = partitions
        # Names are looked up once the dataset is known.
        by_class = isinstance(verticals, Mapping)
        self._named = () if by_class or verticals is None else tuple(verticals)
        self.verticals = _checked_verticals(verticals if by_class else {})
        self.classes = classes
        self._num_classes: int | None = None

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """The dataset's metainfo, where the verticals' names are looked up."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict[str, Any] | None) -> None:
        self._dataset_meta = meta
        known = (meta or {}).get('verticals', {})
        for name in self._named:
            if name not in known:
                raise ValueError(
                    f'verticals has {name!r}, which the dataset does not; write one of '
                    f'{sorted(known)}, or a dict of class indices'
                )
        if self._named:
            self.verticals = _checked_verticals({name: known[name] for name in self._named})

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep what the metrics need to know of a batch.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): The model's outputs, with ``pred_score`` and
                ``gt_label``.
        """
        scores = _stack(data_samples, 'pred_score').float()
        labels = _stack(data_samples, 'gt_label')
        first = len(self.results)
        finite = scores.isfinite().all(dim=1)
        # Probabilities of 0 stand in for a video that is left out.
        scores = torch.where(finite[:, None], scores, 0.0)
        try:
            whole = RankingSummary.from_scores(scores, labels, self.top_k)
        except ValueError as error:
            raise ValueError(
                f'{error} (pred_score and gt_label of the videos after the first '
                f'{first} of this process)'
            ) from error
        self._check_num_classes(whole.num_classes)
        columns = [whole.entries()]
        columns += [self._vertical_entries(scores, labels, ids) for ids in self.verticals.values()]
        left_out = (b'',) * len(columns)
        rows = zip(finite.tolist(), zip(*columns, strict=True), strict=True)
        self.results.extend(row if kept else left_out for kept, row in rows)

    def compute_metrics(self, results: list[Entry]) -> dict[str, float]:
        """Compute the metrics of all videos.

        Args:
            results (list): The entries of all processes, in the order of the dataset.

        Returns:
            dict: The metrics by name, between 0 and 1, and numbers of videos.
        """
        if not results or self._num_classes is None:
            raise ValueError('YT8MMetric has seen no video; is the dataset empty?')
        total = len(results)
        results = [entry for entry in results if entry[0]]
        entries = [entry[0] for entry in results]
        whole = self._summary(entries, self._num_classes)
        metrics = self._metrics(whole)
        metrics.update(num_videos=len(whole), num_unlabelled=whole.num_unlabelled)
        if len(whole) < total:
            metrics['num_not_finite'] = total - len(whole)
            print_log(
                f'{total - len(whole)} of {total} videos have scores that are NaN or infinite; '
                'they are in no metric',
                'current',
                logging.WARNING,
            )
        metrics.update(self._over_partitions(entries))
        for place, (name, ids) in enumerate(self.verticals.items(), start=1):
            part = self._summary([entry[place] for entry in results], len(ids))
            metrics.update({f'{name}/{key}': value for key, value in self._metrics(part).items()})
            metrics[f'{name}/num_videos'] = len(part)
        return metrics

    def _vertical_entries(
        self, scores: Tensor, labels: Tensor, ids: NDArray[np.intp]
    ) -> list[bytes]:
        """The entries of a batch for one vertical."""
        labels = labels[:, ids]
        member = labels.any(dim=1)
        if not member.any():
            return [b''] * len(labels)
        part = RankingSummary.from_scores(scores[:, ids][member], labels[member], self.top_k)
        entries = iter(part.entries())
        return [next(entries) if belongs else b'' for belongs in member.tolist()]

    def _summary(self, entries: list[bytes], num_classes: int) -> RankingSummary:
        return RankingSummary.from_entries(entries, num_classes, self.top_k)

    def _metrics(self, summary: RankingSummary) -> dict[str, float]:
        """The four metrics by name."""
        if len(summary) == 0:
            return dict.fromkeys(('mAP', 'GAP', 'PERR', 'Hit@1'), float('nan'))
        # The first is what save_best='auto' of MMAction2's default runtime watches. mmengine knows
        # that a higher mAP is better, and would stop the training at the name GAP.
        return {
            'mAP': summary.mean_average_precision(self.classes),
            'GAP': summary.global_average_precision(),
            'PERR': summary.precision_at_equal_recall_rate(),
            'Hit@1': summary.hit_at_one(),
        }

    def _over_partitions(self, entries: list[bytes]) -> dict[str, float]:
        """Mean and standard deviation of the metrics over the parts of the dataset."""
        if self.partitions is None:
            return {}
        parts = [
            self._metrics(self._summary(entries[first :: self.partitions], self._num_classes))
            for first in range(self.partitions)
        ]
        statistics = {}
        for name in parts[0]:
            values = np.array([part[name] for part in parts])
            statistics[f'{name}_mean'] = float(values.mean())
            statistics[f'{name}_std'] = float(values.std(ddof=1))
        return statistics

    def _check_num_classes(self, num_classes: int) -> None:
        if self._num_classes not in (None, num_classes):
            raise ValueError(
                f'pred_score has {num_classes} classes in this batch and had {self._num_classes} '
                'before; one metric is for one label space'
            )
        self._num_classes = num_classes
        for name, ids in self.verticals.items():
            if ids.max() >= num_classes:
                raise ValueError(
                    f'the vertical {name!r} has class {ids.max()}, but pred_score has classes '
                    f'0 to {num_classes - 1}'
                )


def _checked_verticals(verticals: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.intp]]:
    """The class indices of the verticals as sorted arrays, or a clear error."""
    checked = {}
    for name, ids in verticals.items():
        array = np.asarray(ids)
        integers = array.ndim == 1 and array.size > 0 and np.issubdtype(array.dtype, np.integer)
        if not integers or array.min() < 0 or len(np.unique(array)) < len(array):
            raise ValueError(
                f'the vertical {name!r} must be a list of different class indices from 0 on, '
                f'got {ids!r}'
            )
        # Sorted, so that which of equal scores comes first does not depend on the order of the ids.
        checked[name] = np.sort(array).astype(np.intp)
    return checked


def _stack(data_samples: Sequence[dict[str, Any]], key: str) -> Tensor:
    """One field of all data samples as a CPU tensor (B, C)."""
    missing = [i for i, sample in enumerate(data_samples) if sample.get(key) is None]
    if missing:
        raise ValueError(
            f'YT8MMetric needs {key!r} in each data sample, sample {missing[0]} of the batch has '
            f'only {sorted(data_samples[missing[0]])}'
        )
    values = [torch.as_tensor(sample[key]) for sample in data_samples]
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f'{key!r} must have one shape (classes,) in all data samples, got {sorted(shapes)}; '
            'labels are one-hot: give the dataset multi_class=True and num_classes'
        )
    return torch.stack(values).cpu()
