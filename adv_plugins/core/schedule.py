"""The schedule of one converted model: its iteration count and the seed of its random stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from .randomness import stream_seed
from .recipe import Recipe

_SAVED = ('seed', 'iteration', 'started')


class Schedule:
    """How far a run has come.

    A trainer can set the position with :meth:`go_to`; otherwise the steps are counted.

    Attributes:
        seed (int): Base seed of the private random stream.
        iteration (int): Index of the current step.
        epoch (int, optional): The current epoch where the recipe's ``begin`` and ``end`` are
            epochs; None where they are iterations.
        started (bool): Whether an adversarial step was taken. Until then the auxiliary norms are
            copies of the clean ones.
        adversarial_steps (int): The number of adversarial steps so far.
        rehearsed (bool): Whether the whole step has been tried once.
        driven (bool): Whether a trainer sets the position, which knows the length of the run.
    """

    def __init__(self) -> None:
        self.seed = torch.initial_seed() % 2**63
        self.iteration = 0
        self.epoch: int | None = None
        self.started = False
        self.adversarial_steps = 0
        self.rehearsed = False
        self.driven = False
        self._shared = False

    def reseed(self, seed: int) -> None:
        """Change the base seed of the private random stream; use the same seed on all ranks."""
        self.seed = seed

    def go_to(self, iteration: int | None = None, epoch: int | None = None) -> None:
        """Set the position of the run.

        Args:
            iteration (int, optional): Index of the next step. Defaults to None: as counted.
            epoch (int, optional): The epoch, if ``begin`` and ``end`` count epochs. Defaults to
                None: they count iterations.
        """
        self.driven = True
        self.iteration = self.iteration if iteration is None else iteration
        self.epoch = epoch

    def is_active(self, recipe: Recipe) -> bool:
        """Whether the next step is an adversarial one."""
        return recipe.is_active(self.progress, self.iteration)

    @property
    def progress(self) -> int:
        """The position in the unit of ``begin`` and ``end``."""
        return self.iteration if self.epoch is None else self.epoch

    def step_taken(self, adversarial: bool) -> None:
        """Count a training step."""
        self.adversarial_steps += adversarial
        self.started |= adversarial
        if not self._shared:
            self.rehearsed = True
            self.iteration += 1

    @contextmanager
    def one_iteration(self) -> Iterator[None]:
        """Count all steps inside the ``with`` block as one iteration.

        For a batch from several sources with one step each. In the first iteration the whole step
        is tried for each of them.
        """
        self._shared = True
        try:
            yield
        finally:
            self._shared = False
        self.step_taken(adversarial=False)

    def stream(self) -> int:
        """The seed of the next step's private random stream."""
        return stream_seed(self.seed, self.iteration)

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a checkpoint keeps."""
        return {name: torch.tensor(getattr(self, name)) for name in _SAVED}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state from :meth:`state_dict`.

        Raises:
            ValueError: An entry cannot be one of a schedule; then nothing is restored.
        """
        for name, now in self.state_dict().items():
            value = state[name]
            if value.dtype != now.dtype or value < 0:
                raise ValueError(f'the adversarial state is damaged: {name}={value}')
        for name in _SAVED:
            setattr(self, name, state[name].item())
