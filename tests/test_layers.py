"""The rooms of the package: who may import whom, without circles."""

import ast
from pathlib import Path

import adv_plugins

ROOT = Path(adv_plugins.__file__).parent
# From the ground up; a room may import those on the lines before its own, and itself.
FLOORS = (
    ('version', 'compat', 'files', 'progress'),
    ('core',),
    ('attention', 'cam', 'objectives'),
    ('functional',),
    ('recipes',),
    ('adapters',),
    ('datasets', 'models'),
    ('evaluation',),
    ('visualization',),
    ('hooks', 'integrations'),
    ('dry_run',),
    ('',),
    ('commands',),
    ('__main__',),
)
# Stand beside each other: neither imports the other.
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imports(file: Path) -> set[Path]:
    """The files of the package that a file imports, for type checking and in functions too."""
    package = ('adv_plugins', *file.relative_to(ROOT).parent.parts)
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {locate(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) + 1 - node.level] if node.level else ()
            module = '.'.join((*home, *filter(None, [node.module])))
            # What is imported from a package may be a module of it, and imports the package too.
            imported |= {
                locate(name) for name in (module, *(f'{module}.{a.name}' for a in node.names))
            }
    return {other for other in imported if other not in (None, file)}


def locate(module: str) -> Path | None:
    """The file of a module of the package."""
    first, *parts = module.split('.')
    path = ROOT.joinpath(*parts)
    candidates = (
        [path.with_suffix('.py'), path / '__init__.py'] if parts else [path / '__init__.py']
    )
    return next((c for c in candidates if first == 'adv_plugins' and c.is_file()), None)


def room(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '' if parts == ('__init__',) else parts[0]


def graph() -> dict[Path, set[Path]]:
    files = sorted(ROOT.rglob('*.py'))
    assert len(files) > 60
    return {file: imports(file) for file in files}


def test_rooms_import_downwards_only():
    wrong = [
        f'{file.relative_to(ROOT)} imports {other.relative_to(ROOT)}'
        for file, others in graph().items()
        for other in others
        if room(other) != room(file) and FLOOR[room(other)] >= FLOOR[room(file)]
    ]
    assert not wrong, '\n'.join(wrong)


def test_no_file_imports_itself_through_others():
    arrows = graph()
    # The last to be left alone: whatever imports nothing that is still there can go.
    while leaves := [file for file, others in arrows.items() if not others & arrows.keys()]:
        for file in leaves:
            del arrows[file]
    assert not arrows, sorted(str(file.relative_to(ROOT)) for file in arrows)


def test_the_graph_sees_every_kind_of_import(tmp_path, monkeypatch):
    for name in ('__init__', 'core/__init__', 'core/a', 'core/b', 'hooks/__init__', 'hooks/c'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f'{name}.py').touch()
    monkeypatch.setitem(globals(), 'ROOT', tmp_path)
    (tmp_path / 'core/a.py').write_text(
        'from typing import TYPE_CHECKING\nfrom . import b\n'
        'if TYPE_CHECKING:\n    from ..hooks.c import C\n'
        'def late():\n    import adv_plugins.core\n'
    )
    seen = {file.relative_to(tmp_path).as_posix() for file in imports(tmp_path / 'core/a.py')}
    assert seen == {'core/__init__.py', 'core/b.py', 'hooks/c.py'}
