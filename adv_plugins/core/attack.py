"""Where adversarial inputs may lie (the threat model) and how they are found (gradient ascent).

Perturbations are held in *pixel units*: fractions of the value range, 8/255 being eight grey
levels. :class:`InputSpace` is the map between them and what the model sees after its own
normalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .functional import ascent_direction, project


@dataclass(frozen=True)
class InputSpace:
    """The map between pixel units and the values a model sees.

    Args:
        scale (Tensor | float): What one unit of perturbation (the whole value range) is in the
            model's input, broadcastable to it: ``range / std``. Defaults to 1.0: the units of
            the input itself.
        low (Tensor | float, optional): The smallest valid input. Defaults to None: unbounded.
        high (Tensor | float, optional): The largest valid input. Defaults to None: unbounded.
    """

    scale: Tensor | float = 1.0
    low: Tensor | float | None = None
    high: Tensor | float | None = None

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

    def clamp(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Clip to valid values, except that a clean value outside of them may stay."""
        if self.low is None or self.high is None:
            return perturbed
        low = torch.as_tensor(self.low, dtype=clean.dtype, device=clean.device)
        high = torch.as_tensor(self.high, dtype=clean.dtype, device=clean.device)
        return perturbed.maximum(low.minimum(clean)).minimum(high.maximum(clean))


@dataclass(frozen=True)
class GradientAscent:
    """K steps of projected steepest ascent from a clean batch (taf.txt eq. 6).

    Args:
        norm (str): ``'linf'`` (signed gradient) or ``'l2'`` (normalised gradient).
        eps (float): Radius of the ball around each sample, in pixel units.
        step_size (float): β, the length of a step, in pixel units.
        steps (int): K.
        dims (tuple[int, ...], optional): The axes one norm runs over. Defaults to None: all
            but the batch axis, one ball a sample.
        random_start (bool): Whether the first gradient is taken at a random point of the ball.
        clamp (bool): Whether adversarial inputs are clipped to valid pixels.
    """

    norm: str
    eps: float
    step_size: float
    steps: int
    dims: tuple[int, ...] | None
    random_start: bool
    clamp: bool

    def run(
        self,
        clean: Tensor,
        space: InputSpace,
        gradient: Callable[[Tensor], Tensor],
        first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ascend.

        Args:
            clean (Tensor): The batch to perturb, in the model's input space.
            space (InputSpace): Its map to pixel units.
            gradient (Callable): Gives the gradient of the objective at a batch like ``clean``.
            first (Tensor, optional): The gradient at ``clean`` itself where it is already
                known; only used without a random start. Defaults to None.

        Returns:
            tuple[Tensor, Tensor]: The adversarial batch (detached; shape, dtype and space of
            ``clean``) and a boolean per sample that is False where a gradient was not finite.
            Such a sample is returned clean.
        """
        clean = clean.detach()
        dims = self.dims or tuple(range(1, clean.ndim))
        wide = torch.promote_types(clean.dtype, torch.float32)
        scale = torch.as_tensor(space.scale, dtype=wide, device=clean.device)
        finite = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        delta = self._start(clean.to(wide), dims) if self.random_start else None
        for _ in range(self.steps):
            if delta is None:
                delta = torch.zeros_like(clean, dtype=wide)
                grad = gradient(clean) if first is None else first
            else:
                grad = gradient(self._apply(clean, delta, space, scale))
            # The chain rule: one pixel unit is `scale` in the model's input.
            grad = grad.detach().to(wide) * scale
            healthy = grad.flatten(1).isfinite().all(dim=1)
            finite &= healthy
            grad = torch.where(_per_sample(healthy, grad), grad, torch.zeros_like(grad))
            delta = delta + self.step_size * ascent_direction(grad, self.norm, dims)
            delta = project(delta, self.eps, self.norm, dims)
        assert delta is not None
        delta = torch.where(_per_sample(finite, delta), delta, torch.zeros_like(delta))
        return self._apply(clean, delta, space, scale), finite

    def _start(self, like: Tensor, dims: tuple[int, ...]) -> Tensor:
        """A point drawn evenly from the ball."""
        if self.norm == 'linf':
            return torch.empty_like(like).uniform_(-self.eps, self.eps)
        direction = torch.randn_like(like)
        length = torch.linalg.vector_norm(direction, dim=dims, keepdim=True)
        radius = torch.rand_like(length).pow(length.numel() / direction.numel())
        start: Tensor = direction * (self.eps * radius / length)
        return start

    def _apply(self, clean: Tensor, delta: Tensor, space: InputSpace, scale: Tensor) -> Tensor:
        """The input at a perturbation, never further from ``clean`` than asked for."""
        shift = delta * scale
        perturbed = (clean.to(shift.dtype) + shift).to(clean.dtype)
        if clean.dtype in (torch.float16, torch.bfloat16):
            # Rounding to few bits may leave the ball: step back towards the clean value.
            overshoot = (perturbed.float() - clean.float()).abs() > shift.abs()
            perturbed = torch.where(overshoot, _step_towards(perturbed, clean), perturbed)
        return space.clamp(perturbed, clean) if self.clamp else perturbed


def _per_sample(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (like.ndim - 1))


def _step_towards(values: Tensor, target: Tensor) -> Tensor:
    """The neighbouring 16-bit floating-point number in the direction of ``target``.

    torch.nextafter has no 16-bit kernels. Consecutive numbers of one sign have consecutive bit
    patterns, so one integer step does it; crossing zero goes to zero.
    """
    bits = values.contiguous().view(torch.int16)
    outward = (target > values) == (values > 0)
    stepped = (bits + torch.where(outward, 1, -1).to(torch.int16)).view(values.dtype)
    return torch.where(values == 0, target, stepped)
