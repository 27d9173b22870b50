"""The former place of what :mod:`adv_plugins.evaluation.cam` measures."""

from ..evaluation.cam import attention_entropy, frame_attention, gradcam

__all__ = ['attention_entropy', 'frame_attention', 'gradcam']
