"""Choosing videos and frames."""

from adv_plugins.evaluation.selection import evenly_spread, shared_videos


def test_evenly_spread():
    assert evenly_spread(8, 2) == [2, 6]
    assert evenly_spread(3, 16) == [0, 1, 2]
    assert evenly_spread(32, 16) == list(range(1, 32, 2))
    assert evenly_spread(480, 1) == [240]


def test_shared_videos_keep_the_order_of_the_first():
    assert shared_videos([[5, 3, 9], [9, 4, 5]]) == [5, 9]
    assert shared_videos([[5, 3]]) == [5, 3]
    assert shared_videos([[5, 3], []]) == []
