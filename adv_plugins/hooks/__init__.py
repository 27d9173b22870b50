"""mmengine hooks. They only decide when something happens; recipe and core define what happens."""

from ..compat import naming_extra as _naming_extra

with _naming_extra(__name__, 'mmaction', 'mmengine'):
    from .adversarial_hook import AdversarialHook
    from .early_stopping_hook import ResumableEarlyStoppingHook
    from .readable_log_hook import ReadableLogHook
    from .recipe_hooks import AARTHook, AdvPropHook, ARTHook, TAFHook
    from .visualization_hook import AdversarialVisualizationHook

__all__ = [
    'AARTHook',
    'ARTHook',
    'AdvPropHook',
    'AdversarialHook',
    'AdversarialVisualizationHook',
    'ReadableLogHook',
    'ResumableEarlyStoppingHook',
    'TAFHook',
]
