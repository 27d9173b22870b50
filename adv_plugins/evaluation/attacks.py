"""Attacks that measure robustness: from random noise to Auto-PGD and a black box.

What a model is trained with is :mod:`adv_plugins.core.attack`. An evaluation asks for more: the
best input found is kept, an attack stops at whatever is fooled, and a sample's result does not
depend on the batch that it came in. Perturbations are held in pixel units, as there.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.attack import InputSpace
from ..core.checks import check_choice
from ..core.functional import NORMS, ascent_direction, project
from ..core.recipe import build

UNIT = InputSpace()
"""The units of the input itself, and no bounds."""

LogitsFn = Callable[[Tensor, Tensor], Tensor]

# Auto-PGD (Croce & Hein, ICML 2020, 3.2-3.3): momentum, and the share of steps that have to
# raise the loss for the step size to stay.
_ALPHA = 0.75
_RHO = 0.75
# Where Square halves p, for 10,000 queries (Andriushchenko et al., ECCV 2020, 4.1).
_HALVE_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Score of the true class minus the best other one: negative where the model is fooled.

    NaN, which is not negative, where a score is NaN: breaking a model is not fooling it. A tie
    is not fooled either.

    Args:
        logits (Tensor): Logits or log-probabilities, shape (B, C).
        labels (Tensor): True classes, integers of shape (B,).

    Returns:
        Tensor: Shape (B,).

    Raises:
        ValueError: There is no other class.
    """
    if logits.shape[1] < 2:
        raise ValueError(f'a margin needs at least 2 classes, got scores {tuple(logits.shape)}')
    own, others = _own_and_others(logits, labels)
    return own - others.amax(dim=1)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Looks for an input in the ball around each sample that the model gets wrong.

    Samples that the model already gets wrong are returned clean. For the others it is the first
    input that fools the model, and where there is none, the one with the highest loss of all that
    were tried, the clean one included. What has been fooled is not given to the model again.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'`` or ``'l2'``, over all axes but the batch. Defaults to ``'linf'``.

    Raises:
        ValueError: An option outside of what is allowed.
    """

    eps: float
    norm: str = NORMS[0]

    black_box: ClassVar[bool] = False
    """Whether it works without gradients."""

    def __post_init__(self) -> None:
        check_choice('norm', self.norm, NORMS)
        _check_length('eps', self.eps)

    def __call__(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        labels: Tensor,
        space: InputSpace = UNIT,
        seed: int | Tensor = 0,
    ) -> Tensor:
        """Attack a batch.

        Parameters' ``grad``, the global random state and the caller's tensors stay as they are.
        It may be called where gradients are off.

        Args:
            logits_fn (Callable): ``logits_fn(x, index)`` returns the logits or
                log-probabilities, shape (n, C), of inputs (n, ...) that replace the samples at
                the positions ``index`` (n,) of the batch: only some samples are asked for, and
                a model may need their masks or data samples. The model must be in eval mode, so
                that no sample's scores depend on another sample.
            x (Tensor): Clean inputs as the model sees them, shape (B, ...), float32 or float64.
            labels (Tensor): True classes, integers of shape (B,).
            space (InputSpace): The map to pixel units, valid values and padding. Defaults to
                ``UNIT``: the units of the input, without bounds.
            seed (int | Tensor): Seeds of the random numbers: one for each sample, integers (B,),
                such as the index of the video; or one that every sample starts from alike. In
                both cases a result does not depend on the rest of the batch. Defaults to 0.

        Returns:
            Tensor: Adversarial inputs in the ball and within valid values (where the clean ones
            are), detached; shape, dtype and device of ``x``.

        Raises:
            ValueError: An argument, or what ``logits_fn`` returns, is not as described.
        """
        # Evaluation loops run without gradients; inside they are needed.
        with torch.inference_mode(False), torch.enable_grad():
            search = _Search(self, logits_fn, x, labels, space, seed)
            self._run(search)
        return search.best

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the attack raises, one value a sample."""
        return -margins(logits, labels)

    @abstractmethod
    def _run(self, search: _Search) -> None:
        """Search for each sample of the batch."""


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Random points of the ball, drawn evenly: what any attack has to beat.

    At most ``restarts + 1`` forwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'`` or ``'l2'``. Defaults to ``'linf'``.
        restarts (int): Points that are tried. Defaults to 10.
    """

    restarts: int = 10

    black_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count('restarts', self.restarts)

    def _run(self, search: _Search) -> None:
        rows = search.left()
        search.look(rows, search.zeros(rows))
        for _ in range(self.restarts):
            rows = search.left()
            if len(rows) == 0:
                return
            search.look(rows, search.random(rows))


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One full step of the sign (``'l2'``: the direction) of the gradient of the cross-entropy.

    Goodfellow et al., ICLR 2015. The step is taken unseen: one forward and one backward.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'`` or ``'l2'``. Defaults to ``'linf'``.

    Example:
        >>> x_adv = FGSM(eps=4 / 255)(lambda x, index: model(x), x, labels, space)
    """

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _cross_entropy(logits, labels)

    def _run(self, search: _Search) -> None:
        rows = search.left()
        _, gradient = search.climb(rows, search.zeros(rows))
        rows, gradient = search.unfooled(rows, rows, gradient)
        search.best[rows] = search.at(rows, self.eps * search.direction(gradient))


@dataclass(frozen=True, kw_only=True)
class _GradientAttack(Attack):
    """Ascends from the clean input, and after that from random points of the ball."""

    steps: int
    restarts: int = 1
    loss: str = 'ce'

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count('steps', self.steps)
        _check_count('restarts', self.restarts)
        check_choice('loss', self.loss, tuple(_LOSSES))

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _LOSSES[self.loss](logits, labels)

    def _run(self, search: _Search) -> None:
        for restart in range(self.restarts):
            rows = search.left()
            if len(rows) == 0:
                return
            self._ascend(search, rows, search.random(rows) if restart else search.zeros(rows))

    @abstractmethod
    def _ascend(self, search: _Search, rows: Tensor, delta: Tensor) -> None:
        """One run for some samples, from a perturbation each."""


@dataclass(frozen=True, kw_only=True)
class PGD(_GradientAttack):
    """Projected gradient ascent with steps of one size (Madry et al., ICLR 2018).

    At most ``restarts * (steps + 1)`` forwards and ``restarts * steps`` backwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'`` or ``'l2'``. Defaults to ``'linf'``.
        steps (int): Steps of one run. Defaults to 10.
        step_size (float, optional): Length of a step, in pixel units. Defaults to None:
            ``2.5 * eps / steps``.
        restarts (int): Runs, the first from the clean input, the others from random points.
            Defaults to 1.
        loss (str): ``'ce'`` (cross-entropy) or ``'dlr'`` (difference of logits ratio, which
            needs 3 classes). Defaults to ``'ce'``.
    """

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            _check_length('step_size', self.step_size)

    def _ascend(self, search: _Search, rows: Tensor, delta: Tensor) -> None:
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        for _ in range(self.steps):
            _, gradient = search.climb(rows, delta)
            rows, delta, gradient = search.unfooled(rows, rows, delta, gradient)
            if len(rows) == 0:
                return
            delta = search.restrict(rows, delta + size * search.direction(gradient))
        search.look(rows, delta)


@dataclass(frozen=True, kw_only=True)
class APGD(_GradientAttack):
    """Auto-PGD: momentum, and a step size that halves when the loss stops rising.

    Croce & Hein, ICML 2020, algorithm 1. The paper starts at random; here the first run starts at
    the clean input, so that its first point is that of :class:`FGSM` and the attack never does
    worse. At most ``restarts * (steps + 1)`` forwards and ``restarts * steps`` backwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'`` or ``'l2'``. Defaults to ``'linf'``.
        steps (int): Steps of one run; AutoAttack makes 100. Defaults to 50.
        restarts (int): Runs, the first from the clean input, the others from random points.
            Defaults to 1.
        loss (str): ``'ce'`` (cross-entropy) or ``'dlr'`` (difference of logits ratio, which
            needs 3 classes). Defaults to ``'ce'``.
    """

    steps: int = 50

    def _ascend(self, search: _Search, rows: Tensor, delta: Tensor) -> None:
        run = _AutoRun.start(rows, delta, *search.climb(rows, delta), 2 * self.eps)
        checkpoints, last_check = _checkpoints(self.steps), 0
        for step in range(1, self.steps + 1):
            run = run.take(~search.fooled[run.rows])
            if len(run.rows) == 0:
                return
            run.move(search, momentum=step > 1)
            if step == self.steps:
                search.look(run.rows, run.delta)
                return
            run.arrive(*search.climb(run.rows, run.delta))
            if step in checkpoints:
                run.check(step - last_check)
                last_check = step


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search over square patches, by scores alone (Andriushchenko et al., ECCV 2020).

    A patch is a square of pixels, with one sign a channel, throughout a random run of
    consecutive frames. Never asks for a gradient. At most ``queries + 1`` forwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'``, the only one here. Defaults to ``'linf'``.
        queries (int): Inputs that are tried; the paper's schedule is scaled to it. Defaults
            to 1000.
        p_init (float): Share of a frame that the first patches cover. Defaults to 0.8.
        channel_dim (int, optional): The axis of the channels; height and width are the last two
            axes, all others are frames. Defaults to None: 1 for images (B, C, H, W), 2 for
            clips (B, T, C, H, W) and (B, V, C, T, H, W).
    """

    queries: int = 1000
    p_init: float = 0.8
    channel_dim: int | None = None

    black_box: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != 'linf':
            raise ValueError(
                f"norm={self.norm!r} is not a norm of Square; write norm='linf', or take "
                "type='UniformNoise' for a black box in l2"
            )
        _check_count('queries', self.queries)
        if not 0 < self.p_init <= 1:
            raise ValueError(f'p_init={self.p_init} must lie in (0, 1], the paper has 0.8')

    def _run(self, search: _Search) -> None:
        rows = search.left()
        frames = _Frames(search.clean, self.channel_dim)
        search.look(rows, search.zeros(rows))
        rows = search.left()
        if len(rows) == 0:
            return
        signs = torch.stack([frames.stripes(generator) for generator in search.generators(rows)])
        delta = self.eps * signs.to(search.clean)
        loss = search.look(rows, frames.restore(delta))
        for query in range(1, self.queries):
            rows, delta, loss = search.unfooled(rows, rows, delta, loss)
            if len(rows) == 0:
                return
            share = _patch_share(query, self.queries, self.p_init)
            proposal = delta.clone()
            for one, generator in zip(proposal, search.generators(rows), strict=True):
                window, signs = frames.patch(share, generator)
                one[window] = self.eps * signs.to(delta)
            value = search.look(rows, frames.restore(proposal))
            better = value > loss
            delta = torch.where(_expand(better, delta), proposal, delta)
            loss = torch.where(better, value, loss)


ATTACKS: dict[str, type[Attack]] = {
    kind.__name__: kind for kind in (UniformNoise, FGSM, PGD, APGD, Square)
}


def build_attack(attack: Attack | str | Mapping[str, Any], **options: Any) -> Attack:
    """An attack from a name, a config dict or an attack.

    Args:
        attack (Attack | str | Mapping): An attack, its name in any case (``'pgd'``), or
            ``dict(type='PGD', **options)``.
        **options: Options of the attack; not together with a ready one.

    Raises:
        ValueError: Unknown attack or option; the message has the near matches.

    Example:
        >>> build_attack(dict(type='PGD', eps=4 / 255, steps=20))
    """
    built: Attack = build('attack', Attack, ATTACKS, attack, **options)
    return built


class _Search:
    """What has been found so far for each sample of a batch.

    ``rows`` are positions in the batch, ``delta`` their perturbations in pixel units.
    """

    def __init__(
        self,
        attack: Attack,
        logits_fn: LogitsFn,
        x: Tensor,
        labels: Tensor,
        space: InputSpace,
        seed: int | Tensor,
    ) -> None:
        _check_batch(x, labels)
        self._attack, self._logits_fn, self._space = attack, logits_fn, space
        self.clean = x.detach()
        self._labels = labels.to(x.device, torch.long)
        self._generators = _generators(seed, len(x))
        self._dims = tuple(range(1, x.ndim))
        self.best = self.clean.clone()
        self._best_loss = x.new_full((len(x),), -math.inf)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def left(self) -> Tensor:
        """The samples that are not fooled yet."""
        return (~self.fooled).nonzero().squeeze(1)

    def unfooled(self, rows: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        """Of values of some samples, those of the samples that are not fooled yet."""
        keep = ~self.fooled[rows]
        return tuple(value[keep] for value in values)

    def look(self, rows: Tensor, delta: Tensor) -> Tensor:
        """Try perturbations: one forward. Returns their losses."""
        with torch.no_grad():
            points = self.at(rows, delta)
            return self._record(rows, points, self._logits(points, rows))

    def climb(self, rows: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Try perturbations: a forward and a backward. Returns losses and gradients.

        A gradient is in pixel units; 0 where it is not finite. Nobody needs one, and none is
        taken, when all of the samples are fooled.
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
        gradient = self._space_of(rows).pull_back(gradient)
        healthy = gradient.flatten(1).isfinite().all(dim=1)
        return value, torch.where(_expand(healthy, gradient), gradient, 0)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest unit step."""
        return ascent_direction(gradient, self._attack.norm, self._dims)

    def at(self, rows: Tensor, delta: Tensor) -> Tensor:
        """The inputs at perturbations, which are brought into the ball and to valid values."""
        space, clean = self._space_of(rows), self.clean[rows]
        delta = project(space.drop_padding(delta), self._attack.eps, self._attack.norm, self._dims)
        shift = delta * space.scale_like(delta)
        point = clean + shift
        # A sum is rounded, which may leave the ball: step back towards the clean value.
        outside = (point - clean).abs() > shift.abs()
        return space.clamp(torch.where(outside, point.nextafter(clean), point), clean)

    def restrict(self, rows: Tensor, delta: Tensor) -> Tensor:
        """The perturbations of the inputs that :meth:`at` gives."""
        return (self.at(rows, delta) - self.clean[rows]) / self._space_of(rows).scale_like(delta)

    def zeros(self, rows: Tensor) -> Tensor:
        return torch.zeros_like(self.clean[rows])

    def generators(self, rows: Tensor) -> list[torch.Generator]:
        """The source of random numbers of each sample."""
        return [self._generators[row] for row in rows.tolist()]

    def random(self, rows: Tensor) -> Tensor:
        """Points drawn evenly from the ball."""
        eps, linf = self._attack.eps, self._attack.norm == 'linf'
        draw = torch.rand if linf else torch.randn
        shape = self.clean.shape[1:]
        drawn = [draw(shape, generator=generator) for generator in self.generators(rows)]
        noise = torch.stack(drawn).to(self.clean)
        if linf:
            return eps * (2 * noise - 1)
        # Only in the dimensions that may be perturbed is it a ball.
        noise = self._space_of(rows).drop_padding(noise)
        radius = torch.stack([torch.rand((), generator=g) for g in self.generators(rows)])
        entries = (noise != 0).flatten(1).sum(dim=1).clamp(min=1)
        length = eps * radius.to(self.clean).pow(1 / entries)
        return self.direction(noise) * _expand(length, noise)

    def _logits(self, points: Tensor, rows: Tensor) -> Tensor:
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
        loss = self._attack._objective(logits, labels)
        fooled = margins(logits.detach(), labels) < 0
        better = fooled | (loss.detach() > self._best_loss[rows])
        self.best[rows[better]] = points[better]
        self._best_loss[rows[better]] = loss.detach()[better]
        self.fooled[rows] = fooled
        return loss

    def _space_of(self, rows: Tensor) -> InputSpace:
        def pick(value: Any) -> Any:
            each = isinstance(value, Tensor) and value.ndim == self.clean.ndim and len(value) > 1
            return value[rows.to(value.device)] if each else value

        parts = {name: pick(value) for name, value in vars(self._space).items()}
        return dataclasses.replace(self._space, **parts)


@dataclass
class _AutoRun:
    """The state of one run of Auto-PGD, each entry with one row a sample.

    Attributes:
        rows (Tensor): Positions in the batch.
        delta (Tensor): x^(k), as a perturbation.
        previous (Tensor): x^(k-1).
        gradient (Tensor): At ``delta``.
        loss (Tensor): At ``delta``.
        best_delta (Tensor): x_max.
        best_gradient (Tensor): At x_max.
        best_loss (Tensor): f_max.
        step_size (Tensor): η.
        rises (Tensor): How many steps since the last checkpoint raised the loss.
        checked_loss (Tensor): f_max at the last checkpoint.
        halved (Tensor): Whether the step size was halved there.
    """

    rows: Tensor
    delta: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best_delta: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step_size: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor

    @classmethod
    def start(
        cls, rows: Tensor, delta: Tensor, loss: Tensor, gradient: Tensor, step_size: float
    ) -> _AutoRun:
        none = torch.zeros_like(rows)
        return cls(
            rows=rows,
            delta=delta,
            previous=delta,
            gradient=gradient,
            loss=loss,
            best_delta=delta,
            best_gradient=gradient,
            best_loss=loss,
            step_size=torch.full_like(loss, step_size),
            rises=none,
            checked_loss=loss,
            halved=none.bool(),
        )

    def take(self, keep: Tensor) -> _AutoRun:
        """The state of some of the samples."""
        return _AutoRun(*(getattr(self, f.name)[keep] for f in dataclasses.fields(self)))

    def move(self, search: _Search, momentum: bool) -> None:
        """One step; the first one has no momentum yet."""
        step = _expand(self.step_size, self.delta) * search.direction(self.gradient)
        target = search.restrict(self.rows, self.delta + step)
        if momentum:
            target = search.restrict(
                self.rows,
                self.delta
                + _ALPHA * (target - self.delta)
                + (1 - _ALPHA) * (self.delta - self.previous),
            )
        self.previous, self.delta = self.delta, target

    def arrive(self, loss: Tensor, gradient: Tensor) -> None:
        """Take note of what the model says at the new point."""
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        better = loss > self.best_loss
        wide = _expand(better, self.delta)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best_delta = torch.where(wide, self.delta, self.best_delta)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)

    def check(self, steps: int) -> None:
        """At a checkpoint: halve the step size and go back to the best point where it is due."""
        few_rises = self.rises < _RHO * steps
        no_progress = ~self.halved & (self.best_loss == self.checked_loss)
        self.halved = few_rises | no_progress
        wide = _expand(self.halved, self.delta)
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self.delta = torch.where(wide, self.best_delta, self.delta)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.loss = torch.where(self.halved, self.best_loss, self.loss)
        self.checked_loss = self.best_loss
        self.rises = torch.zeros_like(self.rises)


class _Frames:
    """Perturbations of images or clips as frames (F, C, H, W), whatever the layout.

    Args:
        x (Tensor): A batch in the layout of the model.
        channel_dim (int, optional): See :class:`Square`.
    """

    def __init__(self, x: Tensor, channel_dim: int | None) -> None:
        if channel_dim is None:
            channel_dim = 1 if x.ndim == 4 else 2
        if not 1 <= channel_dim <= x.ndim - 3:
            raise ValueError(
                f'Square takes images or clips with height and width as the last two axes and '
                f'channels before them, not channel_dim={channel_dim} of {tuple(x.shape)}; write '
                'channel_dim=1 for (B, C, H, W) or (B, C, T, H, W), 2 for (B, T, C, H, W)'
            )
        self._channel_dim = channel_dim
        self._layout = x.movedim(channel_dim, -3).shape[1:]
        self._frames = math.prod(self._layout[:-3])

    def restore(self, frames: Tensor) -> Tensor:
        """Perturbations (n, F, C, H, W) in the layout of the model."""
        return frames.reshape(-1, *self._layout).movedim(-3, self._channel_dim)

    def stripes(self, generator: torch.Generator) -> Tensor:
        """Random signs by column and channel, the same in all frames."""
        channels, height, width = self._layout[-3:]
        signs = _signs(torch.rand(channels, 1, width, generator=generator))
        return signs.expand(self._frames, channels, height, width)

    def patch(self, share: float, generator: torch.Generator) -> tuple[tuple[slice, ...], Tensor]:
        """A random window with ``share`` of a frame, and a random sign for each channel."""
        channels, height, width = self._layout[-3:]
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        length, frame, row, column = torch.rand(4, generator=generator).tolist()
        count = 1 + int(length * self._frames)
        window = (
            _span(frame, count, self._frames),
            slice(None),
            _span(row, side, height),
            _span(column, side, width),
        )
        return window, _signs(torch.rand(channels, 1, 1, generator=generator))


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of the true classes (B,), and all scores with those at -inf (B, C)."""
    column = labels[:, None]
    return logits.gather(1, column).squeeze(1), logits.scatter(1, column, -math.inf)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The log-odds ``v`` against the true class; the cross-entropy is ``softplus(v)``.

    Both rise together, and their gradients have one direction, which is all that an attack takes
    of them. But this one does not vanish, or round to 0, where the model is confident.
    """
    own, others = _own_and_others(logits, labels)
    return others.logsumexp(dim=1) - own


def _difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """The negative margin relative to the gap of first and third (Auto-PGD paper, eq. 6)."""
    if logits.shape[1] < 3:
        raise ValueError(
            f"loss='dlr' needs at least 3 classes, the model has {logits.shape[1]}; write loss='ce'"
        )
    top = logits.topk(3, dim=1).values
    return -margins(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


_LOSSES = {'ce': _cross_entropy, 'dlr': _difference_of_logits_ratio}


def _checkpoints(steps: int) -> list[int]:
    """The steps after which Auto-PGD looks at its progress (its section 3.3)."""
    # In hundredths: sums of floats would be rounded up to the next step.
    shares, gap = [22], 19
    while shares[-1] + gap <= 100:
        shares.append(shares[-1] + gap)
        gap = max(gap - 3, 6)
    return sorted({-(-share * steps // 100) for share in shares})


def _patch_share(query: int, queries: int, p_init: float) -> float:
    """p, the share of a frame that a patch of Square covers."""
    halvings = sum(query * 10_000 > mark * queries for mark in _HALVE_AT)
    return p_init * 0.5**halvings


def _span(uniform: float, length: int, whole: int) -> slice:
    """A stretch of a length, anywhere in the whole."""
    start = int(uniform * (whole - length + 1))
    return slice(start, start + length)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _expand(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.reshape(-1, *[1] * (like.ndim - 1))


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


def _check_length(option: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(
            f'{option}={value} must be finite and not negative; eight grey levels are 8/255'
        )


def _check_count(option: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'{option}={value!r} must be an integer, at least 1')
