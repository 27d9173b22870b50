"""When the adversarial path is taken: the clock of one converted model, and its random stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from .randomness import stream_seed
from .recipe import Recipe

_SAVED = ('seed', 'iteration', 'started')


class Schedule:
    """Where a run is.

    A trainer that knows says so with :meth:`go_to`; otherwise steps are counted.

    Attributes:
        seed (int): Base of the private random stream.
        iteration (int): Index of the current step.
        epoch (int, optional): The current epoch where the recipe's ``begin`` and ``end`` are
            epochs; None where they are iterations.
        started (bool): Whether the auxiliary norms have left the clean ones they were copied from.
        adversarial_steps (int): How often the adversarial path was taken.
        rehearsed (bool): Whether the whole step has been tried once.
    """

    def __init__(self) -> None:
        self.seed = torch.initial_seed() % 2**63
        self.iteration = 0
        self.epoch: int | None = None
        self.started = False
        self.adversarial_steps = 0
        self.rehearsed = False
        self._shared = False

    def reseed(self, seed: int) -> None:
        """Start the private random stream elsewhere; on all ranks alike."""
        self.seed = seed

    def go_to(self, iteration: int | None = None, epoch: int | None = None) -> None:
        """Say where the run is.

        Args:
            iteration (int, optional): Index of the step to come. Defaults to None: as counted.
            epoch (int, optional): The epoch, if ``begin`` and ``end`` count epochs. Defaults to
                None: they count iterations.
        """
        self.iteration = self.iteration if iteration is None else iteration
        self.epoch = epoch

    def is_active(self, recipe: Recipe) -> bool:
        """Whether the coming step is an adversarial one."""
        progress = self.iteration if self.epoch is None else self.epoch
        return recipe.is_active(progress, self.iteration)

    def step_taken(self, adversarial: bool) -> None:
        """Count a training step."""
        self.adversarial_steps += adversarial
        self.started |= adversarial
        if not self._shared:
            self.rehearsed = True
            self.iteration += 1

    @contextmanager
    def one_iteration(self) -> Iterator[None]:
        """Count the steps inside as one: those of the sources of a batch, each of which is tried
        as a whole in the first iteration."""
        self._shared = True
        try:
            yield
        finally:
            self._shared = False
        self.step_taken(adversarial=False)

    def stream(self) -> int:
        """The seed of the private random stream of the coming step."""
        return stream_seed(self.seed, self.iteration)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {name: torch.tensor(getattr(self, name)) for name in _SAVED}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for name in _SAVED:
            setattr(self, name, state[name].item())
