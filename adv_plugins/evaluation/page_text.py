"""Names as text in a Markdown page: classes, models and files may be called anything."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = frozenset('\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069')
"""They would turn around the text that follows the name."""
_LETTER = r'[^\W_]'
_MARKUP = re.compile(
    rf"""
    [*`<~$]                               # emphasis, code, HTML, GitHub's formulas
    | (?<!{_LETTER})_ | _(?!{_LETTER})    # emphasis as well, unlike those within a_name
    | \\(?=[!-/:-@\[-`{{-~]|$)            # would escape what follows
    | \](?=[(\[])                         # the middle of a link or a picture
    | &(?=\#?\w+;)                        # an entity
    | :(?=//) | (?<=\bwww)\.              # addresses, which many readers make links of
    | (?<=\s)\#                           # may close a heading
    """,
    re.VERBOSE | re.IGNORECASE,
)
_START = re.compile(r'^(?:[#>\[]|[-+](?=[-+\s]|$)|(?P<number>\d{1,9})(?=[.)](?:\s|$)))')
"""What would begin a heading, a quotation, a list or the definition of a link."""


class Markdown(str):
    """Markdown of our own, which :func:`as_cell` leaves as it is."""


def section(title: str, *paragraphs: str) -> str:
    """A part of a page with a title."""
    return '\n\n'.join((f'## {title}', *paragraphs))


def bold(name: str) -> Markdown:
    """A name in bold letters."""
    text = as_cell(name)
    return Markdown(f'**{text}**' if text else '')


def as_text(name: str) -> str:
    """A name as Markdown that shows it as it is, at the start of a line or within one.

    Ordinary names stay as they are. Newlines become spaces; characters that cannot be shown, or
    that would change the direction of what follows, become ``\\ufffd``.

    Args:
        name (str): The name.

    Returns:
        str: The Markdown.
    """

    def escape(match: re.Match[str]) -> str:
        number = match['number']
        return f'{number}\\' if number else f'\\{match[0]}'

    return _START.sub(escape, as_cell(name))


def as_cell(name: str) -> str:
    """The same within a line, where nothing can begin that takes the start of one."""
    if isinstance(name, Markdown):
        return name
    line = ' '.join(printable(str(name)).split())
    return _MARKUP.sub(lambda match: f'\\{match[0]}', line)


def printable(text: str) -> str:
    """A text with ``\\ufffd`` for each character that a page cannot hold."""
    return ''.join(
        '\ufffd'
        if char in _UNSEEN or (unicodedata.category(char) in ('Cc', 'Cs') and char not in '\t\n\r')
        else char
        for char in text
    )
