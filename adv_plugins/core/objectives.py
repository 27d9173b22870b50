"""Objectives: what an attack maximises.

An objective maps the :class:`adv_plugins.core.record.Record` of a forward pass to one value per
sample (or their sum). Its labels are chosen once, from the clean record, and kept for all K attack
steps. All others are in :mod:`adv_plugins.objectives`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from .options import describe
from .record import Record


class Objective(ABC):
    """What an attack maximises; subclass it for an objective of your own."""

    needs_features: ClassVar[bool] = False
    """Whether the forward pass has to capture the output of ``cam_layer``."""
    is_training_loss: ClassVar[bool] = False
    """Whether the clean backward already yields this objective's gradient, up to a factor."""
    compares: ClassVar[bool] = False
    """Whether it is a distance from the clean forward. It is flat there: no attack can start so."""
    cam_layer: str | None = None
    cam_layout: str | None = None
    second_order: bool = False
    """Whether the gradient that the objective itself takes of the features is differentiated."""

    __repr__ = describe

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most fit every model)
        """Raise a ValueError if the objective does not fit the model."""

    def record(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A context around each forward; what it yields, if anything, is ``record.features``."""
        return nullcontext()

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
