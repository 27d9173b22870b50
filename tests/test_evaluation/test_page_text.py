"""Whatever a name is, a page shows it as it is."""

from __future__ import annotations

import html
import re

import pytest

pytest.importorskip('markdown_it', reason='needs adv_plugins[mmaction]')

from markdown_it import MarkdownIt

from adv_plugins.evaluation.page_text import as_cell, as_text, bold
from adv_plugins.evaluation.tables import markdown_table

ORDINARY = [
    'walking',
    'pull ups',
    'a_b_c',
    'TSM-R18 (1x1x8), 50 %',
    'rock & roll',
    'C++',
    "Pushing [something] so that it doesn't move",
    'C:\\runs\\tsm.pth',
    '1.5 seconds!',
    'überholen 走る',
]
HOSTILE = [
    '![t](http://evil.example/p.png)',
    '[t](http://evil.example)',
    '[t][u]',
    '[t]: http://evil.example',
    '<http://evil.example>',
    'http://evil.example/a_b',
    'www.evil.example',
    '<img src=x onerror=alert(1)>',
    '<!-- x',
    'a *b* c',
    '**a**',
    '_a_',
    '__init__',
    'a __b c__ d',
    '`code`',
    '``',
    '~~gone~~',
    '# not a heading',
    'C #',
    '#',
    '- not a list',
    '-',
    '---',
    '+ 1',
    '+',
    '1. one',
    '1)',
    '2024.',
    '> quoted',
    '===',
    '&amp; &#42; &copy;',
    'a|b',
    '|',
    'a\\|b',
    'a\\',
    '\\',
    '\\*a\\*',
    '\\_',
    '$x_1$ $$',
    '***',
    '~~~',
    '```',
    '[ ] todo',
    '[^1]',
    '"quoted" \'too\'',
    '![',
    '](',
    'a](b)',
    ':)',
    '{{ name }} {% if %}',
]
PARSERS = {
    # The one of the reports; the pages may be read with any other.
    'commonmark': MarkdownIt('commonmark', {'html': False}).enable('table'),
    'with HTML': MarkdownIt('commonmark', {'html': True}).enable('table'),
    'GitHub': MarkdownIt('gfm-like', {'html': True, 'linkify': False}),
}


def shown(parser: MarkdownIt, text: str) -> tuple[str, str]:
    """The elements that are made of some Markdown, and the text without them."""
    page = parser.render(text)
    tags = ' '.join(re.findall(r'</?(\w+)', page))
    return tags, html.unescape(re.sub(r'<[^>]*>', '', page)).strip()


@pytest.mark.parametrize('parser', PARSERS.values(), ids=PARSERS)
@pytest.mark.parametrize('name', ORDINARY + HOSTILE)
def test_a_name_is_text_wherever_it_stands(name: str, parser: MarkdownIt) -> None:
    assert shown(parser, f'# {as_text(name)}') == ('h1 h1', name)
    assert shown(parser, f'# Robustness of {as_text(name)}') == ('h1 h1', f'Robustness of {name}')
    assert shown(parser, f'- {as_text(name)}: why') == ('ul li li ul', f'{name}: why')
    assert shown(parser, f'- {as_text(name)}') == ('ul li li ul', name)
    tags = 'table thead tr th th th th tr thead tbody tr td td td td tr tbody table'
    found, text = shown(parser, markdown_table([name, 'n'], [[name, '1']]))
    assert found == tags and text.split() == [*name.split(), 'n', *name.split(), '1']
    many = markdown_table(['', ''], [[name, name], [name, name]])
    assert shown(parser, many)[1].split('\n').count(name) == 4
    assert shown(parser, bold(name)) == ('p strong strong p', name)


@pytest.mark.parametrize('name', ORDINARY)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert as_text(name) == as_cell(name) == name


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('', ''),
        ('  two\nlines\r\n and\ta tab ', 'two lines and a tab'),
        ('line\u2028line', 'line line'),
        ('\udc80\x00\x1b[31m', '\ufffd\ufffd\ufffd[31m'),
        ('\u202eevil', '\ufffdevil'),
        ('x' * 10_000, 'x' * 10_000),
    ],
    ids=['empty', 'lines', 'separator', 'unprintable', 'direction', 'long'],
)
def test_what_cannot_be_shown(name: str, text: str) -> None:
    assert as_text(name) == as_cell(name) == text
    assert markdown_table([name], [[name]]).split('\n') == [f'| {text} |', '| --- |', f'| {text} |']
    as_text(name).encode('utf-8')


def test_an_empty_name_is_not_bold() -> None:
    assert bold('') == '' and bold('a') == '**a**'
    assert markdown_table(['a'], [[bold('b*')]]).endswith('| **b\\*** |')
