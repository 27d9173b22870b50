"""The attack: projected gradient ascent within a threat model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import Values
from .functional import expand_like
from .threat import Ball, InputSpace, ThreatModel


@dataclass(frozen=True)
class GradientAscent:
    """K steps of projected steepest ascent from a clean batch (TAF, eq. 6; A-ART, eq. 4).

    Args:
        threat (ThreatModel): Which perturbations are allowed.
        step_size (float | Tensor): β, the length of a step, in pixel units; or one for each sample.
        steps (int): K.
        random_start (bool): Whether the first gradient is taken at a random point of the ball.
    """

    threat: ThreatModel
    step_size: float | Tensor
    steps: int
    random_start: bool

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
        ball = Ball(self.threat, clean, spaces)
        some = next(iter(clean.values()))
        finite = torch.ones(len(some), dtype=torch.bool, device=some.device)
        delta = ball.random(_draw) if self.random_start else None
        for _ in range(self.steps):
            # Nothing but the perturbation is kept from one step to the next, to save memory.
            if delta is not None:
                slope = gradient(self._apply(clean, delta, spaces))
            else:
                slope = gradient(clean) if first is None else first
            delta, healthy = self._step(ball, delta, slope)
            finite &= healthy
        assert delta is not None
        return self._apply(clean, _where(finite, delta), spaces), finite

    def _step(self, ball: Ball, delta: Values | None, slope: Values) -> tuple[Values, Tensor]:
        """The perturbation after one attack step, and which samples had a finite gradient."""
        grad = {}
        for name in list(slope):
            value = slope.pop(name).detach()
            grad[name] = ball.pull_back(name, value.to(_wide(value)))
        healthy = _all_finite(grad)
        grad = _where(healthy, grad)
        ball.choose_frames(grad)
        step = ball.step(grad, delta, self.step_size)
        moved = step if delta is None else {name: delta[name] + step[name] for name in step}
        return ball.project(moved), healthy

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
        return space.clamp(perturbed, clean) if self.threat.clamp else perturbed


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def _all_finite(values: Values) -> Tensor:
    """Whether each sample is finite in every modality, shape (B,)."""
    flags = [value.flatten(1).isfinite().all(dim=1) for value in values.values()]
    return torch.stack(flags).all(dim=0)


def _where(keep: Tensor, values: Values) -> Values:
    """Keep the values of some samples and set those of the others to zero."""
    return {name: value.masked_fill(~expand_like(keep, value), 0) for name, value in values.items()}


def _draw(values: Tensor, kind: str) -> Tensor:
    """Random numbers of the current stream, see :data:`adv_plugins.core.threat.Draw`."""
    empty = torch.empty_like(values, dtype=_wide(values), memory_format=torch.contiguous_format)
    drawn: Tensor = getattr(empty, f'{kind}_')()
    return drawn


def _step_towards(values: Tensor, target: Tensor) -> Tensor:
    """The neighbouring 16-bit floating-point number in the direction of ``target``.

    torch.nextafter has no 16-bit kernels. Consecutive numbers of the same sign have consecutive
    bit patterns, so adding or subtracting 1 is enough. Zero itself steps to ``target``.
    """
    bits = values.contiguous().view(torch.int16)
    outward = (target > values) == (values > 0)
    stepped = (bits + torch.where(outward, 1, -1).to(torch.int16)).view(values.dtype)
    return torch.where(values == 0, target, stepped)
