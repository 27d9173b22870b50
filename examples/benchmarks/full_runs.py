"""The projected (not measured) cost of the papers' full runs on eight GPUs.

    python examples/benchmarks/full_runs.py [--gpus 8] [--tflops 30] [--rows tsm-sthv1 ...]

Runs one real step of every config on the CPU, clean and with its recipe, and counts its
floating-point operations (convolutions and matrix products, forward and backward; a multiplication
and an addition count as two). The counts are multiplied by videos and epochs. It is assumed that

- a GPU sustains ``--tflops`` throughout. The hours are inversely proportional to it; the extra cost
  in percent does not depend on it;
- there is no other bottleneck: the data loader keeps up (the table lists the clips/s that it must
  decode), and the reduction of gradients overlaps with the backward. An adversarial step reduces
  them once, like a clean one, and reads no more clips;
- there is no validation, and no run stops early.

TAF fine-tunes the model of the clean config for 15 epochs (TAF, section 4.1). The extra cost is
given in two ways: relative to the clean run, and relative to a clean run with 15 more epochs.
Writes ``full_runs.md`` and ``full_runs.json`` to ``--out``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from adv_plugins import AART, ART, make_adversarial
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary, is_adversarial
from adv_plugins.hooks import AdversarialHook, TAFHook

CONFIGS = Path(__file__).resolve().parents[2] / 'mm_configs'
# Training videos: Something-Something V1 and V2, Diving48 V2, YouTube-8M.
VIDEOS = dict(sthv1=86_017, sthv2=168_913, diving48=15_027, yt8m=3_888_919)
FRAMES_OF_YT8M = 300
PIXELS = 224


@dataclass(frozen=True)
class Run:
    """A row of the table.

    Args:
        title (str): Its title.
        videos (int): Number of training videos.
        clean (str): The clean config.
        fine_tuned (str): Its TAF config; empty for YouTube-8M, which trains from scratch.
    """

    title: str
    videos: int
    clean: str
    fine_tuned: str = ''


RUNS = {
    'tsm-sthv1': Run(
        'TSM-R50, 8 frames, Something-Something V1',
        VIDEOS['sthv1'],
        'tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb.py',
        'taf/taf-tsm_tsm-pre-r50_8xb8-1x1x8-15e_sthv1-rgb.py',
    ),
    'tsm16-sthv2': Run(
        'TSM-R50, 16 frames, Something-Something V2',
        VIDEOS['sthv2'],
        'tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x16-50e_sthv2-rgb.py',
        'taf/taf-tsm_tsm-pre-r50_8xb8-1x1x16-15e_sthv2-rgb.py',
    ),
    'gst-sthv1': Run(
        'GST-R50, 8 frames, Something-Something V1',
        VIDEOS['sthv1'],
        'gst/gst_imagenet-pretrained-r50_8xb3-1x1x8-70e_sthv1-rgb.py',
        'taf/taf-gst_gst-pre-r50_8xb3-1x1x8-15e_sthv1-rgb.py',
    ),
    'tam-sthv1': Run(
        'TAM-R50, 8 frames, Something-Something V1',
        VIDEOS['sthv1'],
        'tam/tam_imagenet-pretrained-r50_8xb9-1x1x8-50e_sthv1-rgb.py',
        'taf/taf-tam_tam-pre-r50_8xb9-1x1x8-15e_sthv1-rgb.py',
    ),
    'tpn-sthv1': Run(
        'TPN-TSM-R50, 8 frames, Something-Something V1',
        VIDEOS['sthv1'],
        'tpn/tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb.py',
        'taf/taf-tpn-tsm_tpn-pre-r50_8xb8-1x1x8-15e_sthv1-rgb.py',
    ),
    'tsm-diving48': Run(
        'TSM-R50, 8 frames, Diving48',
        VIDEOS['diving48'],
        'tsm/tsm_imagenet-pretrained-r50_8xb8-1x1x8-50e_diving48-rgb.py',
        'taf/taf-tsm_tsm-pre-r50_8xb8-1x1x8-15e_diving48-rgb.py',
    ),
    'yt8m': Run(
        'FeatureTransformer, YouTube-8M, an epoch',
        VIDEOS['yt8m'],
        'aart/transformer_1xb64_yt8m-317.py',
    ),
}


@dataclass(frozen=True)
class Cost:
    """The cost of one run.

    Args:
        run (str): Its title.
        method (str): ``'TAF'``, ``'ART'`` or ``'A-ART'``.
        clip_gflop (float): GFLOP per clip of a clean step.
        ratio (float): Cost of the adversarial step relative to the clean one.
        clean_epochs (int): Epochs of the clean run.
        epochs (int): Epochs with the recipe.
        clean_hours (float): Hours of the clean run.
        hours (float): Hours of the epochs with the recipe.
        clips_per_second (float): Clips that the loader must deliver per second in a clean run.
    """

    run: str
    method: str
    clip_gflop: float
    ratio: float
    clean_epochs: int
    epochs: int
    clean_hours: float
    hours: float
    clips_per_second: float

    @property
    def beyond_clean_run(self) -> float:
        """The cost of the epochs with the recipe, in percent of the clean run."""
        return 100 * self.epochs * self.ratio / self.clean_epochs

    @property
    def of_the_attack(self) -> float:
        """The extra cost of those epochs over clean ones, in percent of the clean run."""
        return 100 * self.epochs * (self.ratio - 1) / self.clean_epochs


def build(config: Config) -> nn.Module:
    """The model of a config in training mode, without pretrained weights."""
    init_default_scope('mmaction')
    model = config.model.copy()
    if 'backbone' in model:
        model.backbone.update(pretrained=None)
        if 'pretrained2d' in model.backbone:
            model.backbone.pretrained2d = False
    return MODELS.build(model).train()


def batch_for(model: nn.Module, config: Config) -> tuple[Any, list[Any]]:
    """One preprocessed training clip of random data, and its label."""
    from mmaction.structures import ActionDataSample

    if hasattr(model, 'modalities'):
        inputs = {n: torch.randn(1, FRAMES_OF_YT8M, d) for n, d in model.modalities.items()}
        label = torch.zeros(config.model.num_classes)
        label[0] = 1
        return inputs, [ActionDataSample().set_gt_label(label)]
    sampled = next(step for step in config.train_pipeline if step['type'] == 'SampleFrames')
    frames = sampled['clip_len'] * sampled['num_clips']
    shape: tuple[int, ...] = (1, frames, 3, PIXELS, PIXELS)
    if model.data_preprocessor.format_shape == 'NCTHW':
        shape = (1, 1, 3, frames, PIXELS, PIXELS)
    return torch.randn(shape), [ActionDataSample().set_gt_label(0)]


class OperationCounter(TorchDispatchMode):
    """Counts floating-point operations by torch's own formulas.

    It counts like ``FlopCounterMode`` but without the table by module. For that table,
    ``FlopCounterMode`` hooks into the gradients of the modules' inputs, which fails when
    ``torch.autograd.grad`` differentiates w.r.t. the same inputs.

    Attributes:
        total (int): Operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output


def operations(model: nn.Module, inputs: Any, samples: list[Any]) -> int:
    """Floating-point operations of a training step, without the look at the first batch."""
    if is_adversarial(model):
        get_adversary(model).examine(Batch(inputs), samples)
    # The CPU's fused attention has no formula, so compute it as matrix products, which are counted.
    with sdpa_kernel(SDPBackend.MATH), OperationCounter() as counter:
        model.parse_losses(model(inputs, samples, mode='loss'))[0].backward()
    return counter.total


def project(run: Run, gpus: int, tflops: float) -> list[Cost]:
    """The costs of a row."""
    clean = Config.fromfile(CONFIGS / run.clean)
    model = build(clean)
    inputs, samples = batch_for(model, clean)
    flop = operations(model, inputs, samples)
    clean_epochs, epochs, recipes = 1, 1, {'ART': ART(), 'A-ART': AART()}
    if run.fine_tuned:
        tuned = Config.fromfile(CONFIGS / run.fine_tuned)
        hook = dict(tuned.custom_hooks[-1])
        assert hook.pop('type') == 'TAFHook'
        taf: AdversarialHook = TAFHook(**hook)
        recipes = {'TAF': taf.recipe}
        clean_epochs, epochs = clean.train_cfg.max_epochs, tuned.train_cfg.max_epochs
    speed = gpus * tflops * 1e12
    epoch = run.videos * flop / speed / 3600
    found = []
    for name, recipe in recipes.items():
        adversarial = make_adversarial(build(clean), recipe)
        ratio = operations(adversarial, inputs, samples) / flop
        hours = epochs * ratio * epoch
        found.append(
            Cost(
                run.title,
                name,
                flop / 1e9,
                ratio,
                clean_epochs,
                epochs,
                clean_epochs * epoch,
                hours,
                speed / flop,
            )
        )
    return found


def table(costs: list[Cost], gpus: int, tflops: float) -> str:
    """The Markdown table."""
    lines = [
        f'{gpus} GPUs that sustain {tflops:g} TFLOP/s each',
        '',
        '| run | GFLOP a clip | recipe | × clean step | clean run, h | with the recipe, h '
        '| of the clean run | of it the attack | clips/s to read |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for cost in costs:
        lines.append(
            f'| {cost.run} | {cost.clip_gflop:,.1f} | {cost.method} | {cost.ratio:.2f} '
            f'| {cost.clean_hours:.2f} ({cost.clean_epochs} epochs) '
            f'| {cost.hours:.2f} ({cost.epochs}) | {cost.beyond_clean_run:.0f} % '
            f'| {cost.of_the_attack:.0f} % | {cost.clips_per_second:,.0f} |'
        )
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--gpus', type=int, default=8)
    parser.add_argument('--tflops', type=float, default=30, help='sustained by a GPU')
    parser.add_argument('--rows', nargs='+', choices=RUNS, default=list(RUNS))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/full_runs'))
    args = parser.parse_args(argv)
    costs = []
    for name in args.rows:
        costs += project(RUNS[name], args.gpus, args.tflops)
    text = table(costs, args.gpus, args.tflops)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'full_runs.md').write_text(text + '\n')
    (args.out / 'full_runs.json').write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    print(text)


if __name__ == '__main__':
    main()
