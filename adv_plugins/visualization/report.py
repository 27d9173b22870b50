"""A report as one HTML page with text, tables, figures and videos, for which no server is needed.

Everything is embedded in the file, figures as PNG and videos as H.264, in ``data:`` URLs.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.page_text import printable
from ..files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; --line: #d8dde3; --soft: #f4f6f8; --ink: #1c2733; --link: #1f5fa8; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  max-width: 1180px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
nav { background: var(--soft); border-radius: 6px; padding: .5rem .9rem; margin: 1rem 0; }
nav a { margin-right: 1.1rem; white-space: nowrap; color: var(--link); text-decoration: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: 13.5px; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--soft); text-align: left; }
tbody tr:hover { background: #fafbfc; }
code { background: var(--soft); padding: 0 .25em; border-radius: 3px; font-size: .92em; }
pre { background: var(--soft); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; }
figure { margin: 1rem 0 1.4rem; }
figure img, figure video { max-width: 100%; height: auto; border: 1px solid var(--line);
  border-radius: 4px; display: block; background: #fff; }
figcaption { color: #51606f; font-size: 13.5px; margin-top: .35rem; }
details { margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px;
  padding: .4rem .9rem; }
summary { cursor: pointer; font-weight: 600; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if sections|length > 1 %}<nav>
{% for section in sections %}<a href="#section-{{ loop.index }}">{{ section.title }}</a>
{% endfor %}</nav>{% endif %}
{% for section in sections %}
<section id="section-{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% if section.folded %}<details><summary>Show</summary>{% endif %}
{{ section.html|safe }}
{% for kind, source, caption in section.media %}
<figure>
{% if kind == 'video' %}<video src="{{ source }}" controls loop muted playsinline autoplay></video>
{% else %}<img src="{{ source }}" alt="{{ caption }}">{% endif %}
<figcaption>{{ caption }}</figcaption>
</figure>
{% endfor %}
{% if section.folded %}</details>{% endif %}
</section>
{% endfor %}
</body>
</html>
"""


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
    """

    title: str
    markdown: str = ''
    figures: list[tuple[Figure | Path, str]] = field(default_factory=list)
    folded: bool = False


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
        html = parser.render(printable(section.markdown))
        html = html.replace('<table>', '<div class="scroll"><table>')
        html = html.replace('</table>', '</table></div>')
        media = [(*_embedded(picture), printable(text)) for picture, text in section.figures]
        head = printable(section.title)
        parts.append(dict(title=head, html=html, media=media, folded=section.folded))
    template = Environment(autoescape=True).from_string(_PAGE)
    page = template.render(title=printable(title), sections=parts)
    with replacing(path) as file:
        file.write(page.encode())


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
