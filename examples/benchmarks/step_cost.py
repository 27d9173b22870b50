"""The cost of an adversarial training step: seconds, memory, forwards and backwards.

    python examples/benchmarks/step_cost.py [--size small|full] [--models tsm videomae ...]

Uses models with random weights and random data. For each model it measures the steps of this
package's recipes, and compares them with a clean step, with the theoretical minimum (the floor),
and with the way attack libraries do the same work. All steps of a model share its weights and take
turns, in a different order each round, so that other load on the machine affects all of them
equally; ratios are taken within a round. A step includes everything up to the gradients of the
parameters, but not ``optimizer.step()``. Writes ``step_cost.json`` and the Markdown tables
``step_cost.md`` to ``--out``.

``--size small`` is meant for two CPU cores; ``full`` has the papers' sizes and is meant for CUDA.
If other programs use the machine too, ``--cpu-time`` counts the CPU seconds of this process, on one
thread. torchattacks is included if it is installed. Trust the ratios, which come from one run on
one machine, rather than the seconds. This is a single long file so that it can be copied to a
cluster and run there with an installed package.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import os
import platform
import random
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adv_plugins import AART, ART, TAF, AdvProp, CEAugmentation, Recipe, make_adversarial

Inputs = Tensor | dict[str, Tensor]
Step = Callable[[], None]

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
EPS, STEP = 4 / 255, 1 / 255
FORWARD, INPUT_GRADIENT, CLEAN = 'forward', 'forward + input gradient', 'clean step'
NEVER = 10**9

SIZES = {
    # Batch, frames and, for clips, pixels.
    'small': dict(tsm=(2, 8, 112), slowonly=(2, 4, 112), videomae=(1, 8, 112), feature=(8, 150)),
    'full': dict(tsm=(8, 8, 224), slowonly=(8, 8, 224), videomae=(8, 16, 224), feature=(64, 300)),
}


class Work(NamedTuple):
    """Numbers of forwards, gradients w.r.t. the data, and gradients w.r.t. the weights."""

    forwards: int
    data: int
    weights: int

    def __add__(self, other: tuple[int, ...]) -> Work:
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def seconds(self, forward: float, input_gradient: float, clean: float) -> float:
        """The time of this work, computed from the seconds of the three primitives."""
        data, weights = input_gradient - forward, clean - input_gradient
        return self.forwards * forward + self.data * data + self.weights * weights


def floor(recipe: Recipe) -> Work | None:
    """The least work of a step in which both losses have a weight.

    It is None for steps that can be cheaper, because they attack a part of the batch, a smaller
    resolution, or in a lower precision.

    Clean and adversarial loss take a forward and a full backward each. An attack step takes a
    forward and a gradient w.r.t. the data. The first attack step needs no forward if the attack
    starts at the clean batch and on the clean path. If it also ascends the training loss, it needs
    nothing at all, because the clean backward yields its gradient, except with a regularizer,
    which delays that backward; ``recompute`` then takes one more forward.
    (``adv_plugins.core.cost.step_cost`` is the same in clean steps, for any fraction and scale.)
    """
    if (recipe.fraction, recipe.attack_scale, recipe.attack_dtype) != (1, 1, None):
        return None
    whole, ascent = Work(1, 1, 1), Work(1, 1, 0)
    if recipe.random_start or recipe.attack_path != 'clean':
        first = ascent
    elif recipe.objective.is_training_loss and not recipe.regularized:
        first = Work(0, 0, 0)
    else:
        first = Work(0, 1, 0)
    again = Work(int(recipe.recompute and recipe.regularized), 0, 0)
    return sum([ascent] * (recipe.steps - 1), whole + first + whole + again)


class LayerCounter(TorchDispatchMode):
    """Counts the forwards and gradients of one convolution or linear layer in a step.

    Args:
        weight (Tensor): The layer's weight, used by no other layer.

    Attributes:
        forwards (int): Forwards.
        data (int): Gradients w.r.t. the layer's input.
        weights (int): Gradients w.r.t. its weight.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.forwards = self.data = self.weights = 0
        self._weight = weight.untyped_storage()
        self._fed: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def work(self) -> Work:
        """The counted work."""
        return Work(self.forwards, self.data, self.weights)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ('convolution', 'convolution_backward', 'addmm', 'mm'):
            operands = [arg.untyped_storage() for arg in args if isinstance(arg, Tensor)]
            self._count(name, args, operands)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any, operands: list[Any]) -> None:
        own = any(operand is self._weight for operand in operands)
        if name == 'convolution_backward':
            self.data += own and args[-1][0]
            self.weights += own and args[-1][1]
        elif torch._C._current_graph_task_id() == -1:
            self.forwards += own
            if own and name != 'convolution':
                self._fed.update(operand for operand in operands if operand is not self._weight)
        else:
            # The two products in the backward of a linear layer: one reads the weight, the other
            # reads the layer's input.
            self.data += own
            self.weights += not own and any(operand in self._fed for operand in operands)


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Peak memory that autograd holds for a backward, in bytes, counting each storage once.

    Args:
        model (nn.Module): The model. Its parameters do not count, because they exist anyway.

    Attributes:
        peak (int): The peak so far.
    """

    class _Saved:
        def __init__(self, tensor: Tensor) -> None:
            # Without its graph, which would hold a reference to this object.
            self.tensor = tensor.detach()

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._pack, lambda saved: saved.tensor)
        self.peak = self._now = 0
        self._holders: dict[int, int] = {}
        self._own = {value.data_ptr() for value in model.parameters()}

    def __enter__(self) -> SavedBytes:
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> _Saved:
        storage, saved = tensor.untyped_storage(), self._Saved(tensor)
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._own:
            return saved
        if key not in self._holders:
            self._now += size
            self.peak = max(self.peak, self._now)
        self._holders[key] = self._holders.get(key, 0) + 1
        weakref.finalize(saved, self._release, key, size)
        return saved

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._now -= size


class LiveBytes(TorchDispatchMode):
    """Peak memory of the tensors that are created inside the block, in bytes.

    This is the CPU's counterpart of ``torch.cuda.max_memory_allocated``: besides the tensors that
    autograd saves, it includes gradients and temporary tensors.

    Attributes:
        peak (int): The peak so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._met: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        # Inputs that were not seen before were created outside the block.
        before = {id(arg.untyped_storage()) for arg in given if isinstance(arg, Tensor)}
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in before:
                self._meet(tensor.untyped_storage())
        return output

    def _meet(self, storage: Any) -> None:
        if storage in self._met:
            return
        self._met.add(storage)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self._now -= size


@dataclass
class Case:
    """A model and a batch for it.

    Args:
        model (nn.Module): A plain model in training mode.
        inputs (Tensor | dict[str, Tensor]): A preprocessed batch.
        samples (list): Its data samples.
        layer (str): Dotted name of the layer whose work is counted, in the first stage.
        recipes (dict[str, Recipe]): The recipes to measure, by the name of their row.
    """

    model: nn.Module
    inputs: Inputs
    samples: list[Any]
    layer: str
    recipes: dict[str, Recipe]

    def shared_copy(self) -> nn.Module:
        """A copy of the model that shares its parameters."""
        return copy.deepcopy(self.model, {id(value): value for value in self.model.parameters()})


def build_case(name: str, size: tuple[int, ...], device: torch.device) -> Case:
    """Build the case of a key in ``CASES``, with random weights and data."""
    torch.manual_seed(0)
    case = CASES[name](*size)
    case.model.to(device).train()
    case.inputs = _map(lambda value: value.to(device), case.inputs)
    case.samples = [sample.to(device) for sample in case.samples]
    return case


def tsm(batch: int, frames: int, pixels: int) -> Case:
    backbone = dict(type='ResNetTSM', depth=50, pretrained=None, pretrained2d=False)
    backbone |= dict(norm_eval=False, shift_div=8, num_segments=frames)
    head = dict(type='TSMHead', in_channels=2048, num_segments=frames, is_shift=True)
    clips = _normalized(torch.rand(batch, frames, 3, pixels, pixels), axis=2)
    model = _recognizer('Recognizer2D', backbone, head, 'NCHW')
    return Case(model, clips, _samples(batch), 'backbone.layer1.0.conv2.conv', _video_recipes())


def slowonly(batch: int, frames: int, pixels: int) -> Case:
    backbone = dict(type='ResNet3dSlowOnly', depth=50, pretrained=None, lateral=False)
    backbone |= dict(conv1_kernel=(1, 7, 7), conv1_stride_t=1, pool1_stride_t=1)
    backbone |= dict(inflate=(0, 0, 1, 1), norm_eval=False)
    head = dict(type='I3DHead', in_channels=2048)
    clips = _normalized(torch.rand(batch, 1, 3, frames, pixels, pixels), axis=2)
    model = _recognizer('Recognizer3D', backbone, head, 'NCTHW')
    return Case(model, clips, _samples(batch), 'backbone.layer1.0.conv2.conv', _video_recipes())


def videomae(batch: int, frames: int, pixels: int) -> Case:
    backbone = dict(type='VisionTransformer', img_size=pixels, num_frames=frames, patch_size=16)
    backbone |= dict(embed_dims=768, depth=12, num_heads=12, mlp_ratio=4, qkv_bias=True)
    backbone |= dict(norm_cfg=dict(type='LN', eps=1e-6))
    head = dict(type='TimeSformerHead', in_channels=768)
    clips = _normalized(torch.rand(batch, 1, 3, frames, pixels, pixels), axis=2)
    model = _recognizer('Recognizer3D', backbone, head, 'NCTHW')
    recipes = _video_recipes(dual_bn=False) | _aart_recipes()
    return Case(model, clips, _samples(batch), 'backbone.blocks.0.attn.qkv', recipes)


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
    }
    return Case(model, features, _samples(batch), 'encoders.rgb.0.attention.qkv', recipes)


CASES: dict[str, Callable[..., Case]] = dict(
    tsm=tsm, slowonly=slowonly, videomae=videomae, feature=feature
)
TITLES = dict(
    tsm='TSM-R50', slowonly='SlowOnly-R50', videomae='VideoMAE-B', feature='FeatureTransformer'
)


def _video_recipes(**options: Any) -> dict[str, Recipe]:
    return {
        'TAF, K=1': TAF(**options),
        'TAF, K=3': TAF(steps=3, **options),
        'CE, K=1': CEAugmentation(**options),
        'AdvProp, K=1': AdvProp(steps=1, **options),
        'AdvProp, K=5': AdvProp(**options),
        'AdvProp, K=5, `attack_scale=0.5`': AdvProp(attack_scale=0.5, **options),
        "AdvProp, K=5, `attack_dtype='bfloat16'`": AdvProp(attack_dtype='bfloat16', **options),
    }


def _aart_recipes() -> dict[str, Recipe]:
    return {'A-ART': AART(), 'A-ART, `recompute=True`': AART(recompute=True)}


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


def _map(change: Callable[..., Tensor], *inputs: Inputs) -> Inputs:
    if isinstance(inputs[0], Tensor):
        return change(*inputs)
    return {name: change(*(value[name] for value in inputs)) for name in inputs[0]}


def build_steps(case: Case) -> dict[str, Step]:
    """All steps to measure, by the name of their row; the first three are the primitives."""
    plain, inputs, samples = case.model, case.inputs, case.samples

    def forward() -> None:
        _loss(plain, inputs, samples)

    def input_gradient() -> None:
        _ascend(plain, inputs, samples, steps=1)

    def clean() -> None:
        _loss(plain, inputs, samples).backward()

    steps = {FORWARD: forward, INPUT_GRADIENT: input_gradient, CLEAN: clean}
    idle = replace(next(iter(case.recipes.values())), begin=NEVER)
    for name, recipe in {'inactive recipe': idle, **case.recipes}.items():
        steps[name] = adversarial_step(case, recipe)
    return steps | peers(case, 1) | peers(case, 5)


def adversarial_step(case: Case, recipe: Recipe) -> Step:
    """This package's step, called as a trainer does."""
    model = make_adversarial(case.shared_copy(), recipe)

    def step() -> None:
        _loss(model, case.inputs, case.samples).backward()

    return step


def peers(case: Case, steps: int) -> dict[str, Step]:
    """K steps of PGD on the training loss and then both losses, as in other libraries.

    With attack libraries, the attack is independent of the clean forward, and one backward of the
    sum of both losses follows. advertorch and ART call ``backward()`` in the attack, which also
    computes the gradients of all parameters, only to discard them.
    """
    model, inputs, samples = case.shared_copy(), case.inputs, case.samples

    def mix(perturbed: Inputs) -> None:
        (_loss(model, inputs, samples) + _loss(model, perturbed, samples)).backward()

    def separate() -> None:
        mix(_ascend(model, inputs, samples, steps))

    def backward_style() -> None:
        perturbed = _ascend(model, inputs, samples, steps, by_backward=True)
        model.zero_grad()
        mix(perturbed)

    def concatenated() -> None:
        perturbed = _ascend(model, inputs, samples, steps)
        both = _map(lambda a, b: torch.cat([a, b]), inputs, perturbed)
        _loss(model, both, samples * 2).backward()

    found: dict[str, Step] = {
        f'separate attack, K={steps}': separate,
        f'`.backward()` attack, K={steps}': backward_style,
        f'separate attack, K={steps}, concatenated batch': concatenated,
    }
    if has_torchattacks() and isinstance(inputs, Tensor):
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


def _loss(model: nn.Module, inputs: Inputs, samples: list[Any]) -> Tensor:
    return model.parse_losses(model(inputs, samples, mode='loss'))[0]


def _ascend(
    model: nn.Module, inputs: Inputs, samples: list[Any], steps: int, by_backward: bool = False
) -> Inputs:
    """PGD on the training loss, implemented the usual way."""
    moved = inputs
    for _ in range(steps):
        moved = _map(lambda value: value.detach().requires_grad_(), moved)
        leaves = [moved] if isinstance(moved, Tensor) else list(moved.values())
        loss = _loss(model, moved, samples)
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


@dataclass
class Row:
    """The measurements of one step.

    Args:
        seconds (list[float]): One entry per round.
        work (Work): The work, counted at one layer of the first stage.
        saved (int): Peak bytes that autograd held.
        peak (int): Peak bytes of all tensors that the step created.
        floor (Work, optional): The floor of its recipe. Defaults to None: it has none.
    """

    seconds: list[float]
    work: Work
    saved: int
    peak: int
    floor: Work | None = None


def measure(case: Case, repeats: int, cpu_time: bool) -> dict[str, Row]:
    """Measure all steps of a case."""
    steps = build_steps(case)
    device = next(case.model.parameters()).device

    def run(name: str) -> float:
        case.model.zero_grad()
        clock = time.process_time if cpu_time else time.perf_counter
        _wait(device)
        start = clock()
        steps[name]()
        _wait(device)
        return clock() - start

    rows = {}
    for name, step in steps.items():
        run(name)
        case.model.zero_grad()
        recipe = case.recipes.get(name)
        rows[name] = Row([], *_inspect(case, step, device), recipe and floor(recipe))
    order, shuffle = list(steps), random.Random(0).shuffle
    gc.collect()
    for _ in range(repeats):
        shuffle(order)
        for name in order:
            rows[name].seconds.append(run(name))
    return rows


def _inspect(case: Case, step: Step, device: torch.device) -> tuple[Work, int, int]:
    """Work, saved bytes and peak bytes of one step."""
    weight = case.model.get_submodule(case.layer).weight
    with LayerCounter(weight) as counter, SavedBytes(case.model) as saved:
        step()
    case.model.zero_grad()
    if device.type != 'cuda':
        with LiveBytes() as live:
            step()
        return counter.work, saved.peak, live.peak
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    return counter.work, saved.peak, torch.cuda.max_memory_allocated(device) - before


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def summarize(rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """Medians, quartiles and ratios of every row."""
    clean = rows[CLEAN]
    primitives = [rows[name].seconds for name in (FORWARD, INPUT_GRADIENT, CLEAN)]
    found = {}
    for name, row in rows.items():
        ratios = [a / b for a, b in zip(row.seconds, clean.seconds, strict=True)]
        found[name] = dict(
            seconds=median(row.seconds),
            to_clean=median(ratios),
            quartiles=_quartiles(ratios),
            work=row.work._asdict(),
            saved_to_clean=row.saved / clean.saved,
            peak_to_clean=row.peak / clean.peak,
            all_seconds=row.seconds,
        )
        if row.floor is not None:
            floors = [row.floor.seconds(*times) for times in zip(*primitives, strict=True)]
            over = [a / b for a, b in zip(row.seconds, floors, strict=True)]
            found[name] |= dict(
                floor=row.floor._asdict(), to_floor=median(over), floor_quartiles=_quartiles(over)
            )
    return found


def _quartiles(values: list[float]) -> list[float]:
    first, _, third = quantiles(values, n=4) if len(values) > 1 else values * 3
    return [first, third]


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown table of one model."""
    lines = [
        '| step | median, ms | × clean step | × its floor | F, ∂x, ∂w | saved | peak |',
        '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, row in found.items():
        ratio = _ratio(row['to_clean'], row['quartiles'])
        over = _ratio(row['to_floor'], row['floor_quartiles']) if 'to_floor' in row else ''
        work = ', '.join(map(str, row['work'].values()))
        lines.append(
            f'| {name} | {1000 * row["seconds"]:,.0f} | {ratio} | {over} | {work} '
            f'| {row["saved_to_clean"]:.2f}× | {row["peak_to_clean"]:.2f}× |'
        )
    return '\n'.join(lines)


def _ratio(value: float, quartiles: list[float]) -> str:
    return f'{value:.2f} ({quartiles[0]:.2f} to {quartiles[1]:.2f})'


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The hardware and software that the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        models = [line for line in info.read_text().splitlines() if 'model name' in line]
        cpu = models[0].partition(':')[2].strip() if models else cpu
    machine = dict(cpu=cpu, cores=os.cpu_count(), threads=torch.get_num_threads())
    machine |= dict(torch=torch.__version__, python=platform.python_version())
    if device.type == 'cuda':
        machine['gpu'] = torch.cuda.get_device_name(device)
    return machine


def report(results: Mapping[str, Any]) -> str:
    """The Markdown page."""
    machine = ', '.join(f'{key} {value}' for key, value in results['machine'].items())
    clock = 'CPU seconds of one thread' if results['cpu_time'] else 'wall-clock seconds'
    parts = [
        f'{machine}; {clock}, {results["repeats"]} rounds: medians, with quartiles in brackets. '
        'F, ∂x, ∂w: forwards, gradients w.r.t. the data and the weights, counted at one layer of '
        'the first stage; a concatenated batch counts as one, and passes in bfloat16 use a copy of '
        'the weight and are not counted. Saved: peak bytes held for a backward, relative to the '
        'clean step; peak: bytes of all tensors that the step creates, including gradients.'
    ]
    if not results['torchattacks']:
        parts.append('torchattacks is not installed and was left out.')
    for model in results['models'].values():
        parts += [f'{model["title"]}, {model["size"]}', table(model['steps'])]
    return '\n\n'.join(parts) + '\n'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    has_cuda = torch.cuda.is_available()
    parser.add_argument('--size', choices=SIZES, default='full' if has_cuda else 'small')
    parser.add_argument('--models', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--device', default='cuda' if has_cuda else 'cpu')
    parser.add_argument(
        '--cpu-time', action='store_true', help='CPU seconds of one thread, for a busy machine'
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/step_cost'))
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if args.cpu_time:
        if device.type != 'cpu':
            parser.error(f'--cpu-time measures a CPU; it does not work with --device {device}')
        torch.set_num_threads(1)
    results = dict(
        machine=describe_machine(device),
        size=args.size,
        repeats=args.repeats,
        cpu_time=args.cpu_time,
        torchattacks=has_torchattacks(),
        models={},
    )
    for name in args.models:
        size = SIZES[args.size][name]
        case = build_case(name, size, device)
        steps = summarize(measure(case, args.repeats, args.cpu_time))
        shape = zip(('batch', 'frames', 'pixels'), size, strict=False)
        text = ', '.join(f'{key} {value}' for key, value in shape)
        results['models'][name] = dict(title=TITLES[name], size=text, steps=steps)
        print(f'\n{TITLES[name]}, {text}\n\n{table(steps)}', flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'step_cost.json').write_text(json.dumps(results, indent=1))
    (args.out / 'step_cost.md').write_text(report(results))


if __name__ == '__main__':
    main()
