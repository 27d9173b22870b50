"""The adversarial step: one call that answers "what is your loss?" with a richer loss.

.. code-block:: text

    x ── clean forward (clean norms) ──► clean record
                      objective(record) ── ∇x ──► x' = Π_ε(x + β·rule(∇x))        K times
    x' ─ adversarial forward (auxiliary norms) ──► adversarial record
    total = clean_weight · L(clean) + adv_weight · L(adversarial)
            + Σ weight · regularizer(clean record, adversarial record)

The clean loss' parameter gradients are taken as soon as the attack has read the clean graph,
which is then freed: the peak memory is that of one forward. They reach the trainer's one backward
through :class:`~adv_plugins.core.autograd.InjectGradients`. A regularizer differentiates the clean
record too: with one, the clean graph lives until that backward.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .attacker import Attacker, by_modality
from .autograd import (
    autograd_clock,
    depends_on_earlier_graph,
    gradients,
    graph_nodes,
    inject_gradients,
    leaves_of,
    ran_in_fp16,
)
from .batch import Batch, Values
from .norm import ADVERSARIAL, CLEAN, auxiliary_parameters
from .randomness import private_random, random_state, set_random_state
from .recipe import Recipe
from .record import Record, StepResult


class Step:
    """The adversarial step of a recipe on one model.

    Args:
        attacker (Attacker): The recipe's attack on that model.
        recipe (Recipe): The recipe.
    """

    def __init__(self, attacker: Attacker, recipe: Recipe) -> None:
        self.attacker = attacker
        self.recipe = recipe
        self.path = attacker.path

    @property
    def model(self) -> nn.Module:
        """The converted model."""
        return self.attacker.adapter.model

    def __call__(self, batch: Batch, target: Any, seed: int) -> StepResult:
        """Take the step.

        Args:
            batch (Batch): The clean batch.
            target (Any): Its labels or data samples.
            seed (int): Of the step's private random stream.

        Returns:
            StepResult: The total loss and what it is made of.
        """
        recipe, batch = self.recipe, batch.leaves()
        # Records are compared under the same dropout.
        dropout = random_state(batch.device) if recipe.regularizers else None
        begun = autograd_clock()
        with self.path.use(CLEAN):
            clean = self._forward(batch, target, features=recipe.starts_at_clean)
        with private_random(batch.device, seed):
            labels = recipe.objective.targets(clean)
            slopes, clean_loss, known = self._read_clean_graph(clean, labels, batch, begun)
            reference = clean
            if recipe.fraction < 1:
                index = _random_subset(batch, recipe.fraction)
                batch, target = batch.take(index), self.attacker.adapter.select(target, index)
                labels = None if labels is None else labels[index]
                slopes = None if slopes is None else {n: g[index] for n, g in slopes.items()}
                reference = clean.take(index)
            perturbed, finite = self.attacker.ascend(
                batch, target, labels, recipe.attack_path, slopes
            )
            if dropout is not None:
                set_random_state(dropout)
            with self.path.use(ADVERSARIAL):
                adversarial = self._forward(perturbed, target, features=False)
        if known is not None:
            clean_loss = inject_gradients(clean_loss, known)
            del known
        adv_loss = recipe.adv_weight * adversarial.loss
        penalties, metrics = self._regularize(reference, adversarial)
        total = sum(penalties.values(), clean_loss + adv_loss)
        metrics |= self._sizes(batch, perturbed, finite)
        clean.recorded = adversarial.recorded = {}
        return StepResult(clean, adversarial, clean_loss, adv_loss, penalties, total, metrics)

    def _forward(self, batch: Batch, target: Any, features: bool) -> Record:
        """A forward that the regularizers' recorders follow."""
        forward = self.attacker.forward if features else self.attacker.adapter.forward
        with ExitStack() as stack:
            recorded = {
                regularizer.name: stack.enter_context(regularizer.record(self.model))
                for regularizer in self.recipe.regularizers
            }
            record = forward(batch, target)
        record.recorded = recorded
        return record

    def _read_clean_graph(
        self, clean: Record, labels: Tensor | None, batch: Batch, begun: int
    ) -> tuple[Values | None, Tensor, dict[Tensor, Tensor | None] | None]:
        """All that needs the clean graph: the attack's first gradient (where the attack starts
        there), the weighted clean loss, and its gradient by each parameter, after which the
        graph is freed. Where they have to wait for the trainer's backward, None."""
        recipe = self.recipe
        starts_here = recipe.starts_at_clean
        loss = recipe.clean_weight * clean.loss
        regularized = any(regularizer.weight > 0 for regularizer in recipe.regularizers)
        trained = recipe.clean_weight > 0
        nodes = graph_nodes(loss) if trained and not regularized else []
        leaves = list(batch.values.values())
        # In fp16 the gradients need the trainer's loss scale, which only its backward has. Nor is
        # a graph from before the step to be freed.
        waits = regularized or (
            trained and (ran_in_fp16(nodes, leaves) or depends_on_earlier_graph(nodes, begun))
        )
        slopes: Values | None = None
        shared = recipe.objective.is_training_loss and trained
        if starts_here and (waits or not shared):
            retain = trained or regularized
            slopes = self.attacker.gradient(clean, labels, batch, CLEAN, retain)
        if waits:
            return slopes, loss, None
        if trained:
            inside = {*self.model.parameters(), *leaves}
            # Those of the model, and those that its loss has of its own.
            foreign = [leaf for leaf in leaves_of(nodes) if leaf not in inside]
            parameters = [*trainable(self.model), *foreign]
            wanted = [*parameters, *leaves] if starts_here and shared else parameters
            with self.path.use(CLEAN):
                taken = gradients(loss, wanted) if wanted else ()
            known = dict(zip(parameters, taken[: len(parameters)], strict=True))
            if len(wanted) > len(parameters):
                # The step's direction does not depend on the positive weight of the loss.
                slopes = by_modality(batch, taken[len(parameters) :])
        else:
            known = self._no_gradients()
        clean.drop_graph()
        return slopes, loss.detach(), known

    def _no_gradients(self) -> dict[Tensor, Tensor | None]:
        """What a loss without a weight gives: zeros where the adversarial loss does not reach, as
        DistributedDataParallel would make them, so that any number of processes trains alike."""
        clean_only = {id(value) for value, _ in auxiliary_parameters(self.model)}
        return {
            value: torch.zeros_like(value) if id(value) in clean_only else None
            for value in trainable(self.model)
        }

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

    def _sizes(self, clean: Batch, perturbed: Batch, finite: Tensor) -> dict[str, Tensor]:
        """ε, and ``||R|| / ||X||`` of every modality as the model is fed them, mean over the batch:
        without the second, the first says little about features. Besides, how many samples were
        left unperturbed, for want of a finite gradient or for any reason."""
        ratios = clean.relative_sizes(perturbed)
        unmoved = torch.stack([ratio == 0 for ratio in ratios.values()]).all(dim=0)
        return {
            'adv_nonfinite': (~finite).sum().float(),
            'adv_eps': torch.tensor(float(self.recipe.eps)),
            **{f'adv_ratio_{n}' if n else 'adv_ratio': r.mean() for n, r in ratios.items()},
            'adv_unmoved': unmoved.sum().float(),
        }


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a backward has to reach."""
    return [value for value in model.parameters() if value.requires_grad]


def _random_subset(batch: Batch, fraction: float) -> Tensor:
    """Indices of about ``fraction`` of the samples, in order; two at least, for batch norms."""
    count = max(min(2, batch.size), round(batch.size * fraction))
    return torch.randperm(batch.size, device=batch.device)[:count].sort().values
