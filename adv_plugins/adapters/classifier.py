"""Plain classifiers: any module that maps a batch to class scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Number
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.adapter import Adapter, register_adapter
from ..core.batch import Batch
from ..core.conversion import AdversarialModule
from ..core.recipe import Recipe
from ..core.record import Record, StepResult
from ..core.threat import InputSpace
from .calling import call
from .channels import ChannelFinder, possible_axes
from .outputs import (
    check_cross_entropy,
    check_soft_labels,
    class_scores,
    describe,
    is_cross_entropy,
    lone_scores,
    of_scores,
)

_ADVICE = (
    'If they are pixels, say which, and eps is a fraction of their range: make_adversarial(model, '
    '..., value_range=(0, 1)) or value_range=(0, 255), or the mean and std that normalised them. '
    'If they are not, choose eps by this ratio'
)
_MANY_UNITS = 50
"""A range of pixels that is no multiple of the unit range by accident."""


@register_adapter
class ClassifierAdapter(Adapter):
    """A module ``model(x) -> logits``, or one that returns more than that.

    A dict is passed by keywords where these are arguments of ``forward``, and a list or a tuple as
    positional arguments where ``forward`` requires several; otherwise each is one argument.

    Args:
        model (nn.Module): The classifier.
        loss_fn (Callable, optional): ``loss_fn(output, target)``, a mean over the batch, of what
            the model returns; see :func:`adv_plugins.make_adversarial`. Defaults to None:
            cross-entropy.
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
        self.loss_fn: Any = F.cross_entropy if loss_fn is None else loss_fn
        self._soft_checked = loss_fn is not None
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
        self._channels: dict[tuple[str, int], int] = {}

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        return True

    def forward(self, batch: Batch, target: Any) -> Record:
        with self._finding_channels(batch):
            output = call(self.model, batch.inputs)
        labels = as_labels(target, batch)
        loss = self._loss(output, target if labels is None else labels, batch.size)
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ValueError("loss_fn must return one scalar tensor; write reduction='mean' in it")
        scores, ignored = class_scores(output, batch.size), ignore_index(self.loss_fn)
        # What the loss was taken of, of which _counts makes even scores.
        form = pytree.tree_map(_form, scores if of_scores(self.loss_fn) else output)
        return Record({'loss': loss}, loss, scores, labels, batch.size, ignored, form)

    def _loss(self, output: Any, target: Any, size: int) -> Tensor:
        if of_scores(self.loss_fn):
            output = lone_scores(output, size)
            if is_cross_entropy(self.loss_fn):
                check_cross_entropy(output, target)
            if not self._soft_checked and getattr(target, 'ndim', 0) > 1:
                check_soft_labels(target)
                self._soft_checked = True
            return self.loss_fn(output, target)
        try:
            return self.loss_fn(output, target)
        except (AttributeError, KeyError, TypeError) as error:
            mode = 'training' if self.model.training else 'eval'
            raise TypeError(
                f'loss_fn raised {type(error).__name__}: {error}. It gets what the model returns '
                f'as it is, in {mode} mode a {describe(output)}: write loss_fn=lambda output, '
                'target: ... of that. A model may return something else in the other mode'
            ) from error

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
        labels: Any = record.labels

        def even(part: Tensor) -> Tensor:
            length = [1] if part.shape[:1] == (record.batch_size,) else part.shape[:1]
            return labels.new_zeros((*length, *part.shape[1:]), dtype=part.dtype)

        scores = pytree.tree_map_only(Tensor, even, record.output)
        with torch.no_grad():
            try:
                return not self.loss_fn(scores, labels[rows]).isnan().any()
            except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
                # The whole batch has a loss, so it is one that needs several samples.
                return True

    def space(self, values: Tensor, name: str) -> InputSpace:
        if not self.normalized:
            return InputSpace(advice=_ADVICE)
        mean, std = (self._on_channels(value, values, name) for value in (self.mean, self.std))
        return InputSpace.from_normalization(mean, std, self.value_range)

    def _on_channels(self, value: Tensor, inputs: Tensor, name: str) -> Tensor:
        """Numbers for the channels, in a shape that broadcasts to the input."""
        value = value.to(inputs.device)
        if value.ndim != 1 or len(value) == 1:
            return value
        axes = possible_axes(inputs.shape, len(value))
        axis = axes[0] if len(axes) == 1 else self._channels.get((name, inputs.ndim))
        if axis not in axes:
            several = f'any of the axes {axes} may hold them' if axes else 'no axis has as many'
            raise ValueError(
                f'mean or std has {len(value)} channels, but {several} in the input '
                f'{tuple(inputs.shape)}; give tensors that broadcast to the input, e.g. '
                'mean=torch.tensor([...]).view(3, 1, 1) for (B, T, C, H, W), .view(3, 1, 1, 1) for '
                '(B, C, T, H, W), and std alike'
            )
        return value.view(-1, *[1] * (inputs.ndim - axis - 1))

    @contextmanager
    def _finding_channels(self, batch: Batch) -> Iterator[None]:
        """Let the forward inside tell the channels' axis of inputs whose shape does not."""
        count = max(value.numel() if value.ndim == 1 else 1 for value in (self.mean, self.std))
        axes = {name: possible_axes(v.shape, count) for name, v in batch.values.items()}
        unknown = {
            name: value
            for name, value in batch.values.items()
            if count > 1 and len(axes[name]) > 1 and value.requires_grad
            if (name, value.ndim) not in self._channels
        }
        if not unknown:
            yield
            return
        with ChannelFinder(unknown, axes) as finder:
            yield
        for name, axis in finder.found.items():
            self._channels[name, unknown[name].ndim] = axis

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


def _form(entry: Any) -> Tensor | None:
    """The shape and dtype of a tensor, without its memory."""
    return torch.empty_like(entry, device='meta') if isinstance(entry, Tensor) else None
