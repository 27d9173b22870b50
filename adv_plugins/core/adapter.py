"""What the core asks of a family of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .attack import InputSpace
from .batch import Batch
from .recipe import Recipe
from .record import Record, StepResult


class Adapter(ABC):
    """How one family of models is called.

    Args:
        model (nn.Module): The model.
        **options: What the user says about a model that cannot tell it: ``loss_fn``, ``mean``,
            ``std`` and ``value_range`` of :func:`~adv_plugins.make_adversarial`.
    """

    mixin: ClassVar[type[nn.Module]]
    """The class mixed into the model's own: how the step enters the model's calls."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def handles(cls, model: nn.Module) -> bool:
        """Whether this adapter is made for the model."""

    @abstractmethod
    def forward(self, batch: Batch, target: Any) -> Record:
        """The model's own training forward."""

    def losses(self, batch: Batch, target: Any) -> Mapping[str, Tensor]:
        """The losses of :meth:`forward` alone, for an iteration without an attack."""
        return self.forward(batch, target).losses

    @abstractmethod
    def space(self, values: Tensor, name: str) -> InputSpace:
        """The map from pixel units to the values of a modality (``''`` for a lone tensor)."""

    @abstractmethod
    def select(self, target: Any, index: Tensor) -> Any:
        """The labels or data samples at ``index``."""

    @abstractmethod
    def find_cam_layer(self) -> str:
        """The dotted name of the backbone's last stage.

        Raises:
            ValueError: It is not known; the message says to write ``cam_layer``.
        """

    def feature_map(
        self, layer: str, output: Any, batch: Batch, layout: str | None
    ) -> tuple[Any, str | None]:
        """The feature map in what the CAM layer returned, and the layout of its axes.

        Args:
            layer (str): The dotted name of the layer.
            output (Any): What it returned.
            batch (Batch): The batch it was computed from.
            layout (str, optional): The layout that the user says it has.

        Returns:
            tuple[Any, str | None]: The map, and its axes as an einops pattern; None where their
            number tells.
        """
        return output, layout

    @abstractmethod
    def report(self, result: StepResult, recipe: Recipe) -> dict[str, Tensor]:
        """A step as the model's trainer reads it.

        Args:
            result (StepResult): The step.
            recipe (Recipe): The recipe, for the weights of what is logged.

        Returns:
            dict[str, Tensor]: Losses and metrics, of which the trainer differentiates
            ``result.total`` and nothing else.
        """


ADAPTERS: list[type[Adapter]] = []


def register_adapter(adapter: type[Adapter]) -> type[Adapter]:
    """Make an adapter known; the one registered last is asked first."""
    ADAPTERS.insert(0, adapter)
    return adapter


def adapter_class(model: nn.Module) -> type[Adapter]:
    """The adapter made for a model."""
    for adapter in ADAPTERS:
        if adapter.handles(model):
            return adapter
    raise TypeError(f'no adapter handles {type(model).__name__}; write one: core.adapter.Adapter')


def class_names(model: nn.Module) -> set[str]:
    """The classes of a model as ``package.Class``, which needs none of the packages."""
    return {f'{kind.__module__.split(".")[0]}.{kind.__name__}' for kind in type(model).__mro__}
