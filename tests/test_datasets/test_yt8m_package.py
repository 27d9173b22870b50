"""The reader by itself: its imports, and its benchmark."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from yt8m_writer import (
    VIDEOS,
    message_of,
    shard,
)

from adv_plugins.datasets import yt8m

BENCHMARK = Path(__file__).parents[2] / 'examples/benchmarks/yt8m_readers.py'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shard(tmp_path / 'train00.tfrecord', *map(message_of, VIDEOS))


def run_alone(code: str, *arguments: object) -> str:
    """Run code with the folders as packages by themselves, as importing ours imports torch."""
    code = f"""
import sys, types
from pathlib import Path
for name, parent in (('alone', 2), ('alone.datasets', 1)):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(Path({yt8m.__file__!r}).parents[parent])]
{code}
"""
    command = [sys.executable, '-c', code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_needs_numpy_and_a_crc_only(tmp_path: Path) -> None:
    code = """
before = set(sys.modules)
import numpy as np
from alone.datasets.yt8m import YT8MShards, read_examples, write_examples
write_examples(sys.argv[1], [dict(id='a', labels=[1], rgb=np.ones((2, 3), 'u1'))])
assert len(list(read_examples(sys.argv[1]))) == len(YT8MShards(sys.argv[1])) == 1
loaded = {name.partition('.')[0] for name in sys.modules.keys() - before}
# The last is what multiprocessing calls the main module.
print(*sorted(loaded - sys.stdlib_module_names - {'google_crc32c', '__mp_main__'}))
"""
    assert run_alone(code, tmp_path / 'shard') == 'alone numpy\n'


def test_can_be_imported_without_google_crc32c(path: Path) -> None:
    code = """
sys.modules['google_crc32c'] = None
from alone.datasets.yt8m import read_examples
try:
    read_examples(sys.argv[1])
except ImportError as error:
    print(error)
"""
    assert 'pip install "adv_plugins[yt8m]"' in run_alone(code, path)


def test_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location('yt8m_readers', BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(['--videos', '5', '--shards', '2', '--repeats', '1'])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == '| reader | videos/s | ours, verified, is faster by |'
    assert {line.count('|') for line in printed} == {4}
    assert any(line.startswith(f'| {module.VERIFIED} |') for line in printed)
