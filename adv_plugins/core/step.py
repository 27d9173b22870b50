"""The adversarial step: one call that answers "what are your losses?" with a richer loss.

.. code-block:: text

    x ── clean forward (clean norms) ──► clean Record
                      objective(record) ── ∇x ──► x' = Π_ε(x + β·rule(∇x))        K times
    x' ─ adversarial forward (adversarial norms) ──► adversarial Record
    total = clean_weight · L(clean) + adv_weight · L(adversarial)
            + Σ weight · regularizer(clean Record, adversarial Record)

The clean loss' parameter gradients are taken as soon as the attack has read the clean graph,
which is then freed: the peak memory is that of one forward. They reach the trainer's one backward
through :class:`~adv_plugins.core.autograd.Carry`. A regularizer differentiates the clean record
too: with one, the clean graph lives until that backward.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from . import batch
from .adapter import Adapter, Record
from .attack import InputSpace, Values
from .attention import AttentionMap, capture_attention
from .autograd import (
    Carry,
    autograd_clock,
    gradients,
    graph_nodes,
    leaves_of,
    ran_in_fp16,
    reaches_behind,
)
from .batch import Inputs
from .capture import capture_output, find_module, last_output
from .cost import within_budget
from .norm import (
    ADVERSARIAL,
    CLEAN,
    DualNorm,
    NormPath,
    copy_clean_to_adversarial,
    dual_norms,
    is_batch_norm,
    mirror_requires_grad,
    twin_parameters,
)
from .recipe import Recipe


@dataclass
class Walk:
    """What one walk over both paths has found.

    Args:
        clean (Record): The clean record.
        adversarial (Record): The adversarial record.
        clean_total (Tensor): The weighted clean loss, carrying its gradients.
        penalties (dict[str, Tensor]): The weighted regularizers, by their log keys.
        metrics (dict[str, Tensor]): What is logged and not summed.
    """

    clean: Record
    adversarial: Record
    clean_total: Tensor
    penalties: dict[str, Tensor]
    metrics: dict[str, Tensor]


class Adversary:
    """The adversarial side of one converted model.

    Args:
        adapter (Adapter): How the model is called.
        recipe (Recipe): What the step does.
        path (NormPath): The path its norms follow.

    Attributes:
        given (Recipe): The recipe before its budget has chosen interval and fraction.
        seed (int): Base of the private random stream.
        iteration (int): Index of the current step; a trainer may set it, else it counts itself.
        epoch (int, optional): Current epoch where the recipe's ``begin`` and ``end`` are epochs.
        started (bool): Whether the adversarial norms have left their clean twins.
        walks (int): How often the adversarial path was taken.
        rehearsed (bool): Whether the whole step has been walked once.
    """

    def __init__(self, adapter: Adapter, recipe: Recipe, path: NormPath) -> None:
        self.adapter = adapter
        self.given = self.recipe = recipe
        self.path = path
        self.seed = torch.initial_seed() % 2**63
        self.iteration = 0
        self.epoch: int | None = None
        self.started = False
        self.walks = 0
        self.rehearsed = False
        self._num_norms = len(dual_norms(self.model))
        self._left_plain = self._plain_norms()
        self._layer = ''
        if recipe.objective.needs_features:
            self._layer = recipe.objective.cam_layer or adapter.find_cam_layer()
            find_module(self.model, self._layer, 'cam_layer')
        for regularizer in recipe.regularizers:
            for name in regularizer.modules or ():
                find_module(self.model, name, recipe.modules_option)

    @property
    def model(self) -> nn.Module:
        """The converted model."""
        return self.adapter.model

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def losses(self, inputs: Inputs, target: Any) -> dict[str, Tensor]:
        """The losses of one training iteration; the plain ones where the schedule says so.

        The first call walks the adversarial path in any case, so that a recipe that does not fit
        the model, the data or the memory fails before anything is trained, and not on the day
        its schedule begins. Under ``no_grad`` nothing is trained, and the schedule stands still.
        """
        trains = torch.is_grad_enabled()
        if not self.rehearsed:
            self._check(inputs)
            if trains:
                self.recipe = within_budget(self.recipe, batch.batch_size(inputs))
        if any(value.requires_grad for value in batch.modalities(inputs).values()):
            raise ValueError(
                'the inputs require a gradient, which an adversarial step does not pass on to what '
                'is in front of the model; convert the whole model, or pass inputs.detach()'
            )
        progress = self.iteration if self.epoch is None else self.epoch
        active = self.recipe.is_active(progress, self.iteration)
        if trains and not (self.rehearsed or active):
            self._rehearse(inputs, target)
        with torch.enable_grad():
            if active and not self.started:
                copy_clean_to_adversarial(self.model)
                self.started = trains
            step = self._adversarial_losses if active else self.clean_losses
            losses = step(inputs, target)
        self.rehearsed |= trains
        self.iteration += trains
        self.walks += active and trains
        return losses

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def perturb(self, inputs: Inputs, target: Any) -> Inputs:
        """The adversarial inputs; in eval mode those of the deployed (clean) path."""
        self._check(inputs)
        trained = self.model.training and self.started
        branch = self.recipe.attack_path if trained else CLEAN
        with torch.inference_mode(False), torch.enable_grad(), self._private_random(inputs):
            inputs, leaves = _leaves(batch.clone(inputs))
            with self.path.use(branch, tracking=False):
                record = self._forward(inputs, target)
            labels = self.recipe.objective.targets(record)
            first = None
            if self._starts_as_called():
                first = self._attack_gradient(record, labels, leaves, branch)
            del record
            return self._ascend(inputs, target, labels, branch, first)[0]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def clean_losses(self, inputs: Inputs, target: Any) -> dict[str, Tensor]:
        """The plain model's losses, from which a backward still reaches every parameter: one
        that it did not reach would be an error in DistributedDataParallel."""
        losses = dict(self.adapter.losses(inputs, target))
        twins = [twin for _, twin in twin_parameters(self.model) if twin.requires_grad]
        if twins:
            first = next(name for name in losses if 'loss' in name)
            zero = losses[first].detach().new_zeros(())
            losses[first] = losses[first] + Carry.apply(zero, [None] * len(twins), *twins)
        return losses

    def rest_idle_twins(self, since: int) -> None:
        """Drop the gradients of the adversarial parameters if they take no part in a step.

        DistributedDataParallel turns the missing gradient of a clean iteration into zeros, from
        which weight decay and momentum would move them. To be called before an optimizer steps.

        Args:
            since (int): ``walks`` at its step before.
        """
        if self.walks == since:
            for _, twin in twin_parameters(self.model):
                twin.grad = None

    def _adversarial_losses(self, inputs: Inputs, target: Any) -> dict[str, Tensor]:
        mirror_requires_grad(self.model)
        walk = self._walk(inputs, target)
        losses = self.adapter.report(
            walk.clean, walk.adversarial, walk.clean_total, walk.penalties, self.recipe
        )
        return {**losses, **walk.metrics}

    def _walk(self, inputs: Inputs, target: Any) -> Walk:
        recipe = self.recipe
        inputs, leaves = _leaves(inputs)
        # Records are compared under the same dropout.
        random = _random_state(inputs) if recipe.regularizers else None
        begun = autograd_clock()
        with self.path.use(CLEAN):
            clean = self._forward(inputs, target, recipe.starts_at_clean, attention=True)
        with self._private_random(inputs):
            labels = recipe.objective.targets(clean)
            first, total, known = self._use_clean_graph(clean, begun, labels, leaves)
            reference = clean
            if recipe.fraction < 1:
                index = _random_subset(inputs, recipe.fraction)
                inputs, target = batch.take(inputs, index), self.adapter.select(target, index)
                labels = None if labels is None else labels[index]
                first = None if first is None else {n: g[index] for n, g in first.items()}
                reference = clean.take(index)
            perturbed, finite = self._ascend(inputs, target, labels, recipe.attack_path, first)
            if random is not None:
                _set_random_state(random)
            with self.path.use(ADVERSARIAL):
                adversarial = self._forward(perturbed, target, features=False, attention=True)
        if known is not None:
            total = cast(Tensor, Carry.apply(total, known.values(), *known))
            del known
        penalties, metrics = self._regularize(reference, adversarial)
        metrics['adv_nonfinite'] = (~finite).sum().float()
        metrics |= self._sizes(inputs, perturbed)
        if not self.rehearsed:
            self._warn_of_silence(metrics, len(finite))
        clean.attention = adversarial.attention = []
        return Walk(clean, adversarial, total, penalties, metrics)

    def _regularize(
        self, clean: Record, adversarial: Record
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted regularizers, and what they are before their weights."""
        penalties, metrics = {}, {}
        for regularizer in self.recipe.regularizers:
            with torch.set_grad_enabled(regularizer.weight > 0):
                value = regularizer(clean, adversarial)
            metrics[regularizer.name] = value.detach()
            penalties[f'loss_{regularizer.name}'] = regularizer.weight * value
        return penalties, metrics

    def _sizes(self, inputs: Inputs, perturbed: Inputs) -> dict[str, Tensor]:
        """ε, and ||R|| / ||X|| of every modality as the model is fed them, mean over the batch:
        without the second, the first says little about features. Besides, how many samples have
        not moved at all."""
        ratios = batch.relative_sizes(inputs, perturbed)
        still = torch.stack([ratio == 0 for ratio in ratios.values()]).all(dim=0)
        sizes = {f'adv_ratio_{n}' if n else 'adv_ratio': r.mean() for n, r in ratios.items()}
        eps = torch.tensor(float(self.recipe.eps))
        return {'adv_eps': eps, **sizes, 'adv_unmoved': still.sum().float()}

    def _warn_of_silence(self, metrics: dict[str, Tensor], count: int) -> None:
        """Say so if the first attack had no gradient to follow."""
        solver = self.recipe.solver
        silent = metrics['adv_unmoved'] == count and metrics['adv_nonfinite'] == 0
        if not silent or solver.eps == 0 or solver.step_size == 0:
            return
        where = f' of cam_layer={self._layer!r}' if self._layer else ''
        warnings.warn(
            'the first attack moved no sample, as the gradient of the objective is zero '
            f'everywhere: the class scores may not depend on the output{where} (a class token '
            'reads no other token of its own block: name the block before), stochastic depth may '
            'have cut the way between them, or layers behind it may still have weights of zero',
            stacklevel=2,
        )

    def _use_clean_graph(
        self, clean: Record, begun: int, labels: Tensor | None, leaves: Values
    ) -> tuple[Values | None, Tensor, dict[Tensor, Tensor | None] | None]:
        """All that needs the clean graph: the attack's first gradient (where the attack starts
        there), the weighted clean loss, and its gradient by each parameter, after which the
        graph is freed. Where they have to wait for the trainer's backward, None."""
        recipe = self.recipe
        starts_here = recipe.starts_at_clean
        total = recipe.clean_weight * clean.loss
        kept = any(regularizer.weight > 0 for regularizer in recipe.regularizers)
        trained = recipe.clean_weight > 0
        nodes = graph_nodes(total) if trained and not kept else []
        # In fp16 the gradients need the trainer's loss scale, which only its backward has. Nor is
        # a graph from before the step to be freed.
        waits = kept or (
            trained and (ran_in_fp16(nodes, leaves.values()) or reaches_behind(nodes, begun))
        )
        first: Values | None = None
        shared = recipe.objective.is_training_loss and trained
        if starts_here and (waits or not shared):
            first = self._attack_gradient(clean, labels, leaves, CLEAN, trained or kept)
        if waits:
            return first, total, None
        if trained:
            inside = {*self.model.parameters(), *leaves.values()}
            # Those of the model, and those that its loss has of its own.
            foreign = [leaf for leaf in leaves_of(nodes) if leaf not in inside]
            parameters = [*self._trainable(), *foreign]
            wanted = [*parameters, *leaves.values()] if starts_here and shared else parameters
            with self.path.use(CLEAN):
                found = gradients(total, wanted) if wanted else ()
            known = dict(zip(parameters, found[: len(parameters)], strict=True))
            if len(wanted) > len(parameters):
                # The step's direction does not depend on the positive weight of the loss.
                first = _by_name(leaves, found[len(parameters) :])
        else:
            known = self._no_gradients()
        clean.drop_graph()
        return first, total.detach(), known

    def _no_gradients(self) -> dict[Tensor, Tensor | None]:
        """What a loss without a weight gives: zeros where the adversarial loss does not reach, as
        DistributedDataParallel would make them, so that any number of processes trains alike."""
        clean_only = {id(value) for value, _ in twin_parameters(self.model)}
        return {
            value: torch.zeros_like(value) if id(value) in clean_only else None
            for value in self._trainable()
        }

    def _ascend(
        self,
        inputs: Inputs,
        target: Any,
        labels: Tensor | None,
        branch: str,
        first: Values | None,
    ) -> tuple[Inputs, Tensor]:
        """Run the recipe's attack from a batch on one branch, statistics frozen."""

        def gradient(values: Values) -> Values:
            seen = _rescale(values, self.recipe.attack_scale)
            moved, leaves = _leaves(batch.replace(inputs, seen))
            with self._attack_precision(moved):
                with self.path.use(branch, tracking=False):
                    record = self._forward(moved, target)
                found = self._attack_gradient(record, labels, leaves, branch)
            return found if seen is values else _enlarge(found, values)

        clean = batch.modalities(inputs)
        spaces = {name: self._space(inputs, name) for name in clean}
        perturbed, finite = self.recipe.solver.run(clean, spaces, gradient, first)
        return batch.replace(inputs, perturbed), finite

    def _starts_as_called(self) -> bool:
        """Whether a forward of the batch, just as it is called, is the attack's first one."""
        recipe = self.recipe
        if recipe.random_start or recipe.attack_scale != 1:
            return False
        return recipe.attack_dtype is None or recipe.attack_path == CLEAN

    def _attack_precision(self, inputs: Inputs) -> AbstractContextManager[Any]:
        if self.recipe.attack_dtype is None:
            return nullcontext()
        device = next(iter(batch.modalities(inputs).values())).device.type
        dtype = getattr(torch, self.recipe.attack_dtype)
        # Its cache knows weights by name alone: inside a trainer's it would hand out other dtypes.
        return torch.autocast(device, dtype, cache_enabled=False)

    def _space(self, inputs: Inputs, name: str) -> InputSpace:
        space = self.adapter.space(batch.modalities(inputs)[name], name)
        return replace(space, valid=batch.valid_entries(inputs, name))

    def _attack_gradient(
        self,
        record: Record,
        labels: Tensor | None,
        leaves: Values,
        branch: str,
        retain_graph: bool = False,
    ) -> Values:
        tensors = list(leaves.values())
        with self.path.use(branch, tracking=False):
            value = self.recipe.objective(record, labels).sum()
            if ran_in_fp16(graph_nodes(value), tensors):
                # Small gradients would underflow; the direction of a step knows no scale.
                scaled = _by_name(leaves, gradients(value * 2.0**14, tensors, retain_graph=True))
                if all(gradient.isfinite().all() for gradient in scaled.values()):
                    return scaled
            return _by_name(leaves, gradients(value, tensors, retain_graph))

    def _forward(
        self, inputs: Inputs, target: Any, features: bool = True, attention: bool = False
    ) -> Record:
        """A forward with the features that the objective reads, and on demand the attention maps
        that the regularizers read."""
        layer = self._layer if features else ''
        module = self.model.get_submodule(layer) if layer else None
        readers = [entry for entry in self.recipe.regularizers if entry.needs_attention]
        names = [name for entry in readers for name in entry.modules or ()]
        everything = any(entry.modules is None for entry in readers)
        listening: AbstractContextManager[list[AttentionMap]] = nullcontext([])
        if attention and readers:
            listening = capture_attention(self.model, None if everything else names)
        with capture_output(module) as outputs, listening as maps:
            record = self.adapter.forward(inputs, target)
        if layer:
            record.layer = layer
            record.features, record.layout = self.adapter.feature_map(
                layer, last_output(outputs, layer), inputs, self.recipe.objective.cam_layout
            )
        record.attention = maps
        return record

    def _rehearse(self, inputs: Inputs, target: Any) -> None:
        """Walk the whole step, backward included, and leave no trace of it."""
        with self._private_random(inputs), self.path.use(CLEAN, tracking=False):
            walk = self._walk(inputs, target)
            total = walk.clean_total + self.recipe.adv_weight * walk.adversarial.loss
            total = sum(walk.penalties.values(), total)
            parameters = self._trainable()
            if parameters:
                with self.path.use(ADVERSARIAL):
                    gradients(total, parameters)

    def _trainable(self) -> list[nn.Parameter]:
        return [value for value in self.model.parameters() if value.requires_grad]

    def _check(self, inputs: Any) -> None:
        for name in batch.modalities(inputs):
            batch.valid_entries(inputs, name)
        if any(getattr(part, '_is_fsdp_managed_module', False) for part in self.model.modules()):
            raise TypeError(
                'the model is sharded by FSDP, which frees the parameters after a backward, and an '
                'adversarial step has several; wrap it in DistributedDataParallel instead'
            )
        added = [name for name in self._plain_norms() if name not in self._left_plain]
        if len(dual_norms(self.model)) != self._num_norms or added:
            what = f'{added[0]} was added' if added else 'norm layers were replaced'
            raise RuntimeError(
                f'{what} after make_adversarial (a SyncBN conversion?), without adversarial twins; '
                'convert SyncBN first and call make_adversarial last'
            )

    def _plain_norms(self) -> list[str]:
        """Batch norms that are trained on both paths alike."""
        return [
            name
            for name, part in self.model.named_modules()
            if is_batch_norm(part)
            and not isinstance(part, DualNorm)
            and any(value.requires_grad for value in part.parameters())
        ]

    @contextmanager
    def _private_random(self, inputs: Inputs) -> Iterator[None]:
        """A stream of seed, iteration and rank alone, while the global one stands still."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        step = (self.iteration + 1) * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03
        seed = (self.seed + step) % 2**63
        generators = _generators(inputs)
        devices = [generator.device for generator in generators if generator.device.type == 'cuda']
        with torch.random.fork_rng(devices=devices):
            for generator in generators:
                generator.manual_seed(seed)
            yield


def _leaves(inputs: Inputs) -> tuple[Inputs, Values]:
    """The batch with its modalities as leaves to differentiate by, and these."""
    values = batch.modalities(inputs)
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    return batch.replace(inputs, leaves), leaves


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


def _enlarge(gradients: Values, like: Values) -> Values:
    """Gradients at the resolution of the inputs; each place has that of its region."""
    return {n: _resize(g, like[n].shape[-2:], 'nearest') for n, g in gradients.items()}


def _resize(frames: Tensor, size: Sequence[int], mode: str) -> Tensor:
    resized = F.interpolate(frames.flatten(0, -4), size=tuple(size), mode=mode)
    return resized.view(*frames.shape[:-2], *size)


def _by_name(leaves: Values, found: Sequence[Tensor | None]) -> Values:
    """Gradients by modality; zero for one that the objective does not depend on."""
    if all(gradient is None for gradient in found):
        raise ValueError(
            'the attack objective does not depend on the inputs: does the model detach them, or '
            'run its backbone without gradients?'
        )
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _random_subset(inputs: Inputs, fraction: float) -> Tensor:
    """Indices of about ``fraction`` of the samples, in order; two at least, for batch norms."""
    size = batch.batch_size(inputs)
    device = next(iter(batch.modalities(inputs).values())).device
    count = max(min(2, size), round(size * fraction))
    return torch.randperm(size, device=device)[:count].sort().values


def _generators(inputs: Inputs) -> list[torch.Generator]:
    """The global random streams that a forward of this batch draws from."""
    device = next(iter(batch.modalities(inputs).values())).device
    generators = [torch.default_generator]
    if device.type == 'cuda':
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators


def _random_state(inputs: Inputs) -> list[tuple[torch.Generator, Tensor]]:
    return [(generator, generator.get_state()) for generator in _generators(inputs)]


def _set_random_state(state: list[tuple[torch.Generator, Tensor]]) -> None:
    for generator, value in state:
        generator.set_state(value)
