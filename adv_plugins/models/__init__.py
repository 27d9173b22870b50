"""Models for configs, registered in mmengine's root registry."""

from .adversarial_model import build_adversarial_model

__all__ = ['build_adversarial_model']
