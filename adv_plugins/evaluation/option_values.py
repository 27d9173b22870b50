"""Numbers among options: also as the text that a command line gives, such as ``'8/255'``."""

from __future__ import annotations

import math
from numbers import Real


def as_number(option: str, value: object) -> float:
    """A number, or a text that clearly means one: ``'0.03'``, ``'8/255'``.

    Args:
        option (str): The name of the option, for the message.
        value (object): What was given.

    Returns:
        float: The number.

    Raises:
        ValueError: It is no finite number.
    """
    number = _parsed(value)
    if not math.isfinite(number):
        raise ValueError(
            f'{option}={value!r} must be a finite number; write {option}=0.5, or a fraction such '
            f"as {option}='8/255'"
        )
    return number


def as_length(option: str, value: object) -> float:
    """A radius or the length of a step: a finite number that is not negative.

    Args:
        option (str): The name of the option, for the message.
        value (object): What was given; text as for :func:`as_number`.

    Returns:
        float: The length.

    Raises:
        ValueError: It is none.
    """
    number = _parsed(value)
    if not 0 <= number < math.inf:
        raise ValueError(
            f'{option}={value!r} must be finite and not negative; eight grey levels are 8/255'
        )
    return number


def as_count(option: str, value: object, least: int = 1) -> int:
    """A whole number.

    Args:
        option (str): The name of the option, for the message.
        value (object): What was given; text as for :func:`as_number`.
        least (int): The smallest number that is allowed. Defaults to 1.

    Returns:
        int: The number.

    Raises:
        ValueError: It is none, or too small.
    """
    number = _parsed(value)
    if not (number.is_integer() and number >= least):
        raise ValueError(f'{option}={value!r} must be an integer, at least {least}')
    return int(number)


def check_within_range(option: str, eps: float, norm: str) -> None:
    """Raise a ValueError for a radius beyond the whole value range, as of ``eps=8``.

    Args:
        option (str): The name of the option, for the message.
        eps (float): The radius, where 1 is the whole value range.
        norm (str): Of another norm than ``'linf'`` every radius may be meant.
    """
    if norm == 'linf' and eps > 1:
        raise ValueError(
            f'{option}={eps:g} is {eps:g} times the whole value range; {eps:g} grey levels are '
            f"{option}={eps:g} / 255 in a config, {option}='{eps:g}/255' on the command line"
        )


def _parsed(value: object) -> float:
    """The number that a value is or means; NaN where it is none. True is no number here."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return math.nan
    above, slash, below = value.partition('/')
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return math.nan
