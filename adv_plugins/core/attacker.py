"""Perturb inputs by the attack of a recipe; used by the adversarial step and by evaluation."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .adapter import Adapter
from .autograd import gradients, graph_nodes, ran_in_fp16
from .batch import Batch, Inputs, Values, fresh
from .buffers import BufferGuard
from .capture import FeatureLayer, capture_output, last_output
from .compiling import not_compiled
from .norm import CLEAN, NormPath
from .radius import Radius
from .randomness import private_random
from .recipe import Recipe
from .record import Record
from .recurrence import differentiable_recurrence
from .schedule import Schedule
from .sharding import extremes, gathered, staying_gathered
from .threat import InputSpace
from .units import check_before, tell_after

logger = logging.getLogger('adv_plugins')


class Attacker:
    """The attack of a recipe on one model.

    Args:
        adapter (Adapter): How the model is called.
        recipe (Recipe): The recipe; only its objective and its solver are used.
        path (NormPath, optional): The path of the model's norms. Defaults to None: the deployed
            path of a model in eval mode.
        schedule (Schedule, optional): How far the run has come, for a recipe whose ε depends on it.
            Defaults to None: at its beginning.

    Attributes:
        layer (FeatureLayer, optional): Where the objective reads its features; None before the
            first batch, and if it reads none.
        flat (bool): Whether no gradient of the first attack led anywhere.
        buffers (BufferGuard): Keeps forwards that are no clean ones from writing into buffers.

    Raises:
        ValueError: The model lacks the layer that the recipe names.
    """

    def __init__(
        self,
        adapter: Adapter,
        recipe: Recipe,
        path: NormPath | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.adapter = adapter
        self.recipe = recipe
        self.path = NormPath() if path is None else path
        self.schedule = Schedule() if schedule is None else schedule
        self.buffers = BufferGuard(adapter, self.path)
        self._told_units = False
        self.flat = True
        self.layer: FeatureLayer | None = None
        recipe.objective.check(adapter)

    @not_compiled
    def perturb(self, inputs: Inputs, target: Any, seed: int, branch: str = CLEAN) -> Inputs:
        """Compute the adversarial inputs; leaves the model unchanged.

        Args:
            inputs (Tensor | Mapping): A batch as the model takes it.
            target (Any): Its labels or data samples.
            seed (int): Seed of the private random stream for random labels and random starts, see
                :func:`adv_plugins.core.randomness.stream_seed`.
            branch (str): The norms to attack. Defaults to the clean, deployed ones.

        Returns:
            Tensor | dict: Detached, of the shape, dtype and space of ``inputs``.

        Raises:
            TypeError: The inputs hold no floating-point tensor.
            ValueError: The recipe does not fit the inputs, the labels or the model.
        """
        batch = Batch(inputs)
        random = private_random(batch.device, seed)
        gathering = gathered(self.adapter.model, as_found=True)
        with torch.inference_mode(False), torch.enable_grad(), random, gathering:
            # Labels made under inference_mode cannot take part in a graph either.
            batch, target = batch.clone().leaves(), fresh(target)
            with self.path.use(branch, tracking=False):
                record = self.forward(batch, target)
            labels = self.recipe.objective.targets(record)
            first = None
            if self._starts_as_called():
                first = self.gradient(record, labels, batch, branch)
            del record
            eps = self.eps(batch.size) if self.adapter.model.training else self.recipe.largest_eps
            return self.ascend(batch, target, labels, branch, first, eps)[0].inputs

    def find_layer(self, batch: Batch, target: Any) -> None:
        """Find where the objective reads its features, at the first batch of a shape.

        Raises:
            ValueError: There is no such layer.
        """
        objective, before = self.recipe.objective, self.layer
        if not objective.needs_features:
            return
        self.layer = objective.find_layer(self.adapter, batch, target, self.path)
        if before is None or before.name != self.layer.name:
            logger.info(self.describe())

    def describe(self) -> str:
        """Where the objective reads its features, in words; '' if it reads none, or not yet."""
        if self.layer is None:
            return ''
        kernels = (
            '. Fused attention and cuDNN layers behind it have no second derivative: from there '
            'on, forwards that the attack differentiates, the clean one among them, run in plain '
            'kernels, which may change the last digits of the scores'
        )
        return f'{self.layer}{kernels if self._fused else ""}'

    @property
    def _fused(self) -> frozenset[str]:
        """The kernels that forwards need others for, which can be differentiated twice."""
        layer, twice = self.layer, self.recipe.objective.second_order
        return layer.fused if layer is not None and twice else frozenset()

    def forward(self, batch: Batch, target: Any, features: bool = True) -> Record:
        """Run a forward that leaves batch and target unchanged.

        Args:
            batch (Batch): From :meth:`adv_plugins.core.batch.Batch.leaves` or the like.
            target (Any): Its labels or data samples.
            features (bool): Whether to capture the features that the objective reads. Defaults to
                True.
        """
        if features:
            self.find_layer(batch, target)
        # Regularizers compare the forwards, so all of them need the same kernels.
        needed = features or (self.recipe.regularizers and self._fused)
        layer = self.layer if needed else None
        module = self.adapter.model.get_submodule(layer.name) if layer else None
        behind = partial(_twice_differentiable, self._fused)
        with (
            capture_output(module, behind) as outputs,
            self.buffers.hold(learn=True),
            differentiable_recurrence(self.adapter.model),
        ):
            record = self.adapter.forward(batch, fresh(target))
        if layer is not None and features:
            record.features = layer.pick(last_output(outputs, layer.name))
            record.layer, record.layout = layer.name, layer.layout
        return record

    def gradient(
        self,
        record: Record,
        labels: Tensor | None,
        batch: Batch,
        branch: str,
        retain_graph: bool = False,
    ) -> Values:
        """The gradient of the objective with respect to the modalities.

        Args:
            record (Record): A forward of ``batch``.
            labels (Tensor, optional): The labels of the objective.
            batch (Batch): The leaves to differentiate with respect to.
            branch (str): The norms that the forward went through.
            retain_graph (bool): Whether the record's graph is used again. Defaults to False.

        Returns:
            dict[str, Tensor]: One gradient per modality, up to a positive factor.

        Raises:
            ValueError: The objective does not depend on the inputs.
        """
        leaves = list(batch.values.values())
        # Activation checkpointing repeats parts of the forward here.
        with self.path.use(branch, tracking=False), self.buffers.hold():
            with staying_gathered(self.adapter.model):
                value = self.recipe.objective(record, labels).sum()
            if ran_in_fp16(graph_nodes(value), leaves):
                # Small gradients would underflow. Scaling does not change the step's direction.
                scaled = by_modality(batch, gradients(value * 2.0**14, leaves, retain_graph=True))
                finite = all(bool(gradient.isfinite().all()) for gradient in scaled.values())
                if extremes(self.adapter.model, finite)[0]:
                    return scaled
            return by_modality(batch, gradients(value, leaves, retain_graph))

    def ascend(
        self,
        batch: Batch,
        target: Any,
        labels: Tensor | None,
        branch: str,
        first: Values | None,
        eps: float | Tensor,
    ) -> tuple[Batch, Tensor]:
        """Run the attack from a batch on one branch, with running statistics frozen.

        Args:
            batch (Batch): The clean batch.
            target (Any): Its labels or data samples.
            labels (Tensor, optional): The labels of the objective.
            branch (str): The norms to attack.
            first (dict[str, Tensor], optional): The gradient at ``batch``, if already known.
            eps (float | Tensor): ε, or one for each sample.

        Returns:
            tuple[Batch, Tensor]: The adversarial batch, detached, and one boolean per sample, False
            where a gradient was not finite and the sample was left unperturbed.
        """

        def gradient(values: Values) -> Values:
            seen = _rescale(values, self.recipe.attack_scale)
            moved = batch.replace(seen).leaves()
            with self._precision(moved):
                with self.path.use(branch, tracking=False):
                    record = self.forward(moved, target)
                slopes = self.gradient(record, labels, moved, branch)
            if not self._told_units:
                self.flat &= not any(bool(slope.any()) for slope in slopes.values())
            return slopes if seen is values else _enlarge(slopes, values)

        spaces = {name: self._space(batch, name) for name in batch.values}
        solver = self.recipe.solver_at(eps)
        if not self._told_units:
            check_before(self.recipe, batch.values, spaces)
        perturbed, finite = solver.run(batch.values, spaces, gradient, first)
        adversarial = batch.replace(perturbed)
        if not self._told_units:
            tell_after(self.recipe, batch, adversarial, spaces)
            self._told_units = True
        return adversarial, finite

    def eps(self, count: int) -> float | Tensor:
        """ε in training now, for all of ``count`` samples or one for each."""
        eps, recipe, now = self.recipe.eps, self.recipe, self.schedule
        if isinstance(eps, Radius):
            return eps.at(now.iteration, now.epoch, recipe.begin, count)
        return float(eps)

    def _starts_as_called(self) -> bool:
        """Whether the attack starts with a forward of the unmodified batch."""
        recipe = self.recipe
        if recipe.random_start or recipe.attack_scale != 1:
            return False
        return recipe.attack_dtype is None or recipe.attack_path == CLEAN

    def _precision(self, batch: Batch) -> AbstractContextManager[Any]:
        if self.recipe.attack_dtype is None:
            return nullcontext()
        dtype = getattr(torch, self.recipe.attack_dtype)
        # Without the cache: nested in a trainer's autocast, it could return weights cast to the
        # trainer's dtype.
        return torch.autocast(batch.device.type, dtype, cache_enabled=False)

    def _space(self, batch: Batch, name: str) -> InputSpace:
        space = self.adapter.space(batch.values[name], name)
        return replace(
            space, valid=batch.valid(name), axes=self.adapter.axes(batch.values[name], name)
        )


@contextmanager
def _twice_differentiable(fused: Collection[str]) -> Iterator[None]:
    """Inside the block, what is fused otherwise runs in kernels with a second derivative."""
    enabled = torch.backends.cudnn.enabled
    try:
        # Convolutions need cuDNN, and have second derivatives there.
        torch.backends.cudnn.enabled = enabled and 'recurrent' not in fused
        with sdpa_kernel(SDPBackend.MATH) if 'attention' in fused else nullcontext():
            yield
    finally:
        torch.backends.cudnn.enabled = enabled


def by_modality(batch: Batch, slopes: Sequence[Tensor | None]) -> Values:
    """Name the gradients by modality; zero where the objective does not depend on a modality.

    Raises:
        ValueError: The objective depends on no modality.
    """
    if all(slope is None for slope in slopes):
        raise ValueError(
            'the attack objective does not depend on the inputs: does the model detach them, or '
            'run its backbone without gradients?'
        )
    return {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(batch.values.items(), slopes, strict=True)
    }


def _rescale(values: Values, scale: float) -> Values:
    """Resize the frames, for an attack that works at a lower resolution."""
    if scale == 1:
        return values
    small = {}
    for name, value in values.items():
        if value.ndim < 4:
            raise ValueError(
                f'attack_scale={scale} makes frames smaller, but the input {name or ""}'
                f'{tuple(value.shape)} has no height and width; write attack_scale=1'
            )
        size = [max(1, round(side * scale)) for side in value.shape[-2:]]
        small[name] = _resize(value, size, 'area')
    return small


def _enlarge(slopes: Values, like: Values) -> Values:
    """Upsample gradients to the resolution of the inputs (nearest neighbour)."""
    return {n: _resize(g, like[n].shape[-2:], 'nearest') for n, g in slopes.items()}


def _resize(frames: Tensor, size: Sequence[int], mode: str) -> Tensor:
    resized = F.interpolate(frames.flatten(0, -4), size=tuple(size), mode=mode)
    return resized.view(*frames.shape[:-2], *size)
