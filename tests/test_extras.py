"""What adv_plugins imports is declared, and what is not installed is named with its extra."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adv_plugins
from adv_plugins.compat import naming_extra

if sys.version_info >= (3, 11):
    from importlib.metadata import packages_distributions
else:  # Python 3.10's own overlooks packages whose metadata does not list their modules
    from importlib_metadata import packages_distributions

ROOT = Path(adv_plugins.__file__).parent
# The same package under another name; an environment has either.
OTHER_NAMES = {'pytorch_lightning': 'lightning'}


def declared() -> dict[str, set[str]]:
    """The distributions that setup.cfg names, by extra; those that are always needed under ''."""
    config = configparser.ConfigParser()
    config.read(ROOT.parent / 'setup.cfg')
    lists = dict(config['options.extras_require'], **{'': config['options']['install_requires']})
    return {
        extra: {
            _normal(re.split(r'[^\w.-]', line.strip())[0])
            for line in text.splitlines()
            if line.strip() and not line.strip().startswith('#')
        }
        for extra, text in lists.items()
    }


def _normal(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


def imported(*rooms: str) -> dict[str, Path]:
    """The top-level modules that files import from elsewhere, anywhere, and a file for each."""
    modules = {}
    for file in (file for room in rooms for file in ROOT.glob(room)):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            modules.update({name.partition('.')[0]: file for name in names})
    own = {*sys.stdlib_module_names, 'adv_plugins'}
    return {name: file for name, file in modules.items() if name not in own}


def test_every_import_is_declared() -> None:
    homes, known = packages_distributions(), set().union(*declared().values())
    modules = imported('**/*.py')
    assert {'numpy', 'torch', 'cv2', 'decord', 'markdown_it'} <= set(modules)
    missing = {}
    for module, file in modules.items():
        homes_of = homes.get(OTHER_NAMES.get(module, module), [module])
        if not {_normal(home) for home in homes_of} & known:
            missing[module] = file.name
    assert missing == {}


def test_the_core_imports_what_is_always_installed() -> None:
    homes, always = packages_distributions(), declared()['']
    modules = imported('core/*.py', 'attention/*.py', 'recipes/*.py', 'functional.py')
    assert {'torch', 'einops'} <= set(modules)
    assert {m for m in modules if not {_normal(home) for home in homes[m]} & always} == set()


BLOCK = """
import importlib.util, sys

class Absent:
    names = {names!r}
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.names:
            raise ModuleNotFoundError('No module named ' + repr(name), name=name)

sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition('.')[0] in Absent.names else found(name, package)
)

def told(statement, *words):
    try:
        exec(statement, {{}})
    except ImportError as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f'{{statement}}: {{error}}'
    else:
        raise AssertionError(statement + ': no error')
"""


def run_without(names: tuple[str, ...], code: str, **options: Any) -> None:
    """Run code in a process in which some packages are not installed."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', BLOCK.format(names=names) + code],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_mmengine() -> None:
    run_without(
        ('mmengine', 'mmaction', 'mmcv', 'mmpretrain'),
        """
extra = 'mmengine', 'adv_plugins[mmaction]'
# First of all, so that nothing has been imported by another statement.
from adv_plugins import evaluation
from adv_plugins.evaluation import Robustness, build_attack, compare, deepfool, paired_bootstrap
from adv_plugins import TAF, visualization
import adv_plugins
assert adv_plugins.evaluation is evaluation and not hasattr(adv_plugins, 'no_such_name')
for room in ('hooks', 'models', 'datasets', 'dry_run'):
    told(f'import adv_plugins.{room}', f'adv_plugins.{room}', *extra)
    told(f'from adv_plugins import {room}', *extra)
    told(f'import adv_plugins; adv_plugins.{room}', *extra)
for name in adv_plugins._HOOKS:
    told(f'from adv_plugins import {name}', *extra)
told('from adv_plugins.hooks import TAFHook', *extra)
told('from adv_plugins.models import FeatureTransformer', *extra)
told('from adv_plugins.datasets.yt8m import YT8MShards', *extra)
told('from adv_plugins.hooks.adversarial_hook import AdversarialHook', *extra)
told('from adv_plugins.dry_run import DryRunner', *extra)
for name in ('AdversarialTestLoop', 'AdversarialValLoop', 'YT8MMetric'):
    told(f'from adv_plugins.evaluation import {name}', f'evaluation.{name}', *extra)
told('from adv_plugins.evaluation import RobustnessTestLoop', 'adv_plugins[mmaction]')
""",
    )


def test_with_mmengine_alone() -> None:
    run_without(
        ('mmaction', 'mmcv', 'mmpretrain', 'scipy', 'lightning', 'pytorch_lightning'),
        """
from adv_plugins import TAFHook, datasets, dry_run, evaluation, hooks, models, visualization
from adv_plugins.evaluation import AdversarialTestLoop, YT8MMetric
extra = 'mmaction', 'adv_plugins[mmaction]'
told('from adv_plugins.evaluation import RobustnessTestLoop', 'RobustnessTestLoop', *extra)
told('from adv_plugins.models import ResNetTAM', 'models.ResNetTAM', *extra)
told('from adv_plugins.datasets import VideoCorruption', 'datasets.VideoCorruption', *extra)
told('from adv_plugins.datasets.corruptions import corrupt', 'mmcv', 'adv_plugins[mmaction]')
trainers = 'lightning', 'adv_plugins[trainers]'
told('import adv_plugins.integrations.lightning', *trainers)
told('from adv_plugins.integrations import lightning', *trainers)
told('from adv_plugins.evaluation.intervals import mcnemar; mcnemar([0, 1], [1, 1])',
     'SciPy', 'adv_plugins[mmaction]')
""",
    )


def test_an_installed_package_that_does_not_work_is_not_called_missing(tmp_path: Path) -> None:
    broken = tmp_path / 'mmengine/__init__.py'
    broken.parent.mkdir()
    broken.write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    run_without(
        (),
        f"""
sys.path.insert(0, {str(tmp_path)!r})
for statement in ('import adv_plugins', 'from adv_plugins.hooks import TAFHook'):
    told(statement, 'libGL.so.1')
    try:
        exec(statement)
    except ImportError as error:
        assert 'pip install' not in str(error)
""",
    )


@pytest.mark.parametrize('package', ['no_such_package', 'blocked'])
def test_the_extra_is_named_for_a_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, 'blocked', None)
    message = rf'here needs {package}, which is not installed; .*"adv_plugins\[data\]"'
    with pytest.raises(ImportError, match=message), naming_extra('here', 'data', 'torch', package):
        __import__(package)


def test_an_error_within_a_package_is_passed_on() -> None:
    # A dependency of torch, as far as anybody can tell.
    with pytest.raises(ModuleNotFoundError) as caught, naming_extra('here', 'data', 'torch'):
        import no_such_dependency  # noqa: F401
    assert str(caught.value) == "No module named 'no_such_dependency'"


def _report(folder: Path) -> None:
    from adv_plugins.visualization import Section, write_report

    write_report(folder / 'r.html', 'title', [Section('one')])


def _chart(folder: Path) -> None:
    from adv_plugins.visualization import plot_sweep

    plot_sweep({'eps': {1: [0.5]}})


def _video(folder: Path) -> None:
    from adv_plugins.visualization import write_mp4

    write_mp4(folder / 'v.mp4', np.zeros((2, 16, 16, 3), np.uint8))


def _digits(folder: Path) -> None:
    pytest.importorskip('mmengine', reason='needs adv_plugins[mmaction]')
    from adv_plugins.datasets.digit_images import _sklearn_datasets

    _sklearn_datasets()


def _sizes(folder: Path) -> None:
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    from adv_plugins.datasets.corruptions import corrupt

    corrupt(np.zeros((4, 32, 32, 3), np.uint8), 'h264', 1)


@pytest.mark.parametrize(
    ('package', 'extra', 'use'),
    [
        ('jinja2', 'mmaction', _report),
        ('markdown_it', 'mmaction', _report),
        ('matplotlib.figure', 'mmaction', _chart),
        ('av', 'data', _video),
        ('av', 'data', _sizes),
        ('sklearn.datasets', 'data', _digits),
    ],
)
def test_what_needs_an_optional_package_names_its_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    use: Callable[[Path], None],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'adv_plugins\[{extra}\]'):
        use(tmp_path)
