"""Plain classifiers: any module that maps a batch to class scores."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.adapter import Adapter, register_adapter
from ..core.attack import InputSpace
from ..core.batch import Batch, Inputs
from ..core.conversion import AdversarialModule
from ..core.recipe import Recipe
from ..core.record import Record, StepResult

_ADVICE = (
    'If they are pixels, say which, and eps is a fraction of their range: make_adversarial(model, '
    '..., value_range=(0, 1)) or value_range=(0, 255), or the mean and std that normalised them. '
    'If they are not, choose eps by this ratio'
)
_MANY_UNITS = 50
"""A range of pixels that is no multiple of the unit range by accident."""


@register_adapter
class ClassifierAdapter(Adapter):
    """A module ``model(x) -> logits``, or an output with the attribute ``logits``.

    Where ``forward`` has several arguments, a dict of them is passed by name.

    Args:
        model (nn.Module): The classifier.
        loss_fn (Callable, optional): ``loss_fn(logits, target)``, a mean over the batch.
            Defaults to None: cross-entropy.
        mean (float | Sequence | Tensor, optional): Mean of the inputs' normalisation.
        std (float | Sequence | Tensor, optional): Standard deviation of the inputs' normalisation.
        value_range (tuple[float, float], optional): Range of the pixels before normalisation.
    """

    mixin = AdversarialModule

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        mean: Any = None,
        std: Any = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(model)
        self.loss_fn = F.cross_entropy if loss_fn is None else loss_fn
        self.normalized = not (mean is None and std is None and value_range is None)
        self.mean = torch.as_tensor(0.0 if mean is None else mean)
        self.std = torch.as_tensor(1.0 if std is None else std)
        self.value_range = (0.0, 1.0) if value_range is None else value_range
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError(f'value_range={value_range} must be (smallest, largest) pixel value')
        if not (self.std > 0).all():
            raise ValueError(f'std={std} must be positive')
        if value_range is None and max(self.mean.max(), self.std.max()) > 1:
            raise ValueError(
                f'mean={mean}, std={std} do not look like pixels between 0 and 1; say which '
                'pixels they normalise: value_range=(0, 255)'
            )
        fits_unit = self.mean.abs().max() <= 1 and self.std.max() <= 1
        named = self.mean.any() or (self.std != 1).any()
        if named and fits_unit and self.value_range[1] - self.value_range[0] > _MANY_UNITS:
            raise ValueError(
                f'mean={mean}, std={std} do not look like those of pixels in '
                f'value_range={value_range}: they normalise pixels between 0 and 1. Leave '
                'value_range out, or give the mean and std of its pixels, e.g. mean=127.5'
            )
        self._counted: dict[int, bool] = {}
        self._told_outputs = False

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        return True

    def forward(self, batch: Batch, target: Any) -> Record:
        output = self._call(batch.inputs)
        logits = self._logits(output)
        labels = as_labels(target, batch)
        loss = self.loss_fn(logits, target if labels is None else labels)
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ValueError("loss_fn must return one scalar tensor; write reduction='mean' in it")
        ignored = ignore_index(self.loss_fn)
        return Record({'loss': loss}, loss, logits, labels, batch.size, ignored)

    def _call(self, inputs: Inputs) -> Any:
        """Call the model; a mapping of several arguments of its ``forward`` is passed by name."""
        if isinstance(inputs, Mapping):
            arguments = inspect.signature(self.model.forward).parameters
            if len(arguments) > 1 and inputs.keys() <= arguments.keys():
                return self.model(**inputs)
        return self.model(inputs)

    def _logits(self, output: Any) -> Any:
        logits = getattr(output, 'logits', output)
        if self.loss_fn is F.cross_entropy and not isinstance(logits, Tensor):
            raise TypeError(
                f'the model returns a {type(logits).__name__}, of which cross-entropy cannot be '
                'taken; write loss_fn=, e.g. loss_fn=lambda output, target: '
                'F.cross_entropy(output[0], target)'
            )
        if logits is not output and isinstance(output, tuple) and not self._told_outputs:
            self._told_outputs = True
            others = [name for name in output._fields if name != 'logits']
            warnings.warn(
                f'the model returns {", ".join(others)} beside its logits (torchvision: '
                'aux_logits=True), and the loss is taken of the logits alone; to train them too, '
                'return a plain tuple from forward, which loss_fn(output, target) gets as it is',
                stacklevel=2,
            )
        return logits

    def modules(self) -> Iterator[nn.Module]:
        yield from super().modules()
        if isinstance(self.loss_fn, nn.Module):
            # A loss may keep centres, counters or norms of its own.
            yield from self.loss_fn.modules()

    def counted(self, record: Record) -> Tensor | None:
        counted = super().counted(record)
        if counted is None or self.loss_fn in (None, F.cross_entropy):
            return counted
        # ignore_index may be hidden in a function, and the weight of a class may be 0.
        labels = record.labels.reshape(-1)  # type: ignore[union-attr]
        for index, label in enumerate(labels.tolist()):
            if counted[index] and label not in self._counted:
                self._counted[label] = self._counts(record, index)
        left_out = [not self._counted.get(label, True) for label in labels.tolist()]
        return counted & ~torch.tensor(left_out, device=counted.device)

    def _counts(self, record: Record, index: int) -> bool:
        """Whether the loss of one sample is defined without the others."""
        rows = slice(index, index + 1)
        # Of even scores: those of this sample may be NaN, which says nothing about its label.
        scores = torch.zeros_like(record.logits[rows])
        with torch.no_grad():
            try:
                return not self.loss_fn(scores, record.labels[rows]).isnan().any()  # type: ignore[index]
            except (IndexError, RuntimeError, TypeError, ValueError):
                # The whole batch has a loss, so it is one that needs several samples.
                return True

    def space(self, values: Tensor, name: str) -> InputSpace:
        if not self.normalized:
            return InputSpace(advice=_ADVICE)
        mean, std = (self._on_channels(value, values) for value in (self.mean, self.std))
        return InputSpace.from_normalization(mean, std, self.value_range)

    def _on_channels(self, value: Tensor, inputs: Tensor) -> Tensor:
        value = value.to(inputs.device)
        if value.ndim != 1 or len(value) == 1:
            return value
        if inputs.ndim < 2 or inputs.shape[1] != len(value):
            raise ValueError(
                f'mean or std has {len(value)} channels, but axis 1 of the input '
                f'{tuple(inputs.shape)} does not; give tensors that broadcast to the input, e.g. '
                'mean=torch.tensor([...]).view(3, 1, 1) for (B, T, C, H, W)'
            )
        return value.view(-1, *[1] * (inputs.ndim - 2))

    def select(self, target: Any, index: Tensor) -> Any:
        numbers = isinstance(target, tuple) and all(map(_is_number, target))
        if isinstance(target, list) or numbers:
            return [target[i] for i in index.tolist()]
        if isinstance(target, np.ndarray):
            return target[index.cpu().numpy()]
        if not isinstance(target, Tensor):
            raise TypeError(
                f'fraction < 1 selects part of the batch, but cannot select from a target of type '
                f'{type(target).__name__}; write fraction=1.0 (interval=4 in place of budget), or '
                'pass a tensor'
            )
        return target[index]

    def find_cam_layer(self) -> str:
        stages = ('layer4', 'backbone.layer4')
        return next((name for name in stages if _has(self.model, name)), '')

    def report(self, result: StepResult, recipe: Recipe) -> dict[str, Tensor]:
        parts = {'clean_loss': result.clean_loss, 'adv_loss': result.adv_loss, **result.penalties}
        return {'loss': result.total, **{name: part.detach() for name, part in parts.items()}}


def as_labels(target: Any, batch: Batch) -> Tensor | None:
    """Labels as a tensor: given as one, as an array, or as a list of one number for each sample."""
    if isinstance(target, Tensor):
        return target
    numbers = isinstance(target, (list, tuple)) and len(target) == batch.size
    if isinstance(target, np.ndarray) or (numbers and all(map(_is_number, target))):
        return torch.as_tensor(target, device=batch.device)
    return None


def _is_number(entry: Any) -> bool:
    return isinstance(entry, Number) or (isinstance(entry, Tensor) and entry.ndim == 0)


def ignore_index(loss: Any) -> int | None:
    """The label of samples that a loss leaves out, if it tells: a module's, or a partial's."""
    while isinstance(loss, functools.partial):
        if 'ignore_index' in loss.keywords:
            return loss.keywords['ignore_index']
        loss = loss.func
    return getattr(loss, 'ignore_index', None)


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
