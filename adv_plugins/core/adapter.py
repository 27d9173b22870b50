"""What the core asks of a family of models: :class:`Adapter`, and the answer, :class:`Record`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from .attack import InputSpace
from .attention import AttentionMap
from .batch import Inputs, per_sample
from .recipe import Recipe


@dataclass
class Record:
    """What one forward pass in training mode left behind.

    Args:
        losses (Mapping[str, Tensor]): The model's own losses and metrics, one scalar a name.
        loss (Tensor): Their total, the scalar the plain model would be trained with.
        logits (Any): The class scores, shape (B, num_classes).
        labels (Tensor, optional): The training labels: integers (B,) or scores
            (B, num_classes). None where there are none.
        batch_size (int): B.
        features (Any): The output of ``layer`` with its graph. Defaults to None: not captured.
        layer (str): Dotted name of the captured layer. Defaults to ''.
        layout (str, optional): The axes of ``features`` as an einops pattern, see
            :func:`~adv_plugins.core.capture.to_frames`. Defaults to None: from their number.
        attention (list[AttentionMap]): The attention maps, in the order of the forward. Defaults
            to an empty list: not captured.
    """

    losses: Mapping[str, Tensor]
    loss: Tensor
    logits: Any
    labels: Tensor | None
    batch_size: int
    features: Any = None
    layer: str = ''
    layout: str | None = None
    attention: list[AttentionMap] = field(default_factory=list)

    def drop_graph(self) -> None:
        """Keep the values of losses, logits and attention, let go of all that holds the graph."""
        self.losses = {name: value.detach() for name, value in self.losses.items()}
        self.loss = self.loss.detach()
        self.logits = self.logits.detach() if isinstance(self.logits, Tensor) else None
        self.features = None
        self.attention = [replace(m, weights=m.weights.detach()) for m in self.attention]

    def take(self, index: Tensor) -> Record:
        """What the record says of the samples at ``index``; its losses stay those of all."""
        count = self.batch_size

        def rows(value: Any) -> Any:
            same = isinstance(value, Tensor)
            return per_sample(value, count)[index].flatten(0, 1) if same else value

        attention = [
            replace(m, weights=rows(m.weights), valid=rows(m.valid)) for m in self.attention
        ]
        return replace(
            self,
            logits=rows(self.logits),
            labels=rows(self.labels),
            features=None,
            attention=attention,
            batch_size=len(index),
        )

    def hard_labels(self, purpose: str) -> Tensor:
        """The labels as integers (B,), with logits to go with them.

        Raises:
            ValueError: The labels are soft, or the model gives no logits.
        """
        shape = (self.batch_size,)
        if not isinstance(self.logits, Tensor) or self.logits.ndim != 2:
            got = str(getattr(self.logits, 'shape', type(self.logits).__name__))
            raise ValueError(
                f'{purpose} needs logits of the shape (batch, classes), the model gave {got}; '
                "use objective='TrainingLoss' for a model without class scores"
            )
        labels = self.labels
        if labels is not None and labels.shape == (*shape, 1):
            labels = labels.squeeze(1)
        if labels is None or labels.is_floating_point() or labels.shape != shape:
            got = 'none' if labels is None else f'{labels.dtype} of shape {tuple(labels.shape)}'
            raise ValueError(
                f'{purpose} needs one hard label a sample, integers of shape {shape}, got {got}; '
                'drop what softens them (label blending: mixup, CutMix), or use a recipe that '
                "ascends the training loss: dict(type='CEAugmentation')"
            )
        return labels


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
    def forward(self, inputs: Inputs, target: Any) -> Record:
        """The model's own training forward."""

    def losses(self, inputs: Inputs, target: Any) -> Mapping[str, Tensor]:
        """The losses of :meth:`forward` alone, for an iteration without an attack."""
        return self.forward(inputs, target).losses

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
        self, layer: str, output: Any, inputs: Inputs, layout: str | None
    ) -> tuple[Any, str | None]:
        """The feature map in what the CAM layer returned, and the layout of its axes.

        Args:
            layer (str): The dotted name of the layer.
            output (Any): What it returned.
            inputs (Tensor | dict): The batch it was computed from.
            layout (str, optional): The layout that the user says it has.

        Returns:
            tuple[Any, str | None]: The map, and its axes as an einops pattern; None where their
            number tells.
        """
        return output, layout

    @abstractmethod
    def report(
        self,
        clean: Record,
        adversarial: Record,
        clean_total: Tensor,
        penalties: Mapping[str, Tensor],
        recipe: Recipe,
    ) -> dict[str, Tensor]:
        """The losses of a step as the model's trainer reads them.

        Args:
            clean (Record): The clean forward; only the values of its losses are to be used.
            adversarial (Record): The adversarial forward, with its graph.
            clean_total (Tensor): The weighted clean total, which carries the clean gradient.
            penalties (Mapping[str, Tensor]): The weighted regularizers, by their log keys.
            recipe (Recipe): The recipe, for the weights of both records.
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
