"""The results of a forward (:class:`Record`) and of a whole step (:class:`StepResult`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .batch import per_sample

R = TypeVar('R', bound='Recorded')

IGNORED = -100
"""A label for samples without one; the default ``ignore_index`` of PyTorch's losses."""


class Recorded(Protocol):
    """Data that a regularizer's recorder captured in a forward."""

    def detach(self: R) -> R:
        """The same values without their graph."""

    def take(self: R, index: Tensor, batch_size: int) -> R:
        """The data of the samples at ``index`` of a batch of ``batch_size``."""


@dataclass
class Record:
    """The results of one forward pass in training mode.

    Args:
        losses (Mapping[str, Tensor]): The model's own losses and metrics, one scalar per name.
        loss (Tensor): The total training loss of the plain model, a scalar.
        logits (Any): The class scores, shape (B, num_classes).
        labels (Tensor, optional): The training labels: integers (B,) or scores
            (B, num_classes). None where there are none.
        batch_size (int): B.
        ignore_index (int, optional): The label of samples that the loss leaves out. Defaults to
            None: not known. A label that is no class counts as left out too.
        output (Any): The model's output without its graph, for trainers that return it. Defaults
            to None.
        features (Any): What the objective reads of the output of ``layer``, with its graph.
            Defaults to None: not captured.
        layer (str): Dotted name of the captured layer. Defaults to ''.
        layout (str, optional): The axes of ``features`` as an einops pattern, see
            :func:`adv_plugins.core.capture.to_frames`. Defaults to None: inferred from their
            number.
        recorded (Mapping[str, Sequence[Recorded]]): The data captured for each regularizer, by
            the regularizer's name. Defaults to {}.
    """

    losses: Mapping[str, Tensor]
    loss: Tensor
    logits: Any
    labels: Tensor | None
    batch_size: int
    ignore_index: int | None = None
    output: Any = None
    features: Any = None
    layer: str = ''
    layout: str | None = None
    recorded: Mapping[str, Sequence[Recorded]] = field(default_factory=dict)

    def drop_graph(self) -> None:
        """Detach losses, logits and recordings and drop the features, so the graph is freed."""
        self.losses = {name: value.detach() for name, value in self.losses.items()}
        self.loss = self.loss.detach()
        self.logits = self.logits.detach() if isinstance(self.logits, Tensor) else None
        self.features = None
        self.recorded = {n: [entry.detach() for entry in r] for n, r in self.recorded.items()}

    def take(self, index: Tensor) -> Record:
        """The record of the samples at ``index``; the losses remain those of the whole batch."""
        count = self.batch_size

        def rows(value: Any) -> Any:
            same = isinstance(value, Tensor)
            return per_sample(value, count)[index].flatten(0, 1) if same else value

        return replace(
            self,
            logits=rows(self.logits),
            labels=rows(self.labels),
            features=None,
            recorded={n: [e.take(index, count) for e in r] for n, r in self.recorded.items()},
            batch_size=len(index),
        )

    def labelled(self) -> Tensor | None:
        """Which samples have a label that the loss counts, boolean (B,); None if unknown."""
        labels = self.labels
        if labels is None or labels.is_floating_point() or labels.numel() != self.batch_size:
            return None
        labels = labels.reshape(self.batch_size)
        counted = labels >= 0
        # A single score stands for two classes.
        if isinstance(self.logits, Tensor) and self.logits.ndim == 2 and self.logits.shape[1] > 1:
            counted &= labels < self.logits.shape[1]
        return counted if self.ignore_index is None else counted & (labels != self.ignore_index)

    def class_scores(self, purpose: str) -> Tensor:
        """The logits (B, num_classes); a ValueError if the model gives none."""
        if isinstance(self.logits, Tensor) and self.logits.ndim == 2:
            return self.logits
        got = str(getattr(self.logits, 'shape', type(self.logits).__name__))
        raise ValueError(
            f'{purpose} needs logits of the shape (batch, classes), but the model gave {got}; '
            "without class scores write objective='TrainingLoss', or the recipe 'pgdtraining'"
        )

    def hard_labels(self, purpose: str) -> Tensor:
        """The labels as integers (B,), after checking that there are logits for them.

        Returns:
            Tensor: The labels; ``IGNORED`` where the loss leaves a sample out.

        Raises:
            ValueError: The labels are soft, or the model gives no logits.
        """
        shape = (self.batch_size,)
        self.class_scores(purpose)
        labels = self.labels
        if labels is not None and labels.shape == (*shape, 1):
            labels = labels.squeeze(1)
        if labels is None or labels.is_floating_point() or labels.shape != shape:
            got = 'none' if labels is None else f'{labels.dtype} of shape {tuple(labels.shape)}'
            raise ValueError(
                f'{purpose} needs one hard label per sample, integers of shape {shape}, got {got}; '
                'switch off label blending (mixup, CutMix), or use a recipe that '
                "ascends the training loss: dict(type='CEAugmentation')"
            )
        labelled = self.labelled()
        assert labelled is not None
        return torch.where(labelled, labels, IGNORED)


@dataclass
class StepResult:
    """The result of an adversarial step.

    Args:
        clean (Record): The clean forward, of which only the values of the losses may be used. The
            adversarial one, if the step ran no other.
        adversarial (Record): The adversarial forward, with its graph.
        clean_loss (Tensor): The weighted clean loss.
        adv_loss (Tensor): The weighted adversarial loss.
        penalties (dict[str, Tensor]): The weighted regularizers, by their log keys.
        total (Tensor): The sum of these losses, on which the trainer calls ``backward()``.
        metrics (dict[str, Tensor]): Values that are logged but are no part of the total.
        recomputed (Tensor, optional): The clean loss of a second clean forward, see
            ``Recipe.recompute``. Defaults to None: there was none.
    """

    clean: Record
    adversarial: Record
    clean_loss: Tensor
    adv_loss: Tensor
    penalties: dict[str, Tensor]
    total: Tensor
    metrics: dict[str, Tensor]
    recomputed: Tensor | None = None

    def drop_graph(self) -> None:
        """Detach all but the clean loss, so that the graph is freed."""
        self.clean.drop_graph()
        self.adversarial.drop_graph()
        self.adv_loss, self.total = self.adv_loss.detach(), self.total.detach()
        self.penalties = {name: value.detach() for name, value in self.penalties.items()}
