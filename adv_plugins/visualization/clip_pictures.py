"""Pictures and videos of what :func:`~adv_plugins.visualization.look` found.

All of them are arrays or figures that belong to the caller; only :func:`write_mp4` writes a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .attention import MATPLOTLIB, blank_figure
from .clips import GREY_LEVELS, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Frames = NDArray[np.uint8]

MAX_COLUMNS = 16
SHORT_SIDE = 224
"""Pixels below which a clip is too small to watch."""
_DPI = 100
# Pixels of a video: between its panels, its captions, and the bars below.
_GAP, _HEAD, _BARS = 6, 66, 124
_LUMA = np.array([0.299, 0.587, 0.114])
_CLEAN = dict(label='clean', color='C0')
_ADVERSARIAL = dict(label='adversarial', color='C3')


def overlay(frames: Frames, cam: NDArray[Any], alpha: float = 0.5) -> Frames:
    """A clip in grey under the colours of its CAM, from black (none) over red to yellow (most).

    Args:
        frames (ndarray): The frames, uint8 RGB, shape (T, H, W, 3).
        cam (ndarray): The evidence, not negative, shape (T, H, W). All frames share one scale: the
            last colour is the largest value of the clip.
        alpha (float): Weight of the colours, from 0 (grey frames) to 1. Defaults to 0.5.

    Returns:
        ndarray: uint8 RGB, shape (T, H, W, 3).

    Raises:
        ValueError: A shape, type or ``alpha`` is not as described.
        ImportError: matplotlib is missing.
    """
    _check_frames(frames)
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
    """A perturbation to look at: grey where there is none.

    Args:
        perturbation (ndarray): Grey levels, shape (T, H, W, 3).

    Returns:
        tuple[ndarray, int]: uint8 RGB of the same shape, and by how much it is magnified: as far
        as 99 percent of its values allow, and not less than 1.
    """
    size = float(np.percentile(np.abs(perturbation), 99))
    # A sparse perturbation has no size in most places.
    size = size or float(np.abs(perturbation).max())
    factor = max(1, int(127 / size)) if size else 1
    shifted = np.rint(128 + factor * perturbation).clip(0, GREY_LEVELS)
    return shifted.astype(np.uint8), factor


def contact_sheet(look: Look, class_names: Sequence[str] | None = None) -> Figure:
    """A clip on one page: a column a frame, and below them the share of evidence of each.

    The rows are the clean frames and their CAM, the adversarial frames and their CAM, and the
    magnified perturbation. Of more than 16 frames 16 are shown, evenly spread over the clip.

    Args:
        look (Look): What :func:`~adv_plugins.visualization.look` found.
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
    # In inches. The columns of a short clip are wider, so that the title has room.
    cell = min(1.8, max(1.3, 8 / len(chosen)), 14 / len(chosen))
    row, space = cell * height / (width + 2 * pad), 0.06
    across, left, bars, bottom = len(chosen) * cell, 1.75, 1.0, 0.5
    title = _title(look, class_names, length=int(12 * (left + across)))
    top = 0.3 + 0.16 * len(title.splitlines())
    size = (left + across + 0.15, top + len(panels) * (row + space) + 0.1 + bars + bottom)
    figure = _page(*size)
    figure.suptitle(title, fontsize='medium', y=1 - 0.12 / size[1], va='top')

    def add_row(low: float, tall: float, label: str) -> Axes:
        box = (left / size[0], low / size[1], across / size[0], tall / size[1])
        axes = figure.add_axes(box, xlim=(-0.5, len(chosen) - 0.5))
        axes.set_ylabel(label, rotation=0, ha='right', va='center', fontsize='small')
        return axes

    low = size[1] - top
    for name, note, frames in panels:
        low -= row + space
        axes = add_row(low, row, f'{name}\n{_short(note, 22)}')
        # White between the columns, of which each is one unit wide, as the bars below.
        padded = np.pad(frames[chosen], ((0, 0), (0, 0), (pad, pad), (0, 0)), constant_values=255)
        strip = np.concatenate(list(padded), axis=1)
        axes.imshow(strip, extent=(-0.5, len(chosen) - 0.5, height, 0), aspect='auto')
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    axes = add_row(bottom, bars, 'share of\nthe evidence')
    _draw_attention(axes, look, chosen)
    axes.set_xticks(range(len(chosen)), [str(frame) for frame in chosen])
    some = f' ({len(chosen)} of {total} are shown)' if len(chosen) < total else ''
    axes.set_xlabel(f'frame{some}', fontsize='small')
    return figure


def side_by_side(look: Look, class_names: Sequence[str] | None = None) -> Frames:
    """A clip as a video of panels: clean, CAM, adversarial, CAM, magnified perturbation.

    Below them the share of the evidence in each frame, with the frame that is shown marked.

    Args:
        look (Look): What :func:`~adv_plugins.visualization.look` found.
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
    head = _page(whole / _DPI, _HEAD / _DPI)
    for start, (name, note, _) in zip(starts, panels, strict=True):
        caption = f'{name}\n{_short(note, width // 8)}'
        head.text((start + width / 2) / whole, 0.35, caption, ha='center', va='center', size=10)
    label = _short(f'label: {_name(look.label, class_names)}', whole // 8)
    head.text(_GAP / whole, 0.93, label, ha='left', va='top', size=10, weight='bold')
    heads = np.broadcast_to(to_rgb(head), (count, _HEAD, whole, 3))
    return _even(np.concatenate([heads, film, _attention_strips(look, whole)], axis=1))


def write_mp4(path: str | Path, frames: Frames, fps: float = 8, scale: int | None = None) -> None:
    """Write a clip as an .mp4 file that browsers play: H.264, colours at half the resolution.

    Args:
        path (str | Path): The file to write.
        frames (ndarray): The frames, uint8 RGB, shape (T, H, W, 3). A last row or column is
            repeated where H or W is odd.
        fps (float): Frames per second. Defaults to 8.
        scale (int, optional): Each pixel becomes a square of so many. Defaults to None: as many
            as make the short side 224 pixels or more.

    Raises:
        ValueError: A shape, type or option is not as described.
        ImportError: PyAV is missing.
    """
    _check_frames(frames)
    if fps <= 0:
        raise ValueError(f'fps={fps} must be more than 0')
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'videos are written with PyAV; install it with: pip install "adv_plugins[data]"'
        ) from error
    frames = _even(enlarge(frames, scale))
    with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream('libx264', rate=rate, options={'crf': '16'})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def enlarge(frames: Frames, scale: int | None = None) -> Frames:
    """A clip with each pixel as a square.

    Args:
        frames (ndarray): Shape (T, H, W, 3).
        scale (int, optional): Side of the square. Defaults to None: the smallest that makes the
            short side of the clip 224 pixels or more.

    Returns:
        ndarray: Shape (T, scale * H, scale * W, 3).

    Raises:
        ValueError: ``scale`` is less than 1.
    """
    if scale is None:
        scale = -(-SHORT_SIDE // min(frames.shape[1:3]))
    if scale < 1:
        raise ValueError(f'scale={scale} must be 1 or more; a clip can only be enlarged')
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def evenly_spread(total: int, count: int) -> list[int]:
    """Indices of ``count`` of ``total`` things, or of all: the middle of each equal part."""
    count = min(count, total)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def to_rgb(figure: Figure) -> Frames:
    """A figure as an image, uint8 RGB, shape (H, W, 3), for a visualizer or a video."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _page(width: float, height: float) -> Figure:
    """A figure of so many inches, in which everything stays where it is put."""
    figure = blank_figure(width, height)
    figure.set_layout_engine('none')
    return figure


def _panels(look: Look, class_names: Sequence[str] | None) -> list[tuple[str, str, Frames]]:
    """What is shown of a clip: a name, a remark and the frames."""
    panels = []
    for name, seen in (('clean', look), ('adversarial', look.adversarial)):
        if seen is not None:
            evidence = f'for {_name(seen.cam_class, class_names)}'
            panels.append((name, _verdict(seen, class_names), seen.frames))
            panels.append((f'CAM of {name}', evidence, overlay(seen.frames, seen.cam)))
    if look.perturbation is not None:
        magnified, factor = magnify(look.perturbation)
        panels.append(('perturbation', f'×{factor}, grey = 0', magnified))
    return panels


def _title(look: Look, class_names: Sequence[str] | None, length: int) -> str:
    """What the clip is and is taken for: one line, or several where it is longer."""
    parts = [f'label: {_name(look.label, class_names)}', f'clean: {_verdict(look, class_names)}']
    if look.adversarial is not None:
        parts.append(f'adversarial: {_verdict(look.adversarial, class_names)}')
    line = '    '.join(parts)
    return line if len(line) <= length else '\n'.join(_short(part, length) for part in parts)


def _verdict(look: Look, class_names: Sequence[str] | None) -> str:
    sign = '✓' if look.predicted == look.label else '✗'
    return f'{_name(look.predicted, class_names)} ({look.score:.2f}) {sign}'


def _name(index: int, class_names: Sequence[str] | None) -> str:
    return f'class {index}' if class_names is None else str(class_names[index])


def _short(text: str, length: int) -> str:
    """Cut in the middle: what follows a long class name is a number."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f'{text[: length - 1 - half]}…{text[-half:]}'


def _draw_attention(axes: Axes, look: Look, chosen: Sequence[int]) -> None:
    """Bars of the chosen frames, at 0, 1, 2, ...; those of both clips beside each other."""
    seen = [(_CLEAN, look.attention)]
    if look.adversarial is not None:
        seen.append((_ADVERSARIAL, look.adversarial.attention))
    width = 0.8 / len(seen)
    places = np.arange(len(chosen))
    for number, (style, attention) in enumerate(seen):
        offset = (number - (len(seen) - 1) / 2) * width
        axes.bar(places + offset, attention[list(chosen)], width, **style)
    axes.axhline(1 / len(look.attention), color='0.3', linewidth=1, linestyle='--', label='even')
    # Room for the legend above the highest bar.
    axes.set_ylim(0, 1.45 * axes.dataLim.y1)
    axes.legend(loc='upper center', ncols=3, fontsize='x-small', frameon=False)
    axes.tick_params(labelsize='x-small')
    axes.spines[['top', 'right']].set_visible(False)


def _attention_strips(look: Look, width: int) -> Frames:
    """The bars for each frame of a video, with its column lit."""
    count = len(look.frames)
    figure = _page(width / _DPI, _BARS / _DPI)
    box = (80 / width, 38 / _BARS, 1 - 90 / width, 1 - 48 / _BARS)
    axes = figure.add_axes(box, xlim=(-0.5, count - 0.5), xlabel='frame')
    axes.set_ylabel('share of\nthe evidence', fontsize='x-small')
    axes.xaxis.label.set_fontsize('x-small')
    _draw_attention(axes, look, range(count))
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=16)
    dark = to_rgb(figure)
    axes.set_facecolor('#ffe08a')
    lit = to_rgb(figure)
    edges = axes.transData.transform([(frame - 0.5, 0) for frame in range(count + 1)])[:, 0]
    edges = np.rint(edges).astype(int)
    strips = np.repeat(dark[None], count, axis=0)
    for strip, start, stop in zip(strips, edges[:-1], edges[1:], strict=True):
        strip[:, start:stop] = lit[:, start:stop]
    return strips


def _even(frames: Frames) -> Frames:
    """With an even height and width, as H.264 wants it."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')


def _check_frames(frames: Frames) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(
            f'frames must be uint8 RGB of the shape (T, H, W, 3), got {frames.dtype} {frames.shape}'
        )
