"""Weights among the options of a recipe."""

from __future__ import annotations

from ..core.option_values import as_number


def as_weight(option: str, value: object, paper: float) -> float:
    """A weight, which may be text.

    Args:
        option (str): The name of the option, for the message.
        value (object): What was given.
        paper (float): The paper's value, for the message.

    Raises:
        ValueError: It is negative, or no finite number.
    """
    weight = as_number(option, value)
    if weight < 0:
        raise ValueError(
            f'{option}={weight} must be finite and not negative; the paper has {option}={paper:g}'
        )
    return weight
