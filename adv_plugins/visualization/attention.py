"""Attention of a video and of its adversary, side by side (A-ART, figures 1 and 2).

The maps come from :func:`adv_plugins.attention.capture_attention`; nothing here runs a model.
The figures belong to the caller: nothing is saved, shown or kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .figures import blank_figure, check_not_empty, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike

_PANEL = 3.0
"""Height and width of a map, in inches."""
# The wide line lies below the narrow one: where both are equal, both are seen.
_VIDEO = dict(label='video', color='C0', linewidth=4, alpha=0.5)
_ADVERSARY = dict(label='adversary', color='C3', linewidth=1.2, marker='.', markersize=3)


def attention_profile(weights: Tensor, valid: Tensor | None = None) -> Tensor:
    """The share of a video's attention that each frame receives (A-ART, figure 2).

    Args:
        weights (Tensor): Attention maps, averaged over heads, shape (B, T, T): how much of its
            attention each query frame (row) gives to each key frame (column).
        valid (Tensor, optional): Boolean, True for valid frames, shape (B, T). Rows and columns of
            other frames are ignored. Defaults to None: all are valid.

    Returns:
        Tensor: The mean over valid queries, shape (B, T); it sums to 1 over valid frames and is 0
        at the others.

    Raises:
        ValueError: Shapes or types are not as described.

    Example:
        >>> with capture_attention(model, ['encoders.rgb.0.attention']) as maps:
        ...     model(inputs)
        >>> profile = attention_profile(maps[0].weights, inputs['rgb_mask'])
    """
    if weights.ndim != 3 or weights.shape[1] != weights.shape[2]:
        raise ValueError(
            'attention_profile takes maps averaged over heads, of the shape (B, T, T), got '
            f'{tuple(weights.shape)}'
        )
    if valid is not None:
        _check_valid(valid, weights.shape[:2])
        weights = weights.masked_fill(~(valid[:, :, None] & valid[:, None, :]), 0)
    received = weights.sum(dim=1)
    total = received.sum(dim=1, keepdim=True)
    return received / torch.where(total > 0, total, torch.ones_like(total))


def plot_attention_maps(
    maps: Mapping[str, tuple[ArrayLike, ArrayLike]],
    valid: ArrayLike | None = None,
    modality: str = '',
) -> Figure:
    """Attention maps of a video and of its adversary, and their difference (A-ART, figure 1).

    One row a model. Both maps of a row share one colour scale, which starts at 0; the differences
    of all rows share another, so that models can be compared. The highest 0.5 percent of the
    entries may lie beyond the end of a scale: a few peaks would leave the rest of a long video
    dark.

    Args:
        maps (Mapping[str, tuple]): For each model by name, the map of the video and that of its
            adversary: tensors or arrays of the shape (T, T), averaged over heads, queries first.
        valid (Tensor | ndarray, optional): Boolean, True for valid frames, shape (T,); others are
            not drawn. Defaults to None: all are valid.
        modality (str): Name of the modality, for the titles. Defaults to ''.

    Returns:
        Figure: To be saved with ``figure.savefig(file)``.

    Raises:
        ValueError: There is no map, or a shape is not as described.
        ImportError: matplotlib is missing.
    """
    check_not_empty('maps', maps, "name one model or more, e.g. maps={'ART': ...}")
    pairs = {name: _pair(name, pair, 2) for name, pair in maps.items()}
    frames = _valid_frames(valid, pairs)
    pairs = {
        name: tuple(_only_valid(x, frames[:, None] & frames) for x in pair)
        for name, pair in pairs.items()
    }
    differences = {name: adversary - video for name, (video, adversary) in pairs.items()}
    reach = max(_scale_end(difference.abs()) for difference in differences.values())
    figure = blank_figure(3 * _PANEL + 2.5, (_PANEL + 0.5) * len(maps))
    rows = figure.subfigures(len(maps), 1, squeeze=False)[:, 0]
    for row, (name, pair) in zip(rows, pairs.items(), strict=True):
        row.suptitle(_title(name, modality))
        _draw_maps(row, pair, differences[name], reach or 1.0, _span(frames))
    return figure


def plot_attention_profiles(
    profiles: Mapping[str, tuple[ArrayLike, ArrayLike]],
    valid: ArrayLike | None = None,
    modality: str = '',
) -> Figure:
    """Attention profiles of a video and of its adversary, overlaid (A-ART, figure 2).

    One panel a model, all with one scale. A dotted line marks even attention.

    Args:
        profiles (Mapping[str, tuple]): For each model by name, the :func:`attention_profile` of
            the video and that of its adversary: tensors or arrays of the shape (T,).
        valid (Tensor | ndarray, optional): Boolean, True for valid frames, shape (T,); others are
            not drawn. Defaults to None: all are valid.
        modality (str): Name of the modality, for the titles. Defaults to ''.

    Returns:
        Figure: To be saved with ``figure.savefig(file)``.

    Raises:
        ValueError: There is no profile, or a shape is not as described.
        ImportError: matplotlib is missing.
    """
    check_not_empty('profiles', profiles, "name one model or more, e.g. profiles={'ART': ...}")
    pairs = {name: _pair(name, pair, 1) for name, pair in profiles.items()}
    frames = _valid_frames(valid, pairs)
    first, last = _span(frames)
    figure = blank_figure(1.0 + 3.6 * len(pairs), 3.4)
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for panel, (name, pair) in zip(panels, pairs.items(), strict=True):
        for profile, style in zip(pair, (_VIDEO, _ADVERSARY), strict=True):
            panel.plot(range(first, last + 1), _only_valid(profile, frames).numpy(), **style)
        even = 1 / int(frames.sum())
        panel.axhline(even, color='gray', linewidth=0.8, linestyle=':', label='even attention')
        panel.set_title(_title(name, modality))
        panel.set_xlabel('frame')
        _whole_frames(panel.xaxis)
    panels[0].set_ylabel('share of attention')
    panels[0].set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    return figure


def _draw_maps(
    row: SubFigure,
    pair: tuple[Tensor, Tensor],
    difference: Tensor,
    reach: float,
    span: tuple[int, int],
) -> None:
    """One row: the two maps with one colour bar, their difference with another."""
    panels = row.subplots(1, 3)
    top = _scale_end(torch.stack(pair))
    extent = (span[0] - 0.5, span[1] + 0.5, span[1] + 0.5, span[0] - 0.5)
    for panel, label, weights in zip(panels[:2], ('video', 'adversary'), pair, strict=True):
        image = panel.imshow(weights.numpy(), cmap='viridis', vmin=0, vmax=top, extent=extent)
        panel.set_title(label, fontsize='medium')
    _colour_bar(row, image, panels[:2], 'attention', extend='max')
    image = panels[2].imshow(
        difference.numpy(), cmap='RdBu_r', vmin=-reach, vmax=reach, extent=extent
    )
    error = float(difference.square().nanmean())
    panels[2].set_title(f'adversary − video, MSE {error:.1e}', fontsize='medium')
    _colour_bar(row, image, panels[2:], 'difference', extend='both')
    for panel in panels:
        panel.set_xlabel('key frame')
        panel.set_ylabel('query frame')
        _whole_frames(panel.xaxis)
        _whole_frames(panel.yaxis)


def _colour_bar(row: SubFigure, image: Any, panels: list[Axes], label: str, extend: str) -> None:
    bar = row.colorbar(image, ax=list(panels), label=label, shrink=0.9, extend=extend)
    bar.formatter.set_powerlimits((-3, 3))


def _whole_frames(axis: Axis) -> None:
    """No ticks between frames, not even for a single frame."""
    axis.get_major_locator().set_params(integer=True, min_n_ticks=1, nbins=6)


def _values(given: ArrayLike) -> Tensor:
    return torch.as_tensor(given).detach().cpu().double()


def _pair(name: str, pair: tuple[ArrayLike, ArrayLike], ndim: int) -> tuple[Tensor, Tensor]:
    """The maps or profiles of a video and of its adversary, checked."""
    if len(pair) != 2:
        raise ValueError(
            f'{name!r} has {len(pair)} entries; give two, that of the video and that of its '
            'adversary'
        )
    video, adversary = (_values(given) for given in pair)
    if video.ndim != ndim or video.shape != adversary.shape or len(set(video.shape)) != 1:
        axes = '(T,)' if ndim == 1 else '(T, T), averaged over heads'
        raise ValueError(
            f'{name!r} has the shapes {tuple(video.shape)} and {tuple(adversary.shape)}; those of '
            f'one video and its adversary are both {axes}'
        )
    return video, adversary


def _valid_frames(valid: ArrayLike | None, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """The mask (T,) of the video that all models were shown."""
    lengths = {name: len(video) for name, (video, _) in pairs.items()}
    length = next(iter(lengths.values()))
    if set(lengths.values()) != {length}:
        raise ValueError(
            f'all models must be shown one video, got these numbers of frames: {lengths}'
        )
    if valid is None:
        return torch.ones(length, dtype=torch.bool)
    frames = torch.as_tensor(valid).cpu()
    _check_valid(frames, (length,))
    if not frames.any():
        raise ValueError(
            'valid is True for no frame: there is nothing to draw; choose another video'
        )
    return frames


def _check_valid(valid: Tensor, shape: tuple[int, ...]) -> None:
    if valid.dtype is not torch.bool or valid.shape != shape:
        raise ValueError(
            f'valid must be boolean {tuple(shape)}, True where a frame is valid, got '
            f'{valid.dtype} {tuple(valid.shape)}'
        )


def _span(frames: Tensor) -> tuple[int, int]:
    """The first and the last valid frame."""
    index = frames.nonzero()
    return int(index[0]), int(index[-1])


def _only_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Values from the first to the last valid frame; invalid ones in between become NaN, which is
    not drawn.
    """
    first, last = _span(valid.diagonal() if valid.ndim == 2 else valid)
    inside = (slice(first, last + 1),) * values.ndim
    return values.masked_fill(~valid, float('nan'))[inside]


def _scale_end(values: Tensor) -> float:
    """The end of a colour scale: the 99.5th percentile, and at least a tenth of the maximum.

    It is 0 where no value is finite.
    """
    values = values[values.isfinite()]
    if len(values) == 0:
        return 0.0
    percentile = values.kthvalue(math.ceil(0.995 * len(values))).values
    # A single frame of 300 that has all attention is less than half a percent of the map.
    return max(float(percentile), float(values.max()) / 10)


def _title(name: str, modality: str) -> str:
    return drawn(f'{name}: {modality}' if modality else name)
