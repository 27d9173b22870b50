"""One hook per recipe: ``custom_hooks=[dict(type='TAFHook')]``."""

from __future__ import annotations

from typing import Any

from mmengine.registry import HOOKS

from .adversarial_hook import AdversarialHook


@HOOKS.register_module()
class TAFHook(AdversarialHook):
    """Fine-tune a trained recognizer with TAF (TAF, eq. 2-7).

    Args:
        by_epoch (bool): Whether ``begin`` and ``end`` count epochs. Defaults to True.
        **options: Options of :class:`adv_plugins.TAF`: ``alpha=0.7``, ``eps=64/255``,
            ``step_size=32/255``, ``steps=1``, ``num_frames=None`` (all), ``cam_layer=None``
            (last stage), ``dual_bn=True``, ``begin=0``, ``end=None``, ``interval=1``,
            ``fraction=1.0`` and the others.

    Example:
        >>> custom_imports = dict(imports=['adv_plugins'], allow_failed_imports=False)
        >>> custom_hooks = [dict(type='TAFHook')]
        >>> load_from = 'the_trained_recognizer.pth'
    """

    def __init__(self, by_epoch: bool = True, **options: Any) -> None:
        super().__init__(dict(type='TAF', **options), by_epoch)


@HOOKS.register_module()
class ARTHook(AdversarialHook):
    """Train a model on features adversarially with ART (A-ART, eq. 2-4).

    Args:
        by_epoch (bool): Whether ``begin`` and ``end`` count epochs. Defaults to True.
        **options: Options of :class:`adv_plugins.ART`: ``eps=0.5``, ``alpha=1.0``,
            ``steps=1``, ``dims=None`` (one ball per video and modality), ``joint=False`` and the
            others.

    Example:
        >>> custom_hooks = [dict(type='ARTHook', eps=0.5, alpha=1.0)]
    """

    def __init__(self, by_epoch: bool = True, **options: Any) -> None:
        super().__init__(dict(type='ART', **options), by_epoch)


@HOOKS.register_module()
class AARTHook(AdversarialHook):
    """Train a Transformer on features with A-ART: ART plus attention-map regularisation.

    Args:
        by_epoch (bool): Whether ``begin`` and ``end`` count epochs. Defaults to True.
        **options: Options of :class:`adv_plugins.AART`: those of :class:`ARTHook`,
            ``beta=0.001`` and ``attention=None`` (all attention modules).

    Example:
        >>> custom_hooks = [dict(type='AARTHook', eps=0.5, alpha=1.0, beta=0.001)]
    """

    def __init__(self, by_epoch: bool = True, **options: Any) -> None:
        super().__init__(dict(type='AART', **options), by_epoch)


@HOOKS.register_module()
class AdvPropHook(AdversarialHook):
    """Train a recognizer with AdvProp (Xie et al., CVPR 2020).

    Args:
        by_epoch (bool): Whether ``begin`` and ``end`` count epochs. Defaults to True.
        **options: Options of :class:`adv_plugins.AdvProp`: ``eps=4/255``,
            ``step_size=1/255``, ``steps=5``, ``dual_bn=True`` and the others.

    Example:
        >>> custom_hooks = [dict(type='AdvPropHook', steps=1)]
    """

    def __init__(self, by_epoch: bool = True, **options: Any) -> None:
        super().__init__(dict(type='AdvProp', **options), by_epoch)
