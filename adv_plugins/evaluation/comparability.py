"""Whether results may be compared: the same classes, labels and videos, evaluated alike."""

from __future__ import annotations

from collections.abc import Sequence

from .cells import KINDS, compared_options
from .results import Robustness
from .selection import shared_videos


def check_comparable(first: Robustness, other: Robustness) -> None:
    """Check that two results are of the same classes and labels, and of some of the same videos.

    Raises:
        ValueError: They are not.
    """
    if first.classes != other.classes:
        a, b = first.classes, other.classes
        index = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), 0)
        raise ValueError(
            f'{first.model!r} has {len(a)} classes ({a[index]!r} is number {index}) and '
            f'{other.model!r} has {len(b)} ({b[index]!r}); evaluate both on one dataset'
        )
    shared = first.labels.keys() & other.labels.keys()
    if not shared:
        raise ValueError(
            f'{first.model!r} and {other.model!r} share no video; evaluate both on the same ones'
        )
    wrong = [video for video in sorted(shared) if first.labels[video] != other.labels[video]]
    if wrong:
        raise ValueError(
            f'{first.model!r} and {other.model!r} have different labels for {len(wrong)} videos, '
            f'e.g. {first.labels[wrong[0]]} and {other.labels[wrong[0]]} for the dataset index '
            f'{wrong[0]}; evaluate both on one annotation file'
        )


def incomparable_cells(results: Sequence[Robustness], baseline: int) -> dict[str, str]:
    """Cells that some results lack, that were run differently, or that share no video.

    Args:
        results (Sequence[Robustness]): The results.
        baseline (int): Index of the one that the others are compared with.

    Returns:
        dict[str, str]: The reason by the key of the cell.
    """
    keys = dict.fromkeys(key for each in results for key in each.cells)
    keys |= {k: None for each in results for k in each.missing if k.split('/')[0] in KINDS}
    reasons: dict[str, str] = {}
    for key in keys:
        if not all(key in each.cells for each in results):
            reasons[key] = _why_missing(results, key)
            continue
        differences = [_difference(results[baseline], other, key) for other in results]
        if any(differences):
            # With several models, the last one that differs.
            reasons[key] = list(filter(None, differences))[-1]
        elif not shared_videos(each.cells[key].videos for each in results):
            reasons[key] = 'the models share no video'
    return reasons


def _why_missing(results: Sequence[Robustness], key: str) -> str:
    """Which models have no such cell, and why."""
    lacking = [each for each in results if key not in each.cells]
    why = {each.model: each.missing.get(key, 'it was not evaluated') for each in lacking}
    if len(why) == len(results) and len(set(why.values())) == 1:
        return f'all models: {next(iter(why.values()))}'
    return '; '.join(f'{model}: {reason}' for model, reason in why.items())


def _difference(first: Robustness, other: Robustness, key: str) -> str | None:
    """How the options differ with which two models were evaluated, if they do."""
    a, b = first.cells[key], other.cells[key]
    if a.level != b.level:
        return f'{first.model} was run at {a.level}, {other.model} at {b.level}'
    first_options, other_options = compared_options(a.options), compared_options(b.options)
    names = [
        name
        for name in first_options | other_options
        if first_options.get(name) != other_options.get(name)
    ]
    if not names:
        return None
    texts = [
        f'{model} with ' + ', '.join(f'{name}={cell.options.get(name)}' for name in names)
        for model, cell in ((first.model, a), (other.model, b))
    ]
    return ', '.join(texts)
