"""Models for configs, registered in mmengine's root registry."""

from .adversarial_model import build_adversarial_model
from .feature_preprocessor import FeaturePreprocessor
from .feature_transformer import FeatureInference, FeatureTransformer

__all__ = [
    'FeatureInference',
    'FeaturePreprocessor',
    'FeatureTransformer',
    'build_adversarial_model',
]
