"""What a step costs: counted work, seconds and memory, and their table."""

from __future__ import annotations

import gc
import math
import os
import platform
import random
import shutil
import subprocess
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from step_cases import CLEAN, PRIMITIVES, Case, Step
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adv_plugins import Recipe


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
    """The least work of a step.

    It is None for steps that can be cheaper, because they attack a part of the batch, a smaller
    resolution, or in a lower precision.

    Clean and adversarial loss take a forward and a full backward each. A clean loss without a
    weight, and without a regularizer, has no backward, and no forward where nothing needs it. An
    attack step takes a forward and a gradient w.r.t. the data. The first attack step needs no
    forward if the attack starts at the clean batch and on the clean path. If it also ascends the
    training loss, it needs nothing at all, because the clean backward yields its gradient, except
    with a regularizer, which delays that backward; ``recompute`` then takes one more forward. With
    ``weight_eps`` everything but the attack is done twice.
    (``adv_plugins.core.cost.step_cost`` is the same in clean steps, for any fraction and scale.)
    """
    if (recipe.fraction, recipe.attack_scale, recipe.attack_dtype) != (1, 1, None):
        return None
    whole, ascent, nothing = Work(1, 1, 1), Work(1, 1, 0), Work(0, 0, 0)
    clean = whole if recipe.clean_weight > 0 or recipe.regularized else Work(1, 0, 0)
    clean = clean if recipe.runs_clean else nothing
    if recipe.random_start or recipe.attack_path != 'clean' or not recipe.runs_clean:
        first = ascent
    elif recipe.objective.is_training_loss and recipe.clean_weight > 0 and not recipe.regularized:
        first = nothing
    else:
        first = Work(0, 1, 0)
    again = Work(int(recipe.recompute and recipe.regularized), 0, 0)
    losses = clean + whole + again
    twice = losses if recipe.weight_eps else nothing
    return sum([ascent] * (recipe.steps - 1), first + losses + twice)


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


def measure(
    case: Case,
    steps: Mapping[str, Step],
    repeats: int,
    cpu_time: bool = False,
    deadline: float = math.inf,
) -> tuple[dict[str, Row], dict[str, str]]:
    """Measure the steps of a case.

    Args:
        case (Case): The case.
        steps (Mapping[str, Step]): Its steps by the name of their row, of :func:`build_steps`.
        repeats (int): The number of rounds.
        cpu_time (bool): Whether to take the CPU seconds of this process. Defaults to False.
        deadline (float): The ``time.monotonic()`` after which no row but the primitives and no
            round but the first begins. Defaults to none.

    Returns:
        tuple[dict[str, Row], dict[str, str]]: The rows that were measured, and the errors of steps
        that failed. Where memory runs out or a primitive fails, the error is raised.
    """
    device = next(case.model.parameters()).device

    def run(name: str) -> float:
        case.model.zero_grad()
        return _seconds(steps[name], device, cpu_time)

    rows: dict[str, Row] = {}
    failed: dict[str, str] = {}
    for name, step in steps.items():
        if name not in PRIMITIVES and time.monotonic() > deadline:
            break
        try:
            run(name)
            case.model.zero_grad()
            recipe = case.recipes.get(name)
            rows[name] = Row([], *_inspect(case, step, device), recipe and floor(recipe))
        except Exception as error:
            if name in PRIMITIVES or isinstance(error, torch.OutOfMemoryError):
                raise
            failed[name] = f'{type(error).__name__}: {error}'
    order, shuffle = list(rows), random.Random(0).shuffle
    gc.collect()
    for count in range(repeats):
        if count and time.monotonic() > deadline:
            break
        shuffle(order)
        for name in order:
            rows[name].seconds.append(run(name))
    return rows, failed


def _seconds(step: Step, device: torch.device, cpu_time: bool) -> float:
    if device.type == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    clock = time.process_time if cpu_time else time.perf_counter
    start = clock()
    step()
    return clock() - start


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


def summarize(rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """Medians, quartiles and ratios of every row."""
    clean = rows[CLEAN]
    primitives = [rows[name].seconds for name in PRIMITIVES]
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
            peak=row.peak,
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


LEGEND = (
    'Medians, with quartiles in brackets. F, ∂x, ∂w: forwards, gradients w.r.t. the data and the '
    'weights, counted at one layer of the first stage; a concatenated batch counts as one, and '
    'passes in bfloat16 use a copy of the weight and are not counted. Saved: peak bytes held for a '
    'backward, relative to the clean step; peak: bytes of all tensors that the step creates, '
    'including gradients.'
)


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


def chosen_device(name: str) -> torch.device:
    """The device of a name; a GPU becomes the current one, whose streams and events are used."""
    device = torch.device(name)
    if device.type == 'cuda':
        index = torch.cuda.current_device() if device.index is None else device.index
        device = torch.device('cuda', index)
        torch.cuda.set_device(device)
    return device


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
        card = torch.cuda.get_device_properties(device)
        machine |= dict(gpu=card.name, gib=round(card.total_memory / 2**30))
        machine |= dict(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
        if shutil.which('nvidia-smi'):
            query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
            told = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            machine['driver'] = told.partition('\n')[0]
    return machine
