"""Results as Markdown: one function for those of one checkpoint and for a comparison."""

from __future__ import annotations

from typing import Any

from .comparison import Comparison
from .comparison_page import comparison_page
from .results import Robustness
from .results_page import results_page


def markdown(results: Robustness | Comparison, **options: Any) -> str:
    """The results of one checkpoint, or a comparison of several, as one Markdown document.

    Args:
        results (Robustness | Comparison): The results, or what :func:`compare` returned.
        **options: For the results of one checkpoint ``groups``, names of corruptions by group
            (by default those of :mod:`adv_plugins.datasets.corruptions`). For a comparison
            ``highlight``, names of classes to mark (by default none).

    Returns:
        str: The document.

    Raises:
        TypeError: It is neither of them.
        ValueError: ``highlight`` names an unknown class.

    Example:
        >>> print(markdown(Robustness.load('tsm.json')))
        >>> print(markdown(compare([tsm, taf]), highlight=['Pushing something']))
    """
    if isinstance(results, Robustness):
        return results_page(results, **options)
    if isinstance(results, Comparison):
        return comparison_page(results, **options)
    raise TypeError(
        f'markdown takes a Robustness or a Comparison, got {type(results).__name__}; read a file '
        'of results with Robustness.load(path)'
    )
