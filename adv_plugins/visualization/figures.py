"""Figures that belong to the caller: no window shows them, and no global list keeps them."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..evaluation.page_text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATPLOTLIB = 'pictures need matplotlib; install it with: pip install "adv_plugins[mmaction]"'
DPI = 100
"""Pixels per inch of a figure that becomes an image."""


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure.

    Args:
        width (float): In inches.
        height (float): In inches.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(MATPLOTLIB) from error
    return Figure(figsize=(width, height), layout='constrained')


def to_rgb(figure: Figure) -> NDArray[np.uint8]:
    """A figure as an image, uint8 RGB, shape (H, W, 3), for a visualizer or a video."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def literal(text: str) -> str:
    """A text for matplotlib that draws it as it is, and takes nothing for a formula."""
    return printable(text).replace('$', r'\$')


def drawn(name: object, length: int = 60) -> str:
    """A name, whatever it is, as a short line for matplotlib.

    Args:
        name (object): The name.
        length (int): With how many characters it is cut at its end. Defaults to 60.
    """
    line = ' '.join(str(name).split()) or '(no name)'
    if len(line) > length:
        line = f'{line[: length - 2].rstrip()} …'
    # A legend leaves out what begins with an underscore.
    return literal(f' {line}' if line.startswith('_') else line)


def shortened(text: str, length: int) -> str:
    """Text cut in the middle, so that the end of a long class name, or its score, is kept."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f'{text[: length - 1 - half]}…{text[-half:]}'


def check_not_empty(option: str, values: Sized, instead: str) -> None:
    """Raise a ValueError that names the option unless there is something to draw.

    Args:
        option (str): Name of the option.
        values (Sized): What was given.
        instead (str): What to write instead.
    """
    if not values:
        raise ValueError(f'{option} is empty; {instead}')
