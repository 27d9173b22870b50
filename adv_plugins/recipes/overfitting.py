"""Noticing catastrophic overfitting (Wong et al., ICLR 2020, arXiv 2001.03994)."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core.adversary import Adversary
from ..core.attacker import Attacker
from ..core.batch import Batch, Inputs, fresh
from ..core.norm import CLEAN
from ..core.option_values import as_count
from ..core.randomness import private_random
from ..core.record import IGNORED

_FEW = 8
"""Of so few samples that PGD left right at its best, chance may fool all others."""


@dataclass(kw_only=True, unsafe_hash=True)
class OverfittingWatch:
    """Compares PGD's accuracy with that of the recipe's own attack, now and then in training.

    A model that trains on single steps may come to resist those alone: from one epoch to the next
    PGD's accuracy falls to zero, while that under the single step rises. The model is attacked as
    it is deployed, in eval mode, at the largest ε of the recipe. It is left unchanged.

    Args:
        interval (int): A check is made at the first of every ``interval`` adversarial iterations.
            Defaults to 100.
        steps (int): Steps of PGD, from a random start. Defaults to 10.

    Attributes:
        held_out (tuple, optional): Inputs and labels to attack. Defaults to None: the batch that is
            about to be trained on.
    """

    interval: int = 100
    steps: int = 10
    held_out: tuple[Inputs, Any] | None = field(default=None, repr=False, compare=False)
    _best: float = field(default=0.0, init=False, repr=False, compare=False)
    _when: int = field(default=0, init=False, repr=False, compare=False)
    _told: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.interval = as_count('check_interval', self.interval)
        self.steps = as_count('steps', self.steps)

    def __call__(self, adversary: Adversary, batch: Batch, target: Any) -> dict[str, Tensor]:
        """Check, if it is time to.

        Args:
            adversary (Adversary): The adversarial training of the model.
            batch (Batch): The batch that is about to be trained on.
            target (Any): Its labels or data samples.

        Returns:
            dict[str, Tensor]: ``adv_pgd_acc`` and ``adv_fgsm_acc``, or nothing.

        Raises:
            ValueError: There is not one label for each sample.
        """
        recipe, iteration = adversary.recipe, adversary.schedule.iteration
        if iteration // recipe.interval % self.interval:
            return {}
        inputs, target = self.held_out or (batch.inputs, target)
        seed = adversary.schedule.stream()
        with _evaluated(adversary.model):
            single, count = accuracy(adversary.attacker, inputs, target, seed)
            pgd = copy.copy(adversary.attacker)
            pgd.recipe = dataclasses.replace(
                recipe, steps=self.steps, step_size=None, random_start=True
            )
            found, _ = accuracy(pgd, inputs, target, seed)
        self._tell(float(found), float(single), count, iteration)
        return {'adv_pgd_acc': found, 'adv_fgsm_acc': single}

    def _tell(self, pgd: float, single: float, count: int, iteration: int) -> None:
        if pgd >= self._best:
            self._best, self._when = pgd, iteration
        fell = pgd <= self._best / 4 and single >= self._best and self._best * count >= _FEW
        if fell and not self._told:
            warnings.warn(
                f'catastrophic overfitting: accuracy under PGD fell from {self._best:.0%} at '
                f'iteration {self._when} to {pgd:.0%} at iteration {iteration}, while {single:.0%} '
                'remain under the single step that the model is trained with. What follows is not '
                f'robust: go back to a checkpoint of iteration {self._when} or before, and go on '
                'with a smaller step_size (such as step_size=eps), or with PGDTraining(steps=2)',
                stacklevel=2,
            )
        self._told = fell


def accuracy(attacker: Attacker, inputs: Inputs, target: Any, seed: int) -> tuple[Tensor, int]:
    """The share of the labelled samples that are right under an attack, and their number.

    Raises:
        ValueError: There is not one label for each sample.
    """
    moved = Batch(attacker.perturb(inputs, target, seed))
    # With a graph, which is dropped: autocast would keep weights that it cast without one.
    with private_random(moved.device, seed), attacker.path.use(CLEAN, tracking=False):
        record = attacker.forward(moved, fresh(target), features=False)
    labels = record.hard_labels('the check of FastTraining (check_interval=None leaves it out)')
    counted = labels != IGNORED
    right = record.logits.argmax(dim=1)[counted] == labels[counted]
    return right.float().mean(), int(counted.sum())


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Inside the block, all modules are in eval mode."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        # Not by eval(), which some models override, and which has effects that last.
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
