"""The papers' equations, each as a pure tensor function.

The functions need no model, trainer or random state. They are differentiable wherever the papers
differentiate them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_choice

NORMS = ('linf', 'l2')
CAM_WEIGHTINGS = ('gap', 'elementwise')
CAM_NORMALIZATIONS = ('minmax', 'max')
CAM_SOURCES = ('loss', 'score')


def temporal_cam(features: Tensor, gradients: Tensor, weighting: str = 'gap') -> Tensor:
    """Class activation map of every frame (TAF, eq. 2).

    ``CAM_t = sum_c w_tc F'_tc`` without a ReLU, where ``w_tc`` is the gradient averaged over height
    and width, for each frame and channel.

    Args:
        features (Tensor): The feature maps F', shape (B, T, C, H, W).
        gradients (Tensor): The gradient with respect to ``features``, same shape: of the
            cross-entropy at ŷ, as eq. 2 is printed, or of the class score of ŷ, as in GradCAM.
        weighting (str): ``'gap'`` pools the gradient over height and width first, as GradCAM
            does; ``'elementwise'`` multiplies gradient and feature at each position, which is the
            literal reading of eq. 2. Defaults to ``'gap'``.

    Returns:
        Tensor: The maps, shape (B, T, H, W).

    Raises:
        ValueError: Shapes differ or are not five-dimensional, or ``weighting`` is unknown.
    """
    if features.ndim != 5 or features.shape != gradients.shape:
        raise ValueError(
            'temporal_cam takes features and gradients of one shape (B, T, C, H, W), got '
            f'{tuple(features.shape)} and {tuple(gradients.shape)}'
        )
    check_choice('weighting', weighting, CAM_WEIGHTINGS)
    if weighting == 'gap':
        gradients = gradients.mean(dim=(3, 4), keepdim=True)
    return (gradients * features).sum(dim=2)


def temporal_cam_loss(
    cam: Tensor, num_frames: int | None = None, normalize: str = 'minmax'
) -> Tensor:
    """How much attention the non-key frames receive (TAF, eq. 3-5).

    The maps are normalised over the whole clip, the ``num_frames`` frames with the smallest sum
    are the non-key frames, and the loss is the mean of their maps. Gradient ascent on it moves
    attention to the frames that the model neglects.

    Args:
        cam (Tensor): The maps of :func:`temporal_cam`, shape (B, T, H, W).
        num_frames (int, optional): N of eq. 5, between 1 and T. Defaults to None: all frames.
        normalize (str): ``'minmax'`` divides by ``max - min``; ``'max'`` divides by ``max``, as
            printed in eq. 3. Defaults to ``'minmax'``.

    Returns:
        Tensor: One loss per clip, shape (B,). A clip with a constant map has loss 0 and a finite
        gradient.

    Raises:
        ValueError: ``cam`` is not (B, T, H, W), ``num_frames`` is outside 1..T, or
            ``normalize`` is unknown.
    """
    if cam.ndim != 4:
        raise ValueError(f'temporal_cam_loss takes maps (B, T, H, W), got {tuple(cam.shape)}')
    length = cam.shape[1]
    if num_frames is not None and not 1 <= num_frames <= length:
        raise ValueError(
            f'num_frames={num_frames} is not between 1 and the {length} frames of the feature '
            f'map; write num_frames={length}, or num_frames=None for all frames'
        )
    check_choice('normalize', normalize, CAM_NORMALIZATIONS)
    lowest = cam.amin(dim=(1, 2, 3), keepdim=True)
    highest = cam.amax(dim=(1, 2, 3), keepdim=True)
    span = highest - lowest if normalize == 'minmax' else highest
    # A constant map has span 0; dividing by one keeps its gradient finite.
    span = torch.where(span != 0, span, torch.ones_like(span))
    frames = ((cam - lowest) / span).mean(dim=(2, 3))
    return frames.topk(num_frames or length, dim=1, largest=False).values.mean(dim=1)


def ascent_direction(gradient: Tensor, norm: str, dims: tuple[int, ...]) -> Tensor:
    """The steepest unit step of a norm (TAF, eq. 6; A-ART, eq. 4).

    Args:
        gradient (Tensor): Gradient of the objective with respect to the perturbation.
        norm (str): ``'linf'`` gives ``sign(g)``, ``'l2'`` gives ``g / ||g||_2``.
        dims (tuple[int, ...]): The axes that one norm runs over.

    Returns:
        Tensor: The direction, of norm 1; 0 where the gradient is 0.
    """
    check_choice('norm', norm, NORMS)
    if norm == 'linf':
        return gradient.sign()
    # Dividing by the largest entry first keeps the squares of small gradients from vanishing.
    largest = gradient.abs().amax(dim=dims, keepdim=True)
    gradient = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))
    length = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True)
    return gradient / torch.where(length > 0, length, torch.ones_like(length))


def project(delta: Tensor, eps: float | Tensor, norm: str, dims: tuple[int, ...]) -> Tensor:
    """The nearest perturbation inside the ball ``||delta|| <= eps`` (the Π of TAF, eq. 6).

    Args:
        delta (Tensor): Perturbation of any shape.
        eps (float | Tensor): Radius, in the unit of ``delta``; a tensor broadcasts.
        norm (str): ``'linf'`` or ``'l2'``.
        dims (tuple[int, ...]): The axes that one norm runs over.

    Returns:
        Tensor: The projected perturbation, unchanged if it was inside.
    """
    check_choice('norm', norm, NORMS)
    if norm == 'linf':
        return torch.maximum(torch.minimum(delta, _like(eps, delta)), -_like(eps, delta))
    length = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
    shrink = _like(eps, delta) / torch.where(length > 0, length, torch.ones_like(length))
    return delta * shrink.clamp(max=1)


def relative_size(perturbation: Tensor, clean: Tensor) -> Tensor:
    """``||R||_2 / ||X||_2`` of every sample, shape (B,); NaN, as undefined, where X is 0."""
    wide = torch.promote_types(clean.dtype, torch.float32)
    size = torch.linalg.vector_norm(perturbation.flatten(1), dim=1, dtype=wide)
    whole = torch.linalg.vector_norm(clean.flatten(1), dim=1, dtype=wide)
    return torch.where(whole > 0, size / torch.where(whole > 0, whole, 1.0), torch.nan)


def attention_frobenius(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Distance of two attention maps, ``||A - A_adv||_F``, not squared (A-ART, section 2.2).

    Args:
        a (Tensor): Attention maps, averaged over heads, shape (B, T, T); or (B, W, T, T) for W
            blocks (windows, frames) of attention per sample, which count as one matrix.
        b (Tensor): The maps to compare with, same shape.
        mask (Tensor, optional): Boolean, True for valid frames, shape (B, T) or (B, W, T). Only
            entries with a valid query and a valid key count. Defaults to None: all are valid.

    Returns:
        Tensor: One norm per sample, shape (B,), with gradient 0 where both maps are equal.

    Raises:
        ValueError: Shapes do not fit.
    """
    if a.shape != b.shape or a.ndim < 3:
        raise ValueError(
            'attention_frobenius takes two maps of one shape (B, T, T), got '
            f'{tuple(a.shape)} and {tuple(b.shape)}'
        )
    difference = (a - b).masked_fill(~_valid_block(a, mask), 0)
    distance: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1)
    return distance


def attention_mse(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of two maps over their valid entries (A-ART, section 3.2.2).

    Args:
        a (Tensor): Attention maps, shaped as in :func:`attention_frobenius`.
        b (Tensor): The maps to compare with.
        mask (Tensor, optional): True for valid frames. Defaults to None: all are valid.

    Returns:
        Tensor: One mean per sample, shape (B,); 0 for a sample without a valid frame.
    """
    entries = _valid_block(a, mask).expand(a.shape).flatten(1).sum(dim=1)
    return attention_frobenius(a, b, mask).square() / entries.clamp(min=1)


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


def _valid_block(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Where both query and key are valid, broadcastable to the maps."""
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=maps.device)
    if mask.shape != maps.shape[:-1] or maps.shape[-1] != maps.shape[-2]:
        raise ValueError(
            f'a mask of the shape {tuple(mask.shape)} does not fit square maps '
            f'{tuple(maps.shape)}; it needs one entry per frame: {tuple(maps.shape[:-1])}'
        )
    return mask.unsqueeze(-1) & mask.unsqueeze(-2)


def _like(eps: float | Tensor, delta: Tensor) -> Tensor:
    return torch.as_tensor(eps, dtype=delta.dtype, device=delta.device)
