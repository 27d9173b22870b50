"""The threat model (which perturbations are allowed) and the attack (projected gradient ascent).

Perturbations are kept in *pixel units*, i.e. fractions of the value range: 8/255 is eight grey
levels. :class:`InputSpace` maps them to the values that the model sees after normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .batch import Values
from .functional import ascent_direction, expand_like, project


@dataclass(frozen=True)
class InputSpace:
    """The map between pixel units and the values a model sees.

    Args:
        scale (Tensor | float): The size of one unit of perturbation (the whole value range) in
            the model's input, ``range / std``; broadcastable to the input. Defaults to 1.0: the
            perturbation has the units of the input.
        low (Tensor | float, optional): The smallest valid input. Defaults to None: unbounded.
        high (Tensor | float, optional): The largest valid input. Defaults to None: unbounded.
        valid (Tensor, optional): Boolean, broadcastable to the input: False marks padding, which
            is never perturbed. Defaults to None: the whole input may be perturbed.
        advice (str): Where the units are unknown, what a user can write so that they are known.
            Defaults to '': nothing.
    """

    scale: Tensor | float = 1.0
    low: Tensor | float | None = None
    high: Tensor | float | None = None
    valid: Tensor | None = None
    advice: str = ''

    @classmethod
    def from_normalization(
        cls,
        mean: Tensor | float,
        std: Tensor | float,
        value_range: tuple[float, float],
    ) -> InputSpace:
        """The space of inputs ``(pixel - mean) / std`` with pixels in ``value_range``."""
        low, high = value_range
        return cls((high - low) / std, (low - mean) / std, (high - mean) / std)

    def scale_like(self, values: Tensor) -> Tensor:
        """The scale as a tensor of the dtype and device of ``values``."""
        return torch.as_tensor(self.scale, dtype=values.dtype, device=values.device)

    def to_input(self, values: Tensor) -> Tensor:
        """Convert pixel units to units of the model's input."""
        unscaled = isinstance(self.scale, float) and self.scale == 1
        return values if unscaled else values * self.scale_like(values)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Turn a gradient w.r.t. the input into one w.r.t. pixel units; 0 on padding."""
        return self.drop_padding(self.to_input(gradient))

    def drop_padding(self, values: Tensor) -> Tensor:
        """Set values to zero wherever the input is padding."""
        return values if self.valid is None else values.masked_fill(~self.valid, 0)

    def clamp(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Clip to the valid range, extended to the clean value where that lies outside."""
        if self.low is None or self.high is None:
            return perturbed
        low = torch.as_tensor(self.low, dtype=clean.dtype, device=clean.device)
        high = torch.as_tensor(self.high, dtype=clean.dtype, device=clean.device)
        return perturbed.maximum(low.minimum(clean)).minimum(high.maximum(clean))


@dataclass(frozen=True)
class GradientAscent:
    """K steps of projected steepest ascent from a clean batch (TAF, eq. 6; A-ART, eq. 4).

    Args:
        norm (str): ``'linf'`` (signed gradient) or ``'l2'`` (normalised gradient).
        eps (float): Radius of the ball around each sample, in pixel units.
        step_size (float): β, the length of a step, in pixel units.
        steps (int): K.
        dims (tuple[int, ...], optional): The axes one norm runs over. Defaults to None: all
            but the batch axis, i.e. one ball per sample and modality.
        joint (bool): Whether one norm runs over all modalities of a sample.
        random_start (bool): Whether the first gradient is taken at a random point of the ball.
        clamp (bool): Whether adversarial inputs are clipped to valid pixels.
    """

    norm: str
    eps: float
    step_size: float
    steps: int
    dims: tuple[int, ...] | None
    joint: bool
    random_start: bool
    clamp: bool

    def run(
        self,
        clean: Mapping[str, Tensor],
        spaces: Mapping[str, InputSpace],
        gradient: Callable[[Values], Values],
        first: Values | None = None,
    ) -> tuple[Values, Tensor]:
        """Run the K steps.

        Args:
            clean (Mapping[str, Tensor]): The modalities of the batch to perturb, in the model's
                input space.
            spaces (Mapping[str, InputSpace]): The input space of each modality.
            gradient (Callable): Returns the gradient of the objective at the given modalities.
            first (dict[str, Tensor], optional): The gradient at ``clean`` if it is already known;
                only used without a random start. The dict is emptied, so that no caller keeps the
                memory alive during the attack. Defaults to None.

        Returns:
            tuple[dict[str, Tensor], Tensor]: The adversarial modalities (detached; with the shape,
            dtype and space of ``clean``) and one boolean per sample, False where a gradient was
            not finite. Such a sample is returned unperturbed.
        """
        clean = {name: value.detach() for name, value in clean.items()}
        for name, value in clean.items():
            if max(self.dims or (0,)) >= value.ndim:
                raise ValueError(
                    f'dims={self.dims} has axes that the input {name or ""}{tuple(value.shape)} '
                    'lacks; dims=None means all axes but the batch'
                )
        some = next(iter(clean.values()))
        finite = torch.ones(len(some), dtype=torch.bool, device=some.device)
        delta = self._start(clean, spaces) if self.random_start else None
        for _ in range(self.steps):
            # Nothing but the perturbation is kept from one step to the next, to save memory.
            if delta is not None:
                slope = gradient(self._apply(clean, delta, spaces))
            else:
                slope = gradient(clean) if first is None else first
            delta, healthy = self._step(delta, slope, spaces)
            finite &= healthy
        assert delta is not None
        return self._apply(clean, _where(finite, delta), spaces), finite

    def _step(
        self, delta: Values | None, slope: Values, spaces: Mapping[str, InputSpace]
    ) -> tuple[Values, Tensor]:
        """The perturbation after one attack step, and which samples had a finite gradient."""
        grad = {}
        for name in list(slope):
            value = slope.pop(name).detach()
            grad[name] = spaces[name].pull_back(value.to(_wide(value)))
        healthy = _all_finite(grad)
        grad = _where(healthy, grad)
        direction = self._per_ball(partial(ascent_direction, norm=self.norm), grad)
        step = {name: self.step_size * value for name, value in direction.items()}
        moved = step if delta is None else {name: delta[name] + step[name] for name in step}
        return self._per_ball(partial(project, eps=self.eps, norm=self.norm), moved), healthy

    def _per_ball(self, rule: Callable[..., Tensor], values: Values) -> Values:
        """Apply a rule over the axes of one norm; if joint, over all modalities concatenated."""
        if not self.joint:
            return {
                name: rule(value, dims=self.dims or tuple(range(1, value.ndim)))
                for name, value in values.items()
            }
        flat = rule(torch.cat([value.flatten(1) for value in values.values()], dim=1), dims=(1,))
        parts = torch.split(flat, [value[0].numel() for value in values.values()], dim=1)
        return {
            name: part.view_as(value)
            for (name, value), part in zip(values.items(), parts, strict=True)
        }

    def _start(self, clean: Values, spaces: Mapping[str, InputSpace]) -> Values:
        """A random point, uniform in the ball."""
        if self.norm == 'linf':
            noise = {
                n: torch.empty_like(v, dtype=_wide(v)).uniform_(-self.eps, self.eps)
                for n, v in clean.items()
            }
            return {name: spaces[name].drop_padding(value) for name, value in noise.items()}
        noise = {
            n: spaces[n].drop_padding(torch.randn_like(v, dtype=_wide(v))) for n, v in clean.items()
        }
        return self._per_ball(partial(_shrink_evenly, eps=self.eps), noise)

    def _apply(self, clean: Values, delta: Values, spaces: Mapping[str, InputSpace]) -> Values:
        """Add a perturbation to the inputs; rounding never makes it larger."""
        return {name: self._shifted(clean[name], delta[name], spaces[name]) for name in clean}

    def _shifted(self, clean: Tensor, delta: Tensor, space: InputSpace) -> Tensor:
        shift = space.to_input(delta)
        perturbed = (clean.to(shift.dtype) + shift).to(clean.dtype)
        if clean.dtype in (torch.float16, torch.bfloat16):
            # Rounding to 16 bits may leave the ball: step back towards the clean value.
            overshoot = (perturbed.float() - clean.float()).abs() > shift.abs()
            perturbed = torch.where(overshoot, _step_towards(perturbed, clean), perturbed)
        return space.clamp(perturbed, clean) if self.clamp else perturbed


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def _all_finite(values: Values) -> Tensor:
    """Whether each sample is finite in every modality, shape (B,)."""
    flags = [value.flatten(1).isfinite().all(dim=1) for value in values.values()]
    return torch.stack(flags).all(dim=0)


def _where(keep: Tensor, values: Values) -> Values:
    """Keep the values of some samples and set those of the others to zero."""
    return {name: value.masked_fill(~expand_like(keep, value), 0) for name, value in values.items()}


def _shrink_evenly(normal: Tensor, eps: float, dims: tuple[int, ...]) -> Tensor:
    """Turn standard normal numbers into a point that is uniform in the ℓ2 ball.

    Entries that are 0 (padding) stay 0 and do not count as dimensions of the ball.
    """
    length = torch.linalg.vector_norm(normal, dim=dims, keepdim=True)
    entries = (normal != 0).sum(dim=dims, keepdim=True).clamp(min=1)
    radius = torch.rand_like(length).pow(1 / entries)
    return normal * (eps * radius / torch.where(length > 0, length, torch.ones_like(length)))


def _step_towards(values: Tensor, target: Tensor) -> Tensor:
    """The neighbouring 16-bit floating-point number in the direction of ``target``.

    torch.nextafter has no 16-bit kernels. Consecutive numbers of the same sign have consecutive
    bit patterns, so adding or subtracting 1 is enough. Zero itself steps to ``target``.
    """
    bits = values.contiguous().view(torch.int16)
    outward = (target > values) == (values > 0)
    stepped = (bits + torch.where(outward, 1, -1).to(torch.int16)).view(values.dtype)
    return torch.where(values == 0, target, stepped)
