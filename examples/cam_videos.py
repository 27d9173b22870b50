r"""Videos with the CAM of a trained recognizer, clean and under attack.

    python examples/cam_videos.py mm_configs/baselines/tsm_r18_1x1x8_ordered-digits-rgb.py \
        work_dirs/tsm_r18_1x1x8_ordered-digits-rgb/epoch_27.pth --out videos --recipe TAF

Takes some videos, spread evenly over the config's test set, and writes two files for each: an .mp4
with the clip, its CAM, the adversarial clip, its CAM and the magnified perturbation side by side,
and a .png with one column per frame. Below the pictures is each frame's share of the evidence. If
a video has several test views, the middle one is shown. Needs PyAV
(``pip install "adv_plugins[data]"``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from adv_plugins.core.recipe import Recipe, build_recipe
from adv_plugins.evaluation.selection import evenly_spread
from adv_plugins.evaluation.weights import load_weights
from adv_plugins.visualization.clip_pictures import contact_sheet, side_by_side
from adv_plugins.visualization.clips import look, recipe_attack
from adv_plugins.visualization.mp4 import write_mp4


def load_model(config: Config, checkpoint: str) -> nn.Module:
    """A trained recognizer in eval mode.

    Args:
        config (Config): The config that it was trained with.
        checkpoint (str): Its checkpoint, a path or a URL.
    """
    model = MODELS.build(config.model)
    try:
        load_weights(model, checkpoint)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    return model.to(get_device()).eval()


def write_pictures(
    model: nn.Module, dataset: Any, indices: Sequence[int], recipe: Recipe, out: Path, fps: float
) -> list[Path]:
    """Write an .mp4 and a .png for each of some videos.

    Args:
        model (nn.Module): A model from :func:`load_model`.
        dataset (Dataset): The videos.
        indices (Sequence[int]): The indices of the videos to draw.
        recipe (Recipe): The attack.
        out (Path): The folder to write to.
        fps (float): Frames per second.

    Returns:
        list[Path]: The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    attack = recipe_attack(model, recipe)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    files = []
    for index in indices:
        data = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
        (seen,) = look(model, data['inputs'], data['data_samples'], attack)
        files += [out / f'video_{index:05d}.mp4', out / f'video_{index:05d}.png']
        write_mp4(files[-2], side_by_side(seen, classes), fps)
        contact_sheet(seen, classes).savefig(files[-1], dpi=120)
    return files


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint')
    parser.add_argument('--out', type=Path, required=True, help='folder for the files')
    parser.add_argument('--num-videos', type=int, default=4)
    parser.add_argument('--recipe', default='TAF', help='whose attack, e.g. TAF or CEAugmentation')
    parser.add_argument('--eps', help="of the recipe, e.g. 8/255; default: the recipe's own")
    parser.add_argument('--fps', type=float, default=4, help='frames per second (default: 4)')
    args = parser.parse_args(argv)
    if args.num_videos < 1 or args.fps <= 0:
        parser.error('--num-videos must be 1 or more, and --fps more than 0')
    try:
        eps = {} if args.eps is None else dict(eps=float(Fraction(args.eps)))
        args.recipe = build_recipe(args.recipe, **eps)
    except (ValueError, ZeroDivisionError) as error:
        parser.error(f'--recipe {args.recipe} --eps {args.eps}: {error}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files and print their names."""
    args = parse_args(argv)
    config = Config.fromfile(args.config)
    init_default_scope(config.get('default_scope', 'mmaction'))
    if 'test_dataloader' not in config:
        raise SystemExit(f'{args.config} has no test_dataloader: there are no videos to show')
    model = load_model(config, args.checkpoint)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    indices = evenly_spread(len(dataset), args.num_videos)
    for file in write_pictures(model, dataset, indices, args.recipe, args.out, args.fps):
        print(f'written: {file}')


if __name__ == '__main__':
    main()
