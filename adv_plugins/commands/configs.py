"""``adv-plugins configs``: where the configs are.

Example:
    mim train mmaction2 "$(adv-plugins configs)/taf/taf-tsm_r18_1x1x8_ordered-digits-rgb.py"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import CommandError

PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """The folder of the configs: installed with the package, or in the checkout beside it.

    Returns:
        Path: The folder that has ``_base_``, ``taf``, ``aart`` and so on.

    Raises:
        CommandError: There are no configs in either place.
    """
    places = PACKAGE / '.mim/configs', PACKAGE.parent / 'mm_configs'
    for place in places:
        if (place / '_base_').is_dir():
            return place
    raise CommandError(
        f'the configs are neither in {places[0]} nor in {places[1]}; install adv_plugins from its '
        'wheel, or from a whole checkout with pip install -e'
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: there are none."""


def run(args: argparse.Namespace) -> None:
    """Print the folder, and nothing else."""
    print(configs_folder())
