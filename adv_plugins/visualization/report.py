"""A report as one HTML page with text, tables, figures and videos, for which no server is needed.

Everything is embedded in the file, figures as PNG and videos as H.264, in ``data:`` URLs. It can be
read on a phone and in the dark; what is wider than the screen scrolls in a box of its own.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..evaluation.page_text import printable
from ..files import replacing
from .page_template import PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_JOINED = (
    (r'(?<=\d) %', '\u00a0%'),
    (r'\bε = (?=\S)', 'ε\u00a0=\u00a0'),
    (r'(?<=\[)([-+.\de—]+), ([-+.\de—]+)(?=\])', '\\1,\u00a0\\2'),
)
"""What belongs together, with spaces at which no line ends."""


@dataclass
class Section:
    """A section of a report.

    Args:
        title (str): The heading.
        markdown (str): Text and tables. A link or a picture is shown as it is written. Defaults
            to ''.
        figures (list[tuple[Figure | Path, str]]): Pictures with their captions: matplotlib
            figures, .png files, or .mp4 files in H.264. Defaults to none.
        folded (bool): Whether the reader has to open it first. Defaults to False.
        files (list[str]): Files beside the page that have the same numbers, as paths relative to
            it; they are linked. Defaults to none.
    """

    title: str
    markdown: str = ''
    figures: list[tuple[Figure | Path, str]] = field(default_factory=list)
    folded: bool = False
    files: list[str] = field(default_factory=list)


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> None:
    """Write a report.

    Args:
        path (str | Path): The .html file. Its folder is created where it is missing.
        title (str): The heading.
        sections (Sequence[Section]): The sections, in their order.

    Raises:
        ValueError: There is no section, or a file is neither .png nor .mp4.
        ImportError: jinja2 or markdown-it-py is missing.

    Example:
        >>> write_report('report.html', 'TSM', [Section('Results', markdown(results))])
    """
    try:
        from jinja2 import Environment
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise ImportError(
            'a report needs jinja2 and markdown-it-py; install them with: '
            'pip install "adv_plugins[mmaction]"'
        ) from error
    if not sections:
        raise ValueError("a report needs sections; write [Section('Results', '...')]")
    # Tables and captions hold text from configs and datasets, which must not become HTML, and no
    # part of which may be fetched from elsewhere.
    parser = MarkdownIt('commonmark', {'html': False}).enable('table')
    parser.disable(['image', 'link', 'autolink', 'reference'])
    parts = []
    for section in sections:
        html = parser.render(_together(section.markdown))
        html = html.replace('<table>', '<div class="scroll"><table>')
        html = html.replace('</table>', '</table></div>')
        media = [(*_embedded(picture), _together(text)) for picture, text in section.figures]
        files = [(quote(file), printable(file)) for file in section.files]
        content = dict(html=html, media=media, folded=section.folded, files=files)
        parts.append(dict(title=printable(section.title), **content))
    template = Environment(autoescape=True).from_string(PAGE)
    page = template.render(title=printable(title), sections=parts)
    with replacing(path) as file:
        file.write(page.encode())


def _together(text: str) -> str:
    """A text in which no line ends within ``4 %``, ``ε = 4/255`` or ``[1.0, 2.0]``."""
    for pattern, joined in _JOINED:
        text = re.sub(pattern, joined, text)
    return printable(text)


def _embedded(picture: Figure | Path) -> tuple[str, str]:
    """The kind of HTML element that shows a picture, and its ``data:`` URL."""
    if isinstance(picture, Path):
        kinds = {'.png': ('image', 'image/png'), '.mp4': ('video', 'video/mp4')}
        if picture.suffix not in kinds:
            raise ValueError(f'{picture} cannot be shown; give a .png or an .mp4')
        element, kind = kinds[picture.suffix]
        content = picture.read_bytes()
    else:
        buffer = io.BytesIO()
        picture.savefig(buffer, format='png', dpi=90)
        element, kind, content = 'image', 'image/png', buffer.getvalue()
    return element, f'data:{kind};base64,{base64.b64encode(content).decode()}'
