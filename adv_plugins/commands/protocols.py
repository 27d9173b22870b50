"""What the commands on configs and checkpoints share: arguments, and a Runner for the test set.

A protocol says what is evaluated: it is a config with the options of a
:class:`adv_plugins.evaluation.RobustnessTestLoop` under the name ``robustness``.
"""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from torch import nn

from ..evaluation.weights import load_weights
from .configs import configs_folder
from .errors import CommandError

PROTOCOLS = {'quick': '_base_/robustness_quick.py', 'full': '_base_/robustness.py'}
"""The protocols that have a name, in the folder of the configs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, the checkpoints, ``--protocol``, ``--label-map`` and ``--cfg-options``."""
    add_config(parser)
    parser.add_argument(
        'checkpoints', nargs='+', metavar='checkpoint', help='file or URL; one or more'
    )
    parser.add_argument(
        '--protocol',
        default='quick',
        metavar='quick|full|FILE',
        help='what is evaluated: a first look (quick, the default), all that a publication needs '
        '(full), or a config of yours with robustness=dict(...); --cfg-options test_cfg.KEY=VALUE '
        'changes single options of it',
    )
    add_label_map(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the config and ``--cfg-options``."""
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='changes to the config, as in mim train and mim test',
    )


def add_label_map(parser: argparse.ArgumentParser) -> None:
    """Add ``--label-map``."""
    parser.add_argument(
        '--label-map',
        metavar='FILE',
        help='names of the classes, one a line; default: the label_map of the config, the classes '
        'of the dataset, or the folders of its videos',
    )


def read_config(file: str | Path) -> Config:
    """Read a config.

    Args:
        file (str | Path): The file.

    Returns:
        Config: Its content.

    Raises:
        CommandError: There is no such file, or it is no config.
    """
    try:
        return Config.fromfile(file)
    except Exception as error:  # A config is code, which may fail in any way.
        raise CommandError(f'{file} cannot be read: {type(error).__name__}: {error}') from error


def change_config(cfg: Config, options: dict[str, Any]) -> None:
    """Merge what ``--cfg-options`` says into a config.

    Raises:
        CommandError: It does not go together with the config.
    """
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        given = ' '.join(f'{key}={value}' for key, value in options.items())
        reason = f'{type(error).__name__}: {error}'
        raise CommandError(f'--cfg-options {given} does not fit the config: {reason}') from error


def load_checkpoint(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint that fits the model in full.

    Args:
        model (nn.Module): The recognizer.
        checkpoint (str): A file or a URL.

    Raises:
        CommandError: It cannot be read, or it does not fit.
    """
    try:
        load_weights(model, checkpoint)
    except Exception as error:  # An unreadable file may raise anything.
        if str(checkpoint) in str(error):
            raise CommandError(str(error)) from error
        # The first line tells enough: torch goes on about ways to load what is not trusted.
        reason = f'{type(error).__name__}: {str(error).partition(chr(10))[0]}'
        raise CommandError(f'{checkpoint} is no whole checkpoint: {reason}') from error


def build_runner(args: argparse.Namespace) -> Runner:
    """Build a Runner that has only the test set, and tests it as the protocol says.

    Args:
        args (argparse.Namespace): The arguments that :func:`add_arguments` adds, and ``out``, the
            folder for the results (None: ``work_dirs/`` and the name of the config, as in mim).

    Returns:
        Runner: Its ``test_loop`` is a RobustnessTestLoop; no checkpoint has been loaded.

    Raises:
        CommandError: The config or the protocol cannot be used.
    """
    cfg = read_config(args.config)
    cfg.work_dir = str(args.out or Path('work_dirs') / args.config.stem)
    cfg.test_cfg = _protocol(args.protocol)
    # The options may change the protocol, and may be those of the training.
    change_config(cfg, args.cfg_options)
    for stage in ('train', 'val'):
        cfg[f'{stage}_dataloader'] = cfg[f'{stage}_cfg'] = None
    cfg.optim_wrapper = cfg.param_scheduler = cfg.val_evaluator = None
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    if args.label_map is not None:
        cfg.label_map = args.label_map
    if cfg.get('test_dataloader') is None:
        raise CommandError(f'{args.config} has no test_dataloader: there are no videos to test')
    # Runners that are built within a second would have one name, and share a visualizer.
    cfg.experiment_name = f'{args.config.stem}_{uuid.uuid4().hex[:8]}'
    try:
        runner = Runner.from_cfg(cfg)
        # The loop is built when it is first asked for, and it checks its options then.
        assert runner.test_loop is not None
    except Exception as error:  # A model, a dataset or an option may be wrong in any way.
        raise CommandError(
            f'{args.config} cannot be tested: {type(error).__name__}: {error}'
        ) from error
    return runner


def _protocol(name: str) -> dict:
    """The options of the test loop that a protocol has."""
    file = configs_folder() / PROTOCOLS[name] if name in PROTOCOLS else Path(name)
    if not file.exists():
        raise CommandError(
            f'--protocol {name}: neither one of {", ".join(PROTOCOLS)} nor a file; write e.g. '
            '--protocol quick'
        )
    protocol = read_config(file).get('robustness')
    if protocol is None:
        raise CommandError(
            f"--protocol {name}: the file has no robustness=dict(type='RobustnessTestLoop', ...)"
        )
    return protocol
