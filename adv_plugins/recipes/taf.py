"""TAF (Duan et al., IJCAI 2023, arXiv 2304.14601) and its cross-entropy ablation."""

from __future__ import annotations

from typing import Any

from ..core.checks import check_choice
from ..core.functional import CAM_NORMALIZATIONS, CAM_SOURCES, CAM_WEIGHTINGS
from ..core.option_values import as_number
from ..core.recipe import Recipe, register_recipe
from ..objectives import TemporalCAM


@register_recipe(derives=('objective', 'clean_weight', 'adv_weight'))
def TAF(
    *,
    alpha: float = 0.7,
    eps: float = 64 / 255,
    step_size: float | None = 32 / 255,
    num_frames: int | None = None,
    cam_layer: str | None = None,
    cam_layout: str | None = None,
    cam_weighting: str = CAM_WEIGHTINGS[0],
    cam_normalize: str = CAM_NORMALIZATIONS[0],
    second_order: bool = True,
    cam_of: str = CAM_SOURCES[0],
    **options: Any,
) -> Recipe:
    """Temporal Video Adversarial Fine-tuning (TAF, eq. 2-7), for fine-tuning a trained model.

    Args:
        alpha (float): α of eq. 7, the weight of the clean losses; the adversarial ones get
            ``1 - alpha``. Defaults to 0.7.
        eps (float): ε. Defaults to 64/255.
        step_size (float): β. Defaults to 32/255.
        num_frames (int, optional): N of eq. 5. Defaults to None: all frames.
        cam_layer (str, optional): Dotted name of the layer whose output is F'. Defaults to
            None: found at the first batch, see :mod:`adv_plugins.core.cam_layer`.
        cam_layout (str, optional): Axes of that output as an einops pattern, such as
            ``'b (t h w) c; t=8 h=14'``. Defaults to None: found at the first batch.
        cam_weighting (str): ``'gap'`` or ``'elementwise'``. Defaults to ``'gap'``.
        cam_normalize (str): ``'minmax'`` or ``'max'``. Defaults to ``'minmax'``.
        second_order (bool): Whether the CAM's channel weights are differentiated. Defaults to
            True.
        cam_of (str): ``'loss'``: the map is that of the cross-entropy at ŷ, as eq. 2 is printed;
            ``'score'``: that of the class score of ŷ, as in GradCAM. See
            :class:`adv_plugins.TemporalCAM`. Defaults to ``'loss'``.
        **options: The other options of :class:`adv_plugins.Recipe`, except ``objective`` and the
            weights.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> custom_hooks = [dict(type='TAFHook', alpha=0.7, eps=64 / 255, step_size=32 / 255)]
    """
    check_choice('cam_weighting', cam_weighting, CAM_WEIGHTINGS)
    check_choice('cam_normalize', cam_normalize, CAM_NORMALIZATIONS)
    check_choice('cam_of', cam_of, CAM_SOURCES)
    objective = TemporalCAM(
        num_frames=num_frames,
        cam_layer=cam_layer,
        cam_layout=cam_layout,
        weighting=cam_weighting,
        normalize=cam_normalize,
        second_order=second_order,
        cam_of=cam_of,
    )
    return _fine_tuning(objective, alpha, eps=eps, step_size=step_size, **options)


@register_recipe(derives=('objective', 'clean_weight', 'adv_weight'))
def CEAugmentation(
    *,
    alpha: float = 0.7,
    eps: float = 64 / 255,
    step_size: float | None = 32 / 255,
    **options: Any,
) -> Recipe:
    """TAF with the training loss as objective: the CE-based row of TAF, table 2a.

    Args:
        alpha (float): Weight of the clean losses; the adversarial ones get ``1 - alpha``.
            Defaults to 0.7.
        eps (float): ε. Defaults to 64/255.
        step_size (float): β. Defaults to 32/255.
        **options: The other options of :class:`adv_plugins.Recipe`, except ``objective`` and the
            weights.

    Returns:
        Recipe: The recipe.

    Raises:
        ValueError: An option has a value that is not allowed.

    Example:
        >>> model = make_adversarial(model, 'ceaugmentation', eps=6 / 255)
    """
    return _fine_tuning('TrainingLoss', alpha, eps=eps, step_size=step_size, **options)


def _fine_tuning(objective: Any, alpha: float, **options: Any) -> Recipe:
    """Eq. 7: the clean losses have weight α, the adversarial ones 1 - α."""
    alpha = as_number('alpha', alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha={alpha} must lie in [0, 1], the paper has alpha=0.7')
    return Recipe(objective=objective, clean_weight=alpha, adv_weight=1 - alpha, **options)
