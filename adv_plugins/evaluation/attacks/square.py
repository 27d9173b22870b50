"""Square (Andriushchenko et al., ECCV 2020): random search over patches, by scores alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.functional import expand_like
from ...core.option_values import as_count, as_number
from .base import Attack
from .search import Search

# The queries, out of 10,000, after which the patches halve (section 4.1 of the paper).
_HALVE_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search over square patches, by scores alone (Andriushchenko et al., ECCV 2020).

    A patch is a square of pixels in a random run of consecutive frames, with one sign per channel.
    Never asks for a gradient. At most ``queries + 1`` forwards.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units.
        norm (str): ``'linf'``, the only one here. Defaults to ``'linf'``.
        queries (int): How many inputs are tried; the paper's schedule is scaled to it. Defaults
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
        p_init = as_number('p_init', self.p_init)
        if not 0 < p_init <= 1:
            raise ValueError(f'p_init={self.p_init} must lie in (0, 1], the paper has 0.8')
        vars(self).update(queries=as_count('queries', self.queries), p_init=p_init)

    @property
    def cost(self) -> int:
        """A forward for each query, and one for the clean sample."""
        return self.queries + 1

    def _run(self, search: Search) -> None:
        rows = search.active()
        free = search.free()
        frames = Frames(free, self.channel_dim)

        def whole(patches: Tensor) -> Tensor:
            """In the layout of the model, and the same wherever entries move alike."""
            return frames.restore(patches).expand(-1, *search.clean.shape[1:])

        search.evaluate(rows, search.zeros(rows))
        rows = search.active()
        if len(rows) == 0:
            return
        search.draw_frames(rows)
        signs = torch.stack([frames.stripes(generator) for generator in search.generators(rows)])
        delta = self.eps * signs.to(search.clean)
        loss = search.evaluate(rows, whole(delta))
        for query in range(1, self.queries):
            rows, delta, loss = search.keep_active(rows, rows, delta, loss)
            if len(rows) == 0:
                return
            share = patch_share(query, self.queries, self.p_init)
            proposal = delta.clone()
            for sample, generator in zip(proposal, search.generators(rows), strict=True):
                window, signs = frames.patch(share, generator)
                sample[window] = self.eps * signs.to(delta)
            value = search.evaluate(rows, whole(proposal))
            better = value > loss
            delta = torch.where(expand_like(better, delta), proposal, delta)
            loss = torch.where(better, value, loss)


class Frames:
    """Perturbations of images or clips as frames (F, C, H, W), whatever the model's layout.

    Args:
        x (Tensor): A batch in the layout of the model.
        channel_dim (int, optional): See :class:`Square`.

    Raises:
        ValueError: The batch has no such axes.
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
        """A random sign for each column and channel, the same in all frames."""
        channels, height, width = self._layout[-3:]
        signs = _signs(torch.rand(channels, 1, width, generator=generator))
        return signs.expand(self._frames, channels, height, width)

    def patch(self, share: float, generator: torch.Generator) -> tuple[tuple[slice, ...], Tensor]:
        """A random window over ``share`` of a frame, and a random sign for each channel."""
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


def patch_share(query: int, queries: int, p_init: float) -> float:
    """p of the paper: the share of a frame that a patch covers at a query."""
    halvings = sum(query * 10_000 > mark * queries for mark in _HALVE_AT)
    return p_init * 0.5**halvings


def _span(uniform: float, length: int, whole: int) -> slice:
    """A random stretch of ``whole`` places; ``uniform`` from [0, 1) says where it starts."""
    start = int(uniform * (whole - length + 1))
    return slice(start, start + length)


def _signs(uniform: Tensor) -> Tensor:
    """Random signs out of uniform numbers from [0, 1)."""
    return torch.where(uniform < 0.5, -1.0, 1.0)
