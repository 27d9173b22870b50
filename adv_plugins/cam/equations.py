"""The class activation maps of TAF and their loss (TAF, eq. 2-5), as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import check_choice

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
