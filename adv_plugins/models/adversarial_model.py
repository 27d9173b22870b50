"""``model=dict(type='AdversarialModel', ...)``: a converted model from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.dist import is_distributed
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from ..core.conversion import make_adversarial


@MODELS.register_module(name='AdversarialModel')
def build_adversarial_model(
    model: Mapping[str, Any] | nn.Module, recipe: Mapping[str, Any] | str = 'advprop'
) -> nn.Module:
    """Build a recognizer and convert it; the result is the recognizer itself.

    Its checkpoint keys are those of the recognizer. Add
    ``custom_hooks=[dict(type='AdversarialHook')]`` for schedules in epochs and to keep the
    adversarial state in checkpoints.

    Args:
        model (Mapping | nn.Module): The recognizer or its config.
        recipe (Mapping | str): The config of the recipe, or its name. Defaults to ``'advprop'``.

    Returns:
        nn.Module: ``make_adversarial(recognizer, recipe)``.

    Example:
        >>> model = dict(
        ...     type='AdversarialModel',
        ...     model=dict(type='Recognizer2D', backbone=..., cls_head=...),
        ...     recipe=dict(type='TAF', eps=6 / 255))
    """
    inner = model if isinstance(model, nn.Module) else MODELS.build(dict(model))
    if not is_distributed():
        # Otherwise the Runner would replace SyncBN later, and the auxiliary norms with it.
        inner = revert_sync_batchnorm(inner)
    return make_adversarial(inner, recipe)
