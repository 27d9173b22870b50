"""Where a model looks: class activation maps over video."""

from .cam import attention_entropy, frame_attention, gradcam

__all__ = ['attention_entropy', 'frame_attention', 'gradcam']
