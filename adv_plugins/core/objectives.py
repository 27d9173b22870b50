"""Objectives: what an attack maximises.

An objective maps the :class:`adv_plugins.core.record.Record` of a forward pass to one value per
sample (or their sum). Its labels are chosen once, from the clean record, and kept for all K attack
steps. All others are in :mod:`adv_plugins.objectives`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from .batch import Batch
from .capture import FeatureLayer
from .norm import NormPath
from .options import describe
from .record import Record


class Objective(ABC):
    """What an attack maximises; subclass it for an objective of your own."""

    needs_features: ClassVar[bool] = False
    """Whether the forward pass has to capture the output of a layer, see :meth:`find_layer`."""
    needs_frames: ClassVar[bool] = False
    """Whether there is nothing to attack in images."""
    is_training_loss: ClassVar[bool] = False
    """Whether the clean backward already yields this objective's gradient, up to a factor."""
    compares: ClassVar[bool] = False
    """Whether it is a distance from the clean forward. It is flat there: no attack can start so."""
    second_order: bool = False
    """Whether the gradient that the objective itself takes of the features is differentiated."""

    __repr__ = describe

    def check(self, adapter: Any) -> None:  # noqa: B027 (most fit every model)
        """Raise a ValueError if the :class:`Adapter`'s model lacks what the objective reads."""

    def find_layer(self, adapter: Any, batch: Batch, target: Any, path: NormPath) -> FeatureLayer:
        """The layer whose output the objective reads, looked for at the first batch of a shape.

        Args:
            adapter (Adapter): The model, which is left unchanged.
            batch (Batch): A batch of its inputs.
            target (Any): Its labels or data samples.
            path (NormPath): The path of the model's norms.

        Raises:
            ValueError: There is none.
        """
        raise NotImplementedError(
            f'{type(self).__name__} has needs_features=True, but not the method find_layer; derive '
            'it from adv_plugins.cam.FeatureObjective, which finds the layer that TAF reads'
        )

    @abstractmethod
    def targets(self, record: Record) -> Tensor | None:
        """What is read once of the clean record, such as labels: one entry a sample, or None."""

    @abstractmethod
    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """The value to maximise, per sample or summed, differentiable w.r.t. the inputs."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainingLoss(Objective):
    """The model's own training loss with its training labels (TAF, eq. 1).

    For a classifier trained with cross-entropy this is the cross-entropy at the true label. The
    clean backward yields its gradient for free.
    """

    needs_frames: ClassVar[bool] = False
    """Whether there is nothing to attack in images."""
    is_training_loss: ClassVar[bool] = True

    def targets(self, record: Record) -> None:
        """None, because the training labels are part of the loss."""

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """The loss summed over the batch, so that its gradient survives half precision."""
        return record.loss * record.batch_size


OBJECTIVES: dict[str, type[Objective]] = {'TrainingLoss': TrainingLoss}
"""The objectives that a config can name."""

Kind = TypeVar('Kind', bound=type[Objective])


def register_objective(kind: Kind) -> Kind:
    """Register an objective under the name of its class."""
    OBJECTIVES[kind.__name__] = kind
    return kind
