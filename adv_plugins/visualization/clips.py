"""Where a recognizer looks in a clip, and how an attack changes it.

MMAction2's own CAM tool predicts in test mode, in which TPN's head cannot be differentiated, and
does not support Transformers. Here scores are computed as for the loss, and the layer comes from
:mod:`adv_plugins.adapters.cam_layers`, so that all families are treated alike. The pictures are
drawn by :mod:`adv_plugins.visualization.clip_pictures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from ..adapters.mmaction import RecognizerAdapter, fresh_pool
from ..core.adapter import adapter_class
from ..core.attacker import Attacker
from ..core.batch import Batch
from ..core.checks import check_choice
from ..core.randomness import stream_seed
from ..core.recipe import Recipe, build_recipe
from ..evaluation.cam import frame_attention, gradcam

Attack = Callable[[Tensor, Any], Tensor]
"""``attack(inputs, data_samples)`` returns adversarial inputs of the shape of ``inputs``."""
CAM_OF = ('label', 'predicted', 'both')
GREY_LEVELS = 255.0


@dataclass(frozen=True, eq=False)
class Look:
    """Where a recognizer looks in one clip of T frames of H x W pixels.

    Args:
        frames (ndarray): The frames, uint8 RGB, shape (T, H, W, 3).
        cam (ndarray): The evidence for ``cam_class`` at every pixel, float32, shape (T, H, W), not
            negative, in the units of :func:`adv_plugins.evaluation.gradcam`.
        attention (ndarray): The share of that evidence in each frame, float32, shape (T,), summing
            to 1; NaN where there is no evidence.
        label (int): The true class.
        predicted (int): The class with the highest score.
        score (float): Its probability, between 0 and 1.
        cam_class (int): The class whose evidence is shown.
        adversarial (Look, optional): The same for the adversarial clip. Defaults to None: there
            was no attack.
        predicted_cam (ndarray, optional): The evidence for ``predicted``, in the form and units of
            ``cam``. Defaults to None: it was not asked for, or ``cam`` is of that class.
        perturbation (ndarray, optional): What the attack added, in grey levels before the
            adversarial frames were rounded, float32, shape (T, H, W, 3). Defaults to None.
    """

    frames: NDArray[np.uint8]
    cam: NDArray[np.float32]
    attention: NDArray[np.float32]
    label: int
    predicted: int
    score: float
    cam_class: int
    adversarial: Look | None = None
    predicted_cam: NDArray[np.float32] | None = None
    perturbation: NDArray[np.float32] | None = None


def look(
    model: nn.Module,
    inputs: Tensor,
    data_samples: Any,
    attack: Attack | None = None,
    cam_of: str = 'label',
    cam_layer: str | None = None,
    cam_layout: str | None = None,
) -> list[Look]:
    """Find where a model looks in each clip of a batch, clean and attacked. The model stays as it
    is.

    Of several views of a video (clips or crops) the middle one is used and attacked. For 2-D
    recognizers the number of frames in a view is the ``num_segments`` of the backbone or head; a
    model without one averages over all frames, which then are one view.

    Args:
        model (nn.Module): An MMAction2 recognizer in eval mode, converted or not.
        inputs (Tensor): A batch of RGB clips as it leaves the data preprocessor: (B, V*T, 3, H, W)
            for 2-D recognizers, (B, V, 3, T, H, W) for 3-D recognizers.
        data_samples (list): Their data samples, with one hard label each.
        attack (Callable, optional): ``attack(inputs, data_samples)`` returns the adversarial
            inputs; see :func:`recipe_attack`. Defaults to None: clean clips only.
        cam_of (str): The class whose evidence is shown: ``'label'``, the true class, for both the
            clean and the adversarial clip; ``'predicted'``, the predicted class of each of them;
            or ``'both'``, the true class, and where the prediction is wrong that as well. TAF's
            option of the same name is about its attack. Defaults to ``'label'``.
        cam_layer (str, optional): Dotted name of the layer whose maps are shown. Defaults to
            None: found.
        cam_layout (str, optional): Axes of its output, see
            :func:`adv_plugins.core.capture.to_frames`. Defaults to None: found.

    Returns:
        list[Look]: One for each clip.

    Raises:
        ValueError: The model is in training mode, the clips are not RGB frames, the labels are
            soft, or the layer is unknown or has no time axis.
        TypeError: The model is not a recognizer.

    Example:
        >>> data = model.data_preprocessor(pseudo_collate([dataset[0]]), False)
        >>> attack = recipe_attack(model, 'taf')
        >>> (seen,) = look(model, data['inputs'], data['data_samples'], attack)
        >>> contact_sheet(seen, dataset.metainfo['classes']).savefig('seen.png')
    """
    check_choice('cam_of', cam_of, CAM_OF)
    if model.training:
        raise ValueError('look needs a model in eval mode; call model.eval() first')
    adapter = recognizer_adapter(model)
    inputs = middle_view(model, inputs)

    def look_at(clips: Tensor) -> list[Look]:
        with torch.no_grad():
            record = adapter.forward(Batch(clips), data_samples)
        labels = record.hard_labels('a look at a clip')
        scores, predicted = record.logits.softmax(dim=1).max(dim=1)
        classes = predicted if cam_of == 'predicted' else labels
        frames = _pixels(adapter, clips)

        def maps_of(chosen: Tensor) -> Tensor:
            return gradcam(model, clips, data_samples, chosen, cam_layer, cam_layout)

        def pixelwise(maps: Tensor) -> NDArray[np.float32]:
            return upsample(maps, frames.shape[1:4]).cpu().numpy()

        maps = maps_of(classes)
        attention = spread(frame_attention(maps).cpu().numpy(), frames.shape[1])
        pixels = frames.round().clamp(0, GREY_LEVELS).byte().cpu().numpy()
        numbers = (x.tolist() for x in (labels, predicted, scores, classes))
        rows = zip(pixels, pixelwise(maps), attention, *numbers, strict=True)
        looks = [Look(*row) for row in rows]
        if cam_of != 'both' or bool((predicted == labels).all()):
            return looks
        others = pixelwise(maps_of(predicted))
        return [
            clip if clip.predicted == clip.label else replace(clip, predicted_cam=other)
            for clip, other in zip(looks, others, strict=True)
        ]

    with fresh_pool(model):
        clean = look_at(inputs)
        if attack is None:
            return clean
        adversarial_inputs = attack(inputs, data_samples)
        adversarial = look_at(adversarial_inputs)
    added = _pixels(adapter, adversarial_inputs) - _pixels(adapter, inputs)
    return [
        replace(before, adversarial=after, perturbation=perturbation)
        for before, after, perturbation in zip(clean, adversarial, added.cpu().numpy(), strict=True)
    ]


def recipe_attack(model: nn.Module, recipe: Recipe | str | Mapping[str, Any]) -> Attack:
    """The attack of a recipe on a model as it is deployed, for :func:`look`.

    The model is not converted; a converted one is attacked on its clean path. Random starts and
    labels are the same in every call.

    Args:
        model (nn.Module): A recognizer; it must be in eval mode whenever it is attacked.
        recipe (Recipe | str | Mapping): A recipe, its name (``'taf'``), or a config dict with
            its ``type``.

    Returns:
        Callable: ``attack(inputs, data_samples)``.

    Raises:
        ValueError: An unknown recipe, option or layer.
        TypeError: The model is not a recognizer.
    """
    attacker = Attacker(recognizer_adapter(model), build_recipe(recipe))
    return partial(attacker.perturb, seed=stream_seed(0))


def middle_view(model: nn.Module, inputs: Tensor) -> Tensor:
    """The middle one of the views of each video.

    Args:
        model (nn.Module): A recognizer.
        inputs (Tensor): RGB clips, (B, V*T, 3, H, W) or (B, V, 3, T, H, W).

    Returns:
        Tensor: Shape (B, T, 3, H, W) or (B, 1, 3, T, H, W).

    Raises:
        ValueError: The inputs are not such clips.
    """
    shape = getattr(inputs, 'shape', ())
    if len(shape) not in (5, 6) or shape[2] != 3:
        got = tuple(shape) or type(inputs).__name__
        raise ValueError(
            'a look needs RGB clips as they leave the data preprocessor, (B, T, 3, H, W) or '
            f'(B, V, 3, T, H, W), got {got}'
        )
    if len(shape) == 6:
        middle = shape[1] // 2
        return inputs[:, middle : middle + 1].contiguous()
    parts = (getattr(model, 'backbone', None), getattr(model, 'cls_head', None))
    lengths = (getattr(part, 'num_segments', None) for part in parts)
    length = next(filter(None, lengths), shape[1])
    if shape[1] % length:
        raise ValueError(
            f'clips of {shape[1]} frames do not consist of views of num_segments={length} frames; '
            'write num_clips of SampleFrames and num_segments of the model alike'
        )
    views = inputs.unflatten(1, (-1, length))
    # Recognizers call view on their inputs.
    return views[:, views.shape[1] // 2].contiguous()


def upsample(maps: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Maps enlarged to the size of their frames, in time and space (trilinear).

    Args:
        maps (Tensor): Shape (B, T', h, w).
        size (tuple[int, int, int]): T, H and W.

    Returns:
        Tensor: Shape (B, T, H, W), float32.
    """
    return F.interpolate(maps[:, None].float(), tuple(size), mode='trilinear')[:, 0]


def spread(attention: NDArray[Any], num_frames: int) -> NDArray[np.float32]:
    """Shares of the time steps of a feature map as shares of the frames that they cover.

    Args:
        attention (ndarray): Shares of T' steps of equal length, shape (B, T').
        num_frames (int): T.

    Returns:
        ndarray: Shape (B, T), float32: each share is divided evenly among its frames.
    """
    steps = attention.shape[1]
    edges = np.linspace(0, steps, num_frames + 1)
    sums = np.pad(attention.cumsum(axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    cumulative = np.stack([np.interp(edges, np.arange(steps + 1), row) for row in sums])
    return np.diff(cumulative, axis=1).astype(np.float32)


def recognizer_adapter(model: nn.Module) -> RecognizerAdapter:
    """The adapter of a recognizer.

    Raises:
        TypeError: The model is not a recognizer.
    """
    kind = adapter_class(model)
    if not issubclass(kind, RecognizerAdapter):
        raise TypeError(
            f'a look needs an MMAction2 recognizer, got {type(model).__name__}; for the maps of '
            'another model call gradcam'
        )
    return kind(model)


def _pixels(adapter: RecognizerAdapter, inputs: Tensor) -> Tensor:
    """The grey levels of normalised clips, shape (B, T, H, W, 3), not rounded."""
    space = adapter.space(inputs, '')
    grey = (inputs.detach() - space.low) / space.scale * GREY_LEVELS
    pattern = 'b t c h w' if grey.ndim == 5 else 'b 1 c t h w'
    return rearrange(grey, f'{pattern} -> b t h w c')
