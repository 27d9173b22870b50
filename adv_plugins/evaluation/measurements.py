"""What is measured of each video: its prediction clean and attacked, DeepFool, sanity probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.recipe import Recipe
from .attacks import PGD, Attack
from .cam import attention_entropy
from .deepfool import deepfool, robustness
from .deployed import Deployed, hard_labels, rank_labels
from .labels import check_classes
from .videos import Items

Columns = dict[str, Tensor]
"""Numbers by name, each of shape (B,)."""


@dataclass(frozen=True)
class VideoBatch:
    """Some videos as the model is fed them, and its scores for them.

    Args:
        inputs (Tensor): As they leave the data preprocessor, all views of a video together.
        samples (Sequence): The data samples of the B videos.
        labels (Tensor): Shape (B,).
        videos (Tensor): Indices in the dataset, shape (B,).
        views (Tensor): The scores for each view of the clean videos, shape (B, V, C).
    """

    inputs: Tensor
    samples: Sequence[Any]
    labels: Tensor
    videos: Tensor
    views: Tensor

    @classmethod
    def of(cls, deployed: Deployed, items: Items) -> VideoBatch:
        """Preprocess what a loader gives, and ask the model.

        Raises:
            ValueError: These are no RGB videos.
            LabelError: Not each of them has one label that is a class of the model.
        """
        data = deployed.model.data_preprocessor(items.batch, False)
        inputs, samples = data['inputs'], data['data_samples']
        if not isinstance(inputs, Tensor):
            raise ValueError(
                'robustness is evaluated on RGB frames in one tensor; for features write '
                "test_cfg=dict(type='AdversarialTestLoop', ...)"
            )
        labels = hard_labels(samples).to(inputs.device)
        views = deployed.views(inputs, samples)
        check_classes(dict(zip(items.videos, labels.tolist(), strict=True)), views.shape[2])
        return cls(inputs, samples, labels, torch.tensor(items.videos), views)


_FREE = PGD(eps=1.0, steps=10)
"""The attack of the probe: all pixels are free."""


class Measurements:
    """What can be measured of the videos of a batch.

    Args:
        deployed (Deployed): The recognizer.
        seed (int): Of random starts and Square.
    """

    probe_cost = 5 + _FREE.cost
    """What :meth:`probe` costs at most, in forwards."""

    def __init__(self, deployed: Deployed, seed: int) -> None:
        self.deployed = deployed
        self.seed = seed

    def predict(self, batch: VideoBatch) -> Columns:
        """Prediction and rank of the true class."""
        return rank_labels(self.deployed.average(batch.views), batch.labels)

    def predict_and_attend(self, batch: VideoBatch) -> Columns:
        """Besides, how evenly the attention is spread over the frames."""
        return self.predict(batch) | _entropy(self._attention(batch, batch.inputs))

    def attack(self, attack: Attack | Recipe, with_attention: bool, batch: VideoBatch) -> Columns:
        """Prediction and rank under an attack; with attention, its entropy and its shift too."""
        correct = self.predict(batch)['rank'] == 0
        adversarial, columns = self._perturb(attack, batch, correct)
        if with_attention:
            before, after = (self._attention(batch, x) for x in (batch.inputs, adversarial))
            # Of the views that have evidence both clean and attacked.
            shift = (after - before).abs().sum(dim=2).nanmean(dim=1) / 2
            columns = columns | _entropy(after) | dict(cam_shift=shift)
        # A video that was wrong before has not been attacked.
        return self.rank(batch, adversarial) | {
            name: values.masked_fill(~correct, math.nan) for name, values in columns.items()
        }

    def deepfool(self, options: Mapping[str, Any], batch: VideoBatch) -> Columns:
        """How far each video is from another prediction."""
        x, labels = batch.inputs.float(), None
        if options['criterion'] == 'hit1':
            labels = torch.nn.functional.one_hot(batch.labels, batch.views.shape[2])

        def scores(values: Tensor) -> Tensor:
            return self.deployed.scores(values, batch.samples)

        result = deepfool(scores, x, labels=labels, **options)
        rho = robustness(result, x)
        return dict(rho=rho, success=result.success, iterations=result.iterations)

    def probe(self, batch: VideoBatch) -> Columns:
        """What the sanity flags read; the ranks are those under an attack with all pixels free."""
        again = self.deployed.views(batch.inputs, batch.samples)
        with torch.enable_grad():
            x = batch.inputs.clone().requires_grad_()
            logits = self.deployed.scores(x, batch.samples)
            loss = torch.nn.functional.cross_entropy(logits, batch.labels, reduction='sum')
            (gradient,) = torch.autograd.grad(loss, x)
        correct = self.predict(batch)['rank'] == 0
        free, _ = self._perturb(_FREE, batch, correct)
        off_simplex = (batch.views.sum(dim=2) - 1).abs().amax(dim=1)
        return self.rank(batch, free) | dict(
            score_change=_change(batch.views, again).flatten(1).amax(dim=1),
            simplex=(off_simplex < 1e-4) & (batch.views >= 0).flatten(1).all(dim=1),
            gradient=gradient.flatten(1).abs().amax(dim=1),
        )

    def examples(self, attack: Attack | Recipe, batch: VideoBatch) -> Tensor:
        """Adversarial inputs for other models: every video is attacked, and to the end."""
        every = torch.ones_like(batch.labels, dtype=torch.bool)
        return self._perturb(attack, batch, every, stop=False)[0]

    def rank(self, batch: VideoBatch, inputs: Tensor) -> Columns:
        """Prediction and rank of the true class for other inputs, such as adversarial ones."""
        return rank_labels(self.deployed.scores(inputs, batch.samples), batch.labels)

    def _perturb(
        self, attack: Attack | Recipe, batch: VideoBatch, chosen: Tensor, stop: bool = True
    ) -> tuple[Tensor, Columns]:
        """The inputs, where those of the chosen videos are attacked, until they fool the model or
        to the end, and what else the attack tells of them.

        A recipe with a random start attacks one video after the other, so that no result depends on
        the batch; that takes as many calls of the model as there are videos. Labels that a recipe
        draws, as TAF's, are drawn for the batch.
        """
        seeds = batch.videos + 1_000_003 * self.seed
        if not isinstance(attack, Recipe):

            def logits(x: Tensor, index: Tensor) -> Tensor:
                return self.deployed.scores(x, [batch.samples[i] for i in index.tolist()])

            space = self.deployed.space(batch.inputs)
            found = attack.search(logits, batch.inputs, batch.labels, space, seeds, stop)
            return found.best, found.columns
        adversarial, index = batch.inputs.clone(), chosen.nonzero().squeeze(1)
        # A call has one stream of random numbers; where a video starts must be its own.
        alone = attack.random_start
        for rows in index.split(1 if alone else len(batch.videos)):
            if len(rows):
                samples = [batch.samples[i] for i in rows.tolist()]
                inputs, views = batch.inputs[rows], batch.views.shape[1]
                seed = int(seeds[rows[0] if alone else 0])
                adversarial[rows] = self.deployed.perturb(attack, inputs, samples, views, seed)
        return adversarial, {}

    def _attention(self, batch: VideoBatch, inputs: Tensor) -> Tensor:
        """Each frame's share of the evidence, shape (B, V, T')."""
        return self.deployed.frame_attention(inputs, batch.samples, batch.views.shape[1])


def _change(before: Tensor, after: Tensor) -> Tensor:
    """The absolute differences; 0 where both are equal, infinite or NaN ones too."""
    same = (before == after) | (before.isnan() & after.isnan())
    return (after - before).abs().masked_fill(same, 0)


def _entropy(shares: Tensor) -> Columns:
    """How evenly the attention is spread over the frames (1 is even), mean over the views that have
    any; NaN where none has."""
    entropy = attention_entropy(shares.flatten(0, 1)).view(shares.shape[:2])
    return dict(entropy=entropy.nanmean(dim=1))
