"""What is distributed: a source distribution with everything, and a wheel with the configs."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ('.ci', '.github', 'adv_plugins', 'examples', 'mm_configs', 'tests')
FILES = ('.ruff.toml', 'LICENSE', 'README.md', 'setup.cfg', 'setup.py')
BUILD = 'import sys; from setuptools import build_meta; build_meta.{}(sys.argv[1])'


def build(kind: str, source: Path, out: Path) -> Path:
    """Build with the installed setuptools, which needs no network."""
    call = [sys.executable, '-W', 'ignore', '-c', BUILD.format(kind), str(out)]
    done = subprocess.run(call, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.iterdir()
    return file


def files(root: Path, *folders: str) -> set[str]:
    found = (path for folder in folders for path in (root / folder).rglob('*'))
    return {
        path.relative_to(root).as_posix()
        for path in found
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp('packaging')
    copy = folder / 'checkout'
    copy.mkdir()
    for name in FOLDERS:
        if (ROOT / name).exists():
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    before = files(copy, '.')
    archive = build('build_sdist', copy, folder / 'sdist')
    made = {path.split('/')[0] for path in files(copy, '.') - before}
    assert made <= {'adv_plugins.egg-info'}, 'a build leaves nothing else in the tree'
    with tarfile.open(archive) as file:
        file.extractall(folder)
    (unpacked,) = folder.glob('adv_plugins-*')
    return unpacked


@pytest.fixture(scope='module')
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that is built from the source distribution."""
    before = files(source, '.')
    file = build('build_wheel', source, tmp_path_factory.mktemp('wheel'))
    made = {path.split('/')[0] for path in files(source, '.') - before}
    assert made == {'build'}
    return zipfile.ZipFile(file)


@pytest.fixture(scope='module')
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_source_distribution_has_everything(source):
    assert files(source, *FOLDERS) == files(ROOT, *FOLDERS)
    assert {'LICENSE', 'README.md', 'setup.cfg', 'setup.py'} <= {p.name for p in source.iterdir()}


def test_the_wheel_has_the_package_and_the_configs(wheel):
    names = {name for name in wheel.namelist() if '.dist-info/' not in name}
    own = files(ROOT, 'adv_plugins')
    shipped = {n for n in own if Path(n).suffix in ('.py', '.csv', '.LICENSE', '.typed')}
    shipped |= {'adv_plugins/py.typed'}
    configs = {
        f'adv_plugins/.mim/configs/{name.removeprefix("mm_configs/")}'
        for name in files(ROOT, 'mm_configs')
    }
    assert names == shipped | configs | {'adv_plugins/.mim/model-index.yml'}


def test_the_configs_of_a_wheel_are_found_and_build_on_each_other(wheel, tmp_path, monkeypatch):
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from mmengine.config import Config

    from adv_plugins.commands import configs

    wheel.extractall(tmp_path)
    monkeypatch.setattr(configs, 'PACKAGE', tmp_path / 'adv_plugins')
    folder = configs.configs_folder()
    assert folder == tmp_path / 'adv_plugins/.mim/configs'
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = ['{folder}/taf/taf-tsm_r18_1x1x8_ordered-digits-rgb.py']\n")
    theirs = Config.fromfile(ROOT / 'mm_configs/taf/taf-tsm_r18_1x1x8_ordered-digits-rgb.py')
    assert Config.fromfile(own).to_dict() == theirs.to_dict()
    index = yaml.safe_load((folder.parent / 'model-index.yml').read_text())
    assert len(index['Import']) >= 5
    for metafile in index['Import']:
        for model in yaml.safe_load((folder.parent / metafile).read_text())['Models']:
            assert (folder.parent / model['Config']).is_file()


def test_metadata(metadata, wheel):
    assert metadata['Author'] == 'the adv_plugins developers'
    assert metadata['License-Expression'] == 'Apache-2.0 AND CC-BY-4.0'
    urls = [line.split(', ')[1] for line in metadata.get_all('Project-URL')]
    assert {f'https://arxiv.org/abs/{paper}' for paper in ('2304.14601', '2110.13950')} <= set(urls)
    (name,) = (name for name in wheel.namelist() if name.endswith('entry_points.txt'))
    assert 'adv-plugins = adv_plugins.commands:main' in wheel.read(name).decode()


def test_the_page_of_an_index_has_no_link_into_the_checkout(metadata):
    from markdown_it import MarkdownIt

    assert metadata['Description-Content-Type'] == 'text/markdown'
    page = metadata.get_payload()
    assert page.startswith('# ') and 'make_adversarial' in page
    targets = [
        str(token.attrs.get('href') or token.attrs.get('src'))
        for block in MarkdownIt().parse(page)
        for token in block.children or ()
        if token.type in ('link_open', 'image')
    ]
    assert targets and all(target.startswith(('https://', 'http://', '#')) for target in targets)
    assert '<img' not in page and 'src=' not in page


def test_code_stays_as_it_is(monkeypatch):
    """What looks like a link in code is none."""
    import setuptools

    monkeypatch.setattr(setuptools, 'setup', lambda **_: None)
    without_links = runpy.run_path(str(ROOT / 'setup.py'))['without_links']
    text = '`a[0](b)` [c](d.md) ![e](f.png) [g](https://h) [`i`](j.py)\n```\nk[l](m)\n```\n'
    assert without_links(text) == '`a[0](b)` c  [g](https://h) `i`\n```\nk[l](m)\n```\n'
