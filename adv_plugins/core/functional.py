"""The papers' equations, each as a pure tensor function.

The functions need no model, trainer or random state. They are differentiable wherever the papers
differentiate them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice

NORMS = ('linf', 'l2', 'l1', 'l21')


def ascent_direction(
    gradient: Tensor,
    norm: str,
    dims: tuple[int, ...],
    room: Tensor | None = None,
    frame_axis: int | None = None,
) -> Tensor:
    """The steepest unit step of a norm (TAF, eq. 6; A-ART, eq. 4; for ``'l1'`` Croce & Hein, Mind
    the box, ICML 2021, section 3).

    Args:
        gradient (Tensor): Gradient of the objective with respect to the perturbation.
        norm (str): ``'linf'`` gives ``sign(g)``, ``'l2'`` ``g / ||g||_2``. ``'l1'`` fills the
            entries with the largest gradients, one after the other; ``'l21'`` takes the step of
            ``'l2'`` on the frame with the largest one.
        dims (tuple[int, ...]): The axes that one norm runs over.
        room (Tensor, optional): For ``'l1'``, how far each entry may move. Defaults to None: any
            distance, so that the largest ones alone move, all alike.
        frame_axis (int, optional): For ``'l21'``, the axis of the frames, one of ``dims``.

    Returns:
        Tensor: The direction, of norm 1; 0 where the gradient is 0.
    """
    check_choice('norm', norm, NORMS)
    if norm == 'linf':
        return gradient.sign()
    # Dividing by the largest entry first keeps the squares of small gradients from vanishing.
    largest = gradient.abs().amax(dim=dims, keepdim=True)
    gradient = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))
    if norm == 'l1' and room is not None:
        return gradient.sign() * _along(_fill, dims, gradient.abs(), room.clamp(0, 1))
    if norm == 'l1':
        top = gradient.sign() * (gradient.abs() == 1)
        return top / top.abs().sum(dim=dims, keepdim=True).clamp(min=1)
    length = torch.linalg.vector_norm(
        gradient, dim=_within_frame(norm, dims, frame_axis), keepdim=True
    )
    if norm == 'l21':
        top = length == length.amax(dim=dims, keepdim=True)
        gradient = gradient * top / top.sum(dim=dims, keepdim=True)
    return gradient / torch.where(length > 0, length, torch.ones_like(length))


def project(
    delta: Tensor,
    eps: float | Tensor,
    norm: str,
    dims: tuple[int, ...],
    room: Tensor | None = None,
    frame_axis: int | None = None,
) -> Tensor:
    """The nearest perturbation inside the ball ``||delta|| <= eps`` (the Π of TAF, eq. 6).

    Args:
        delta (Tensor): Perturbation of any shape.
        eps (float | Tensor): Radius, in the unit of ``delta``; a tensor broadcasts.
        norm (str): ``'linf'``, ``'l2'``, ``'l1'``, or ``'l21'``: the sum over the frames of their
            ℓ2 norms.
        dims (tuple[int, ...]): The axes that one norm runs over.
        room (Tensor, optional): For ``'l1'``, how far each entry may go in its direction; the
            result is then the nearest point in the ball and the box (Mind the box, proposition 1).
            Defaults to None: any distance.
        frame_axis (int, optional): For ``'l21'``, the axis of the frames, one of ``dims``.

    Returns:
        Tensor: The projected perturbation, unchanged if it was inside.
    """
    check_choice('norm', norm, NORMS)
    eps = torch.as_tensor(eps, dtype=delta.dtype, device=delta.device)
    if norm == 'linf':
        return torch.maximum(torch.minimum(delta, eps), -eps)
    if norm == 'l1':
        size = delta.abs()
        room = torch.full_like(size, torch.inf) if room is None else room.clamp(min=0)
        return delta.sign() * _along(_shrink, dims, size, room, eps.expand_as(size))
    length = torch.linalg.vector_norm(
        delta, dim=_within_frame(norm, dims, frame_axis), keepdim=True
    )
    safe = torch.where(length > 0, length, torch.ones_like(length))
    if norm == 'l2':
        return delta * (eps / safe).clamp(max=1)
    return delta * (project(length, eps, 'l1', dims) / safe)


def relative_size(perturbation: Tensor, clean: Tensor) -> Tensor:
    """``||R||_2 / ||X||_2`` of every sample, shape (B,); NaN, as undefined, where X is 0."""
    wide = torch.promote_types(clean.dtype, torch.float32)
    size = torch.linalg.vector_norm(perturbation.flatten(1), dim=1, dtype=wide)
    whole = torch.linalg.vector_norm(clean.flatten(1), dim=1, dtype=wide)
    return torch.where(whole > 0, size / torch.where(whole > 0, whole, 1.0), torch.nan)


def random_wrong_labels(
    labels: Tensor, num_classes: int, generator: torch.Generator | None = None
) -> Tensor:
    """Labels drawn uniformly from all classes but the true one (the random ŷ of TAF, section 3.2).

    Args:
        labels (Tensor): True labels, integers of shape (B,).
        num_classes (int): Number of classes, at least 2.
        generator (torch.Generator, optional): Random generator on the labels' device. Defaults to
            None: the global one.

    Returns:
        Tensor: Labels of the same shape, none equal to the true one.
    """
    if num_classes < 2:
        raise ValueError(f'a wrong label needs at least 2 classes, got num_classes={num_classes}')
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % num_classes


def expand_like(per_sample: Tensor, like: Tensor) -> Tensor:
    """View one value per sample, shape (B,), as (B, 1, ...), which broadcasts to ``like``."""
    return per_sample.view(-1, *[1] * (like.ndim - 1))


def _within_frame(norm: str, dims: tuple[int, ...], frame_axis: int | None) -> tuple[int, ...]:
    """The axes of an ℓ2 norm: all of ``'l2'``, those of one frame of ``'l21'``."""
    return tuple(axis for axis in dims if norm == 'l2' or axis != frame_axis)


def _along(rule: Callable[..., Tensor], dims: tuple[int, ...], *values: Tensor) -> Tensor:
    """Apply a rule along a last axis that the axes ``dims`` make up."""
    ndim = values[0].ndim
    order = [axis for axis in range(ndim) if axis not in dims] + sorted(dims)
    moved = [value.permute(order) for value in values]
    flat = rule(*(value.flatten(ndim - len(dims)) for value in moved))
    whole: Tensor = flat.view(moved[0].shape)
    return whole.permute([order.index(axis) for axis in range(ndim)])


def _fill(size: Tensor, room: Tensor) -> Tensor:
    """Divide a length of 1 among entries, the largest first, as each has room."""
    order = size.argsort(dim=-1, descending=True)
    room = room.masked_fill(size == 0, 0).gather(-1, order).double()
    rest = (1 - room.cumsum(dim=-1) + room).clamp(min=0)
    return torch.zeros_like(size).scatter(-1, order, room.minimum(rest).to(size.dtype))


def _shrink(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """``min(max(size - λ, 0), room)`` with the smallest λ ≥ 0 for which the sum is at most eps.

    The sum is linear in λ between the points where an entry starts or stops to count.
    """
    points = torch.cat([size, (size - room).clamp(min=0)], dim=-1).double()
    points, order = points.sort(dim=-1, descending=True)
    counted = torch.where(order < size.shape[-1], 1, -1).cumsum(dim=-1)
    gaps = points[..., :-1] - points[..., 1:]
    sums = F.pad((counted[..., :-1] * gaps).cumsum(dim=-1), (1, 0))
    last = ((sums < eps[..., :1]).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    point, total, slope = (values.gather(-1, last) for values in (points, sums, counted))
    shift = (point - (eps[..., :1] - total) / slope.clamp(min=1)).clamp(min=0).to(size.dtype)
    return (size - shift).clamp(min=0).minimum(room)
