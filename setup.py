"""What ``setup.cfg`` cannot say: the version, the configs in the wheel, the README as its page."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# pip compares python_requires too, but after it has downloaded torch.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f'adv_plugins needs Python 3.10 or newer; this is {sys.version.split()[0]}')

ROOT = Path(__file__).resolve().parent
CONFIGS = 'mm_configs'
# A source distribution has all that is in a checkout.
SOURCES = ('.ci', '.github', 'adv_plugins', 'examples', CONFIGS, 'tests')
# Code is matched too, because what looks like a link in it is none.
LINK = re.compile(
    r'(?P<code>```.*?```|`[^`]*`)|(?P<image>!?)\[(?P<text>[^]]*)\]\((?!https?:|#)[^)]*\)', re.S
)


class BuildWithConfigs(build_py):
    """Puts the configs where MMAction2's wheel has its own: ``.mim/configs`` in the package.

    They are written into the build folder alone. An editable installation has no copy: there,
    ``adv-plugins configs`` names the folder in the checkout.
    """

    def run(self) -> None:
        """Build the package, then add the configs and the index of their metafiles."""
        super().run()
        if getattr(self, 'editable_mode', False):  # setuptools before 64 has no such mode
            return
        target = Path(self.build_lib) / 'adv_plugins' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        metafiles = []
        for file in files_in(CONFIGS):
            copy = target / 'configs' / file.relative_to(CONFIGS)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            if file.name == 'metafile.yml':
                text = copy.read_text(encoding='utf-8')
                copy.write_text(text.replace(f'{CONFIGS}/', 'configs/'), encoding='utf-8')
                metafiles.append(f'  - {copy.relative_to(target).as_posix()}\n')
        index = target / 'model-index.yml'
        index.write_text('Import:\n' + ''.join(metafiles), encoding='utf-8')

    def get_source_files(self) -> list[str]:
        """What a source distribution has besides its metadata; no MANIFEST.in is needed."""
        return [str(file) for folder in SOURCES for file in files_in(folder)]


def files_in(folder: str) -> list[Path]:
    """The files of a folder and of those in it, without what Python caches."""
    found = sorted(Path(folder).rglob('*'))
    return [file for file in found if file.is_file() and '__pycache__' not in file.parts]


def without_links(text: str) -> str:
    """Markdown without the pictures and links that only a checkout has: an index page has none."""
    return LINK.sub(lambda m: m['code'] or ('' if m['image'] else m['text']), text)


# Not by ``attr:`` in setup.cfg: for it setuptools before 61, such as the 59 that Ubuntu 22.04 gives
# to a new environment, imports the package, and with it torch.
about: dict[str, str] = {}
exec((ROOT / 'adv_plugins' / 'version.py').read_text(encoding='utf-8'), about)

setup(
    version=about['__version__'],
    cmdclass={'build_py': BuildWithConfigs},
    long_description=without_links((ROOT / 'README.md').read_text(encoding='utf-8')),
    long_description_content_type='text/markdown',
)
