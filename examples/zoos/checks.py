"""What must hold of a model under a recipe, each told by an implementation of its own.

A check returns what it found in a few words, or raises ``Wrong``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from adv_plugins import make_adversarial, remove_adversarial
from adv_plugins.attention import capture_attention
from adv_plugins.cam import objective
from adv_plugins.core.conversion import get_adversary

from .entry import Entry, Losses, clean_part, total

LABELS = torch.tensor([1, 3])


class Wrong(Exception):
    """A step that runs, and does not do what it says."""


class MapSeen(Exception):
    """Ends an attack once F' is known."""


def need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


def samples(entry: Entry, count: int = len(LABELS), seed: int = 1) -> Tensor:
    """Noise: nothing in it is even, dark or still."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *entry.shape, generator=generator)


def seed() -> None:
    """Two steps after it draw the same: TRN chooses its frames by NumPy's stream."""
    torch.manual_seed(2)
    np.random.seed(2)


def step(entry: Entry, model: nn.Module, clips: Tensor) -> Losses:
    """A training step with its backward, which is finite and moves every sample."""
    seed()
    losses = entry.losses(model, entry.feed(clips), entry.target(LABELS))
    total(losses).backward()
    wrong = [name for name, value in losses.items() if not torch.as_tensor(value).isfinite().all()]
    need(not wrong, f'not finite: {", ".join(wrong)}')
    slopes = [p.grad for p in model.parameters() if p.grad is not None]
    need(all(slope.isfinite().all() for slope in slopes), 'gradients are not finite')
    # A recognizer of several sources reports each of them.
    unmoved = sum(int(value) for name, value in losses.items() if 'adv_unmoved' in name)
    need(unmoved == 0, f'{unmoved} samples of the batch were not moved by the attack')
    return losses


def plain_model_trains(entry: Entry) -> None:
    """A step of the plain model; its own faults are none of a recipe's."""
    loss = total(entry.losses(entry.model(), entry.feed(samples(entry)), entry.target(LABELS)))
    loss.backward()
    if not loss.isfinite():
        raise RuntimeError(f'the loss is {loss.item()}')


def advprop(entry: Entry) -> str:
    """One attack step on the training loss; the clean path stays the plain model's."""
    model, clips = entry.model(), samples(entry)
    kind, before = type(model), copy.deepcopy(model.state_dict())

    def evaluated() -> Tensor:
        seed()
        with torch.no_grad():
            return total(entry.losses(model.eval(), entry.feed(clips), entry.target(LABELS)))

    seed()
    plain = total(entry.losses(model, entry.feed(clips), entry.target(LABELS))).item()
    want, state = evaluated(), copy.deepcopy(model.state_dict())

    model.load_state_dict(before)
    make_adversarial(model.train(), 'advprop', steps=1, **entry.options)
    losses = step(entry, model, clips)
    clean = float(clean_part(losses))
    need(
        abs(clean - plain) <= 1e-5 * abs(plain),
        f"the clean loss is {clean:.6g}, the plain model's {plain:.6g}",
    )
    remove_adversarial(model)
    left = model.state_dict()
    need(type(model) is kind and list(left) == list(state), 'the plain model is another')
    moved = [name for name, value in state.items() if not _same(left[name], value)]
    need(not moved, f'the step wrote into {len(moved)} entries of the clean path: {moved[:2]}')
    need(_same(evaluated(), want), 'the loss in eval mode is not that of the plain model')
    return f'loss {clean:.3f}, adversarial {float(total(losses)) - clean:.3f}'


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool((a.isnan() & b.isnan() | (a == b)).all())


def aart(entry: Entry) -> str:
    """A step, and maps whose rows are probabilities and whose samples are kept apart."""
    clips = samples(entry)
    step(entry, make_adversarial(entry.model(), 'aart', **entry.options), clips)
    model = settled(entry, clips)

    def maps(batch: Tensor) -> list[Any]:
        with torch.no_grad(), capture_attention(model) as found:
            entry.losses(model, entry.feed(batch), entry.target(LABELS))
        return found

    other, corner = clips.clone(), clips.clone()
    other[0] = samples(entry, 1, seed=3)[0]
    side = clips.shape[-1] // 8
    corner[0, ..., :side, :side] = other[0, ..., :side, :side]
    parts = dict(model.named_modules())
    base, moves = maps(clips), False
    for before, after, near in zip(base, maps(other), maps(corner), strict=True):
        name = before.name
        rows = before.weights.sum(-1)
        fine = (rows - 1).abs() < 1e-3
        need(bool((fine | (rows == 0) | rows.isnan()).all()), f'rows of {name} do not sum to 1')
        a, b, c = (found.per_sample(len(LABELS))[0].nan_to_num() for found in (before, after, near))
        moves |= not _close(a[0], b[0])
        need(_close(a[1], b[1]), f"{name}: the first sample moves another's maps")
        # Windows see a corner one by one, heads see it all at once.
        moved = sum(not _close(x, y) for x, y in zip(a[0], c[0], strict=True))
        count = _heads(parts[name])
        need(not moved == len(a[0]) == count > 1, f'{name}: its {count} heads are not averaged')
    # Not each of them does: a map may be one of positions alone, or have a single key.
    need(moves, 'no map depends on the input')
    return f'{len(base)} maps, the first {tuple(base[0].weights.shape)}'


def settled(entry: Entry, clips: Tensor) -> nn.Module:
    """The plain model in eval mode, with the statistics of a batch, not those that it begins with.

    With these, the signal of some models dies out on its way through them.
    """
    model = entry.model()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        entry.losses(model, entry.feed(clips), entry.target(LABELS))
    return model.eval()


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two maps differ by rounding at most: with random weights they hardly move."""
    return bool((a - b).abs().max() <= 1e-7)


def _heads(module: nn.Module) -> int:
    """The number of heads that a module says it has; 0 if it says none."""
    names = ('num_heads', 'num_attention_heads', 'heads')
    return next((n for n in (getattr(module, k, None) for k in names) if isinstance(n, int)), 0)


def taf(entry: Entry) -> str:
    """A step, and an F' whose axes are those of the clip."""
    clips = samples(entry)
    model = make_adversarial(entry.model(), 'taf', **entry.options)
    step(entry, model, clips)
    layer = get_adversary(model).attacker.layer.name
    model = make_adversarial(entry.model(), 'taf', **entry.options).eval()
    base = feature_map(entry, model, clips)
    need(base.ndim == 5 and len(base) == len(clips), f"F' is {tuple(base.shape)}")
    size = (base.shape[1], base.shape[3], base.shape[4])
    where = f"F' {size[0]} x {size[1]} x {size[2]} at {layer}"

    changed = clips.clone()
    changed[0] = samples(entry, 1, seed=3)[0]
    away = (feature_map(entry, model, changed) - base).abs().amax((1, 2, 3, 4))
    need(float(away[1]) <= 1e-4 * float(base.abs().max()), f"{where}: another clip's map moves")

    for axis in range(3):
        if size[axis] > 1:
            shift = follows(entry, model, clips, base, axis)
            need(
                shift is None,
                f'{where}: a change along {("time", "height", "width")[axis]} moves the map along '
                f'(t, h, w) by {shift}',
            )
    return where


def follows(
    entry: Entry, model: nn.Module, clips: Tensor, base: Tensor, axis: int
) -> list[float] | None:
    """None if the map moves along an axis before all others if the clips do, or how it moves.

    One draw of the noise tells it of most models; where attention is global it takes some more.
    The sign is no matter: two frames whose layers see each other may answer for one another.
    """
    moved = torch.zeros(2, base.shape[1], *base.shape[3:])
    for seed in (4, 5, 6):
        for late in (0, 1):
            other = end_changed(clips, samples(entry, seed=seed), axis + 2, bool(late))
            moved[late] += (feature_map(entry, model, other) - base).abs().sum((0, 2))
        early, late = (centre(part / part.sum()) for part in moved)
        shift = (late - early).tolist()
        others = [abs(value) for place, value in enumerate(shift) if place != axis]
        if abs(shift[axis]) > max(0.005, *others):
            return None
    return [round(value, 3) for value in shift]


def end_changed(clips: Tensor, noise: Tensor, axis: int, late: bool) -> Tensor:
    """The clips with other noise in the first or last quarter of an axis."""
    length = clips.shape[axis]
    part = max(1, length // 4)
    begin = length - part if late else 0
    return clips.slice_scatter(2 * noise.narrow(axis, begin, part), axis, begin, begin + part)


def centre(weights: Tensor) -> Tensor:
    """The centre of weights (T, H, W) that sum to 1, from 0 to 1 along each axis."""
    lines = [weights.sum([other for other in range(3) if other != axis]) for axis in range(3)]
    return torch.stack([line @ torch.linspace(0, 1, len(line)) for line in lines])


def feature_map(entry: Entry, model: nn.Module, clips: Tensor) -> Tensor:
    """F' as the temporal CAM is computed from it, (B, T, C, H, W)."""
    seen = []

    def watched(features: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(features.detach())
        raise MapSeen

    with mock.patch.object(objective, 'temporal_cam', watched):
        try:
            model.perturb(entry.feed(clips), entry.target(LABELS))
        except MapSeen:
            return seen[0]
    raise Wrong('the attack computes no temporal CAM')


CHECKS: dict[str, Callable[[Entry], str]] = {'advprop': advprop, 'taf': taf, 'aart': aart}
