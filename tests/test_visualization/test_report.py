"""A report is one file that holds everything it shows."""

import base64
import re
from html import unescape

import numpy as np
import pytest

pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')

from adv_plugins.visualization.figures import blank_figure
from adv_plugins.visualization.mp4 import write_mp4
from adv_plugins.visualization.report import Section, write_report

TABLE = '| a | b |\n| --- | ---: |\n| <b>x</b> | 1 |'


def page(tmp_path, *sections, title='T'):
    file = tmp_path / 'deep/report.html'
    write_report(file, title, sections)
    return file.read_text(encoding='utf-8')


def test_text_and_tables(tmp_path):
    html = page(tmp_path, Section('One', TABLE), Section('Two & three', '**bold**', folded=True))
    assert '<td style="text-align:right">1</td>' in html
    assert '<strong>bold</strong>' in html
    assert html.count('<details>') == 1
    assert '<a href="#section-2">Two &amp; three</a>' in html


def test_files_beside_the_page_are_linked(tmp_path):
    evil = 'javascript:alert(1)//"><b>.csv'
    html = page(tmp_path, Section('One', TABLE, files=['tables/a b.csv', evil]))
    assert '<a href="tables/a%20b.csv">tables/a b.csv</a>' in html
    assert 'href="javascript%3Aalert' in html and '"><b>.csv' not in html


def test_no_line_ends_within_a_number(tmp_path):
    text = 'ε = 4/255: 12.5 % [1.0, 20.0], [-1.0, +2.0], a [list, of words] and 100 %'
    html = page(tmp_path, Section('One', text, [(blank_figure(1, 1), 'at ε = 0.5')]))
    joined = 'ε_=_4/255: 12.5_% [1.0,_20.0], [-1.0,_+2.0], a [list, of words] and 100_%'
    assert joined.replace('_', '\u00a0') in html and 'at ε\u00a0=\u00a00.5' in html


def test_the_page_is_made_for_the_dark_and_for_narrow_screens(tmp_path):
    """What it looks like there was seen in a browser; here, that nothing of it is lost."""
    html = page(tmp_path, Section('One', TABLE, [(blank_figure(1, 1), 'F')]))
    assert 'prefers-color-scheme: dark' in html and 'name="viewport"' in html
    # Whatever is wide is in a box that scrolls by itself.
    assert len(re.findall(r'<div class="scroll">\s*<(table|img)', html)) == 2


def test_names_are_text_and_never_markup(tmp_path):
    """Class names and messages of errors come from anywhere."""
    evil = '<script>alert(1)</script>'
    figure = blank_figure(1, 1)
    html = page(tmp_path, Section(evil, f'- {evil}\n\n{TABLE}', [(figure, evil)]), title=evil)
    assert '<script' not in html
    assert '<b>x</b>' not in html
    assert html.count('&lt;script&gt;') >= 4


def test_pictures_and_videos_are_inside(tmp_path):
    figure = blank_figure(2, 1)
    figure.subplots().plot([0, 1])
    frames = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    video, image = tmp_path / 'v.mp4', tmp_path / 'i.png'
    write_mp4(video, frames)
    figure.savefig(image)
    html = page(tmp_path, Section('S', figures=[(figure, 'F'), (image, 'I'), (video, 'V')]))
    found = re.findall(r'src="data:([\w/]+);base64,([\w+/=]+)"', html)
    assert [kind for kind, _ in found] == ['image/png', 'image/png', 'video/mp4']
    contents = [base64.b64decode(text) for _, text in found]
    assert contents[0].startswith(b'\x89PNG')
    assert contents[1] == image.read_bytes()
    assert contents[2] == video.read_bytes()
    # Nothing is fetched from anywhere.
    assert 'http' not in re.sub(r'base64,[\w+/=]+', '', html)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match='needs sections'):
        write_report(tmp_path / 'r.html', 'T', [])
    with pytest.raises(ValueError, match=r'x\.gif cannot be shown; give a \.png or an \.mp4'):
        write_report(tmp_path / 'r.html', 'T', [Section('S', figures=[(tmp_path / 'x.gif', '')])])


def test_nothing_in_a_section_is_fetched_or_lost(tmp_path):
    """Even a name that nobody has made text of."""
    raw = ['![t](http://evil.example/p.png)', '[t](http://evil.example)', '<http://evil.example>']
    raw += ['[t]: http://evil.example', 'http://evil.example', '<img src="http://evil.example">']
    table = ''.join(f'| {name} |\n| --- |\n| {name} |\n\n- {name}\n\n' for name in raw)
    html = page(tmp_path, Section('S', table))
    assert not re.search(r'<img|<a |<[^>]*(src|href)=', html)
    shown = unescape(re.sub(r'<[^>]*>', '', html))
    assert all(shown.count(name) >= 3 for name in raw)


def test_what_cannot_be_encoded_is_shown_as_missing(tmp_path):
    bad = 'a\udc80\x00b'
    figure = blank_figure(1, 1)
    html = page(tmp_path, Section(bad, f'- {bad}', [(figure, bad)]), title=bad)
    assert html.count('a\ufffd\ufffdb') >= 5 and '\x00' not in html


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    old = page(tmp_path, Section('Old', TABLE))

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('adv_plugins.files.os.replace', full)
    with pytest.raises(OSError, match='No space'):
        page(tmp_path, Section('New', TABLE))
    assert [file.name for file in (tmp_path / 'deep').iterdir()] == ['report.html']
    assert (tmp_path / 'deep/report.html').read_text(encoding='utf-8') == old
