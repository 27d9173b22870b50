"""What ``setup.cfg`` cannot say to the setuptools of an older system; all else is said there."""

import sys
from pathlib import Path

from setuptools import setup

# pip compares python_requires too, but after it has downloaded torch.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f'adv_plugins needs Python 3.10 or newer; this is {sys.version.split()[0]}')

# Not by ``attr:`` in setup.cfg: for it setuptools before 61, such as the 59 that Ubuntu 22.04 gives
# to a new environment, imports the package, and with it torch.
version: dict = {}
exec(Path(__file__).with_name('adv_plugins').joinpath('version.py').read_text(), version)

setup(version=version['__version__'])
