"""Attacks that measure robustness: from random noise to Auto-PGD and a black box.

The attacks of training are in :mod:`adv_plugins.core.attack`. An evaluation demands more: the best
input that was tried is kept, an attack stops at a sample once it is fooled, and the result for a
sample does not depend on its batch. As in training, perturbations are measured in pixel units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from ...core.options import build
from .apgd import APGD
from .base import UNIT, Attack
from .ensemble import StandardEnsemble
from .gradient import FGSM, PGD
from .losses import margins
from .noise import UniformNoise
from .search import LogitsFn
from .square import Square
from .targeted import APGDTargeted, DeepFoolTargeted
from .universal import Universal, UniversalPerturbation, universal_perturbation

__all__ = [
    'APGD',
    'ATTACKS',
    'APGDTargeted',
    'DeepFoolTargeted',
    'FGSM',
    'PGD',
    'UNIT',
    'Attack',
    'LogitsFn',
    'Square',
    'StandardEnsemble',
    'UniformNoise',
    'Universal',
    'UniversalPerturbation',
    'attack_class',
    'build_attack',
    'kept_name',
    'margins',
    'part_names',
    'universal_perturbation',
]

ATTACKS: dict[str, type[Attack]] = {
    kind.__name__: kind
    for kind in (
        UniformNoise,
        FGSM,
        PGD,
        APGD,
        APGDTargeted,
        DeepFoolTargeted,
        Square,
        StandardEnsemble,
        Universal,
    )
}
"""The attacks by name."""


def attack_class(kind: object) -> type[Attack] | None:
    """The attack that a ``type`` means, as results may name it; nothing is imported for it.

    Args:
        kind (object): The name of an attack, in any case and with or without underscores, the
            dotted path of its class, or the class itself.

    Returns:
        type: The class, or None if no attack is meant.
    """
    if isinstance(kind, type):
        return kind if issubclass(kind, Attack) else None
    text = str(kind)
    # One of the user's own, as results name it.
    own = next((each for each in _subclasses(Attack) if kept_name(each) == text), None)
    name = text.rpartition('.')[2].lower().replace('_', '')
    return own or {known.lower(): attack for known, attack in ATTACKS.items()}.get(name)


def kept_name(kind: Callable[..., Any]) -> str:
    """The text by which results keep a class, or a function: its name if it is one of ``ATTACKS``,
    else its dotted path."""
    known = ATTACKS.get(kind.__name__) is kind
    return kind.__name__ if known else f'{kind.__module__}.{kind.__qualname__}'


def part_names(options: Mapping[str, Any]) -> list[str]:
    """The names of the parts of an ensemble.

    Args:
        options (Mapping[str, Any]): Its type and options; others among them do no harm.

    Returns:
        list[str]: The names in their order; none if it is no ensemble, or one whose class has not
        been imported.
    """
    kind = attack_class(options.get('type'))
    if kind is None or not issubclass(kind, StandardEnsemble):
        return []
    own = {field.name for field in fields(kind)}
    return kind(**{name: options[name] for name in options if name in own}).part_names


def _subclasses(kind: type[Attack]) -> Iterator[type[Attack]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def build_attack(attack: Attack | str | type | Mapping[str, Any], **options: Any) -> Attack:
    """An attack from a name, a class, a config dict or an attack.

    Args:
        attack (Attack | str | type | Mapping): An attack, its name in any case (``'pgd'``), its
            class, or ``dict(type='PGD', **options)``, where the type may be a class too.
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
