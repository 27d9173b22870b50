"""The core knows torch and einops, and no trainer or model zoo."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import adv_plugins

ALLOWED = {'torch', 'einops', 'adv_plugins'} | set(sys.stdlib_module_names)


def test_core_imports_torch_and_einops_only():
    files = sorted((Path(adv_plugins.__file__).parent / 'core').glob('*.py'))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, f'{file.name} reaches out of the core'
            for name in names:
                assert name.split('.')[0] in ALLOWED, f'{file.name} imports {name}'


def test_package_works_without_mmengine():
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmengine', 'mmaction', 'mmcv', 'cv2', 'sklearn'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
real = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return real(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
import torch, adv_plugins
model = adv_plugins.make_adversarial(torch.nn.Sequential(torch.nn.Linear(3, 2)))
# Importing the compiler takes longer than all of this package.
assert 'torch._dynamo' not in sys.modules
model.adversarial_loss(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))['loss'].backward()
try:
    adv_plugins.TAFHook
except ImportError as error:
    assert 'adv_plugins[mmaction]' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


@pytest.mark.parametrize(
    'broken', ["assert False, 'MMCV==2.2.0'", "raise OSError('libMMCV==2.2.0.so: no such file')"]
)
def test_package_works_beside_a_broken_mmaction(tmp_path, broken):
    """MMAction2 asserts the versions of mmcv that it knows; plain PyTorch users do not care."""
    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    (tmp_path / 'mmaction').mkdir()
    (tmp_path / 'mmaction/__init__.py').write_text(broken)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torch, adv_plugins
adv_plugins.make_adversarial(torch.nn.Sequential(torch.nn.Linear(3, 2)))
for room, name in ((adv_plugins.models, 'ResNetGST'), (adv_plugins.datasets, 'Diving48')):
    try:
        getattr(room, name)
    except ImportError as error:
        assert 'MMCV==2.2.0' in str(error) and 'adv_plugins[mmaction]' in str(error), error
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
