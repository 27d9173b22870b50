"""Hugging Face classifiers, for use with an unmodified `transformers.Trainer`.

In training mode with labels, the model's ``forward`` takes the adversarial step: it returns the
model's own output class with the adversarial total as ``loss`` and the clean logits. Checkpoints
are plain ones; the adversarial state is saved next to the weights in ``adversarial.pt``.
"""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.adapter import class_names, register_adapter
from ..core.batch import LONE, Batch, take_entries
from ..core.conversion import (
    AdversarialModule,
    adversarial_state_dict,
    get_adversary,
    is_adversarial,
)
from ..core.recipe import Recipe
from ..core.record import Record, StepResult
from ..core.sharding import is_sharded
from ..core.subclass import swapped_from
from .cam_layers import patch_grid
from .classifier import ClassifierAdapter, as_labels, ignore_index
from .huggingface_trainer import STATE_FILE, save_state, teach_trainer

# By the model's class: the block whose output is F', and the axes of that output. With a class
# token it is the last block but one (see cam_layers.py).
FAMILIES: dict[str, tuple[int, str]] = {
    'TimesformerForVideoClassification': (-2, 'b 1+(h w t) c'),
    'VideoMAEForVideoClassification': (-1, 'b (t h w) c'),
    'VivitForVideoClassification': (-2, 'b 1+(t h w) c'),
    'VJEPA2ForVideoClassification': (-1, 'b (t h w) c'),
}


class AdversarialPreTrainedModel(AdversarialModule):
    """A Hugging Face classifier whose loss in training is the adversarial total."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if AdversarialPreTrainedModel not in cls.__bases__:
            # fully_shard makes a subclass of the converted class, which has all of this.
            return
        plain = swapped_from(cls)
        # transformers uses class names: for a checkpoint's architectures, tasks, label columns.
        cls.__name__, cls.__qualname__ = plain.__name__, plain.__qualname__
        cls.forward = _with_step(plain.forward)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, **kwargs: Any
    ) -> Any:
        """Save the model as usual, and the adversarial state in a file of its own.

        Of a sharded model Trainer saves that state, or you: see the warning.
        """
        saved = super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process and not is_sharded(self):
            save_state(adversarial_state_dict(self), save_directory)
        elif is_main_process and not Path(save_directory, STATE_FILE).exists():
            # The others may not be here, and the state cannot be gathered without them.
            warnings.warn(
                f'the model is sharded, and {save_directory} has not got its adversarial state; '
                'before save_pretrained write, in all processes: state = '
                'adversarial_state_dict(model), and in the main one: torch.save(state, folder / '
                f'{STATE_FILE!r})',
                stacklevel=2,
            )
        return saved


@register_adapter
class HuggingFaceAdapter(ClassifierAdapter):
    """A transformers classifier whose ``forward(pixel_values, labels=...)`` returns its loss.

    In ``adversarial_loss(inputs, target)`` and ``perturb(inputs, target)``, ``inputs`` is the main
    input or a dict of inputs, and ``target`` is the labels or a dict of all other arguments of
    ``forward``, including ``labels``.

    Args:
        model (nn.Module): The classifier.
        loss_fn (Callable, optional): ``loss_fn(logits, labels)``, a mean over the batch. Defaults
            to None: the model's own.
        mean (float | Sequence | Tensor, optional): Mean of the pixels' normalisation (the image
            processor's ``image_mean``): one number, or one per channel.
        std (float | Sequence | Tensor, optional): Its standard deviation (``image_std``), likewise.
        value_range (tuple[float, float], optional): Range of the pixels before normalisation.
    """

    mixin = AdversarialPreTrainedModel
    calls_model = False

    def __init__(
        self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor] | None = None, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.loss_fn = loss_fn
        self._kept: list[Any] | None = None
        self.told_unlabelled = False
        name = type(model).__name__
        if model.main_input_name == 'input_ids':
            raise TypeError(
                f'{name} reads token indices, which no gradient step can move; adversarial '
                'training needs inputs of floating-point numbers, such as pixel_values'
            )
        if 'forward' in vars(model):
            raise TypeError(
                f'a trainer (accelerate) has replaced the forward of this {name}, which would '
                'hide the adversarial one; call make_adversarial first, or write: del '
                'model.forward'
            )
        teach_trainer()

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        hosted = 'transformers.PreTrainedModel' in class_names(model)
        return hosted and 'labels' in inspect.signature(type(model).forward).parameters

    def forward(self, batch: Batch, target: Any) -> Record:
        inputs = batch.inputs
        named = inputs if isinstance(inputs, Mapping) else {self.model.main_input_name: inputs}
        given = dict(target) if isinstance(target, Mapping) else {'labels': target}
        tensor = as_labels(given['labels'], batch)
        labels = given['labels'] if tensor is None else tensor
        given['labels'] = labels
        if self.loss_fn is not None:
            del given['labels']
        # Skip the mixin and accelerate's wrapper around it, which is already active.
        run = super(AdversarialPreTrainedModel, self.model).forward
        with _accepting(self.model, batch):
            output = run(**named, **given, return_dict=True)
        loss = output.loss if self.loss_fn is None else self._own_loss(output, labels, given)
        logits = output.logits
        if isinstance(logits, Tensor) and logits.ndim == 3 and logits.shape[1] == 1:
            # VideoPrism keeps the axis that its pooling attention has reduced.
            logits = logits.squeeze(1)
        record = Record(
            {'loss': loss},
            loss,
            logits,
            tensor,
            batch.size,
            ignore_index(self.loss_fn),
        )
        if self._kept is not None:
            record.output = type(output)(**_without_graph(dict(output)))
        return record

    def losses(self, batch: Batch, target: Any) -> Mapping[str, Tensor]:
        record = self.forward(batch, target)
        self._keep(record)
        return record.losses

    def report(self, result: StepResult, recipe: Recipe) -> dict[str, Tensor]:
        self._keep(result.clean)
        return super().report(result, recipe)

    @contextmanager
    def keeping_output(self) -> Iterator[list[Any]]:
        """Collect the clean output of each step inside the ``with`` block, without its graph."""
        self._kept = kept = []
        try:
            yield kept
        finally:
            self._kept = None

    def _keep(self, clean: Record) -> None:
        if self._kept is not None:
            self._kept.append(clean.output)

    def _own_loss(self, output: Any, labels: Any, given: Mapping[str, Any]) -> Tensor:
        loss = self.loss_fn(output.logits, labels)
        total = given.get('num_items_in_batch')
        # Trainer sums the losses of micro-batches, each divided by the size of the whole batch.
        return loss if total is None else loss * len(labels) / total

    def _on_channels(self, value: Tensor, inputs: Tensor, name: str) -> Tensor:
        value = value.to(inputs.device)
        if value.ndim != 1 or len(value) == 1:
            return value
        if inputs.ndim < 4 or inputs.shape[-3] != len(value):
            raise ValueError(
                f'mean or std has {len(value)} channels, but the third axis from the end of the '
                f'pixels {tuple(inputs.shape)} does not; give tensors that broadcast to them'
            )
        return value.view(-1, 1, 1)

    def select(self, target: Any, index: Tensor) -> Any:
        if not isinstance(target, Mapping):
            return super().select(target, index)
        count = len(target['labels'])
        part = take_entries(target, index, count)
        if part.get('num_items_in_batch') is not None:
            # The part stands for the whole batch, so its loss must remain a mean.
            part['num_items_in_batch'] = part['num_items_in_batch'] * len(index) / count
        return part

    def find_cam_layer(self) -> str:
        family, config = _family(self.model), self.model.config
        blocks = _blocks(self.model)
        if 'ForImageClassification' in type(self.model).__name__:
            raise ValueError(
                f'{type(self.model).__name__} has no frames to move attention between: write '
                "'advprop' or 'ceaugmentation'"
            )
        if not family or not blocks:
            return ''
        index = FAMILIES[family][0]
        if getattr(config, 'use_mean_pooling', True) is False:
            # VideoMAE then reads only its first token.
            index = -2
        return f'{blocks}.{config.num_hidden_layers + index}'

    def feature_map(
        self, layer: str, output: Any, batch: Batch, layout: str | None
    ) -> tuple[Any, str | None]:
        if isinstance(output, tuple):
            # Some blocks also return their attention maps.
            output = output[0]
        family = _family(self.model)
        known = family and layer.rpartition('.')[0] == _blocks(self.model)
        if layout is not None or not known:
            return output, layout
        pixels = batch.values.get(LONE, batch.values.get(self.model.main_input_name))
        height, width = patch_grid(self.model, pixels.shape)
        return output, f'{FAMILIES[family][1]}; h={height} w={width}'


def _with_step(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The ``forward`` of a converted class, with the plain signature, which trainers inspect."""
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # accelerate may keep this function on a model after remove_adversarial.
        if not (is_adversarial(self) and self.training and torch.is_grad_enabled()):
            return plain(self, *args, **kwargs)
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        given.pop('self')
        given |= given.pop('kwargs', {})
        if given.get(self.main_input_name) is None or given.get('labels') is None:
            adapter = get_adversary(self).adapter
            if adapter.told_unlabelled:
                return plain(self, *args, **kwargs)
            adapter.told_unlabelled = True
            warnings.warn(
                f'{type(self).__name__} was called in training mode without labels: this is the '
                "plain model's forward. If Trainer removes the labels (label smoothing, "
                'compute_loss_func), write make_adversarial(model, loss_fn=...) instead',
                stacklevel=2,
            )
            return plain(self, *args, **kwargs)
        return _step(self, given)

    return forward


def _step(model: Any, given: dict[str, Any]) -> Any:
    """Take the adversarial step for a call, and return its loss in the model's output class."""
    adversary = get_adversary(model)
    if adversary.model is not model:
        raise RuntimeError(
            'torch.nn.DataParallel runs copies of the model, which share one adversarial state; '
            'start one process per GPU (torchrun, accelerate launch), or restrict the process to '
            'one GPU with CUDA_VISIBLE_DEVICES'
        )
    as_dict = given.pop('return_dict', None)
    as_dict = model.config.return_dict if as_dict is None else as_dict
    with adversary.adapter.keeping_output() as kept:
        losses = model.adversarial_loss(given.pop(model.main_input_name), given)
    (clean,) = kept
    output = type(clean)(**{**clean, 'loss': losses['loss']})
    return output if as_dict else output.to_tuple()


@contextmanager
def _accepting(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Let the feature encoders of speech models accept inputs that an attack differentiates.

    In training, unless frozen, they set ``requires_grad`` of their input, for gradient
    checkpointing. The copies of an attack's leaves require it already, and it cannot be set there.
    """
    setting: list[Any] = []
    if any(value.requires_grad for value in batch.values.values()):
        setting = [m for m in model.modules() if vars(m).get('_requires_grad') is True]
    for module in setting:
        module._requires_grad = False
    try:
        yield
    finally:
        for module in setting:
            module._requires_grad = True


def _family(model: nn.Module) -> str:
    """The class in FAMILIES that the model is an instance of; '' if there is none."""
    return next((kind.__name__ for kind in type(model).__mro__ if kind.__name__ in FAMILIES), '')


def _blocks(model: Any) -> str:
    """The dotted name of the list of the backbone's blocks; '' if there is none."""
    depth = getattr(model.config, 'num_hidden_layers', None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name
    return ''


class _Freed(torch.autograd.Function):
    """A value whose graph the step has freed, and whose backward says so."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, anchor: Tensor) -> Tensor:
        # Without a gradient, backward is called by wrappers that differentiate all outputs.
        ctx.set_materialize_grads(False)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None) -> tuple[None, None]:
        if slope is None:
            return None, None
        raise RuntimeError(
            'a loss was taken of the logits or another output of an adversarial step, which has '
            'used and freed their graph; train on outputs.loss alone, and give a loss of your own '
            'to the step: make_adversarial(model, loss_fn=...)'
        )


def _without_graph(value: Any) -> Any:
    """Replace the graphs of all tensors in a nested value, because the step has freed them."""
    if isinstance(value, Tensor):
        anchor = torch.zeros((), requires_grad=True)
        return _Freed.apply(value.detach(), anchor) if value.requires_grad else value.detach()
    if isinstance(value, Mapping):
        return {name: _without_graph(entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(_without_graph, value))
    return value
