"""Which videos, or frames, to choose out of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def evenly_spread(total: int, count: int) -> list[int]:
    """Indices of ``count`` of ``total`` items, or of all: the middle of each equal part.

    Args:
        total (int): How many there are.
        count (int): How many to choose at most.

    Returns:
        list[int]: Indices in ascending order.
    """
    count = min(count, total)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def shared_videos(videos: Iterable[Sequence[int]]) -> list[int]:
    """The videos that all lists contain, in the order of the first list.

    Args:
        videos (Iterable[Sequence[int]]): Dataset indices; one list or more.

    Returns:
        list[int]: Dataset indices.
    """
    first, *others = videos
    common = set(first).intersection(*others)
    return [video for video in first if video in common]
