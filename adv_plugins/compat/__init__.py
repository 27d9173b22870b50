"""What MMAction2 1.2.0 needs to run on today's Python, torch and setuptools.

MMAction2 1.2.0 and mmengine 0.10.7 are the latest releases, yet a fresh machine can neither import
``mmaction.models`` nor load a checkpoint with them. Each function here repairs one such break,
names the upstream issue, and does nothing where the cause is absent: with a stack that upstream has
fixed, all of them are skipped. A finder that is asked last stands in for missing modules, so that a
real module always wins, and ``torch.load`` keeps ``weights_only=True``.

:func:`apply_patches` applies what must be in place before the first ``import mmaction.models``,
which is why ``import adv_plugins`` calls it first. It reads files on disk and imports neither
mmengine nor MMAction2. The others are called where their host has been imported:
:func:`safe_globals` with mmengine; :func:`color_jitter`, :func:`bfloat16_scores`,
:func:`scores_by_modality` and :func:`tube_overlap` with MMAction2.
"""

from __future__ import annotations

from .checkpoints import safe_globals
from .installed import exists, mmaction_needed, mmaction_problem, naming_extra
from .methods import bfloat16_scores, color_jitter, scores_by_modality, tube_overlap
from .numpy_names import numpy_names
from .stand_ins import drn, importlib_metadata, pkg_resources, vindlu

__all__ = [
    'apply_patches',
    'bfloat16_scores',
    'color_jitter',
    'drn',
    'exists',
    'importlib_metadata',
    'mmaction_needed',
    'mmaction_problem',
    'naming_extra',
    'numpy_names',
    'pkg_resources',
    'safe_globals',
    'scores_by_modality',
    'tube_overlap',
    'vindlu',
]


def apply_patches() -> dict[str, bool]:
    """Apply every patch that MMAction2 needs before it can be imported.

    Safe to call again, and safe without mmengine or MMAction2: what is not needed is skipped.

    Returns:
        dict[str, bool]: For each patch by name, whether this call had something to do.
    """
    patches = (drn, importlib_metadata, numpy_names, pkg_resources, vindlu)
    return {patch.__name__: patch() for patch in patches}
