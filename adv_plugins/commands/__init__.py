"""The commands ``adv-plugins``, or ``python -m adv_plugins``: what they are and how they start.

Each is a module here, with ``add_arguments(parser)`` and ``run(args)``; the latter returns an exit
status (None means 0). Only the module of the command that was chosen is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from ..compat import naming_extra
from ..version import __version__
from .errors import CommandError

COMMANDS = {
    'dry-run': 'check everything that a training needs before its first update',
    'evaluate': 'test checkpoints on clean, corrupted and attacked videos',
    'report': 'do the same, and compare the checkpoints on one HTML page',
    'cam': 'draw videos of where a model looks, clean and under attack',
    'index': 'index the shards of YouTube-8M, in several processes',
    'configs': 'print the folder of the configs',
}
"""The commands, each with a line about it. The module has the same name, with ``_`` for ``-``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (Sequence[str], optional): Command and arguments. Defaults to those of the process.

    Returns:
        int: Exit status: 0; 1 if the command found a problem; 2 if it cannot do what it was told;
        130 if it was interrupted.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    chosen = argv[0] if argv and argv[0] in COMMANDS else None
    try:
        module = _module(chosen) if chosen else None
        args = _parser(chosen, module).parse_args(argv)
        assert module is not None  # The parser has ended the process without a command.
        return int(module.run(args) or 0)
    except CommandError as error:
        print(f'adv-plugins {chosen}: error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'adv-plugins {chosen}: interrupted; what has been written stays', file=sys.stderr)
        return 130


def _module(command: str) -> ModuleType:
    """The module of a command."""
    try:
        with naming_extra(f'adv-plugins {command}', 'mmaction', 'mmengine', 'mmaction'):
            return import_module(f'.{command.replace("-", "_")}', __name__)
    except ImportError as error:
        raise CommandError(str(error)) from error


def _parser(chosen: str | None, module: ModuleType | None) -> argparse.ArgumentParser:
    """A parser that knows the names of all commands, and the arguments of the chosen one."""
    parser = argparse.ArgumentParser(
        prog='adv-plugins', description='Adversarial training for MMAction2 and PyTorch.'
    )
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(metavar='command', required=True)
    for name, summary in COMMANDS.items():
        sentence = f'{summary[0].upper()}{summary[1:]}.'
        command = commands.add_parser(name, help=summary, description=sentence)
        if module is not None and name == chosen:
            module.add_arguments(command)
    return parser
