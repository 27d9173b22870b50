"""Attacks that measure robustness: from random noise to Auto-PGD and a black box.

The attacks of training are in :mod:`adv_plugins.core.attack`. An evaluation demands more: the best
input that was tried is kept, an attack stops at a sample once it is fooled, and the result for a
sample does not depend on its batch. As in training, perturbations are measured in pixel units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.options import build
from .apgd import APGD
from .base import UNIT, Attack
from .gradient import FGSM, PGD
from .losses import margins
from .noise import UniformNoise
from .search import LogitsFn
from .square import Square

__all__ = [
    'APGD',
    'ATTACKS',
    'FGSM',
    'PGD',
    'UNIT',
    'Attack',
    'LogitsFn',
    'Square',
    'UniformNoise',
    'build_attack',
    'margins',
]

ATTACKS: dict[str, type[Attack]] = {
    kind.__name__: kind for kind in (UniformNoise, FGSM, PGD, APGD, Square)
}
"""The attacks by name."""


def build_attack(attack: Attack | str | Mapping[str, Any], **options: Any) -> Attack:
    """An attack from a name, a config dict or an attack.

    Args:
        attack (Attack | str | Mapping): An attack, its name in any case (``'pgd'``), or
            ``dict(type='PGD', **options)``.
        **options: Options of the attack; not together with a ready one.

    Returns:
        Attack: The attack.

    Raises:
        ValueError: Unknown attack or option; the message has the near matches.

    Example:
        >>> build_attack(dict(type='PGD', eps=4 / 255, steps=20))
    """
    built: Attack = build('attack', Attack, ATTACKS, attack, **options)
    return built
