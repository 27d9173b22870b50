"""The search of an attack through one batch: it tries perturbations and keeps the best."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.batch import LONE
from ...core.functional import expand_like
from ...core.threat import Ball, InputSpace, ThreatModel
from .losses import margins

LogitsFn = Callable[[Tensor, Tensor], Tensor]
"""Logits (n, C) of inputs (n, ...), at the positions (n,) of the batch."""
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What is measured, shape (n, ...), of logits (n, C), labels (n,) and rows (n,)."""


class OutOfTime(Exception):
    """The time of a search has ended."""


class Search:
    """The best input so far for each sample of a batch, and the means to look for better ones.

    Everywhere ``rows`` are positions in the batch, and ``delta`` the perturbations of the samples
    there, in pixel units.

    Args:
        logits_fn (Callable): As when an :class:`adv_plugins.evaluation.attacks.Attack` is called,
            like the four arguments that follow.
        x (Tensor): Clean inputs, shape (B, ...).
        labels (Tensor): True classes, integers of shape (B,).
        space (InputSpace): The map to pixel units, valid values and padding.
        seed (int | Tensor): Of the random numbers, one or one a sample.
        threat (ThreatModel): Which perturbations are allowed.
        objective (Callable): What is raised, shape (n,), of logits (n, C) and labels (n,).
        stop (bool): Whether a sample is done once it is fooled.

    Attributes:
        clean (Tensor): The clean inputs, detached.
        best (Tensor): The best inputs so far, shape (B, ...).
        fooled (Tensor): Whether they fool the model and are done, shape (B,).
        columns (dict[str, Tensor]): What else there is to tell of each sample, shape (B,).

    Raises:
        ValueError: Inputs, labels or seeds are not as described.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        labels: Tensor,
        space: InputSpace,
        seed: int | Tensor,
        *,
        threat: ThreatModel,
        objective: Callable[[Tensor, Tensor], Tensor],
        stop: bool,
    ) -> None:
        _check_batch(x, labels)
        self._logits_fn, self._objective = logits_fn, objective
        self._stop, self._deadline = stop, math.inf
        self._measure: Measure | None = None
        self.clean = x.detach()
        self._labels = labels.to(x.device, torch.long)
        self._generators = _generators(seed, len(x))
        self._ball = Ball(threat, {LONE: self.clean}, {LONE: space})
        self.best = self.clean.clone()
        self._best_loss = x.new_full((len(x),), -math.inf)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._fools = torch.zeros_like(self.fooled)
        self.columns: dict[str, Tensor] = {}

    def measuring(self, measure: Measure) -> Search:
        """The same search, where evaluations return a measure instead of the objective, which still
        decides what is kept."""
        view = copy.copy(self)
        view._measure = measure
        return view

    def choosing(self) -> Search:
        """The same search, whose choice of frames is its own: those that this one has chosen stay,
        and it does not learn of others."""
        view = copy.copy(self)
        view._ball = copy.copy(self._ball)
        view._ball.places = dict(self._ball.places)
        return view

    def until(self, deadline: float) -> Search:
        """The same search, which raises :class:`OutOfTime` in place of a forward after a deadline,
        a time of ``time.monotonic()``."""
        view = copy.copy(self)
        view._deadline = deadline
        return view

    def active(self) -> Tensor:
        """The rows of the samples that are not fooled yet."""
        return (~self.fooled).nonzero().squeeze(1)

    def keep_active(self, rows: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        """Of values with one entry a row, those of the samples that are not fooled yet."""
        keep = ~self.fooled[rows]
        return tuple(value[keep] for value in values)

    def evaluate(self, rows: Tensor, delta: Tensor) -> Tensor:
        """Try perturbations: one forward. Returns their losses."""
        with torch.no_grad():
            points = self.at(rows, delta)
            return self._record(rows, points, self._logits(points, rows))

    def evaluate_with_grad(self, rows: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Try perturbations: a forward and a backward. Returns their losses and gradients.

        The gradients are in pixel units, and 0 for a sample where one entry is not finite. Where
        all of the samples are fooled there is no backward, and they are 0 too.
        """
        points = self.at(rows, delta).requires_grad_()
        loss = self._record(rows, points.detach(), self._logits(points, rows))
        value = loss.detach()
        if self.fooled[rows].all():
            return value, torch.zeros_like(delta)
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.sum(), points, allow_unused=True)
        if gradient is None:
            raise ValueError(
                'the scores of logits_fn do not depend on its input by differentiable operations; '
                'let it run without torch.no_grad() and without detach(), or take a black box '
                "such as dict(type='Square', ...)"
            )
        gradient = self._ball_of(rows).pull_back(LONE, gradient)
        finite = gradient.flatten(1).isfinite().all(dim=1)
        gradient = torch.where(expand_like(finite, gradient), gradient, 0)
        self._choose_frames(rows, gradient)
        return value, gradient

    def step(self, rows: Tensor, delta: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The steepest step of a length, or of one for each row, from perturbations."""
        return self._ball_of(rows).step({LONE: gradient}, {LONE: delta}, size)[LONE]

    def at(self, rows: Tensor, delta: Tensor) -> Tensor:
        """The inputs at perturbations, once these are brought into the ball and to valid values."""
        ball, clean = self._ball_of(rows), self.clean[rows]
        ball.choose_frames({LONE: delta})
        delta, space = ball.project({LONE: delta})[LONE], ball.spaces[LONE]
        shift = delta * space.scale_like(delta)
        point = clean + shift
        # Rounding the sum may leave the ball: step back towards the clean value.
        outside = (point - clean).abs() > shift.abs()
        return space.clamp(torch.where(outside, point.nextafter(clean), point), clean)

    def restrict(self, rows: Tensor, delta: Tensor) -> Tensor:
        """The perturbations of the inputs that :meth:`at` gives.

        Where entries are to be the same, those that valid values allow are not: they stay in the
        ball only.
        """
        ball = self._ball_of(rows)
        if ball.threat.shared:
            return ball.project({LONE: delta})[LONE]
        return (self.at(rows, delta) - self.clean[rows]) / ball.spaces[LONE].scale_like(delta)

    def zeros(self, rows: Tensor) -> Tensor:
        """The perturbations of the clean inputs."""
        return torch.zeros_like(self.clean[rows])

    def generators(self, rows: Tensor) -> list[torch.Generator]:
        """The source of random numbers of each sample."""
        return [self._generators[row] for row in rows.tolist()]

    def random(self, rows: Tensor) -> Tensor:
        """Perturbations drawn uniformly from the ball; of frames that are not chosen yet, too."""
        ball, draw = self._ball_of(rows), partial(self._draw, rows)
        if ball.places[LONE].count is not None:
            ball.choose_frames({LONE: draw(self.clean[rows], 'uniform')})
        return ball.random(draw)[LONE]

    def draw_frames(self, rows: Tensor) -> None:
        """Choose the frames by chance, for an attack without gradients."""
        if self._ball.places[LONE].count is not None:
            self._choose_frames(rows, self._draw(rows, self.clean[rows], 'uniform'))

    def free(self) -> Tensor:
        """The clean inputs, with one entry of each that are moved alike."""
        return self._ball.places[LONE].free(self.clean)

    def _draw(self, rows: Tensor, values: Tensor, kind: str) -> Tensor:
        """Random numbers, with a generator for each sample, so that its result is its own."""
        shape = values.shape[1:]
        drawn = [
            getattr(torch.empty(shape), f'{kind}_')(generator=g) for g in self.generators(rows)
        ]
        return torch.stack(drawn).to(self.clean)

    def _choose_frames(self, rows: Tensor, score: Tensor) -> None:
        place = self._ball.places[LONE]
        if place.count is None:
            return
        chosen = self._ball_of(rows)
        chosen.choose_frames({LONE: score})
        mask = chosen.places[LONE].allowed
        assert mask is not None
        allowed = mask.new_zeros((len(self.clean), *mask.shape[1:]))
        allowed[rows] = mask
        self._ball.places[LONE] = dataclasses.replace(place, allowed=allowed, count=None)

    def _logits(self, points: Tensor, rows: Tensor) -> Tensor:
        if time.monotonic() > self._deadline:
            raise OutOfTime
        # A copy: what a model does to its input in place must not end up in the result.
        logits = self._logits_fn(points.clone(), rows)
        if logits.ndim != 2 or len(logits) != len(rows):
            raise ValueError(
                f'logits_fn must return scores of shape ({len(rows)}, classes) for the '
                f'{len(rows)} samples that it is given, got {tuple(logits.shape)}'
            )
        if not 0 <= int(self._labels.min()) <= int(self._labels.max()) < logits.shape[1]:
            raise ValueError(
                f'labels={self._labels.tolist()} must lie in 0..{logits.shape[1] - 1}: logits_fn '
                f'returns the scores of {logits.shape[1]} classes'
            )
        # Half precision, from autocast, is too coarse to compare losses.
        return logits.to(self.clean.dtype)

    def _record(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Keep what fools the model, or has the highest loss so far. Returns the losses."""
        labels = self._labels[rows]
        loss = self._objective(logits, labels)
        fooled, before = margins(logits.detach(), labels) < 0, self._fools[rows]
        higher = loss.detach() > self._best_loss[rows]
        better = (fooled & ~before) | ((fooled == before) & higher)
        self.best[rows[better]] = points[better]
        self._best_loss[rows[better]] = loss.detach()[better]
        self._fools[rows] = fooled | before
        self.fooled[rows] = fooled & self._stop
        return loss if self._measure is None else self._measure(logits, labels, rows)

    def _ball_of(self, rows: Tensor) -> Ball:
        """The ball of some of the samples: each may have entries of its own there."""

        def pick(value: Any) -> Any:
            each = isinstance(value, Tensor) and value.ndim == self.clean.ndim and len(value) > 1
            return value[rows.to(value.device)] if each else value

        def part(whole: Any) -> Any:
            parts = {name: pick(value) for name, value in vars(whole).items()}
            return dataclasses.replace(whole, **parts)

        ball = copy.copy(self._ball)
        ball.clean = {LONE: self.clean[rows]}
        ball.spaces = {LONE: part(self._ball.spaces[LONE])}
        ball.places = {LONE: part(self._ball.places[LONE])}
        return ball


def _generators(seed: int | Tensor, batch: int) -> list[torch.Generator]:
    seeds = torch.as_tensor(seed)
    if seeds.shape not in ((), (batch,)) or seeds.dtype.is_floating_point:
        raise ValueError(
            f'seed={seed} must be an integer, or a tensor of {batch} integers: one for each sample'
        )
    return [torch.Generator().manual_seed(one) for one in seeds.expand(batch).tolist()]


def _check_batch(x: Tensor, labels: Tensor) -> None:
    if x.ndim < 2 or len(x) == 0 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f'x must have shape (B, ...), B at least 1, and be float32 or float64, got '
            f'{tuple(x.shape)} and {x.dtype}; convert it first'
        )
    if labels.shape != x.shape[:1] or labels.dtype.is_floating_point:
        raise ValueError(
            f'labels must be class indices, integers of shape ({len(x)},), got '
            f'{tuple(labels.shape)} and {labels.dtype}; for one-hot labels write labels.argmax(1)'
        )
