"""The sequences of the A-ART study as tensors: spoken vowels and the embedded YouTube-8M sample."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from mmaction.structures import ActionDataSample
from torch import Tensor

from adv_plugins.datasets.yt8m_sample import YT8MSample
from adv_plugins.models import FeaturePreprocessor

CACHE = Path('data/aart_study')
SAMPLE_SIZES = {'train': 800, 'validate': 100, 'test': 150}


@dataclass(frozen=True)
class Sequences:
    """Sequences in memory, as ``FeatureTransformer`` takes them.

    Args:
        inputs (dict[str, Tensor]): ``<name>`` (N, T, D) and ``<name>_mask`` (N, T).
        labels (Tensor): The only class of each, (N,); or 1 for each of its labels, (N, C).
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> dict[str, int]:
        """The width of a frame by modality."""
        return {
            name: value.shape[2]
            for name, value in self.inputs.items()
            if not name.endswith('_mask')
        }

    @property
    def samples(self) -> list[ActionDataSample]:
        """The labels as mmengine's models take them."""
        return [ActionDataSample().set_gt_label(label) for label in self.labels]

    def take(self, index: Tensor) -> Sequences:
        """The sequences at these positions."""
        inputs = {name: value[index] for name, value in self.inputs.items()}
        return Sequences(inputs, self.labels[index])


Splits = dict[str, Sequences]


def japanese_vowels() -> Splits:
    """Nine speakers, told by 7 to 29 frames of 12 LPC coefficients: train, validate and test.

    The official 270 utterances are for training. Of the official test set each speaker's
    utterances go to validation and test in turn, so that what was chosen on one half is not
    measured on it. Every coefficient has mean 0 and variance 1 over the training frames.

    Returns:
        dict[str, Sequences]: 270, 187 and 183 utterances.

    Raises:
        SystemExit: The package that ships the data is not installed.
    """
    train, rest = (_read_ts(_shipped(f'JapaneseVowels_{name}.ts')) for name in ('TRAIN', 'TEST'))
    frames = torch.cat([features for features, _ in train])
    mean, std = frames.mean(dim=0), frames.std(dim=0)
    turn: dict[int, int] = {}
    parts: dict[str, list[tuple[Tensor, int]]] = {'train': train, 'validate': [], 'test': []}
    for features, label in rest:
        turn[label] = turn.get(label, 0) + 1
        parts['validate' if turn[label] % 2 else 'test'].append((features, label))
    splits = {}
    for name, part in parts.items():
        features = [(values - mean) / std for values, _ in part]
        splits[name] = _pad({'lpc': features}, torch.tensor([label for _, label in part]))
    return splits


def _shipped(name: str) -> Path:
    """A file of the package aeon, which is not imported: it needs numba and scikit-learn."""
    try:
        files = metadata.files('aeon') or []
    except metadata.PackageNotFoundError:
        files = []
    path = next((Path(str(file.locate())) for file in files if file.name == name), None)
    if path is None or not path.is_file():
        raise SystemExit(f'{name} comes with the package aeon: pip install --no-deps aeon')
    return path


def _read_ts(file: Path) -> list[tuple[Tensor, int]]:
    """The series of a .ts file: frames (T, D) and the class, counted from 0."""
    text = file.read_text(encoding='utf-8').split('@data\n', 1)[1]
    series = []
    for line in text.splitlines():
        *dimensions, label = line.split(':')
        values = [[float(value) for value in values.split(',')] for values in dimensions]
        series.append((torch.tensor(values).T.contiguous(), int(label) - 1))
    return series


def youtube8m_sample(root: Path = CACHE, sizes: dict[str, int] | None = None) -> Splits:
    """A smaller embedded sample, 28 classes: 800, 100 and 150 videos, made on first use."""
    splits = {}
    for split in ('train', 'validate', 'test'):
        items = list(YT8MSample(split, str(root), sizes or SAMPLE_SIZES))
        features = {
            name: [torch.as_tensor(item[name]) for item in items] for name in ('rgb', 'audio')
        }
        labels = torch.stack([torch.as_tensor(item['label']) for item in items])
        splits[split] = _pad(features, labels.float())
    return splits


def _pad(features: dict[str, list[Tensor]], labels: Tensor) -> Sequences:
    """Pad to the longest sequence, and turn bytes into the numbers that they stand for."""
    return Sequences(FeaturePreprocessor()(dict(inputs=features))['inputs'], labels)
