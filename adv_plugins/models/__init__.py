"""Models for use in configs, registered in mmengine's root registry."""

from ..compat import bfloat16_scores as _bfloat16_scores
from ..compat import mmaction_needed as _mmaction_needed
from ..compat import mmaction_problem as _mmaction_problem
from ..compat import naming_extra as _naming_extra
from ..compat import scores_by_modality as _scores_by_modality

with _naming_extra(__name__, 'mmaction', 'mmengine'):
    from .adversarial_model import build_adversarial_model
    from .feature_inference import FeatureInference
    from .feature_preprocessor import FeaturePreprocessor
    from .feature_transformer import FeatureTransformer

# Under the name that configs give it, for those that import what they name.
AdversarialModel = build_adversarial_model

__all__ = [
    'AdversarialModel',
    'FeatureInference',
    'FeaturePreprocessor',
    'FeatureTransformer',
    'build_adversarial_model',
]

_NEED_MMACTION = (
    'BLVNetTAM',
    'GroupedSpatiotemporalConv',
    'ResNetGST',
    'ResNetTAM',
    'TemporalAggregation',
)

if _mmaction_problem() is None:
    # Built on MMAction2's ResNet and its blocks.
    from .blvnet_tam import BLVNetTAM  # noqa: F401
    from .resnet_gst import GroupedSpatiotemporalConv, ResNetGST  # noqa: F401
    from .resnet_tam import ResNetTAM, TemporalAggregation  # noqa: F401

    __all__ += _NEED_MMACTION
    _bfloat16_scores()
    _scores_by_modality()


def __getattr__(name: str) -> object:
    if name in _NEED_MMACTION:
        raise _mmaction_needed(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
