"""Whether the videos of a test list have labels, before the first of them is read.

The lists of hidden test sets have the label -1, or none. Such videos can be predicted; but an
attack needs the class that it leads away from, and an accuracy the one that is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..datasets.files import preview

SEVERAL = (
    'robustness is evaluated on videos with one label each; for several labels a video write '
    "test_cfg=dict(type='AdversarialTestLoop', ...)"
)


class EvaluationError(ValueError):
    """What is wrong with every video, so that the evaluation stops at the first."""


class LabelError(EvaluationError):
    """Videos have no label, several, or one that is no class of the model."""


def listed_labels(dataset: Any, videos: Iterable[int]) -> dict[int, int]:
    """The labels that a dataset's list has, as far as they are known without reading a video.

    Args:
        dataset (Dataset): The dataset.
        videos (Iterable[int]): Indices of videos.

    Returns:
        dict[int, int]: The label by index, -1 where the list says None; without the videos whose
        entry cannot be read and all those of a dataset that has no list.

    Raises:
        LabelError: A video has several labels.
    """
    labels: dict[int, int] = {}
    if not hasattr(dataset, 'get_data_info'):
        return labels
    for video in videos:
        try:
            # Datasets of frame features read these with get_data_info.
            by_label = hasattr(dataset, 'get_label')
            info = {'label': dataset.get_label(video)} if by_label else dataset.get_data_info(video)
        except Exception:  # What is wrong with this video is told when it is read.
            continue
        if 'label' in info:
            label = np.asarray(-1 if info['label'] is None else info['label'])
            if label.size != 1 or label.dtype.kind not in 'iu':
                raise LabelError(SEVERAL)
            labels[video] = int(label.item())
    return labels


def check_classes(labels: Mapping[int, int], num_classes: float) -> None:
    """Raise a LabelError that names the videos whose label is no class of the model.

    Args:
        labels (Mapping[int, int]): Labels by the index of the video.
        num_classes (float): Number of classes; infinite where it is not known.
    """
    unlabelled = [video for video, label in labels.items() if label < 0]
    if unlabelled:
        raise LabelError(
            f'{len(unlabelled)} of {len(labels)} videos have no label (it is negative or None), '
            f'by their index in the dataset: {preview(unlabelled, 10)}; an attack and an accuracy '
            'need one. Write the ann_file of a list with labels, or only predict the videos with '
            "test_cfg=dict(type='TestLoop')"
        )
    wrong = [f'{v} (label {label})' for v, label in labels.items() if label >= num_classes]
    if wrong:
        raise LabelError(
            f'{len(wrong)} of {len(labels)} videos have a label that is none of the '
            f'{num_classes} classes of the model, by their index in the dataset: '
            f'{preview(wrong, 10)}; correct num_classes, or the ann_file'
        )
