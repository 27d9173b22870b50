r"""The figures of A-ART from trained models: attention under attack, and robustness.

    python examples/aart_pictures.py --out pictures \
        --model Non-ART mm_configs/aart/transformer_1xb64_yt8m-sample.py non-art.pth \
        --model A-ART mm_configs/aart/aart-transformer_1xb64_yt8m-sample.py a-art.pth

Each model is attacked with its own gradients, by one ℓ2 step per modality (A-ART, eq. 4). For each
modality, the pictures show the attention maps and profiles of one test video, clean and adversarial
(figures 1 and 2). Another picture compares the models' robustness by DeepFool over some test videos
(figure 4). The test set is that of the first config. The models must take frame features, as
FeatureTransformer does; with several encoder layers, the last one is shown.
"""

from __future__ import annotations

import passive_waiting  # noqa: F401

# isort: split
import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn

from adv_plugins import make_adversarial
from adv_plugins.attention import capture_attention
from adv_plugins.core.batch import MASK, Batch
from adv_plugins.evaluation import deepfool, robustness, robustness_summary
from adv_plugins.functional import attention_mse
from adv_plugins.visualization import (
    attention_profile,
    plot_attention_maps,
    plot_attention_profiles,
    plot_robustness,
)

BATCH_SIZE = 16
MAX_ITER = 50


@dataclass
class Attention:
    """The attention maps of some videos, clean and adversarial, for one modality.

    Args:
        clean (Tensor): The maps of the clean videos, shape (B, T, T).
        adversarial (Tensor): The maps of the adversarial videos, same shape.
        valid (Tensor): True for valid frames, shape (B, T).
    """

    clean: Tensor
    adversarial: Tensor
    valid: Tensor

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """Both maps of the first video."""
        return self.clean[0], self.adversarial[0]

    @property
    def profiles(self) -> tuple[Tensor, Tensor]:
        """Both profiles of the first video."""
        clean, adversarial = (
            attention_profile(maps, self.valid)[0] for maps in (self.clean, self.adversarial)
        )
        return clean, adversarial

    @property
    def mse(self) -> Tensor:
        """The attention MSE of each video, i.e. the change of its map, shape (B,)."""
        return attention_mse(self.clean, self.adversarial, self.valid)


def load_model(config: Path, checkpoint: Path, eps: float) -> nn.Module:
    """A trained model that can attack itself.

    Args:
        config (Path): The config that it was trained with.
        checkpoint (Path): Its checkpoint.
        eps (float): Length of the attack step for each video and modality.

    Returns:
        nn.Module: The model in eval mode, with ``perturb``.
    """
    cfg = read_config(config)
    model = MODELS.build(cfg.model)
    saved = torch.load(checkpoint, map_location='cpu', weights_only=True)
    model.load_state_dict(saved.get('state_dict', saved))
    return make_adversarial(model.to(get_device()).eval(), 'art', eps=eps)


def read_config(config: Path) -> Config:
    """Read a config and make its scope the default for building modules."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get('default_scope', 'mmaction'))
    return cfg


def preprocess(model: nn.Module, items: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Any]:
    """The inputs and data samples that the model's data preprocessor returns."""
    data = model.data_preprocessor(pseudo_collate(items), False)
    if not isinstance(data['inputs'], dict):
        raise SystemExit(
            'the inputs are one tensor; these pictures need a dict of frame features by modality'
        )
    return data['inputs'], data['data_samples']


@torch.no_grad()
def attend(model: nn.Module, items: list[dict[str, Any]]) -> dict[str, Attention]:
    """Attack some videos and compare the attention.

    Args:
        model (nn.Module): A model from :func:`load_model`.
        items (list[dict]): Items of a dataset.

    Returns:
        dict[str, Attention]: The attention by modality.
    """
    inputs, samples = preprocess(model, items)
    features = Batch(inputs).values
    adversarial_inputs = model.perturb(inputs, samples)
    with capture_attention(model) as clean:
        model(inputs)
    with capture_attention(model) as adversarial:
        model(adversarial_inputs)
    # If a modality has several layers, the last one is kept.
    by_modality = {
        name: Attention(before.weights, after.weights, inputs[name + MASK])
        for before, after in zip(clean, adversarial, strict=True)
        for name in features
        if name in before.name.split('.')
    }
    if by_modality.keys() != features.keys():
        names = [before.name for before in clean]
        raise SystemExit(
            f'each of {list(features)} must be part of the name of an attention module, '
            f'as in encoders.rgb.0.attention; those of {type(model).__name__} are {names}'
        )
    return by_modality


def fool(model: nn.Module, items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The perturbation that DeepFool needs for each video.

    Args:
        model (nn.Module): A model from :func:`load_model`.
        items (list[dict]): Items of a dataset.

    Returns:
        dict[str, Tensor]: ``rho``, ``success`` and ``iterations``, each of shape (B,).
    """
    inputs, _ = preprocess(model, items)
    batch = Batch(inputs)
    features = batch.values
    valid = {name: inputs[name + MASK] for name in features}
    result = deepfool(
        lambda values: model(batch.replace(values).inputs), features, max_iter=MAX_ITER, valid=valid
    )
    return {
        'rho': robustness(result, features, valid),
        'success': result.success,
        'iterations': result.iterations,
    }


def measure(model: nn.Module, dataset: Any, count: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Attention MSE and robustness over the first videos of a dataset.

    Args:
        model (nn.Module): A model from :func:`load_model`.
        dataset (Dataset): The test set.
        count (int): Number of videos.

    Returns:
        tuple: The mean attention MSE by modality, over the videos where it is defined, and the
        result of :func:`fool` for all videos.
    """
    errors: dict[str, list[Tensor]] = {}
    fooled: dict[str, list[Tensor]] = {}
    for items in batches(dataset, count):
        for name, attention in attend(model, items).items():
            errors.setdefault(name, []).append(attention.mse)
        for name, values in fool(model, items).items():
            fooled.setdefault(name, []).append(values)
    mse = {name: torch.cat(values).nanmean().item() for name, values in errors.items()}
    return mse, {name: torch.cat(values).cpu() for name, values in fooled.items()}


def batches(dataset: Any, count: int) -> Iterator[list[dict[str, Any]]]:
    """The first videos of a dataset, batch by batch."""
    for start in range(0, count, BATCH_SIZE):
        yield [dataset[i] for i in range(start, min(start + BATCH_SIZE, count))]


def draw(
    attention: dict[str, dict[str, Attention]], fooled: dict[str, dict[str, Tensor]], out: Path
) -> list[Path]:
    """Draw and save the pictures.

    Args:
        attention (dict): The attention in one video, by model and modality.
        fooled (dict): The results of DeepFool, see :func:`fool`, by model.
        out (Path): The folder to write to.

    Returns:
        list[Path]: The files.
    """
    figures = {}
    first = next(iter(attention.values()))
    for name in first:
        shown = {model: by_modality[name] for model, by_modality in attention.items()}
        valid = first[name].valid[0]
        figures[f'attention_maps_{name}'] = plot_attention_maps(
            {model: each.maps for model, each in shown.items()}, valid, name
        )
        figures[f'attention_profiles_{name}'] = plot_attention_profiles(
            {model: each.profiles for model, each in shown.items()}, valid, name
        )
    figures['robustness'] = plot_robustness(
        {
            model: result['rho'].masked_fill(~result['success'], float('nan'))
            for model, result in fooled.items()
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f'{name}.png' for name in figures]
    for file, figure in zip(files, figures.values(), strict=True):
        figure.savefig(file, dpi=120)
    return files


def report(
    attention: dict[str, dict[str, Attention]],
    mse: dict[str, dict[str, float]],
    fooled: dict[str, dict[str, Tensor]],
) -> str:
    """The measurements as a Markdown table with one column per model."""
    count = len(next(iter(fooled.values()))['rho'])
    rows: dict[str, list[str]] = {}
    for name in next(iter(mse.values())):
        rows[f'attention MSE, {name}, shown video'] = [
            f'{by_modality[name].mse.item():.2e}' for by_modality in attention.values()
        ]
        rows[f'attention MSE, {name}, mean over {count} videos'] = [
            f'{by_modality[name]:.2e}' for by_modality in mse.values()
        ]
    summaries = [robustness_summary(**result, max_iter=MAX_ITER) for result in fooled.values()]
    for key in ('rho_mean', 'rho_median', 'success_rate', 'rho_failed_mean'):
        rows[f'DeepFool, {key}'] = [f'{summary[key]:.4f}' for summary in summaries]
    lines = ['| | ' + ' | '.join(fooled) + ' |', '|---|' + '---|' * len(fooled)]
    lines += [f'| {title} | ' + ' | '.join(columns) + ' |' for title, columns in rows.items()]
    return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--model',
        dest='models',
        action='append',
        nargs=3,
        required=True,
        metavar=('NAME', 'CONFIG', 'CHECKPOINT'),
        help='may be given several times',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder for the PNG files')
    parser.add_argument('--video', type=int, default=0, help='index in the test set')
    parser.add_argument('--eps', type=float, default=0.5, help='l2, for each video and modality')
    parser.add_argument('--num-videos', type=int, default=64, help='to measure robustness on')
    args = parser.parse_args()
    names = [name for name, _, _ in args.models]
    if len(set(names)) < len(names):
        parser.error(f'--model needs a distinct name for each model, got {", ".join(names)}')
    if args.num_videos < 1:
        parser.error(f'--num-videos {args.num_videos} must be 1 or more')
    return args


def main() -> None:
    args = parse_args()
    models = {name: load_model(Path(cfg), Path(ckpt), args.eps) for name, cfg, ckpt in args.models}
    dataset = DATASETS.build(read_config(Path(args.models[0][1])).test_dataloader.dataset)
    if not 0 <= args.video < len(dataset):
        raise SystemExit(f'--video {args.video} must be from 0 to {len(dataset) - 1}')
    count = min(args.num_videos, len(dataset))
    attention, mse, fooled = {}, {}, {}
    for name, model in models.items():
        attention[name] = attend(model, [dataset[args.video]])
        mse[name], fooled[name] = measure(model, dataset, count)
    files = draw(attention, fooled, args.out)
    print(report(attention, mse, fooled))
    for file in files:
        print(f'written: {file}')


if __name__ == '__main__':
    main()
