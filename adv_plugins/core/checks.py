"""Checks of options. Their errors name the option, its value and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from numbers import Integral


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three known names that are similar to an unknown one, the most similar first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)


def check_choice(option: str, value: object, allowed: Collection[object]) -> None:
    """Raise a ValueError that names the option unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        choices = ' or '.join(f'{option}={choice!r}' for choice in allowed)
        raise ValueError(f'{option}={value!r} is unknown; write {choices}')


def is_integer(value: object) -> bool:
    """Whether a value is an integer, numpy's included; booleans do not count."""
    return isinstance(value, Integral) and not isinstance(value, bool)
