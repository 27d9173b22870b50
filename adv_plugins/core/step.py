"""The adversarial step: one call that answers "what are your losses?" with a richer loss.

.. code-block:: text

    x ── clean forward (clean norms) ──► clean Record
                      objective(record) ── ∇x ──► x' = Π_ε(x + β·rule(∇x))        K times
    x' ─ adversarial forward (adversarial norms) ──► adversarial Record
    total = clean_weight · L(clean) + adv_weight · L(adversarial)

The clean loss' parameter gradients are taken as soon as the attack has read the clean graph,
which is then freed: the peak memory is that of one forward. They reach the trainer's one backward
through :class:`~adv_plugins.core.autograd.Carry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .adapter import Adapter, Record
from .autograd import Carry, gradients, in_fp16
from .capture import capture_output, find_module, last_output
from .norm import (
    ADVERSARIAL,
    CLEAN,
    NormPath,
    copy_clean_to_adversarial,
    dual_norms,
    mirror_requires_grad,
)
from .recipe import Recipe


class Adversary:
    """The adversarial side of one converted model.

    Args:
        adapter (Adapter): How the model is called.
        recipe (Recipe): What the step does.
        path (NormPath): The path its norms follow.

    Attributes:
        seed (int): Base of the private random stream.
        iteration (int): Index of the current step; a trainer may set it, else it counts itself.
        epoch (int, optional): Current epoch where the recipe's ``begin`` and ``end`` are epochs.
        started (bool): Whether the adversarial norms have left their clean twins.
        walks (int): How often the adversarial path was taken.
    """

    def __init__(self, adapter: Adapter, recipe: Recipe, path: NormPath) -> None:
        self.adapter = adapter
        self.recipe = recipe
        self.path = path
        self.seed = torch.initial_seed() % 2**63
        self.iteration = 0
        self.epoch: int | None = None
        self.started = False
        self.walks = 0
        self._rehearsed = False
        self._num_norms = len(dual_norms(self.model))
        self._layer = ''
        if recipe.objective.needs_features:
            self._layer = recipe.objective.cam_layer or adapter.find_cam_layer()
            find_module(self.model, self._layer, 'cam_layer')

    @property
    def model(self) -> nn.Module:
        """The converted model."""
        return self.adapter.model

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def losses(self, inputs: Tensor, target: Any) -> dict[str, Tensor]:
        """The losses of one training iteration; the plain ones where the schedule says so.

        The first call walks the adversarial path in any case, so that a recipe that does not fit
        the model, the data or the memory fails before anything is trained, and not on the day
        its schedule begins.
        """
        if not self._rehearsed:
            self._check(inputs)
        if inputs.requires_grad:
            raise ValueError(
                'the inputs require a gradient, which an adversarial step does not pass on to what '
                'is in front of the model; convert the whole model, or pass inputs.detach()'
            )
        progress = self.iteration if self.epoch is None else self.epoch
        active = self.recipe.is_active(progress, self.iteration)
        if not self._rehearsed:
            if not active:
                self._rehearse(inputs, target)
            self._rehearsed = True
        with torch.enable_grad():
            step = self._adversarial_losses if active else self._clean_losses
            losses = step(inputs, target)
        self.iteration += 1
        self.walks += active
        return losses

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def perturb(self, inputs: Tensor, target: Any) -> Tensor:
        """The adversarial inputs; in eval mode those of the deployed (clean) path."""
        self._check(inputs)
        trained = self.model.training and self.started
        branch = self.recipe.attack_path if trained else CLEAN
        with torch.inference_mode(False), torch.enable_grad(), self._private_random(inputs):
            leaf = inputs.detach().clone().requires_grad_()
            with self.path.use(branch, tracking=False):
                record = self._forward(leaf, target)
            labels = self.recipe.objective.targets(record)
            first = None
            if not self.recipe.random_start:
                first = self._attack_gradient(record, labels, leaf, branch)
            del record
            return self._ascend(leaf, target, labels, branch, first)[0]

    def _clean_losses(self, inputs: Tensor, target: Any) -> dict[str, Tensor]:
        """The plain model's losses, from which a backward still reaches every parameter: one
        that it did not reach would be an error in DistributedDataParallel."""
        losses = dict(self.adapter.forward(inputs, target).losses)
        twins = [
            twin
            for norm in dual_norms(self.model)
            for _, _, twin in norm.twin_pairs()
            if twin.requires_grad
        ]
        if twins:
            first = next(name for name in losses if 'loss' in name)
            nothing = Carry.apply(inputs.new_zeros(()), [None] * len(twins), *twins)
            losses[first] = losses[first] + nothing
        return losses

    def _adversarial_losses(self, inputs: Tensor, target: Any) -> dict[str, Tensor]:
        if not self.started:
            copy_clean_to_adversarial(self.model)
            self.started = True
        mirror_requires_grad(self.model)
        clean, clean_total, adversarial, finite = self._walk(inputs, target)
        losses = self.adapter.report(clean, adversarial, clean_total, self.recipe)
        losses['adv_nonfinite'] = (~finite).sum().float()
        return losses

    def _walk(self, inputs: Tensor, target: Any) -> tuple[Record, Tensor, Record, Tensor]:
        """Both paths: clean record, weighted clean total, adversarial record, finite samples."""
        recipe = self.recipe
        leaf = inputs.detach().requires_grad_()
        with self.path.use(CLEAN):
            clean = self._forward(leaf, target)
        with self._private_random(inputs):
            labels = recipe.objective.targets(clean)
            first, clean_total = self._use_clean_graph(clean, labels, leaf)
            if recipe.fraction < 1:
                index = _random_subset(len(inputs), recipe.fraction, inputs.device)
                leaf, target = self.adapter.select(leaf, target, index)
                labels = None if labels is None else labels[index]
                first = None if first is None else first[index]
            perturbed, finite = self._ascend(leaf, target, labels, recipe.attack_path, first)
            with self.path.use(ADVERSARIAL):
                adversarial = self.adapter.forward(perturbed, target)
        return clean, clean_total, adversarial, finite

    def _use_clean_graph(
        self, clean: Record, labels: Tensor | None, leaf: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """All that needs the clean graph, which is freed: the attack's first gradient (where
        the attack starts there) and the weighted clean loss, carrying its gradients."""
        recipe = self.recipe
        starts_here = recipe.attack_path == CLEAN and not recipe.random_start
        total = recipe.clean_weight * clean.loss
        # In fp16 the gradients need the trainer's loss scale, which only its backward has.
        eager = not in_fp16(leaf)
        first = None
        shared = recipe.objective.is_training_loss and recipe.clean_weight > 0
        if starts_here and not (eager and shared):
            first = self._attack_gradient(clean, labels, leaf, CLEAN, retain_graph=True)
        if eager:
            parameters = self._trainable()
            wanted = [*parameters, leaf] if starts_here and shared else parameters
            with self.path.use(CLEAN):
                known = gradients(total, wanted) if wanted else ()
            if len(wanted) > len(parameters):
                # The step's direction does not depend on the positive weight of the loss.
                first = _required(known[-1])
            total = cast(Tensor, Carry.apply(total.detach(), known[: len(parameters)], *parameters))
            clean.drop_graph()
        return first, total

    def _ascend(
        self,
        leaf: Tensor,
        target: Any,
        labels: Tensor | None,
        branch: str,
        first: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the recipe's attack from a batch on one branch, statistics frozen."""

        def gradient(batch: Tensor) -> Tensor:
            batch = batch.detach().requires_grad_()
            with self.path.use(branch, tracking=False):
                record = self._forward(batch, target)
            return self._attack_gradient(record, labels, batch, branch)

        return self.recipe.solver.run(leaf, self.adapter.space(leaf), gradient, first)

    def _attack_gradient(
        self,
        record: Record,
        labels: Tensor | None,
        leaf: Tensor,
        branch: str,
        retain_graph: bool = False,
    ) -> Tensor:
        with self.path.use(branch, tracking=False):
            value = self.recipe.objective(record, labels).sum()
            if in_fp16(leaf):
                # Small gradients would underflow; the direction of a step knows no scale.
                scaled = _required(gradients(value * 2.0**14, [leaf], retain_graph=True)[0])
                if scaled.isfinite().all():
                    return scaled
            return _required(gradients(value, [leaf], retain_graph)[0])

    def _forward(self, inputs: Tensor, target: Any) -> Record:
        """A forward with the features that the objective reads."""
        module = self.model.get_submodule(self._layer) if self._layer else None
        with capture_output(module) as outputs:
            record = self.adapter.forward(inputs, target)
        if self._layer:
            record.features, record.layer = last_output(outputs, self._layer), self._layer
        return record

    def _rehearse(self, inputs: Tensor, target: Any) -> None:
        """Walk the whole step, backward included, and leave no trace of it."""
        with self._private_random(inputs), self.path.use(CLEAN, tracking=False):
            _, clean_total, adversarial, _ = self._walk(inputs, target)
            total = clean_total + self.recipe.adv_weight * adversarial.loss
            parameters = self._trainable()
            if parameters:
                with self.path.use(ADVERSARIAL):
                    gradients(total, parameters)

    def _trainable(self) -> list[nn.Parameter]:
        return [value for value in self.model.parameters() if value.requires_grad]

    def _check(self, inputs: Any) -> None:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(
                f'an attack needs inputs that are one floating-point tensor, got {got}; convert '
                'them before (inputs.float()), or let the data preprocessor normalise them'
            )
        if len(dual_norms(self.model)) != self._num_norms:
            raise RuntimeError(
                'norm layers were replaced after make_adversarial (a SyncBN conversion?): their '
                'adversarial twins are gone; convert SyncBN first and call make_adversarial last'
            )

    @contextmanager
    def _private_random(self, inputs: Tensor) -> Iterator[None]:
        """A stream of seed, iteration and rank alone, while the global one stands still."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        step = (self.iteration + 1) * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03
        seed = (self.seed + step) % 2**63
        on_cuda = inputs.device.type == 'cuda'
        with torch.random.fork_rng(devices=[inputs.device] if on_cuda else []):
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                torch.cuda.default_generators[inputs.get_device()].manual_seed(seed)
            yield


def _required(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ValueError(
            'the attack objective does not depend on the inputs: does the model detach them, or '
            'run its backbone without gradients?'
        )
    return gradient


def _random_subset(size: int, fraction: float, device: torch.device) -> Tensor:
    """Indices of about ``fraction`` of the samples, in order; two at least, for batch norms."""
    count = max(min(2, size), round(size * fraction))
    return torch.randperm(size, device=device)[:count].sort().values
