"""Files that appear whole or not at all, with what applies to any file that is opened to write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from adv_plugins.files import replacing


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def write(path: Path, content: bytes = b'new') -> None:
    with replacing(path) as file:
        file.write(content)


@pytest.mark.parametrize('error', [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize('old', [b'old', None])
def test_a_failure_leaves_all_as_it_was(error: type, old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    if old:
        path.write_bytes(old)
    with pytest.raises(error), replacing(path) as file:
        file.write(b'half')
        file.flush()
        raise error
    assert os.listdir(tmp_path) == (['a.json'] if old else [])
    assert not old or path.read_bytes() == old


def test_until_it_is_complete_the_old_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'a'
    write(path, b'old')
    # And two writers do not meet: the last to be done wins.
    with replacing(path) as one, replacing(path) as two:
        one.write(b'one')
        two.write(b'two')
        assert path.read_bytes() == b'old'
    assert path.read_bytes() == b'one'
    assert os.listdir(tmp_path) == ['a']


def test_a_new_file_follows_the_umask_and_an_old_one_keeps_its_permissions(
    tmp_path: Path, umask: None
) -> None:
    path = tmp_path / 'a'
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o664)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


@pytest.mark.parametrize('exists', [True, False])
def test_a_link_is_followed(exists: bool, tmp_path: Path) -> None:
    target, link = tmp_path / 'elsewhere/target', tmp_path / 'link'
    target.parent.mkdir()
    if exists:
        target.write_bytes(b'old')
    link.symlink_to('elsewhere/target')
    write(link)
    assert link.is_symlink() and target.read_bytes() == b'new'
    assert os.listdir(target.parent) == ['target']


def test_a_missing_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / 'some/where/a')
    assert (tmp_path / 'some/where/a').read_bytes() == b'new'
    monkeypatch.chdir(tmp_path)
    write(Path('a'))
    assert Path('a').read_bytes() == b'new'


def test_what_is_no_file_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'pipe')
    for name in ('folder', 'pipe'):
        message = f'something other than a file.*{name}'
        with pytest.raises(FileExistsError, match=message), replacing(tmp_path / name):
            raise AssertionError('begun')
    assert sorted(os.listdir(tmp_path)) == ['folder', 'pipe']


def test_a_write_protected_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'a'
    path.write_bytes(b'precious')
    path.chmod(0o444)
    # As for everybody but root.
    monkeypatch.setattr(os, 'access', lambda path, mode: not (mode & os.W_OK))
    with pytest.raises(PermissionError, match='write-protected'):
        write(path)
    assert path.read_bytes() == b'precious' and os.listdir(tmp_path) == ['a']
