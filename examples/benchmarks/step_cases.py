"""The models, batches and steps whose cost is measured: this package's recipes and their peers.

MMAction2 builds the models. Where it is not installed, TSM-R50 is built in plain PyTorch and
VideoMAE-B by transformers. Weights and data are random.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from plain_nets import TemporalShiftNet
from torch import Tensor, nn

from adv_plugins import (
    AART,
    ART,
    MART,
    TAF,
    TRADES,
    AdvProp,
    CEAugmentation,
    FastTraining,
    PGDTraining,
    Recipe,
    make_adversarial,
)
from adv_plugins.core.conversion import is_adversarial

Inputs = Tensor | dict[str, Tensor]
Step = Callable[[], None]

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PIXELS = dict(mean=MEAN, std=STD, value_range=(0, 255))
EPS, STEP = 4 / 255, 1 / 255
FORWARD, INPUT_GRADIENT, CLEAN = 'forward', 'forward + input gradient', 'clean step'
PRIMITIVES = (FORWARD, INPUT_GRADIENT, CLEAN)
NEVER = 10**9

SIZES = {
    # Batch, frames and, for clips, pixels.
    'small': dict(tsm=(2, 8, 112), slowonly=(2, 4, 112), videomae=(1, 8, 112), feature=(8, 150)),
    'full': dict(tsm=(16, 8, 224), slowonly=(8, 8, 224), videomae=(8, 16, 224), feature=(64, 300)),
}


def recognizer_loss(model: nn.Module, inputs: Inputs, samples: list[Any]) -> Tensor:
    return model.parse_losses(model(inputs, samples, mode='loss'))[0]


def classifier_loss(model: nn.Module, clips: Tensor, labels: list[Tensor]) -> Tensor:
    """The loss of a net that returns class scores."""
    target = torch.stack(labels)
    if is_adversarial(model):
        return model.adversarial_loss(clips, target)['loss']
    return F.cross_entropy(model(clips), target)


def huggingface_loss(model: nn.Module, clips: Tensor, labels: list[Tensor]) -> Tensor:
    return model(clips, labels=torch.stack(labels)).loss


@dataclass
class Case:
    """A model and a batch for it.

    Args:
        title (str): The model's name in the table.
        model (nn.Module): A plain model in training mode.
        inputs (Tensor | dict[str, Tensor]): A preprocessed batch.
        samples (list): Its data samples, or labels without axes for a model of no recognizer.
        layer (str): Dotted name of the layer whose work is counted, in the first stage.
        recipes (dict[str, Recipe]): The recipes to measure, by the name of their row.
        loss (Callable): The training loss of a plain or converted model, of inputs and samples.
            Defaults to that of a recognizer.
        options (dict): What ``make_adversarial`` has to be told of the model. Defaults to {}.
    """

    title: str
    model: nn.Module
    inputs: Inputs
    samples: list[Any]
    layer: str
    recipes: dict[str, Recipe]
    loss: Callable[[nn.Module, Inputs, list[Any]], Tensor] = recognizer_loss
    options: dict[str, Any] = field(default_factory=dict)

    def shared_copy(self) -> nn.Module:
        """A copy of the model that shares its parameters."""
        return copy.deepcopy(self.model, {id(value): value for value in self.model.parameters()})


def build_case(build: Callable[..., Case], size: tuple[int, ...], device: torch.device) -> Case:
    """Build a case, one of ``CASES``, with random weights and data."""
    torch.manual_seed(0)
    case = build(*size)
    case.model.to(device).train()
    case.inputs = _map(lambda value: value.to(device), case.inputs)
    case.samples = [sample.to(device) for sample in case.samples]
    return case


def in_words(size: tuple[int, ...]) -> str:
    names = ('batch', 'frames', 'pixels')
    return ', '.join(f'{name} {count}' for name, count in zip(names, size, strict=False))


def tsm(batch: int, frames: int, pixels: int) -> Case:
    build = recognizer_tsm if importlib.util.find_spec('mmaction') else plain_tsm
    return build(batch, frames, pixels)


def recognizer_tsm(batch: int, frames: int, pixels: int) -> Case:
    backbone = dict(type='ResNetTSM', depth=50, pretrained=None, pretrained2d=False)
    backbone |= dict(norm_eval=False, shift_div=8, num_segments=frames)
    head = dict(type='TSMHead', in_channels=2048, num_segments=frames, is_shift=True)
    clips = _normalized(torch.rand(batch, frames, 3, pixels, pixels), axis=2)
    model = _recognizer('Recognizer2D', backbone, head, 'NCHW')
    layer = 'backbone.layer1.0.conv2.conv'
    return Case('TSM-R50', model, clips, _samples(batch), layer, _video_recipes())


def plain_tsm(batch: int, frames: int, pixels: int) -> Case:
    model = TemporalShiftNet(400, frames)
    clips = _normalized(torch.rand(batch, frames, 3, pixels, pixels), axis=2)
    return Case(
        'TSM-R50 in plain PyTorch', model, clips, _labels(batch), 'layer1.0.conv2',
        _video_recipes(), classifier_loss, PIXELS,
    )  # fmt: skip


def slowonly(batch: int, frames: int, pixels: int) -> Case:
    backbone = dict(type='ResNet3dSlowOnly', depth=50, pretrained=None, lateral=False)
    backbone |= dict(conv1_kernel=(1, 7, 7), conv1_stride_t=1, pool1_stride_t=1)
    backbone |= dict(inflate=(0, 0, 1, 1), norm_eval=False)
    head = dict(type='I3DHead', in_channels=2048)
    clips = _normalized(torch.rand(batch, 1, 3, frames, pixels, pixels), axis=2)
    model = _recognizer('Recognizer3D', backbone, head, 'NCTHW')
    layer = 'backbone.layer1.0.conv2.conv'
    return Case('SlowOnly-R50', model, clips, _samples(batch), layer, _video_recipes())


def videomae(batch: int, frames: int, pixels: int) -> Case:
    build = recognizer_videomae if importlib.util.find_spec('mmaction') else huggingface_videomae
    return build(batch, frames, pixels)


def recognizer_videomae(batch: int, frames: int, pixels: int) -> Case:
    backbone = dict(type='VisionTransformer', img_size=pixels, num_frames=frames, patch_size=16)
    backbone |= dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, qkv_bias=True)
    backbone |= dict(norm_cfg=dict(type='LN', eps=1e-6))
    head = dict(type='TimeSformerHead', in_channels=768)
    clips = _normalized(torch.rand(batch, 1, 3, frames, pixels, pixels), axis=2)
    model = _recognizer('Recognizer3D', backbone, head, 'NCTHW')
    layer = 'backbone.blocks.0.attn.qkv'
    return Case('VideoMAE-B', model, clips, _samples(batch), layer, _attention_recipes())


def huggingface_videomae(batch: int, frames: int, pixels: int) -> Case:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(image_size=pixels, num_frames=frames, num_labels=400)
    clips = _normalized(torch.rand(batch, frames, 3, pixels, pixels), axis=2)
    return Case(
        'VideoMAE-B of transformers', VideoMAEForVideoClassification(config), clips,
        _labels(batch), 'videomae.encoder.layer.0.attention.output.dense',
        _attention_recipes(), huggingface_loss, PIXELS,
    )  # fmt: skip


def feature(batch: int, frames: int) -> Case:
    from mmengine.registry import MODELS

    model = MODELS.build(dict(type='FeatureTransformer'))
    features = {name: torch.randn(batch, frames, width) for name, width in model.modalities.items()}
    recipes = {
        'CE, K=1': CEAugmentation(dual_bn=False),
        'ART': ART(),
        **_aart_recipes(),
        'AdvProp, K=1': AdvProp(steps=1, dual_bn=False),
        'AdvProp, K=5': AdvProp(dual_bn=False),
        'ART, `fraction=0.25`': ART(fraction=0.25),
        "AdvProp, K=5, `attack_dtype='bfloat16'`": AdvProp(dual_bn=False, attack_dtype='bfloat16'),
        **_adversarial_training(multilabel=True),
    }
    layer = 'encoders.rgb.0.attention.qkv'
    return Case('FeatureTransformer', model, features, _samples(batch), layer, recipes)


CASES: dict[str, Callable[..., Case]] = dict(
    tsm=tsm, slowonly=slowonly, videomae=videomae, feature=feature
)


def _aart_recipes() -> dict[str, Recipe]:
    return {'A-ART': AART(), 'A-ART, `recompute=True`': AART(recompute=True)}


def _video_recipes(**options: Any) -> dict[str, Recipe]:
    return {
        'TAF, K=1': TAF(**options),
        'TAF, K=3': TAF(steps=3, **options),
        'CE, K=1': CEAugmentation(**options),
        'AdvProp, K=1': AdvProp(steps=1, **options),
        'AdvProp, K=5': AdvProp(**options),
        'AdvProp, K=5, `attack_scale=0.5`': AdvProp(attack_scale=0.5, **options),
        "AdvProp, K=5, `attack_dtype='bfloat16'`": AdvProp(attack_dtype='bfloat16', **options),
        **_adversarial_training(),
    }


def _adversarial_training(**several: Any) -> dict[str, Recipe]:
    return {
        # Its check is made at every hundredth step, and would be at the first.
        'FastTraining': FastTraining(check_interval=None),
        'PGDTraining, K=1': PGDTraining(steps=1),
        'PGDTraining, K=10': PGDTraining(),
        'TRADES, K=10': TRADES(**several),
        'MART, K=10': MART(),
    }


def _attention_recipes() -> dict[str, Recipe]:
    return _video_recipes(dual_bn=False) | {'ART': ART()} | _aart_recipes()


def _recognizer(kind: str, backbone: dict, head: dict, format_shape: str) -> nn.Module:
    import mmaction.models  # noqa: F401 (registers)
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmaction')
    preprocessor = dict(type='ActionDataPreprocessor', mean=MEAN, std=STD)
    return MODELS.build(
        dict(
            type=kind,
            backbone=backbone,
            cls_head=dict(num_classes=400, average_clips='prob', **head),
            data_preprocessor=dict(format_shape=format_shape, **preprocessor),
        )
    )


def _normalized(pixels: Tensor, axis: int) -> Tensor:
    """Normalise pixels between 0 and 1 as the model expects them."""
    shape = [3 if i == axis else 1 for i in range(pixels.ndim)]
    mean, std = (pixels.new_tensor(value).view(shape) for value in (MEAN, STD))
    return (pixels * 255 - mean) / std


def _pixels(clips: Tensor, axis: int) -> Tensor:
    """The inverse of :func:`_normalized`."""
    shape = [3 if i == axis else 1 for i in range(clips.ndim)]
    mean, std = (clips.new_tensor(value).view(shape) for value in (MEAN, STD))
    return ((clips * std + mean) / 255).clamp(0, 1)


def _samples(batch: int) -> list[Any]:
    from mmaction.structures import ActionDataSample

    return [ActionDataSample().set_gt_label(i % 100) for i in range(batch)]


def _labels(batch: int) -> list[Tensor]:
    return list(torch.arange(batch) % 100)


def _map(change: Callable[..., Tensor], *inputs: Inputs) -> Inputs:
    if isinstance(inputs[0], Tensor):
        return change(*inputs)
    return {name: change(*(value[name] for value in inputs)) for name in inputs[0]}


def build_steps(case: Case) -> dict[str, Step]:
    """All steps to measure, by the name of their row; the first three are the primitives."""
    plain, inputs, samples, loss = case.model, case.inputs, case.samples, case.loss

    def forward() -> None:
        loss(plain, inputs, samples)

    def input_gradient() -> None:
        _ascend(case, plain, steps=1)

    def clean() -> None:
        loss(plain, inputs, samples).backward()

    steps = {FORWARD: forward, INPUT_GRADIENT: input_gradient, CLEAN: clean}
    idle = replace(next(iter(case.recipes.values())), begin=NEVER)
    for name, recipe in {'inactive recipe': idle, **case.recipes}.items():
        steps[name] = adversarial_step(case, recipe)
    return steps | peers(case, 1) | peers(case, 5)


def adversarial_step(case: Case, recipe: Recipe) -> Step:
    """This package's step, called as a trainer does."""
    model = make_adversarial(case.shared_copy(), recipe, **case.options)

    def step() -> None:
        case.loss(model, case.inputs, case.samples).backward()

    return step


def peers(case: Case, steps: int) -> dict[str, Step]:
    """K steps of PGD on the training loss and then both losses, as in other libraries.

    With attack libraries, the attack is independent of the clean forward, and one backward of the
    sum of both losses follows. advertorch and ART call ``backward()`` in the attack, which also
    computes the gradients of all parameters, only to discard them.
    """
    model, inputs, samples, loss = case.shared_copy(), case.inputs, case.samples, case.loss

    def mix(perturbed: Inputs) -> None:
        (loss(model, inputs, samples) + loss(model, perturbed, samples)).backward()

    def separate() -> None:
        mix(_ascend(case, model, steps))

    def backward_style() -> None:
        perturbed = _ascend(case, model, steps, by_backward=True)
        model.zero_grad()
        mix(perturbed)

    def concatenated() -> None:
        perturbed = _ascend(case, model, steps)
        both = _map(lambda a, b: torch.cat([a, b]), inputs, perturbed)
        loss(model, both, samples * 2).backward()

    found: dict[str, Step] = {
        f'separate attack, K={steps}': separate,
        f'`.backward()` attack, K={steps}': backward_style,
        f'separate attack, K={steps}, concatenated batch': concatenated,
    }
    if has_torchattacks() and isinstance(inputs, Tensor) and loss is recognizer_loss:
        attack = _torchattacks(model, steps)
        labels = torch.cat([sample.gt_label for sample in samples])
        pixels = _pixels(inputs, axis=2)
        found[f'torchattacks, K={steps}'] = lambda: mix(_normalized(attack(pixels, labels), axis=2))
    return found


def has_torchattacks() -> bool:
    return importlib.util.find_spec('torchattacks') is not None


def _torchattacks(model: nn.Module, steps: int) -> Any:
    """torchattacks' FGSM, or its PGD for more steps, in its own default mode (eval)."""
    import torchattacks

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            return self.model(_normalized(pixels, axis=2), mode='tensor', stage='head')

    if steps == 1:
        return torchattacks.FGSM(Logits(), eps=EPS)
    return torchattacks.PGD(Logits(), eps=EPS, alpha=STEP, steps=steps, random_start=False)


def _ascend(case: Case, model: nn.Module, steps: int, by_backward: bool = False) -> Inputs:
    """PGD on the training loss, implemented the usual way."""
    inputs = moved = case.inputs
    for _ in range(steps):
        moved = _map(lambda value: value.detach().requires_grad_(), moved)
        leaves = [moved] if isinstance(moved, Tensor) else list(moved.values())
        loss = case.loss(model, moved, case.samples)
        if by_backward:
            loss.backward()
            grads = [leaf.grad for leaf in leaves]
        else:
            grads = list(torch.autograd.grad(loss, leaves))
        slope = grads[0] if isinstance(moved, Tensor) else dict(zip(moved, grads, strict=True))
        moved = _map(_pgd_step, inputs, moved, slope)
    return moved


@torch.no_grad()
def _pgd_step(clean: Tensor, moved: Tensor, slope: Tensor) -> Tensor:
    return clean + (moved + STEP * slope.sign() - clean).clamp(-EPS, EPS)
