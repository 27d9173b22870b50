"""Several attacks as one: what AutoAttack runs as its ``standard`` version."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.option_values import as_count, as_number
from ...core.threat import InputSpace
from .apgd import APGD
from .base import UNIT, Attack
from .search import LogitsFn, OutOfTime, Search
from .square import Frames, Square
from .targeted import APGDTargeted, DeepFoolTargeted


@dataclass(frozen=True, kw_only=True)
class StandardEnsemble(Attack):
    """Four attacks, each on the samples that those before it did not fool.

    They are those of AutoAttack's ``standard`` version (Croce & Hein, ICML 2020) in its order:
    :class:`APGD` on the cross-entropy, :class:`APGDTargeted`, :class:`DeepFoolTargeted` in the
    place of FAB, and :class:`Square`, which only ``norm='linf'`` has. Auto-PGD starts at the clean
    input, not at random. So its numbers are not AutoAttack's. Of ``frames``, each part chooses its
    own.

    If no attack fools the model, the input with the smallest margin is kept. The result for a
    sample depends on the rest of its batch only where ``seconds`` ends the search.
    :meth:`search` tells in two ``columns`` how far each sample got: ``fooled_by``, the number of
    the part that fooled it, and ``stopped_in``, that of the part in which its time ended; they
    count from 1, and NaN is none, as for a sample that was wrong from the start.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): The norm of the ball; for it, ``shared``, ``frames`` and ``region`` see
            :class:`Attack`. Defaults to ``'linf'``.
        steps (int): Steps of one run of the first three. Defaults to 100.
        targets (int): How many wrong classes the second and the third go to. Defaults to 9.
        queries (int): How many inputs Square tries; 0 leaves it out, as it must be for inputs
            without frames. Defaults to 5000.
        channel_dim (int, optional): As for :class:`Square`. Defaults to None.
        seconds (float, optional): How long a batch may take, for each of its samples. What is left
            out then is told by a warning. Defaults to None: as long as it takes.
    """

    steps: int = 100
    targets: int = 9
    queries: int = 5000
    channel_dim: int | None = None
    seconds: float | None = None

    black_box: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {name: as_count(name, getattr(self, name)) for name in ('steps', 'targets')}
        vars(self).update(**counts, queries=as_count('queries', self.queries, 0))
        if self.seconds is not None:
            seconds = as_number('seconds', self.seconds)
            if seconds <= 0:
                raise ValueError(
                    f'seconds={self.seconds} must be positive; write seconds=None for no limit'
                )
            vars(self).update(seconds=seconds)

    @property
    def parts(self) -> list[Attack]:
        """The attacks in their order."""
        ball = self.ball
        parts: list[Attack] = [
            APGD(steps=self.steps, **ball),
            APGDTargeted(steps=self.steps, targets=self.targets, **ball),
            DeepFoolTargeted(steps=self.steps, targets=self.targets, **ball),
        ]
        if self.norm == 'linf' and self.queries > 0:
            parts.append(Square(queries=self.queries, channel_dim=self.channel_dim, **ball))
        return parts

    @property
    def part_names(self) -> list[str]:
        """Their names, as the columns count them."""
        return [type(part).__name__ for part in self.parts]

    @property
    def cost(self) -> int:
        """That of all of them."""
        return sum(part.cost for part in self.parts)

    def __call__(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        labels: Tensor,
        space: InputSpace = UNIT,
        seed: int | Tensor = 0,
    ) -> Tensor:
        """Attack a batch, see :class:`Attack`; what is left out for lack of time is told."""
        found = self.search(logits_fn, x, labels, space, seed)
        told = out_of_time(self.part_names, found.columns['stopped_in'].tolist())
        if told:
            warnings.warn(told, stacklevel=2)
        return found.best

    def _run(self, search: Search) -> None:
        parts = self.parts
        fooled_by = torch.full(search.fooled.shape, math.nan, device=search.fooled.device)
        stopped_in = fooled_by.clone()
        search.columns.update(fooled_by=fooled_by, stopped_in=stopped_in)
        if isinstance(parts[-1], Square):
            # Inputs without frames are told now, and not when Square's turn comes.
            Frames(search.clean, self.channel_dim)
        if self.seconds is not None:
            search = search.until(time.monotonic() + self.seconds * len(search.clean))
        for number, part in enumerate(parts, start=1):
            rows = search.active()
            if len(rows) == 0:
                return
            try:
                part._run(
                    search.choosing().measuring(
                        lambda logits, labels, _, part=part: part._objective(logits, labels)
                    )
                )
            except OutOfTime:
                stopped_in[search.active()] = number
            # What was wrong from the start is clean, and no part fooled it.
            moved = (search.best != search.clean).flatten(1).any(dim=1)
            fooled_by[rows[(search.fooled & moved)[rows]]] = number
            if stopped_in.isfinite().any():
                return


def out_of_time(names: Sequence[str], stopped_in: Sequence[float]) -> str:
    """How far an ensemble got in its time.

    Args:
        names (Sequence[str]): Of its parts.
        stopped_in (Sequence[float]): Of each sample the number of the part in which time ended,
            from 1; NaN where it did not.

    Returns:
        str: A sentence for people; '' if nothing was left out.
    """
    stopped = [part for part in stopped_in if part == part]
    if not stopped:
        return ''
    counts = (
        f'{name} for {sum(part <= number for part in stopped)}'
        for number, name in enumerate(names, start=1)
    )
    return (
        f'out of time: of {len(stopped_in)}, left out or not run to the end were '
        f'{", ".join(counts)}; they count as not fooled, and more seconds= may fool them'
    )
