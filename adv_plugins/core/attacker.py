"""An adapter and a recipe give perturbed inputs: all that evaluation needs, and half of a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapter import Adapter
from .attack import InputSpace
from .autograd import gradients, graph_nodes, ran_in_fp16
from .batch import Batch, Inputs, Values
from .capture import capture_output, find_module, last_output
from .norm import CLEAN, NormPath
from .randomness import private_random
from .recipe import Recipe
from .record import Record


class Attacker:
    """The attack of a recipe on one model.

    Args:
        adapter (Adapter): How the model is called.
        recipe (Recipe): Of which the objective and the solver are used.
        path (NormPath, optional): The path of the model's norms. Defaults to None: they are plain.

    Attributes:
        layer (str): Dotted name of the layer whose output the objective reads; '' if it reads none.

    Raises:
        ValueError: The recipe names a layer that the model has not, or it has to and does not.
    """

    def __init__(self, adapter: Adapter, recipe: Recipe, path: NormPath | None = None) -> None:
        self.adapter = adapter
        self.recipe = recipe
        self.path = NormPath() if path is None else path
        self.layer = ''
        if recipe.objective.needs_features:
            self.layer = recipe.objective.cam_layer or adapter.find_cam_layer()
            find_module(adapter.model, self.layer, 'cam_layer')

    def perturb(
        self,
        inputs: Inputs,
        target: Any,
        seed: int,
        branch: str = CLEAN,
    ) -> Inputs:
        """The adversarial inputs; nothing of the model is changed.

        Args:
            inputs (Tensor | Mapping): A batch as the model takes it.
            target (Any): Its labels or data samples.
            seed (int): Of the private stream that random labels and starts are drawn from, see
                :func:`~adv_plugins.core.randomness.stream_seed`.
            branch (str): Whose norms are attacked. Defaults to the clean, deployed ones.

        Returns:
            Tensor | dict: Detached, of the shape, dtype and space of ``inputs``.
        """
        batch = Batch(inputs)
        random = private_random(batch.device, seed)
        with torch.inference_mode(False), torch.enable_grad(), random:
            batch = batch.clone().leaves()
            with self.path.use(branch, tracking=False):
                record = self.forward(batch, target)
            labels = self.recipe.objective.targets(record)
            first = None
            if self._starts_as_called():
                first = self.gradient(record, labels, batch, branch)
            del record
            return self.ascend(batch, target, labels, branch, first)[0].inputs

    def forward(self, batch: Batch, target: Any) -> Record:
        """A forward with the features that the objective reads."""
        module = self.adapter.model.get_submodule(self.layer) if self.layer else None
        with capture_output(module) as outputs:
            record = self.adapter.forward(batch, target)
        if self.layer:
            record.layer = self.layer
            record.features, record.layout = self.adapter.feature_map(
                self.layer,
                last_output(outputs, self.layer),
                batch,
                self.recipe.objective.cam_layout,
            )
        return record

    def gradient(
        self,
        record: Record,
        labels: Tensor | None,
        batch: Batch,
        branch: str,
        retain_graph: bool = False,
    ) -> Values:
        """The gradient of the objective by the modalities.

        Args:
            record (Record): A forward of ``batch``.
            labels (Tensor, optional): What the objective aims at.
            batch (Batch): The leaves to differentiate by.
            branch (str): The norms that the forward went through.
            retain_graph (bool): Whether the record's graph is used once more. Defaults to False.

        Returns:
            dict[str, Tensor]: One gradient a modality, up to a positive factor.

        Raises:
            ValueError: The objective does not depend on the inputs.
        """
        leaves = list(batch.values.values())
        with self.path.use(branch, tracking=False):
            value = self.recipe.objective(record, labels).sum()
            if ran_in_fp16(graph_nodes(value), leaves):
                # Small gradients would underflow; the direction of a step knows no scale.
                scaled = by_modality(batch, gradients(value * 2.0**14, leaves, retain_graph=True))
                if all(gradient.isfinite().all() for gradient in scaled.values()):
                    return scaled
            return by_modality(batch, gradients(value, leaves, retain_graph))

    def ascend(
        self,
        batch: Batch,
        target: Any,
        labels: Tensor | None,
        branch: str,
        first: Values | None,
    ) -> tuple[Batch, Tensor]:
        """Run the attack from a batch on one branch, with running statistics frozen.

        Args:
            batch (Batch): The clean batch.
            target (Any): Its labels or data samples.
            labels (Tensor, optional): What the objective aims at.
            branch (str): Whose norms are attacked.
            first (dict[str, Tensor], optional): The gradient at ``batch``, where it is known.

        Returns:
            tuple[Batch, Tensor]: The adversarial batch, detached, and a boolean per sample that is
            False where a gradient was not finite and the sample was left as it is.
        """

        def gradient(values: Values) -> Values:
            seen = _rescale(values, self.recipe.attack_scale)
            moved = batch.replace(seen).leaves()
            with self._precision(moved):
                with self.path.use(branch, tracking=False):
                    record = self.forward(moved, target)
                slopes = self.gradient(record, labels, moved, branch)
            return slopes if seen is values else _enlarge(slopes, values)

        spaces = {name: self._space(batch, name) for name in batch.values}
        perturbed, finite = self.recipe.solver.run(batch.values, spaces, gradient, first)
        return batch.replace(perturbed), finite

    def _starts_as_called(self) -> bool:
        """Whether a forward of the batch, just as it is called, is the attack's first one."""
        recipe = self.recipe
        if recipe.random_start or recipe.attack_scale != 1:
            return False
        return recipe.attack_dtype is None or recipe.attack_path == CLEAN

    def _precision(self, batch: Batch) -> AbstractContextManager[Any]:
        if self.recipe.attack_dtype is None:
            return nullcontext()
        dtype = getattr(torch, self.recipe.attack_dtype)
        # Its cache knows weights by name alone: inside a trainer's it would hand out other dtypes.
        return torch.autocast(batch.device.type, dtype, cache_enabled=False)

    def _space(self, batch: Batch, name: str) -> InputSpace:
        space = self.adapter.space(batch.values[name], name)
        return replace(space, valid=batch.valid(name))


def by_modality(batch: Batch, slopes: Sequence[Tensor | None]) -> Values:
    """Gradients by modality; zero for one that the objective does not depend on.

    Raises:
        ValueError: It depends on none of them.
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
    """Frames at another resolution, for an attack that looks at them from afar."""
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
    """Gradients at the resolution of the inputs; each place has that of its region."""
    return {n: _resize(g, like[n].shape[-2:], 'nearest') for n, g in slopes.items()}


def _resize(frames: Tensor, size: Sequence[int], mode: str) -> Tensor:
    resized = F.interpolate(frames.flatten(0, -4), size=tuple(size), mode=mode)
    return resized.view(*frames.shape[:-2], *size)
