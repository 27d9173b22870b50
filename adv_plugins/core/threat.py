"""The threat model: which perturbations of a batch are allowed.

Perturbations are kept in *pixel units*, i.e. fractions of the value range: 8/255 is eight grey
levels. :class:`InputSpace` maps them to the values that the model sees after normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batch import Values
from .checks import is_integer
from .functional import ascent_direction, expand_like, project
from .rules import THREAT_RULES
from .structure import Place, as_axes, as_region, as_tuple

Draw = Callable[[Tensor, str], Tensor]
"""Random numbers like a tensor: ``draw(values, 'uniform')``, ``'normal'`` or ``'exponential'``."""


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
        axes (Mapping[str, int], optional): The input's axes by letter: b, t, c, h, w. Defaults to
            None: read from the shape, see :func:`guessed_axes`.
    """

    scale: Tensor | float = 1.0
    low: Tensor | float | None = None
    high: Tensor | float | None = None
    valid: Tensor | None = None
    advice: str = ''
    axes: Mapping[str, int] | None = None

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

    def clamp(self, perturbed: Tensor, clean: Tensor) -> Tensor:
        """Clip to the valid range, extended to the clean value where that lies outside."""
        if self.low is None or self.high is None:
            return perturbed
        return perturbed.maximum(self._bound(self.low, clean, False)).minimum(
            self._bound(self.high, clean, True)
        )

    def edge(self, clean: Tensor, upward: Tensor) -> Tensor:
        """How far each entry may move up, or down, in pixel units, where there are bounds."""
        assert self.low is not None and self.high is not None
        bound = self._bound(self.high, clean, True).where(
            upward, self._bound(self.low, clean, False)
        )
        return (bound - clean) / self.scale_like(clean)

    @staticmethod
    def _bound(bound: Tensor | float, clean: Tensor, upper: bool) -> Tensor:
        bound = torch.as_tensor(bound, dtype=clean.dtype, device=clean.device)
        return bound.maximum(clean) if upper else bound.minimum(clean)


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Which perturbations are allowed; for the options see :class:`adv_plugins.Recipe`.

    ``eps`` may also hold one radius a sample, shape (B,).

    Raises:
        ValueError: An option has a value that is not allowed.
    """

    eps: float | Tensor
    norm: str = 'linf'
    dims: tuple[int, ...] | None = None
    joint: bool = False
    clamp: bool = True
    shared: Any = ()
    frames: Any = None
    region: Any = None

    def __post_init__(self) -> None:
        # The dataclass is frozen, so replace what was given by what it means via vars().
        vars(self).update(
            shared=as_axes(self.shared),
            frames=int(self.frames) if is_integer(self.frames) else as_tuple(self.frames),
            region=as_region(self.region),
        )
        for rule in THREAT_RULES:
            rule.check(self)

    def __str__(self) -> str:
        """The norm, and the structure if there is one: ``'linf, shared=h w'``."""
        shared = ' '.join(sorted(map(str, self.shared))) or None
        structure = dict(shared=shared, frames=self.frames, region=self.region)
        parts = (f', {name}={value}' for name, value in structure.items() if value is not None)
        return self.norm + ''.join(parts)


class Ball:
    """The perturbations that a threat model allows of one batch.

    Args:
        threat (ThreatModel): The threat model.
        clean (Mapping[str, Tensor]): The modalities of the batch.
        spaces (Mapping[str, InputSpace]): The input space of each.

    Raises:
        ValueError: The threat model does not fit the shapes.
    """

    def __init__(
        self, threat: ThreatModel, clean: Mapping[str, Tensor], spaces: Mapping[str, InputSpace]
    ) -> None:
        self.threat, self.clean, self.spaces = threat, clean, spaces
        self.places: dict[str, Place] = {}
        for name, value in clean.items():
            if max(threat.dims or (0,)) >= value.ndim:
                raise ValueError(
                    f'dims={threat.dims} has axes that the input {name or ""}{tuple(value.shape)} '
                    'lacks; dims=None means all axes but the batch'
                )
            self.places[name] = Place.of(threat, value, spaces[name].axes, spaces[name].valid)

    def pull_back(self, name: str, slope: Tensor) -> Tensor:
        """The gradient of a modality in pixel units; 0 where it may not be changed."""
        return self.places[name].drop(self.spaces[name].to_input(slope))

    def choose_frames(self, score: Values) -> None:
        """Where only so many frames may be changed, choose those with the largest values."""
        for name, place in self.places.items():
            self.places[name] = place.choose(score[name], self.threat.norm)

    def step(self, slope: Values, delta: Values | None, size: float | Tensor) -> Values:
        """The steepest step of a length, from a perturbation or from the clean input."""
        slope = {name: self.places[name].share(value) for name, value in slope.items()}
        parts = [slope]
        if self._fills:
            room = {name: self._room(name, value, delta) for name, value in slope.items()}
            # A step of length 0 leads nowhere, whatever room there is.
            parts.append({n: (v / self._on(size, v)).nan_to_num(0.0) for n, v in room.items()})
        direction = self._per_ball(self._direction, *parts)
        return {name: self._on(size, value) * value for name, value in direction.items()}

    def project(self, delta: Values) -> Values:
        """The nearest perturbations that are allowed."""
        parts = [{name: self.places[name].drop(value) for name, value in delta.items()}]
        if self._fills:
            parts.append({name: self._room(name, v, None) for name, v in delta.items()})
        return self._per_ball(self._nearest, *parts)

    def random(self, draw: Draw) -> Values:
        """Random perturbations, uniform in the ball."""
        norm, places, whole = self.threat.norm, self.places, self.clean

        def drawn(kind: str) -> Values:
            noise = {name: draw(places[name].free(value), kind) for name, value in whole.items()}
            return {name: value.expand_as(whole[name]) for name, value in noise.items()}

        if norm == 'linf':
            noise = {
                n: self._on(self.threat.eps, v) * (2 * v - 1) for n, v in drawn('uniform').items()
            }
            return {name: places[name].drop(value) for name, value in noise.items()}
        kinds = ('normal',) if norm == 'l2' else ('normal', 'exponential')
        parts = [{n: places[n].drop(v) for n, v in drawn(kind).items()} for kind in kinds]
        parts.insert(1, {n: places[n].alike(value) for n, value in whole.items()})

        def draw_alike(values: Tensor, kind: str) -> Tensor:
            # What is shared along an axis outside of the ball has one radius.
            outside = [a for p in places.values() for a in p.shared if a < values.ndim]
            lengths = [1 if a in outside else size for a, size in enumerate(values.shape)]
            return draw(values.new_empty(lengths), kind).expand_as(values)

        def point(*values: Tensor, **axes: Any) -> Tensor:
            radius = self._on(self.threat.eps, values[0])
            return radius * _random_point(*values, norm=norm, draw=draw_alike, **axes)

        return self._per_ball(point, *parts)

    @property
    def _fills(self) -> bool:
        """Whether entries have their own bounds in an ℓ1 ball: those of valid pixels."""
        free = self.threat.norm == 'l1' and self.threat.clamp and not self.threat.shared
        return free and all(space.low is not None for space in self.spaces.values())

    def _room(self, name: str, towards: Tensor, delta: Values | None) -> Tensor:
        """How far each entry may move in its direction until it is no valid pixel."""
        edge = self.spaces[name].edge(self.clean[name].to(towards.dtype), towards > 0)
        return ((edge if delta is None else edge - delta[name]) * towards.sign()).clamp(min=0)

    def _on(self, size: float | Tensor, value: Tensor) -> float | Tensor:
        """A length for all samples, or one for each."""
        return expand_like(size.to(value), value) if isinstance(size, Tensor) else size

    def _direction(self, slope: Tensor, room: Tensor | None = None, **axes: Any) -> Tensor:
        return ascent_direction(slope, self.threat.norm, room=room, **axes)

    def _nearest(self, delta: Tensor, room: Tensor | None = None, **axes: Any) -> Tensor:
        eps = self._on(self.threat.eps, delta)
        return project(delta, eps, self.threat.norm, room=room, **axes)

    def _per_ball(self, rule: Callable[..., Tensor], *parts: Values) -> Values:
        """Apply a rule over the axes of one norm; if joint, over all modalities concatenated.

        Of two parts, the second says something of each entry of the first.
        """
        values = parts[0]
        if not self.threat.joint:
            return {
                name: rule(
                    *(part[name] for part in parts),
                    dims=self.threat.dims or tuple(range(1, value.ndim)),
                    frame_axis=self.places[name].time,
                )
                for name, value in values.items()
            }
        joined = (torch.cat([v.flatten(1) for v in part.values()], dim=1) for part in parts)
        flat = rule(*joined, dims=(1,), frame_axis=None)
        split = torch.split(flat, [value[0].numel() for value in values.values()], dim=1)
        return {
            name: part.view_as(value)
            for (name, value), part in zip(values.items(), split, strict=True)
        }


def _random_point(
    normal: Tensor,
    alike: Tensor,
    weights: Tensor | None = None,
    *,
    norm: str,
    dims: tuple[int, ...],
    frame_axis: int | None,
    draw: Draw,
) -> Tensor:
    """Turn random numbers into a point that is uniform in the ball of radius 1.

    Entries that are 0 (padding) stay 0 and do not count as dimensions of the ball. Of entries that
    are the same, ``alike`` says how many they are, and only one counts.
    """
    normal = normal / alike.sqrt()
    if weights is None:
        entries = ((normal != 0) / alike).sum(dim=dims, keepdim=True).clamp(min=1)
        radius = draw(entries.to(normal), 'uniform').pow(1 / entries)
        return ascent_direction(normal, 'l2', dims) * radius
    # The size of a frame of d entries is the sum of d exponential variables, and one more stands
    # for the way to the edge of the ball. The ball of l1 has frames of one entry.
    unit, size = normal.sign(), weights / alike
    if norm == 'l21':
        within = tuple(axis for axis in dims if axis != frame_axis)
        unit = ascent_direction(normal, 'l2', within)
        size = size.sum(dim=within, keepdim=True)
    whole = size.sum(dim=dims, keepdim=True)
    return unit * size / (whole + draw(whole, 'exponential'))
