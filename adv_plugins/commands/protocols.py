"""What the commands that evaluate checkpoints share: their arguments, and a Runner to test with.

A protocol says what is evaluated: it is a config with the options of a
:class:`~adv_plugins.evaluation.RobustnessTestLoop` under the name ``robustness``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from .configs import configs_folder
from .errors import CommandError

PROTOCOLS = {'quick': '_base_/robustness_quick.py', 'full': '_base_/robustness.py'}
"""The protocols that have a name, in the folder of the configs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config, the checkpoints, ``--protocol``, ``--label-map`` and ``--cfg-options``."""
    parser.add_argument('config', type=Path, help='config of the model and of its test set')
    parser.add_argument(
        'checkpoints', nargs='+', metavar='checkpoint', help='file or URL; one or more'
    )
    parser.add_argument(
        '--protocol',
        default='quick',
        metavar='quick|full|FILE',
        help='what is evaluated: a first look (quick, the default), all that a publication needs '
        '(full), or a config of yours with robustness=dict(...)',
    )
    parser.add_argument(
        '--label-map',
        metavar='FILE',
        help='names of the classes, one a line; default: those of the dataset',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='changes to the config, as in mim test; test_cfg.KEY=VALUE changes the protocol',
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
        text = str(error) or 'no reason was given'
        raise CommandError(f'{file} cannot be read: {type(error).__name__}: {text}') from error


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
    for stage in ('train', 'val'):
        cfg[f'{stage}_dataloader'] = cfg[f'{stage}_cfg'] = None
    cfg.optim_wrapper = cfg.param_scheduler = cfg.val_evaluator = None
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    cfg.work_dir = str(args.out or Path('work_dirs') / args.config.stem)
    cfg.test_cfg = _protocol(args.protocol)
    if args.label_map is not None:
        cfg.label_map = args.label_map
    # Afterwards, so that they can change the protocol too.
    cfg.merge_from_dict(args.cfg_options or {})
    if cfg.get('test_dataloader') is None:
        raise CommandError(f'{args.config} has no test_dataloader: there are no videos to test')
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
