"""How one tensor of a model responds to changes of the clip's corners, and how it is to be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.autograd import nodes_behind
from ..core.capture import LAYOUTS, to_frames
from .axes import CORNERS, effects, extra_tokens, leads, readings

_CONTRADICTED = -0.25
"""A lead below this says that a reading is wrong, not only that the effects are small."""
_CLEAR = 0.1
"""A lead that is larger by this takes the place of another reading, which may be right."""
_CONFIRMED = 0.03
"""The least lead of a reading other than the usual one: smaller ones may be chance."""

_FUSED = {'ScaledDotProduct': 'attention', 'CudnnRnn': 'recurrent', 'MiopenRnn': 'recurrent'}
"""Nodes of autograd without a second derivative, for which PyTorch has another kernel."""


@dataclass
class Candidate:
    """One tensor in the output of a module, and what the graph tells of it.

    Args:
        name (str): The module.
        entry (int): The number of the tensor.
        features (Tensor): The tensor.
        slope (Tensor, optional): The gradient of the class scores. Defaults to None: unknown.
        stem (bool): Whether a single layer with weights made it. Defaults to False.
        fused (frozenset[str]): Fused kernels between it and the class scores.
    """

    name: str
    entry: int
    features: Tensor
    slope: Tensor | None = None
    stem: bool = False
    fused: frozenset[str] = frozenset()

    def note_fused(self, scores: Any) -> None:
        """Note the fused kernels between the tensor and the class scores; detach the tensor."""
        behind = nodes_behind(scores, [self.features]) if isinstance(scores, Tensor) else []
        names = [type(node).__name__ for node in behind]
        self.fused = frozenset(
            kind for part, kind in _FUSED.items() if any(part in name for name in names)
        )
        self.features = self.features.detach()


@dataclass(frozen=True)
class Response:
    """How a candidate changes with the corners of the clip, whose axes are taken in one way.

    ``changed`` has the tensor in each forward that it took; None where nothing is known of the
    clip's axes.
    """

    candidate: Candidate
    batch_size: int
    clip: Sequence[int] = ()
    changed: Tensor | None = None

    def grid(self, layout: str | None) -> tuple[int, int, int]:
        """T, H, W under a reading; a ValueError where it does not fit."""
        frames = to_frames(self.candidate.features, self.batch_size, self.candidate.name, layout)
        return frames.shape[1], frames.shape[3], frames.shape[4]

    def leads(self, layout: str | None) -> list[float]:
        """How clearly the corners confirm each axis of a reading; NaN where they cannot tell."""
        grid = self.grid(layout)
        if self.changed is None:
            return [math.nan]
        before, *after = (
            to_frames(each, self.batch_size, self.candidate.name, layout).float()
            for each in (self.candidate.features, *self.changed)
        )
        moved = torch.cat([(each - before).abs().sum(dim=2) for each in after])
        return leads(effects(moved[: len(CORNERS)]), grid)

    def lead(self, layout: str | None) -> float:
        """How clearly the corners confirm the least clear axis of a reading."""
        found = self.leads(layout)
        return math.nan if any(map(math.isnan, found)) else min(found)

    def best(self) -> tuple[float, str | None]:
        """The reading that the corners confirm most clearly, with its lead; -inf without any.

        One with fewer tokens that are no places comes first: a frame could be taken for some.
        """
        usual = LAYOUTS.get(self.candidate.features.ndim)
        found = [(self.lead(layout), layout) for layout in self._readings()]
        clear = [pair for pair in found if pair[0] > (0 if pair[1] == usual else _CONFIRMED)]
        return max(clear, key=lambda it: (-extra_tokens(it[1]), it[0]), default=(-math.inf, None))

    def usual(self) -> str | None:
        """That of a convolution, unless the corners contradict it: it may have few frames, which
        every place sees.
        """
        layout = LAYOUTS.get(self.candidate.features.ndim)
        allowed = layout in self._readings()
        return layout if allowed and not self.lead(layout) < _CONTRADICTED else None

    def by_time(self) -> str | None:
        """A reading of which the corners confirm the time only: its places may be mixed.

        Only where frames are apart from places. Tokens of frames could be taken for some of places.
        """
        for layout in self._readings():
            together = 't h w' in layout or 'h w t' in layout
            if together or self.lead(layout) < _CONTRADICTED:
                continue
            if self.leads(layout)[0] > _CONFIRMED:
                return layout
        return None

    def contradiction(self, layout: str | None) -> str:
        """That the axes are others than a reading says, in words."""
        name, shape = self.candidate.name, tuple(self.candidate.features.shape)
        return (
            f'the axes of cam_layer={name!r}, which returns the shape {shape}, are not '
            f'{layout or LAYOUTS[len(shape)]!r}: changes of the clip along time, height or width '
            'move the map along others; name another layer with cam_layer, or the axes with '
            'cam_layout'
        )

    def _readings(self) -> list[str]:
        shape = self.candidate.features.shape
        return list(readings(shape, self.batch_size, self.clip)) if self.clip else []

    def reaches(self, layout: str | None) -> bool:
        """Whether the class scores depend on more than one frame, not on a class token only.

        Not on all of them: pooling with a stride may skip some.
        """
        slope = self.candidate.slope
        if slope is None:
            return False
        frames = to_frames(slope, self.batch_size, self.candidate.name, layout)
        used = frames.abs().sum(dim=(2, 3, 4)) > 0
        return bool((used.sum(dim=1) > 1).all())


def settle(
    responses: Iterator[Response], assumed: str | None, given: bool
) -> tuple[Response, str | None]:
    """The reading of a named layer: the assumed one unless it is wrong, else the best one.

    Args:
        responses (Iterator[Response]): The layer's tensors, the likeliest first.
        assumed (str, optional): The reading to expect.
        given (bool): Whether the user has written it; then no other is taken.
    """
    seen: list[Response] = []
    doubtful: Response | None = None
    problem: ValueError | None = None
    for response in responses:
        seen.append(response)
        try:
            lead = response.lead(assumed)
        except ValueError as error:
            problem = problem or error
            continue
        if lead > 0:
            rival = response.best()[0] if given else -math.inf
            if rival < lead + _CLEAR:
                return response, assumed
            doubtful = None
            continue
        # Where the effects are too small to tell, the assumed reading stands, if the clip has as
        # many frames and places.
        sizes = zip(response.grid(assumed), response.clip, strict=False)
        wrong = lead < _CONTRADICTED or any(size > most for size, most in sizes)
        if response.clip == seen[0].clip and not wrong:
            doubtful = doubtful or response
    (lead, reading), better = max(((each.best(), each) for each in seen), key=lambda it: it[0][0])
    if not given and lead > (_CLEAR if doubtful else 0):
        return better, reading
    if doubtful is not None:
        return doubtful, assumed
    if problem is not None and not given:
        for response in seen:
            if (likely := response.by_time()) is not None:
                return response, likely
    right = f'; cam_layout={reading!r} is right' if lead > 0 else ''
    raise ValueError(f'{problem or seen[0].contradiction(assumed)}{right}')
