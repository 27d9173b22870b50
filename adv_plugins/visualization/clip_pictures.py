"""Pictures and videos of what :func:`adv_plugins.visualization.look` recorded.

All of them are arrays or figures that belong to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.selection import evenly_spread
from .clips import GREY_LEVELS, Look
from .figures import DPI, MATPLOTLIB, blank_figure, literal, shortened, to_rgb
from .mp4 import Frames, check_frames, enlarge, even_sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 16
"""How many frames a contact sheet shows at most."""
# Pixels of a video: the gaps between its panels, the captions above, and the bars below.
_GAP, _HEAD, _BARS = 6, 66, 124
_LUMA = np.array([0.299, 0.587, 0.114])
_CLEAN = dict(label='clean', color='C0')
_ADVERSARIAL = dict(label='adversarial', color='C3')


def overlay(frames: Frames, cam: NDArray[Any], alpha: float = 0.5) -> Frames:
    """A clip in grey under the colours of its CAM, from black (none) through red to yellow (most).

    Args:
        frames (ndarray): The frames, uint8 RGB, shape (T, H, W, 3).
        cam (ndarray): The evidence, not negative, shape (T, H, W). All frames share one colour
            scale, which ends at the largest value of the clip.
        alpha (float): Weight of the colours, from 0 (grey frames) to 1. Defaults to 0.5.

    Returns:
        ndarray: uint8 RGB, shape (T, H, W, 3).

    Raises:
        ValueError: A shape, type or ``alpha`` is not as described.
        ImportError: matplotlib is missing.
    """
    check_frames(frames)
    if cam.shape != frames.shape[:3]:
        raise ValueError(
            f'cam has the shape {cam.shape}, the frames {frames.shape}; give one value a pixel, '
            f'{frames.shape[:3]}'
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha={alpha} must be from 0 (grey frames) to 1 (colours alone)')
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError(MATPLOTLIB) from error
    peak = float(cam.max())
    colours = colormaps['inferno'](cam / peak if peak > 0 else np.zeros_like(cam))
    grey = (frames @ _LUMA)[..., None]
    mixed = (1 - alpha) * grey + alpha * GREY_LEVELS * colours[..., :3]
    return np.rint(mixed).astype(np.uint8)


def magnify(perturbation: NDArray[Any]) -> tuple[Frames, int]:
    """A perturbation made visible: magnified, and grey where it is zero.

    Args:
        perturbation (ndarray): Grey levels, shape (T, H, W, 3).

    Returns:
        tuple[ndarray, int]: uint8 RGB of the same shape, and the factor, at least 1: the largest
        at which 99 percent of the values stay within range.
    """
    size = float(np.percentile(np.abs(perturbation), 99))
    # A sparse perturbation is zero nearly everywhere.
    size = size or float(np.abs(perturbation).max())
    factor = max(1, int(127 / size)) if size else 1
    shifted = np.rint(128 + factor * perturbation).clip(0, GREY_LEVELS)
    return shifted.astype(np.uint8), factor


def contact_sheet(look: Look, class_names: Sequence[str] | None = None) -> Figure:
    """A clip on one page: one column a frame, with the frame's share of the evidence below.

    The rows are the clean frames and their CAM, the adversarial frames and their CAM, and the
    magnified perturbation. At most 16 frames are shown, evenly spread over the clip.

    Args:
        look (Look): What :func:`adv_plugins.visualization.look` returned for the clip.
        class_names (Sequence[str], optional): The name of each class. Defaults to None: numbers.

    Returns:
        Figure: To be saved with ``figure.savefig(file)``.

    Raises:
        ImportError: matplotlib is missing.
    """
    total, height, width = look.frames.shape[:3]
    chosen = evenly_spread(total, MAX_COLUMNS)
    panels = _panels(look, class_names)
    pad = max(1, width // 64)
    # All sizes are in inches. Few columns are made wider, so that the title has room.
    cell = min(1.8, max(1.3, 8 / len(chosen)), 14 / len(chosen))
    row, space = cell * height / (width + 2 * pad), 0.06
    across, left, bars, bottom = len(chosen) * cell, 1.75, 1.0, 0.5
    title = _title(look, class_names, length=int(12 * (left + across)))
    top = 0.3 + 0.16 * len(title.splitlines())
    size = (left + across + 0.15, top + len(panels) * (row + space) + 0.1 + bars + bottom)
    figure = _page(*size)
    figure.suptitle(literal(title), fontsize='medium', y=1 - 0.12 / size[1], va='top')

    def add_row(low: float, tall: float, label: str) -> Axes:
        box = (left / size[0], low / size[1], across / size[0], tall / size[1])
        axes = figure.add_axes(box, xlim=(-0.5, len(chosen) - 0.5))
        axes.set_ylabel(literal(label), rotation=0, ha='right', va='center', fontsize='small')
        return axes

    low = size[1] - top
    for name, note, frames in panels:
        low -= row + space
        axes = add_row(low, row, f'{name}\n{shortened(note, 22)}')
        # White gaps between the columns, each of which is one unit wide like the bars below.
        padded = np.pad(frames[chosen], ((0, 0), (0, 0), (pad, pad), (0, 0)), constant_values=255)
        strip = np.concatenate(list(padded), axis=1)
        axes.imshow(strip, extent=(-0.5, len(chosen) - 0.5, height, 0), aspect='auto')
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    axes = add_row(bottom, bars, 'share of\nthe evidence')
    _draw_attention(axes, look, chosen)
    axes.set_xticks(range(len(chosen)), [str(frame) for frame in chosen])
    share = f' ({len(chosen)} of {total} are shown)' if len(chosen) < total else ''
    axes.set_xlabel(f'frame{share}', fontsize='small')
    return figure


def side_by_side(look: Look, class_names: Sequence[str] | None = None) -> Frames:
    """A clip as a video of panels: clean, CAM, adversarial, CAM, magnified perturbation.

    Below them is the share of the evidence in each frame, with the current frame marked.

    Args:
        look (Look): What :func:`adv_plugins.visualization.look` returned for the clip.
        class_names (Sequence[str], optional): The name of each class. Defaults to None: numbers.

    Returns:
        ndarray: uint8 RGB, shape (T, H', W', 3), with even H' and W'; see :func:`write_mp4`.

    Raises:
        ImportError: matplotlib is missing.
    """
    panels = [(name, note, enlarge(frames)) for name, note, frames in _panels(look, class_names)]
    count, height, width = panels[0][2].shape[:3]
    starts = [_GAP + number * (width + _GAP) for number in range(len(panels))]
    whole = starts[-1] + width + _GAP
    film = np.full((count, height, whole, 3), 255, np.uint8)
    for start, (_, _, frames) in zip(starts, panels, strict=True):
        film[:, :, start : start + width] = frames
    head = _page(whole / DPI, _HEAD / DPI)
    for start, (name, note, _) in zip(starts, panels, strict=True):
        caption = f'{name}\n{shortened(note, width // 8)}'
        head.text(
            (start + width / 2) / whole, 0.35, literal(caption), ha='center', va='center', size=10
        )
    label = shortened(f'label: {_name(look.label, class_names)}', whole // 8)
    head.text(_GAP / whole, 0.93, literal(label), ha='left', va='top', size=10, weight='bold')
    heads = np.broadcast_to(to_rgb(head), (count, _HEAD, whole, 3))
    return even_sides(np.concatenate([heads, film, _attention_strips(look, whole)], axis=1))


def _page(width: float, height: float) -> Figure:
    """A figure of a size in inches, in which everything stays where it is put."""
    figure = blank_figure(width, height)
    figure.set_layout_engine('none')
    return figure


def _panels(look: Look, class_names: Sequence[str] | None) -> list[tuple[str, str, Frames]]:
    """The panels of a clip: a name, a remark and the frames of each."""
    panels = []
    for name, clip in (('clean', look), ('adversarial', look.adversarial)):
        if clip is not None:
            panels.append((name, _verdict(clip, class_names), clip.frames))
            evidence = f'for {_name(clip.cam_class, class_names)}'
            panels.append((f'CAM of {name}', evidence, overlay(clip.frames, clip.cam)))
            if clip.predicted_cam is not None:
                wrong = f'for {_name(clip.predicted, class_names)} ✗'
                shown = overlay(clip.frames, clip.predicted_cam)
                panels.append((f'CAM of {name}', wrong, shown))
    if look.perturbation is not None:
        magnified, factor = magnify(look.perturbation)
        panels.append(('perturbation', f'×{factor}, grey = 0', magnified))
    return panels


def _title(look: Look, class_names: Sequence[str] | None, length: int) -> str:
    """The label and the predictions: on one line, or on several where they do not fit."""
    parts = [f'label: {_name(look.label, class_names)}', f'clean: {_verdict(look, class_names)}']
    if look.adversarial is not None:
        parts.append(f'adversarial: {_verdict(look.adversarial, class_names)}')
    line = '    '.join(parts)
    return line if len(line) <= length else '\n'.join(shortened(part, length) for part in parts)


def _verdict(look: Look, class_names: Sequence[str] | None) -> str:
    sign = '✓' if look.predicted == look.label else '✗'
    return f'{_name(look.predicted, class_names)} ({look.score:.2f}) {sign}'


def _name(index: int, class_names: Sequence[str] | None) -> str:
    # On one line, whatever it is.
    return f'class {index}' if class_names is None else ' '.join(str(class_names[index]).split())


def _draw_attention(axes: Axes, look: Look, chosen: Sequence[int]) -> None:
    """Bars of the chosen frames, at 0, 1, 2, ...; those of both clips side by side."""
    series = [(_CLEAN, look.attention)]
    if look.adversarial is not None:
        series.append((_ADVERSARIAL, look.adversarial.attention))
    width = 0.8 / len(series)
    places = np.arange(len(chosen))
    for number, (style, attention) in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * width
        known = np.isfinite(attention).all()
        label = style['label'] if known else f'{style["label"]}: no evidence'
        heights = attention[list(chosen)] if known else np.zeros(len(chosen))
        axes.bar(places + offset, heights, width, color=style['color'], label=label)
    axes.axhline(1 / len(look.attention), color='0.3', linewidth=1, linestyle='--', label='even')
    # Room for the legend above the highest bar.
    axes.set_ylim(0, 1.45 * axes.dataLim.y1)
    axes.legend(loc='upper center', ncols=3, fontsize='x-small', frameon=False)
    axes.tick_params(labelsize='x-small')
    axes.spines[['top', 'right']].set_visible(False)


def _attention_strips(look: Look, width: int) -> Frames:
    """The bars below each frame of a video, with the column of the frame highlighted."""
    count = len(look.frames)
    figure = _page(width / DPI, _BARS / DPI)
    box = (80 / width, 38 / _BARS, 1 - 90 / width, 1 - 48 / _BARS)
    axes = figure.add_axes(box, xlim=(-0.5, count - 0.5), xlabel='frame')
    axes.set_ylabel('share of\nthe evidence', fontsize='x-small')
    axes.xaxis.label.set_fontsize('x-small')
    _draw_attention(axes, look, range(count))
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=16)
    plain = to_rgb(figure)
    axes.set_facecolor('#ffe08a')
    highlighted = to_rgb(figure)
    edges = axes.transData.transform([(frame - 0.5, 0) for frame in range(count + 1)])[:, 0]
    edges = np.rint(edges).astype(int)
    strips = np.repeat(plain[None], count, axis=0)
    for strip, start, stop in zip(strips, edges[:-1], edges[1:], strict=True):
        strip[:, start:stop] = highlighted[:, start:stop]
    return strips
