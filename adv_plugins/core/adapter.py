"""The interface between the core and a family of models."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from .batch import Batch
from .recipe import Recipe
from .record import Record, StepResult
from .structure import guessed_axes
from .subclass import Swapped
from .threat import InputSpace


class Adapter(ABC):
    """How one family of models is called.

    Args:
        model (nn.Module): The model.
        **options: What the model itself does not reveal: ``loss_fn``, ``mean``, ``std`` and
            ``value_range`` of :func:`adv_plugins.make_adversarial`.
    """

    mixin: ClassVar[type[Swapped]]
    """The class mixed into the model's class; it routes the model's calls to the step."""
    calls_model: ClassVar[bool] = True
    """Whether :meth:`forward` calls the model, and so its hooks, or only what is in its forward."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.model = model
        self._told_names = False

    @classmethod
    @abstractmethod
    def handles(cls, model: nn.Module) -> bool:
        """Whether this adapter is meant for the model."""

    @abstractmethod
    def forward(self, batch: Batch, target: Any) -> Record:
        """Run the model's own training forward."""

    def losses(self, batch: Batch, target: Any) -> Mapping[str, Tensor]:
        """Only the losses of :meth:`forward`, for an iteration without an attack."""
        return self.forward(batch, target).losses

    def modules(self) -> Iterator[nn.Module]:
        """All modules that a forward may write state into."""
        yield from self.model.modules()

    @abstractmethod
    def space(self, values: Tensor, name: str) -> InputSpace:
        """The map from pixel units to the values of a modality (``''`` for a single tensor)."""

    @abstractmethod
    def select(self, target: Any, index: Tensor) -> Any:
        """The labels or data samples at ``index``."""

    def counted(self, record: Record) -> Tensor | None:
        """Which samples of a clean forward the loss counts, boolean (B,); None if unknown.

        Asked where only a part of the batch is attacked.
        """
        return record.labelled()

    def find_cam_layer(self) -> str:
        """The dotted name of the backbone's last stage if it is known; '' to look for it.

        Raises:
            ValueError: The model has no frames.
        """
        return ''

    def clip_axes(self, values: Tensor, name: str) -> Sequence[tuple[int, int, int]]:
        """Possible axes of time, height and width of a modality, the likeliest first.

        Args:
            values (Tensor): The modality, batch first.
            name (str): Its name; ``''`` for a single tensor.

        Returns:
            Sequence[tuple[int, int, int]]: Empty where it has no frames.
        """
        if values.ndim == 6:
            # Several clips or crops of a video come before the channels.
            return ((3, 4, 5),)
        if values.ndim != 5:
            return ()
        channels = [axis for axis in (1, 2, 4) if values.shape[axis] == 3] or [1, 2]
        axes = {1: (2, 3, 4), 2: (1, 3, 4), 4: (1, 2, 3)}
        likely = [axes[axis] for axis in channels]
        return (*likely, *(each for each in axes.values() if each not in likely))

    def axes(self, values: Tensor, name: str) -> dict[str, int]:
        """The axes of a modality by letter (b, t, c, h, w), as far as they are known."""
        return guessed_axes(values.shape)

    def feature_map(
        self, layer: str, output: Any, batch: Batch, layout: str | None
    ) -> tuple[Any, str | None]:
        """Pick the feature map from the output of the CAM layer, with the layout of its axes.

        Args:
            layer (str): The dotted name of the layer.
            output (Any): What the layer returned.
            batch (Batch): The batch it was computed from.
            layout (str, optional): The layout given by the user.

        Returns:
            tuple[Any, str | None]: The map, and its axes as an einops pattern; None to infer them
            from their number.
        """
        return output, layout

    @abstractmethod
    def report(self, result: StepResult, recipe: Recipe) -> dict[str, Tensor]:
        """Report a step in the form that the model's trainer expects.

        Args:
            result (StepResult): The step.
            recipe (Recipe): The recipe, for the weights of the logged losses.

        Returns:
            dict[str, Tensor]: Losses and metrics. What the trainer differentiates must be
            ``result.total``: one of them, or their sum.
        """

    def beside(
        self, logged: Mapping[str, Tensor], added: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add values to what is logged, with more ``adv_`` in front if one of the names is taken.

        A trainer adds up all losses that it is given, so none may take the place of another.
        """
        taken = sorted(logged.keys() & added.keys())
        if not taken:
            return {**logged, **added}
        if not self._told_names:
            self._told_names = True
            warnings.warn(
                f'the model itself logs {taken[0]!r}; what the adversarial step adds under this '
                'name, and what comes with it, is logged with one more adv_ in front: '
                f'{"adv_" + taken[0]!r}',
                stacklevel=2,
            )
        return self.beside(logged, {f'adv_{name}': value for name, value in added.items()})


ADAPTERS: list[type[Adapter]] = []


def register_adapter(adapter: type[Adapter]) -> type[Adapter]:
    """Register an adapter; the one registered last is tried first."""
    ADAPTERS.insert(0, adapter)
    return adapter


def adapter_class(model: nn.Module) -> type[Adapter]:
    """The first registered adapter that handles a model."""
    for adapter in ADAPTERS:
        if adapter.handles(model):
            return adapter
    raise TypeError(
        f'no adapter handles {type(model).__name__}; write one: a subclass of '
        'adv_plugins.adapters.Adapter with @register_adapter'
    )


def class_names(model: nn.Module) -> set[str]:
    """The classes of a model as ``package.Class``, so that no package has to be imported."""
    return {f'{kind.__module__.split(".")[0]}.{kind.__name__}' for kind in type(model).__mro__}
