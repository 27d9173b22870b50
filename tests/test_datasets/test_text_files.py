"""Text files as editors and shells leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from adv_plugins.datasets.text_files import Names, read_lines, read_text

BOM = b'\xef\xbb\xbf'


@pytest.mark.parametrize(
    'content',
    [
        b'a 1\n\nb \xc3\xa9',
        b'a 1\n\nb \xc3\xa9\n\n \n',
        BOM + b'a 1\r\n\r\nb \xc3\xa9\r\n',
        b'a 1\r\rb \xc3\xa9\r',
        # Two files joined, each with its mark.
        BOM + BOM + b'a 1\n' + BOM + b'\n' + BOM + b'b \xc3\xa9\n',
    ],
)
def test_lines_whatever_the_editor(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    assert read_lines(path) == {1: 'a 1', 3: 'b é'}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('a 1\nb 2\n'.encode('utf-16'), 'line 1; it looks like UTF-16: save it as UTF-8'),
        ('a 1\nb 2\n'.encode('utf-16-le'), 'zero byte in line 1; it looks like UTF-16'),
        ('a 1\nb 2\n'.encode('utf-16-be'), 'looks like UTF-16'),
        ('a 1\nb é\n'.encode('latin-1'), r"has b'\\xe9' in line 2: save it as UTF-8"),
        (b'PK\x03\x04\x14\x00ab', 'a zero byte in line 1: save it'),
    ],
)
def test_other_encodings_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'list.txt is not a text file.*{message}'):
        read_text(path)


def test_a_mark_inside_a_line_belongs_to_it(tmp_path: Path) -> None:
    path = tmp_path / 'a'
    path.write_text('a\ufeffb', encoding='utf-8')
    assert read_text(path) == 'a\ufeffb'


def test_a_name_that_is_there_twice() -> None:
    names = Names('keep one', 'list.txt')
    names.add('a', 1)
    names.add('b', 2)
    with pytest.raises(ValueError, match="list.txt, line 7: 'a' is there twice, first on line 1"):
        names.add('a', 7)
