"""``adv-plugins evaluate``: test checkpoints on clean, corrupted and attacked videos.

For each checkpoint it does what ``mim test mmaction2 CONFIG`` does with a
:class:`adv_plugins.evaluation.RobustnessTestLoop` as ``test_cfg``: the numbers are written as JSON
and as a Markdown page, and those that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mmengine.logging import print_log

from ..adapters.wrappers import inner_model
from ..evaluation.labels import EvaluationError
from . import protocols
from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    protocols.add_arguments(parser)
    parser.add_argument(
        '--out', type=Path, help='folder for the results; default: work_dirs/NAME_OF_THE_CONFIG'
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate every checkpoint that can be loaded.

    Returns:
        int: 1 if one cannot.
    """
    runner = protocols.build_runner(args)
    unfit = []
    for checkpoint in args.checkpoints:
        try:
            protocols.load_checkpoint(inner_model(runner.model), checkpoint)
        except CommandError as error:
            # The others may take hours: they are not to wait for this one.
            unfit.append(str(error))
            continue
        try:
            metrics = runner.test_loop.evaluate(checkpoint)
        except EvaluationError as error:
            raise CommandError(f'{args.config}: {error}') from error
        numbers = ', '.join(f'{name} {value:.4f}' for name, value in metrics.items())
        print_log(f'{checkpoint}: {numbers}', 'current')
    for problem in unfit:
        print_log(f'not evaluated: {problem}', 'current', logging.ERROR)
    return 1 if unfit else 0
