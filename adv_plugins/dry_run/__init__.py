"""A dry run: do everything that training does before its first update, and report all problems."""

from ..compat import naming_extra as _naming_extra

with _naming_extra(__name__, 'mmaction', 'mmengine'):
    from .runner import DryRunner

__all__ = ['DryRunner']
