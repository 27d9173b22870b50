"""``adv-plugins dry-run``: check everything that a training needs before its first update.

It does what ``mim train mmaction2 CONFIG --cfg-options runner_type=DryRunner`` does; see
:class:`adv_plugins.dry_run.DryRunner`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..dry_run import DryRunner
from ..dry_run.findings import ProblemsFound
from .errors import CommandError
from .protocols import add_config, change_config, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and ``--cfg-options``."""
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Check the config.

    Returns:
        int: 1 if there are problems, which the log tells.
    """
    cfg = read_config(args.config)
    # As mim train does, so that the same training is checked.
    if cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / args.config.stem)
    cfg.launcher = 'none'
    change_config(cfg, args.cfg_options)
    try:
        runner = DryRunner.from_cfg(cfg)
    except Exception as error:  # What the DryRunner does not check itself may fail in any way.
        raise CommandError(
            f'no Runner can be built of {args.config}: {type(error).__name__}: {error}'
        ) from error
    try:
        runner.train()
    except ProblemsFound:
        return 1
    return 0
