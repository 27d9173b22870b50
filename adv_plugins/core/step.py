"""The adversarial step: one call that returns the clean, adversarial and regularizer losses.

.. code-block:: text

    x ── clean forward (clean norms) ──► clean record
                      objective(record) ── ∇x ──► x' = Π_ε(x + β·rule(∇x))        K times
    x' ─ adversarial forward (auxiliary norms) ──► adversarial record
    total = clean_weight · L(clean) + adv_weight · L(adversarial)
            + Σ weight · regularizer(clean record, adversarial record)

Where nothing reads the clean record, there is no clean forward, and the adversarial one moves
running statistics and all other buffers, as in a plain step on x'.

The parameter gradients of the clean loss are computed as soon as the attack has used the clean
graph, which is then freed, so the peak memory is that of one forward.
:class:`adv_plugins.core.autograd.InjectGradients` adds them to the trainer's single backward. A
regularizer also differentiates the clean record; with one, the clean graph is kept until that
backward, or, with ``recompute``, built once more after the adversarial one is freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .attacker import Attacker, by_modality
from .autograd import (
    autograd_clock,
    depends_on_earlier_graph,
    gradients,
    graph_nodes,
    inject_gradients,
    leaves_of,
    parameters_of,
    ran_in_fp16,
    with_gradient_of,
)
from .batch import Batch, Values
from .buffers import Buffers, with_buffers
from .norm import ADVERSARIAL, CLEAN, auxiliary_parameters
from .randomness import RandomState, private_random, random_state, set_random_state
from .recipe import Recipe
from .recompute import cut, gradients_at
from .record import Record, StepResult
from .sharding import is_sharded
from .weights import perturbed, weights_of


@dataclass
class _Part:
    """The samples to attack, with their labels, gradient and clean record."""

    batch: Batch
    target: Any
    labels: Tensor | None
    gradient: Values | None
    clean: Record | None

    def take(self, index: Tensor, adapter: Adapter) -> _Part:
        """The samples at ``index``."""
        gradient = self.gradient
        return _Part(
            self.batch.take(index),
            adapter.select(self.target, index),
            None if self.labels is None else self.labels[index],
            None if gradient is None else {name: g[index] for name, g in gradient.items()},
            None if self.clean is None else self.clean.take(index),
        )


class _Found(NamedTuple):
    """What the attack found, in which samples, and how the forward after it draws."""

    chosen: Tensor | None
    perturbed: Batch
    finite: Tensor
    eps: float | Tensor
    random: RandomState


class Step:
    """The adversarial step of a recipe on one model.

    Args:
        attacker (Attacker): The recipe's attack on that model.
        recipe (Recipe): The recipe.
    """

    def __init__(self, attacker: Attacker, recipe: Recipe) -> None:
        self.attacker = attacker
        self.recipe = recipe
        self._found: _Found | None = None

    @property
    def model(self) -> nn.Module:
        """The converted model."""
        return self.attacker.adapter.model

    @property
    def _starts_at_clean(self) -> bool:
        return self.recipe.starts_at_clean and self._found is None

    def __call__(self, batch: Batch, target: Any, seed: int) -> StepResult:
        """Take the step.

        Args:
            batch (Batch): The clean batch.
            target (Any): Its labels or data samples.
            seed (int): Seed of the step's private random stream.

        Returns:
            StepResult: The total loss and its parts.
        """
        self._found, batch = None, batch.leaves()
        if self.recipe.weight_eps > 0:
            return self._at_worse_weights(batch, target, seed)
        return self._evaluate(batch, target, seed)

    def _at_worse_weights(self, batch: Batch, target: Any, seed: int) -> StepResult:
        """All losses and gradients where the weights are perturbed, delivered where they are."""
        weights, clock = weights_of(self.model), autograd_clock()
        random, buffers = random_state(batch.device), self.attacker.buffers.copies()
        total = self._evaluate(batch, target, seed).total
        inputs, nodes = list(batch.values.values()), graph_nodes(total)
        if ran_in_fp16(nodes, inputs) or depends_on_earlier_graph(nodes, clock):
            raise ValueError(
                "weight_eps takes gradients ahead of the trainer's backward, but the model runs in "
                'fp16, whose gradients need its loss scale, or its loss depends on a graph from '
                'before the step; train in bfloat16, or write weight_eps=0'
            )
        worse = perturbed(weights, gradients(total, weights), self.recipe.weight_eps)
        del total, nodes
        with worse, private_random(batch.device, seed=0), with_buffers(buffers):
            set_random_state(random)
            result = self._evaluate(batch, target, seed)
            reached = self._reached(graph_nodes(result.total), inputs)
            known = dict(zip(reached, gradients(result.total, reached), strict=True))
        result.drop_graph()
        result.clean_loss = result.clean_loss.detach()
        result.total = inject_gradients(result.total, known)
        return result

    def _evaluate(self, batch: Batch, target: Any, seed: int) -> StepResult:
        """Attack, unless that is done, and compute all losses."""
        recipe = self.recipe
        # Regularizers compare the records, so both forwards need the same dropout masks.
        dropout = random_state(batch.device) if recipe.regularizers else None
        if dropout is None or not (recipe.recompute and recipe.regularized):
            return self._losses(batch, target, seed, dropout)[0]
        buffers = self.attacker.buffers.copies()
        result, leaves = self._losses(batch, target, seed, dropout)
        if leaves is not None:
            self._exchange_graphs(result, leaves, batch, target, dropout, buffers)
        return result

    def _losses(
        self, batch: Batch, target: Any, seed: int, dropout: RandomState | None
    ) -> tuple[StepResult, list[Tensor] | None]:
        """Compute all losses.

        Returns:
            tuple: The step, and the leaves that stand for the clean record in it; None if that has
            its graph, or no regularizer reads it.
        """
        recipe, attacker, clock = self.recipe, self.attacker, autograd_clock()
        clean: Record | None = None
        labels = gradient = known = leaves = None
        clean_loss, reached = torch.zeros((), device=batch.device), list[Tensor]()
        if recipe.runs_clean:
            with attacker.path.use(CLEAN):
                read = self._starts_at_clean or recipe.objective.compares
                clean = self._forward(batch, target, features=read)
            # Of a sharded model only the graphs tell which parameters the clean norms have.
            if recipe.clean_weight == 0 and is_sharded(self.model):
                reached = parameters_of(clean.loss)
        with private_random(batch.device, seed):
            if clean is not None:
                labels = recipe.objective.targets(clean)
                gradient, clean_loss, known = self._read_clean_graph(clean, labels, batch, clock)
                freed = recipe.regularized and not clean_loss.requires_grad
                leaves = cut(clean) if freed else None
            part, found = self._attack(_Part(batch, target, labels, gradient, clean), dropout)
            del gradient
            set_random_state(found.random)
            # With no other forward that trains, this one moves all buffers, as in a plain step.
            with attacker.path.use(CLEAN if clean is None else ADVERSARIAL):
                adversarial = self._forward(found.perturbed, part.target, features=False)
        if clean is not None:
            for value in {adversarial.loss, *adversarial.losses.values()}:
                attacker.buffers.hold_in_backward(value)
        if reached and known is not None:
            trained = set(parameters_of(adversarial.loss))
            known |= {value: torch.zeros_like(value) for value in reached if value not in trained}
        clean_loss = inject_gradients(clean_loss, known)
        del known
        adv_loss = recipe.weigh(adversarial.loss)
        penalties, metrics = self._regularize(part.clean or adversarial, adversarial)
        total = sum(penalties.values(), clean_loss + adv_loss)
        metrics |= self._attack_metrics(part.batch, found)
        clean = clean or adversarial
        clean.recorded = adversarial.recorded = {}
        return (
            StepResult(clean, adversarial, clean_loss, adv_loss, penalties, total, metrics),
            leaves,
        )

    def _attack(self, part: _Part, dropout: RandomState | None) -> tuple[_Part, _Found]:
        """Choose the samples and attack them, unless that is done."""
        recipe, attacker, before = self.recipe, self.attacker, self._found
        chosen = None if before is None else before.chosen
        if before is None and part.clean is not None and recipe.fraction < 1:
            with attacker.path.use(CLEAN, tracking=False), attacker.buffers.hold():
                counted = attacker.adapter.counted(part.clean)
            chosen = _random_subset(part.batch, recipe.fraction, counted)
        if chosen is not None:
            part = part.take(chosen, attacker.adapter)
        if before is not None:
            return part, before
        eps, path = attacker.eps(part.batch.size), recipe.attack_path
        moved, finite = attacker.ascend(
            part.batch, part.target, part.labels, path, part.gradient, eps
        )
        state = dropout or random_state(part.batch.device)
        self._found = _Found(chosen, moved, finite, eps, state)
        return part, self._found

    def _forward(self, batch: Batch, target: Any, features: bool) -> Record:
        """Run a forward with the recorders of the regularizers."""
        with ExitStack() as stack:
            recorded = {
                regularizer.name: stack.enter_context(regularizer.record(self.model))
                for regularizer in self.recipe.regularizers
            }
            record = self.attacker.forward(batch, target, features)
        record.recorded = recorded
        return record

    def _read_clean_graph(
        self, clean: Record, labels: Tensor | None, batch: Batch, clock: int
    ) -> tuple[Values | None, Tensor, dict[Tensor, Tensor | None] | None]:
        """Compute everything that needs the clean graph, then free the graph where possible.

        Returns:
            tuple: The attack's first gradient, or None if the attack does not start from the clean
            forward; the weighted clean loss, without its graph unless the trainer's backward needs
            that; and its gradient w.r.t. each parameter, or None if those have to wait for that
            backward.
        """
        recipe, leaves = self.recipe, list(batch.values.values())
        loss = recipe.clean_weight * clean.loss
        regularized = recipe.regularized
        trained = recipe.clean_weight > 0 or regularized
        kept = regularized and not recipe.recompute
        nodes = graph_nodes(loss) if trained and not kept else []
        # In fp16 the gradients need the trainer's loss scale, which only its backward has. A graph
        # from before the step must not be freed either.
        waits = kept or (
            trained and (ran_in_fp16(nodes, leaves) or depends_on_earlier_graph(nodes, clock))
        )
        gradient: Values | None = None
        # For an attack on the training loss, the backward of the clean loss yields the gradient.
        taken = trained and not waits and not regularized
        comes_with_loss = taken and recipe.objective.is_training_loss
        if self._starts_at_clean and not comes_with_loss:
            gradient = self.attacker.gradient(clean, labels, batch, CLEAN, taken or waits)
        if waits:
            return gradient, loss, None
        if regularized:
            return gradient, loss.detach(), None
        if taken:
            wanted = leaves if self._starts_at_clean and comes_with_loss else []
            by_leaves, known = self._loss_gradients(loss, nodes, leaves, wanted)
            # A positive weight of the loss does not change the direction of the attack step.
            gradient = by_modality(batch, by_leaves) if wanted else gradient
        else:
            known = self._no_gradients()
        clean.drop_graph()
        return gradient, loss.detach(), known

    def _loss_gradients(
        self,
        loss: Tensor,
        nodes: Sequence[Any],
        leaves: Sequence[Tensor],
        wanted: Sequence[Tensor],
        branch: str = CLEAN,
    ) -> tuple[tuple[Tensor | None, ...], dict[Tensor, Tensor | None]]:
        """The gradients of a loss w.r.t. the wanted leaves and w.r.t. each parameter."""
        parameters = self._reached(nodes, leaves)
        inputs = [*parameters, *wanted]
        with self.attacker.path.use(branch), self.attacker.buffers.hold():
            taken = gradients(loss, inputs) if inputs else ()
        count = len(parameters)
        return taken[count:], dict(zip(parameters, taken[:count], strict=True))

    def _reached(self, nodes: Sequence[Any], leaves: Sequence[Tensor]) -> list[Tensor]:
        """All trainable parameters, and those in the graph of a loss; not the leaves."""
        known = trainable(self.model)
        others = {*known, *leaves}
        # The loss may have parameters of its own, and a sharded model is known by its graph only.
        return [*known, *(leaf for leaf in leaves_of(nodes) if leaf not in others)]

    def _exchange_graphs(
        self,
        result: StepResult,
        leaves: Sequence[Tensor],
        batch: Batch,
        target: Any,
        dropout: RandomState,
        buffers: Buffers,
    ) -> None:
        """Take all gradients through the adversarial graph, then run the clean forward once more.

        The trainer's backward goes through the graph of that forward. It takes the gradients at the
        leaves along, and delivers those of the adversarial part.
        """
        attacker, recipe = self.attacker, self.recipe
        nodes = graph_nodes(result.total)
        taken, known = self._loss_gradients(result.total, nodes, leaves, leaves, ADVERSARIAL)
        del nodes
        result.drop_graph()
        with private_random(batch.device, seed=0), with_buffers(buffers):
            set_random_state(dropout)
            # The first forward has moved the statistics. This one needs no gradient of the inputs.
            plain = batch.replace({name: v.detach() for name, v in batch.values.items()})
            with attacker.path.use(CLEAN, tracking=False):
                again = self._forward(plain, target, features=recipe.starts_at_clean)
        known |= gradients_at(again, leaves, taken)
        zero = again.loss.detach().new_zeros(())
        source = recipe.clean_weight * again.loss + inject_gradients(zero, known)
        result.clean_loss = with_gradient_of(result.clean_loss, source)
        result.total = with_gradient_of(result.total, result.clean_loss)
        result.recomputed = again.loss.detach()

    def _no_gradients(self) -> dict[Tensor, Tensor | None]:
        """The parameter gradients of a clean loss of weight 0.

        They are zero for the clean norms, which the adversarial loss does not reach.
        DistributedDataParallel would fill in the same zeros, so any number of processes trains
        alike.
        """
        clean_only = {id(value) for value, _ in auxiliary_parameters(self.model)}
        return {
            value: torch.zeros_like(value) if id(value) in clean_only else None
            for value in trainable(self.model)
        }

    def _regularize(
        self, clean: Record, adversarial: Record
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted and the unweighted values of the regularizers."""
        penalties, metrics = {}, {}
        for regularizer in self.recipe.regularizers:
            with torch.set_grad_enabled(regularizer.weight > 0):
                value = regularizer(clean, adversarial)
            metrics[regularizer.name] = value.detach()
            penalties[f'loss_{regularizer.name}'] = regularizer.weight * value
        return penalties, metrics

    def _attack_metrics(self, clean: Batch, found: _Found) -> dict[str, Tensor]:
        """The metrics of the perturbation.

        ε says little about features, so ``||R|| / ||X||`` of every modality is logged too, in the
        units of the model's input, the mean over the samples that are not zero everywhere. The rest
        counts the samples left unperturbed: those whose gradient was not finite, and all of them.
        """
        ratios, eps = clean.relative_sizes(found.perturbed), found.eps
        # A radius for each sample is drawn on the CPU.
        mean = float(eps.mean()) if isinstance(eps, Tensor) else eps
        return {
            'adv_nonfinite': (~found.finite).sum().float(),
            'adv_eps': found.finite.new_full((), mean, dtype=torch.float32),
            **{f'adv_ratio_{n}' if n else 'adv_ratio': r.nanmean() for n, r in ratios.items()},
            'adv_unmoved': clean.equals(found.perturbed).sum().float(),
        }


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient; none of a sharded model, whose graphs hold others."""
    if is_sharded(model):
        return []
    return [value for value in model.parameters() if value.requires_grad]


def _random_subset(batch: Batch, fraction: float, counted: Tensor | None) -> Tensor:
    """Sorted indices of about ``fraction`` of the samples; at least two, for batch norms.

    Samples that the loss counts are drawn first: the mean loss of a part without any is undefined.
    """
    count = max(min(2, batch.size), round(batch.size * fraction))
    order = torch.randperm(batch.size, device=batch.device)
    if counted is not None:
        order = order[(~counted[order]).to(torch.uint8).argsort(stable=True)]
    return order[:count].sort().values
