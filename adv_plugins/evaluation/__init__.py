"""How accurate and how robust a model is: metrics, attacks, and whole evaluations.

More on attacks, and the base class of your own, is in :mod:`adv_plugins.evaluation.attacks`;
corruptions are in :mod:`adv_plugins.datasets.corruptions`.
"""

from ..compat import exists as _exists
from ..compat import mmaction_needed as _mmaction_needed
from ..compat import mmaction_problem as _mmaction_problem
from ..compat import naming_extra as _naming_extra
from ..compat import tube_overlap as _tube_overlap
from .attacks import (
    APGD,
    FGSM,
    PGD,
    APGDTargeted,
    DeepFoolTargeted,
    Square,
    StandardEnsemble,
    UniformNoise,
    Universal,
    build_attack,
    universal_perturbation,
)
from .cam import attention_entropy, frame_attention, gradcam
from .cells import Cell, Flag
from .comparison import Comparison, compare
from .deepfool import DeepFoolResult, deepfool, robustness, robustness_summary
from .intervals import paired_bootstrap
from .pages import markdown
from .ranking import (
    global_average_precision,
    hit_at_one,
    mean_average_precision,
    precision_at_equal_recall_rate,
)
from .ranking_summary import RankingSummary
from .results import Robustness
from .sanity import flags

__all__ = [
    'APGD',
    'FGSM',
    'PGD',
    'APGDTargeted',
    'Cell',
    'Comparison',
    'DeepFoolResult',
    'DeepFoolTargeted',
    'Flag',
    'RankingSummary',
    'Robustness',
    'Square',
    'StandardEnsemble',
    'UniformNoise',
    'Universal',
    'attention_entropy',
    'build_attack',
    'compare',
    'deepfool',
    'flags',
    'frame_attention',
    'global_average_precision',
    'gradcam',
    'hit_at_one',
    'markdown',
    'mean_average_precision',
    'paired_bootstrap',
    'precision_at_equal_recall_rate',
    'robustness',
    'robustness_summary',
    'universal_perturbation',
]

_NEED_MMENGINE = ('AdversarialTestLoop', 'AdversarialValLoop', 'YT8MMetric')

if _exists('mmengine'):
    from .loops import AdversarialTestLoop, AdversarialValLoop  # noqa: F401
    from .yt8m_metric import YT8MMetric  # noqa: F401 (registers what configs name)

    __all__ += _NEED_MMENGINE

if _mmaction_problem() is None:
    from .robustness_loop import RobustnessTestLoop  # noqa: F401 (needs mmcv and SciPy as well)

    __all__ += ['RobustnessTestLoop']
    _tube_overlap()


def __getattr__(name: str) -> object:
    if name in _NEED_MMENGINE:
        with _naming_extra(f'{__name__}.{name}', 'mmaction', 'mmengine'):
            from . import loops, yt8m_metric  # noqa: F401
    if name == 'RobustnessTestLoop':
        raise _mmaction_needed(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
