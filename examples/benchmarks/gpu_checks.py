"""What a GPU must show besides its speed; see ``gpu_check.py``.

Each check compares small nets with small nets and yields one finding per figure. They run on a CPU
too, where most of them compare like with like.
"""

from __future__ import annotations

import copy
import gc
import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules._functions import SyncBatchNorm as synchronized

from adv_plugins import (
    AART,
    ART,
    MART,
    TAF,
    AdvProp,
    CEAugmentation,
    PGDTraining,
    Recipe,
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
)
from adv_plugins.core.attacker import Attacker
from adv_plugins.core.batch import LONE
from adv_plugins.core.conversion import get_adversary

MEAN, STD = 0.5, 0.25
CLASSES = 2
"""With two classes TAF's random wrong label is the same on every device."""


class Finding(NamedTuple):
    """A figure and the most that it may be."""

    what: str
    figure: float
    limit: float


class LeftOut(Exception):
    """Raised by a check that cannot be made here; the message says why."""


Check = Callable[[torch.device], Iterator[Finding]]


class Limits(NamedTuple):
    """How far two steps may be apart, see :func:`agreement`."""

    perturbation: float
    losses: float
    gradients: float
    statistics: float


FP32 = Limits(5e-3, 1e-4, 1e-3, 1e-4)
LOW_PRECISION = Limits(0.1, 0.05, 0.15, 0.05)


class ConvNet(nn.Module):
    """Clips (B, 3, T, H, W) through convolutions and batch norms; smooth, so that signs are."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm3d, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, 3, padding=1, bias=False)
        self.bn1 = norm(16)
        self.layer4 = nn.Sequential(nn.Conv3d(16, 16, 3, padding=1, bias=False), norm(16))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        x = F.gelu(self.layer4(F.gelu(self.bn1(self.stem(clips)))))
        return self.fc(self.dropout(x).mean(dim=(2, 3, 4)))


class RecurrentNet(ConvNet):
    """A recurrent layer behind the CAM layer: cuDNN's has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, batch_first=True)

    def forward(self, clips: Tensor) -> Tensor:
        x = F.gelu(self.layer4(F.gelu(self.bn1(self.stem(clips)))))
        return self.fc(self.lstm(x.mean(dim=(3, 4)).transpose(1, 2))[0][:, -1])


class AttentionNet(nn.Module):
    """Fused attention behind the CAM layer, because the classifier reads a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, 32, (1, 4, 4), (1, 4, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.blocks = nn.Sequential(*(_Attention() for _ in range(3)))
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        x = rearrange(self.patches(clips), 'b c t h w -> b (t h w) c')
        return self.fc(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(
            self.qkv(self.norm(x)), 'b n (three h d) -> three b h n d', three=3, h=2
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(y, 'b h n d -> b n (h d)'))


STEPS: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    'TAF, K=1': (ConvNet, TAF()),
    'TAF, K=3': (ConvNet, TAF(steps=3)),
    'CE, K=1': (ConvNet, CEAugmentation()),
    'AdvProp, K=1': (ConvNet, AdvProp(steps=1)),
    'AdvProp, K=3': (ConvNet, AdvProp(steps=3)),
    'ART': (AttentionNet, ART()),
    # The paper's weight of 0.001 would hide the term.
    'A-ART': (AttentionNet, AART(beta=0.1)),
    'TAF before fused attention': (AttentionNet, TAF(dual_bn=False)),
    'TAF before an LSTM': (RecurrentNet, TAF()),
    # Each device draws random starts of its own.
    'PGDTraining, K=3, from the clean clip': (ConvNet, PGDTraining(steps=3, random_start=False)),
    'MART, K=2, from the clean clip': (ConvNet, MART(steps=2, random_start=False)),
    'TAF, weight_eps': (ConvNet, TAF(weight_eps=0.01)),
    'AdvProp, a flash of two frames': (ConvNet, AdvProp(steps=2, shared='h w', frames=2)),
    'AdvProp, l1': (ConvNet, AdvProp(steps=2, norm='l1', eps=4.0, step_size=2.0)),
}


class Taken(NamedTuple):
    """What a step gives, by name, as doubles on the CPU."""

    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


@dataclass
class Run:
    """A converted net with a batch.

    Args:
        model (nn.Module): The net, in training mode.
        clips (Tensor): The clips, normalised.
        labels (Tensor): Their labels.
        around (Callable): Makes the context of its forwards. Defaults to none.
        losses (Callable, optional): What takes the step. Defaults to None: the model.
    """

    model: nn.Module
    clips: Tensor
    labels: Tensor
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    losses: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None

    def perturbed(self) -> Tensor:
        with self.around():
            return self.model.perturb(self.clips, self.labels)

    def step(self) -> dict[str, Tensor]:
        take = self.model.adversarial_loss if self.losses is None else self.losses
        with self.around():
            return take(self.clips, self.labels)

    def step_at(self, perturbed: Tensor) -> Taken:
        """Take a step whose attack finds the given clips."""
        self.model.zero_grad()
        with patch.object(Attacker, 'ascend', staticmethod(partial(_found, perturbed))):
            losses = self.step()
        losses['loss'].backward()
        named = self.model.named_parameters()
        return Taken(
            {name: _exact(value) for name, value in losses.items() if 'loss' in name},
            {name: _exact(p.grad) for name, p in named if p.grad is not None},
            {n: _exact(b) for n, b in self.model.named_buffers() if b.is_floating_point()},
        )


def _found(perturbed: Tensor, batch: Any, *_: Any) -> Any:
    values = {LONE: perturbed.to(batch.device, batch.values[LONE].dtype)}
    finite = torch.ones(batch.size, dtype=torch.bool, device=batch.device)
    return batch.replace(values), finite


def _exact(value: Tensor) -> Tensor:
    # FSDP2's gradients are shards.
    value = value.full_tensor() if hasattr(value, 'full_tensor') else value
    return value.detach().to('cpu', torch.float64, copy=True)


def build(
    net: Callable[[], nn.Module],
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Run:
    """A run with the same weights and clips on every device and in every dtype."""
    clips, labels = clips_and_labels()
    model = make_adversarial(fresh(net), recipe, mean=MEAN, std=STD).to(device, dtype)
    return Run(model, clips.to(device, dtype), labels.to(device))


def fresh(net: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return net().train()


def clips_and_labels() -> tuple[Tensor, Tensor]:
    """Noise with the pattern of its class."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.rand(CLASSES, 3, 4, 8, 8, generator=generator)
    noise = torch.rand(8, 3, 4, 8, 8, generator=generator)
    labels = torch.arange(8) % CLASSES
    return ((patterns[labels] + noise) / 2 - MEAN) / STD, labels


def agreement(ours: Run, truth: Run, limits: Limits) -> Iterator[Finding]:
    """How far the steps of two runs are apart.

    A sign step flips where the gradient is next to zero. So the attacks are compared by the share
    of entries that they moved otherwise, and the rest of both steps at the same perturbed clips.
    """
    expected = truth.perturbed()
    moved, wanted = (
        _exact(clips) - _exact(run.clips)
        for run, clips in ((ours, ours.perturbed()), (truth, expected))
    )
    apart = (moved - wanted).abs() > 0.01 * wanted.abs().max()
    yield Finding('entries moved otherwise', apart.double().mean().item(), limits.perturbation)
    yield Finding('size / ε', size_in_eps(ours), 1 + 1e-5)
    found, right = ours.step_at(expected), truth.step_at(expected)
    for name, limit in zip(Taken._fields, limits[1:], strict=True):
        yield Finding(name, distance(getattr(found, name), getattr(right, name)), limit)


def distance(found: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest relative error of a tensor; of a tiny one, relative to all of them together."""
    if found.keys() != right.keys():
        return math.inf
    if not right:
        return 0.0
    whole = torch.stack([value.norm() for value in right.values()]).norm()
    errors = [
        (found[name] - value).norm() / value.norm().maximum(0.01 * whole)
        for name, value in right.items()
    ]
    return torch.stack(errors).max().item()


def size_in_eps(run: Run) -> float:
    """The largest perturbation of a clip, in pixel units, relative to ε."""
    threat = get_adversary(run.model).recipe.solver.threat
    delta = (_exact(run.perturbed()) - _exact(run.clips)).flatten(1) * STD
    order = {'linf': math.inf, 'l2': 2, 'l1': 1}[threat.norm]
    return torch.linalg.vector_norm(delta, order, dim=1).max().item() / threat.eps


def differing(found: dict[str, Tensor], right: dict[str, Tensor]) -> int:
    """The number of tensors that are not the same in every bit."""
    return sum(not torch.equal(found[name], value) for name, value in right.items())


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    # What has no deterministic algorithm shows in the bits that are compared.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision('highest')
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def against_float64(name: str, device: torch.device) -> Iterator[Finding]:
    net, recipe = STEPS[name]
    truth = build(net, recipe, torch.device('cpu'), torch.float64)
    yield from agreement(build(net, recipe, device), truth, FP32)


def autocast(name: str, dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    net, recipe = STEPS[name]
    low = build(net, recipe, device)
    low.around = partial(torch.autocast, device.type, dtype)
    yield from agreement(low, build(net, recipe, device), LOW_PRECISION)
    scaler = torch.amp.GradScaler(device.type, 2.0**12, enabled=dtype is torch.float16)
    optimizer = torch.optim.Adam(low.model.parameters(), 5e-3)
    totals = []
    for _ in range(20):
        optimizer.zero_grad()
        total = low.step()['loss']
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        totals.append(total.item())
    yield Finding('last loss / first loss', totals[-1] / totals[0], 0.9)
    values = [*low.model.parameters(), *low.model.buffers()]
    yield Finding('not finite', float(sum((~v.isfinite()).sum().item() for v in values)), 0)


def low_precision_inputs(dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    for norm, eps in (('linf', 8 / 255), ('l2', 0.5)):
        recipe = AdvProp(steps=3, norm=norm, eps=eps, step_size=eps / 2, random_start=True)
        run = build(ConvNet, recipe, device, dtype)
        yield Finding(f'size / ε, {norm}', size_in_eps(run), 1 + 1e-5)


def lower_attack(device: torch.device) -> Iterator[Finding]:
    recipe = AdvProp(steps=3)
    low = build(ConvNet, replace(recipe, attack_dtype='bfloat16'), device)
    yield from agreement(low, build(ConvNet, recipe, device), FP32._replace(perturbation=0.1))


def channels_last(device: torch.device) -> Iterator[Finding]:
    net, recipe = STEPS['AdvProp, K=3']
    ours = build(net, recipe, device)
    ours.model.to(memory_format=torch.channels_last_3d)
    ours.clips = ours.clips.contiguous(memory_format=torch.channels_last_3d)
    kept = ours.perturbed().is_contiguous(memory_format=torch.channels_last_3d)
    yield Finding('format lost', float(not kept), 0)
    yield from agreement(ours, build(net, recipe, device), FP32)


def cudnn_modes(device: torch.device) -> Iterator[Finding]:
    if device.type != 'cuda':
        raise LeftOut('a CPU has no cuDNN')
    net, recipe = STEPS['TAF, K=1']
    truth = build(net, recipe, device)
    expected = truth.perturbed()
    taken = []
    before = torch.backends.cudnn.deterministic
    try:
        for mode in (True, True, False):
            torch.backends.cudnn.deterministic = mode
            taken.append(build(net, recipe, device).step_at(expected))
    finally:
        torch.backends.cudnn.deterministic = before
    for name in Taken._fields:
        first, second, free = (getattr(each, name) for each in taken)
        yield Finding(f'{name}: tensors that differ, deterministic', differing(first, second), 0)
        yield Finding(f'{name}: deterministic against not', distance(free, first), 1e-3)


def recurrent_in_eval(device: torch.device) -> Iterator[Finding]:
    recipe = CEAugmentation()
    ours = build(RecurrentNet, recipe, device)
    truth = build(RecurrentNet, recipe, torch.device('cpu'), torch.float64)
    for run in (ours, truth):
        run.model.eval()
    moved, wanted = (_exact(run.perturbed()) - _exact(run.clips) for run in (ours, truth))
    apart = (moved - wanted).abs() > 0.01 * wanted.abs().max()
    yield Finding('entries moved otherwise', apart.double().mean().item(), FP32.perturbation)
    enabled = torch.backends.cudnn.enabled
    yield Finding('cuDNN left switched off', float(not enabled), 0)


class SelfSynchronized(nn.SyncBatchNorm):
    """Synchronises in a group of one process, too, where PyTorch's own takes a plain batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return synchronized.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps,
            self.momentum, dist.group.WORLD, 1,
        )  # fmt: skip


class StepModule(nn.Module):
    """What DistributedDataParallel wraps: its forward is the step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self.model.adversarial_loss(clips, labels)


@contextmanager
def one_process(backend: str) -> Iterator[None]:
    """Inside the block, a group of one process."""
    if not (dist.is_available() and dist.is_backend_available(backend)):
        raise LeftOut(f'this PyTorch has no {backend}')
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def data_parallel(backend: str, norm: type[nn.Module], device: torch.device) -> Iterator[Finding]:
    if backend == 'nccl' and device.type != 'cuda':
        raise LeftOut('NCCL and the kernels of SyncBatchNorm are for GPUs only')
    with one_process(backend):
        for name in ('TAF, K=1', 'AdvProp, K=3'):
            recipe = STEPS[name][1]
            ours = build(partial(ConvNet, norm), recipe, device)
            ours.losses = nn.parallel.DistributedDataParallel(StepModule(ours.model))
            for finding in agreement(ours, build(ConvNet, recipe, device), FP32):
                yield finding._replace(what=f'{name}: {finding.what}')


def sharded(device: torch.device) -> Iterator[Finding]:
    """FSDP2 in one process gathers and frees as in many."""
    if torch.__version__ < '2.13':
        raise LeftOut('the step under FSDP2 needs torch 2.13')
    from torch.distributed.fsdp import fully_shard

    with one_process('nccl' if device.type == 'cuda' else 'gloo'):
        mesh = dist.device_mesh.init_device_mesh(device.type, (1,))
        for name in ('TAF, K=1', 'TAF before fused attention', 'AdvProp, K=3', 'A-ART'):
            ours, truth = (build(*STEPS[name], device) for _ in range(2))
            blocks = [part for part in ours.model.children() if list(part.children())]
            for part in (*blocks, ours.model):
                fully_shard(part, mesh=mesh)
            for finding in agreement(ours, truth, FP32):
                yield finding._replace(what=f'{name}: {finding.what}')


def compiled(what: str, device: torch.device) -> Iterator[Finding]:
    if device.type == 'cuda' and find_spec('triton') is None:
        raise LeftOut('torch.compile needs Triton, which is not installed')
    # On a CPU the default would look for a C++ compiler.
    backend = 'inductor' if device.type == 'cuda' else 'aot_eager'
    net, recipe = STEPS['CE, K=1']
    ours = build(net, recipe, device)
    torch._dynamo.reset()
    if what == 'model':
        ours.model.compile(backend=backend)
    else:
        ours.losses = torch.compile(StepModule(ours.model), backend=backend)
    yield from agreement(ours, build(net, recipe, device), FP32)
    torch._dynamo.reset()


def resumed(device: torch.device) -> Iterator[Finding]:
    with deterministic():
        whole = _Training(device, seed=3)
        whole.train(4)
        half = _Training(device, seed=3)
        half.train(2)
        file = io.BytesIO()
        torch.save(half.state(), file)
        file.seek(0)
        second = _Training(device, seed=7)
        second.load(torch.load(file, map_location='cpu', weights_only=True))
        second.train(2)
    found, right = second.values(), whole.values()
    yield Finding('tensors that differ', differing(found, right), 0)


class _Training:
    """A training with dropout, random starts and momentum."""

    def __init__(self, device: torch.device, seed: int) -> None:
        torch.manual_seed(seed)
        recipe = AdvProp(steps=2, random_start=True)
        self.run = build(partial(ConvNet, dropout=0.5), recipe, device)
        self.optimizer = torch.optim.SGD(self.run.model.parameters(), 0.1, momentum=0.9)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.run.step()['loss'].backward()
            self.optimizer.step()

    def state(self) -> dict[str, Any]:
        model = self.run.model
        return dict(
            model=model.state_dict(),
            adversarial=adversarial_state_dict(model),
            optimizer=self.optimizer.state_dict(),
            random=generator_states(self.run.clips.device),
        )

    def load(self, state: dict[str, Any]) -> None:
        self.run.model.load_state_dict(state['model'])
        load_adversarial_state_dict(self.run.model, state['adversarial'])
        self.optimizer.load_state_dict(state['optimizer'])
        for generator, value in zip(
            generators(self.run.clips.device), state['random'], strict=True
        ):
            generator.set_state(value)

    def values(self) -> dict[str, Tensor]:
        model = self.run.model
        values = dict(model.state_dict()) | adversarial_state_dict(model)
        for index, value in enumerate(generator_states(self.run.clips.device)):
            values[f'generator {index}'] = value
        return values


def generators(device: torch.device) -> list[torch.Generator]:
    on_card = [torch.cuda.default_generators[device.index]] if device.type == 'cuda' else []
    return [torch.default_generator, *on_card]


def generator_states(device: torch.device) -> list[Tensor]:
    return [generator.get_state() for generator in generators(device)]


def as_plain(device: torch.device) -> Iterator[Finding]:
    """With an adversarial weight of 0 a training is the plain model's, dropout masks included."""
    clips, labels = (value.to(device) for value in clips_and_labels())
    plain = fresh(partial(ConvNet, dropout=0.5)).to(device)
    converted = make_adversarial(copy.deepcopy(plain), TAF(alpha=1.0), mean=MEAN, std=STD)
    ends = []
    for model in (plain, converted):
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with deterministic():
            for _ in range(3):
                optimizer.zero_grad()
                if model is plain:
                    F.cross_entropy(model(clips), labels).backward()
                else:
                    model.adversarial_loss(clips, labels)['loss'].backward()
                optimizer.step()
        states = enumerate(generator_states(device))
        ends.append((dict(model.state_dict()), {str(index): state for index, state in states}))
    (values, states), (found, found_states) = ends
    yield Finding('tensors that differ', differing(found, values), 0)
    yield Finding('generators that differ', differing(found_states, states), 0)


def memory_left(device: torch.device) -> Iterator[Finding]:
    if device.type != 'cuda':
        raise LeftOut('PyTorch counts the memory of GPUs only')
    for name, (net, recipe) in STEPS.items():
        run = build(net, recipe, device)
        held = []
        for _ in range(2):
            for _ in range(5):
                run.model.zero_grad()
                run.step()['loss'].backward()
            gc.collect()
            held.append(torch.cuda.memory_allocated(device))
        yield Finding(f'{name}: bytes more after ten steps than after five', held[1] - held[0], 0)


MIXED = ('TAF, K=1', 'CE, K=1', 'AdvProp, K=3', 'A-ART', 'TAF before fused attention')
HALF = {'float16 with a GradScaler': torch.float16, 'bfloat16': torch.bfloat16}

CHECKS: dict[str, Check] = {
    **{f'{name}, float32 against float64': partial(against_float64, name) for name in STEPS},
    **{
        f'{name}, autocast to {precision}': partial(autocast, name, dtype)
        for precision, dtype in HALF.items()
        for name in MIXED
    },
    'inputs and net in float16': partial(low_precision_inputs, torch.float16),
    'inputs and net in bfloat16': partial(low_precision_inputs, torch.bfloat16),
    "attack_dtype='bfloat16'": lower_attack,
    'channels last': channels_last,
    'cuDNN, deterministic or not': cudnn_modes,
    'attack in eval mode through an LSTM': recurrent_in_eval,
    'resumed after two of four steps': resumed,
    'adversarial weight 0 against the plain model': as_plain,
    'memory that steps leave behind': memory_left,
    'DistributedDataParallel, gloo': partial(data_parallel, 'gloo', nn.BatchNorm3d),
    'DistributedDataParallel and SyncBatchNorm, nccl': partial(
        data_parallel, 'nccl', SelfSynchronized
    ),
    'FSDP2': sharded,
    'compiled model': partial(compiled, 'model'),
    'compiled step': partial(compiled, 'step'),
}
