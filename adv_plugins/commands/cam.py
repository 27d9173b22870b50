"""``adv-plugins cam``: videos of where a trained recognizer looks, clean and under attack.

Takes some videos, spread evenly over the config's test set, and writes two files for each: an .mp4
with the clip, its CAM, the adversarial clip, its CAM and the magnified perturbation side by side,
and a .png with one column per frame. Below the pictures is each frame's share of the evidence. The
CAM is that of the label, and beside it is that of the prediction, where that is wrong. If a video
has several test views, the middle one is shown. Needs PyAV (``pip install "adv_plugins[data]"``).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from ..core.recipe import Recipe, build_recipe
from ..evaluation.class_names import class_names
from ..evaluation.selection import evenly_spread
from ..progress import track
from ..visualization.clip_pictures import contact_sheet, side_by_side
from ..visualization.clips import look, recipe_attack
from ..visualization.mp4 import write_mp4
from .errors import CommandError
from .protocols import add_config, add_label_map, change_config, load_checkpoint, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_config(parser)
    parser.add_argument('checkpoint', help='file or URL')
    parser.add_argument('--out', type=Path, required=True, help='folder for the files')
    parser.add_argument('--num-videos', type=int, default=4, help='how many (default: 4)')
    parser.add_argument(
        '--recipe', default='TAF', help='whose attack, e.g. CEAugmentation (default: TAF)'
    )
    parser.add_argument('--eps', help="of the recipe, e.g. 8/255; default: the recipe's own")
    add_label_map(parser)
    parser.add_argument('--fps', type=float, default=4, help='frames per second (default: 4)')


def run(args: argparse.Namespace) -> None:
    """Write the files and print their names."""
    recipe = _recipe(args)
    config = read_config(args.config)
    change_config(config, args.cfg_options)
    if config.get('test_dataloader') is None:
        raise CommandError(f'{args.config} has no test_dataloader: there are no videos to show')
    init_default_scope(config.get('default_scope', 'mmaction'))
    model, dataset = _build(args.config, config)
    load_checkpoint(model, args.checkpoint)
    model = model.to(get_device()).eval()
    attack = recipe_attack(model, recipe)
    label_map = args.label_map or config.get('label_map')
    try:
        classes = class_names(dataset, model.cls_head.num_classes, label_map)
    except (OSError, ValueError) as error:
        raise CommandError(f'--label-map {label_map}: {error}') from error
    indices = evenly_spread(len(dataset), args.num_videos)
    log = partial(print_log, logger='current')
    files: list[Path] = []
    for index in track(indices, len(indices), 'videos drawn', log):
        files += draw(model, dataset, index, attack, classes, args.out, args.fps)
    print('\n'.join(f'written: {file}' for file in files))


def draw(
    model: nn.Module,
    dataset: Any,
    index: int,
    attack: Any,
    classes: Sequence[str],
    out: Path,
    fps: float,
) -> Iterator[Path]:
    """Write an .mp4 and a .png of a video.

    Args:
        model (nn.Module): The recognizer, in eval mode.
        dataset (Dataset): The videos.
        index (int): The index of the video.
        attack (Callable): What :func:`adv_plugins.visualization.clips.recipe_attack` returns.
        classes (Sequence[str]): The names of the classes.
        out (Path): The folder to write to.
        fps (float): Frames per second.

    Yields:
        Path: The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
    (seen,) = look(model, data['inputs'], data['data_samples'], attack, cam_of='both')
    film, sheet = (out / f'video_{index:05d}{suffix}' for suffix in ('.mp4', '.png'))
    write_mp4(film, side_by_side(seen, classes), fps)
    yield film
    contact_sheet(seen, classes).savefig(sheet, dpi=120)
    yield sheet


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe, once all numbers have been checked."""
    if args.num_videos < 1 or args.fps <= 0:
        raise CommandError('--num-videos must be 1 or more, and --fps more than 0')
    try:
        eps = {} if args.eps is None else dict(eps=float(Fraction(args.eps)))
        return build_recipe(args.recipe, **eps)
    except (ValueError, ZeroDivisionError) as error:
        raise CommandError(f'--recipe {args.recipe} --eps {args.eps}: {error}') from error


def _build(file: Path, config: Config) -> tuple[nn.Module, Any]:
    """The model and the test set of a config."""
    try:
        return MODELS.build(config.model), DATASETS.build(config.test_dataloader.dataset)
    except Exception as error:  # A model or a dataset may be wrong in any way.
        raise CommandError(f'{file} cannot be used: {type(error).__name__}: {error}') from error
