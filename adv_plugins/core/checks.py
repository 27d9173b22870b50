"""Checks of options. Their errors name the option, its value and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from numbers import Integral


def near_names(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The known names most similar to an unknown one; all of them if none is similar.

    Args:
        name (str): The unknown name.
        names (Iterable[str]): The known names.
        count (int): Maximum number of similar names. Defaults to 3.

    Returns:
        list[str]: The names, the most similar first.
    """
    known = list(names)
    return difflib.get_close_matches(name, known, n=count, cutoff=0.4) or known


def check_choice(option: str, value: object, allowed: Collection[object]) -> None:
    """Raise a ValueError that names the option unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        choices = ' or '.join(f'{option}={choice!r}' for choice in allowed)
        raise ValueError(f'{option}={value!r} is unknown; write {choices}')


def is_integer(value: object) -> bool:
    """Whether a value is an integer, numpy's included; booleans do not count."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_names(option: str, names: Collection[str] | None) -> None:
    """Raise a ValueError that names the option if it is a single string, not a list of names."""
    if isinstance(names, str):
        raise ValueError(f'{option}={names!r} must be a list of names; write {option}=[{names!r}]')
