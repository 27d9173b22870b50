"""What all corruptions have in common: seeds, severities, shapes, and what is wrong input."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corruption_clips import NAMES, NOISY, RANDOM, distance, moving, photo
from hypothesis import given, settings
from hypothesis import strategies as st

from adv_plugins.datasets.corruptions import (
    CORRUPTION_GROUPS,
    CORRUPTIONS,
    PAPER_CORRUPTIONS,
    SEVERITIES,
    VideoCorruption,
    corrupt,
)
from adv_plugins.datasets.corruptions.per_clip import PER_CLIP
from adv_plugins.datasets.corruptions.per_frame import PER_FRAME


def test_names_by_group():
    assert sum(CORRUPTION_GROUPS.values(), ()) == CORRUPTIONS
    assert len(set(CORRUPTIONS)) == 14
    assert CORRUPTIONS[:8] == PAPER_CORRUPTIONS
    assert set(CORRUPTIONS) == {*PER_FRAME, *PER_CLIP}


@pytest.mark.parametrize('severity', SEVERITIES)
@pytest.mark.parametrize('name', NAMES)
def test_a_function_of_its_arguments_alone(name: str, severity: int):
    clip = moving(8, 45, 52)
    before = clip.copy()
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first = corrupt(clip, name, severity, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(2)
    np.testing.assert_array_equal(first, corrupt(clip.copy(), name, severity, seed=3))
    np.testing.assert_array_equal(clip, before)
    assert first.shape == clip.shape and first.dtype == np.uint8
    assert first.flags.c_contiguous and not np.shares_memory(first, clip)


@pytest.mark.parametrize('name', NAMES)
def test_only_what_is_random_depends_on_the_seed(name: str):
    clip = moving(8, 45, 52)
    results = [corrupt(clip, name, 3, seed=seed) for seed in (0, 1, 2, 2**40)]
    different = [not np.array_equal(results[0], other) for other in results[1:]]
    assert all(different) if name in RANDOM else not any(different)


@pytest.mark.parametrize('name', NAMES)
def test_severity_is_the_order_of_strength(name: str):
    clips = [moving(16, seed=seed) for seed in range(6)]
    strength = np.mean(
        [
            [distance(corrupt(c, name, s, seed=i), c) for s in SEVERITIES]
            for i, c in enumerate(clips)
        ],
        axis=0,
    )
    assert strength[0] > 0
    if name == 'snow':
        # As published: the third level has fewer and larger flakes than the second.
        strength = np.delete(strength, 1)
    assert (np.diff(strength) > 0).all(), strength


@pytest.mark.parametrize('name', [*NOISY[:3], 'brightness', 'frame_drop', 'packet_loss'])
def test_a_higher_severity_makes_more_of_the_same_draws(name: str):
    clip = moving(8)
    strength = [distance(corrupt(clip, name, s, seed=5), clip) for s in SEVERITIES]
    assert (np.diff(strength) >= 0).all(), strength
    if name in NOISY:
        # Which pixels rise does not change.
        mild, strong = (corrupt(clip, name, s, seed=5).astype(int) - clip for s in (1, 2))
        assert not ((mild > 1) & (strong < -1)).any()


@pytest.mark.parametrize('name', NAMES)
def test_noise_is_drawn_for_each_frame_or_once(name: str):
    still = np.repeat(photo(40, 48)[None], 4, axis=0)
    iid, shared = (corrupt(still, name, 2, temporal=temporal) for temporal in ('iid', 'shared'))
    if name not in NOISY:
        np.testing.assert_array_equal(iid, shared)
        return
    np.testing.assert_array_equal(iid[0], shared[0])
    assert (shared == shared[0]).all()
    for t in range(1, 4):
        assert distance(iid[t], iid[0]) > 2


@pytest.mark.parametrize('name', [*PAPER_CORRUPTIONS, 'frame_drop', 'packet_loss'])
def test_later_frames_leave_earlier_ones_alone(name: str):
    clip = moving(6)
    np.testing.assert_array_equal(corrupt(clip, name, 4)[:3], corrupt(clip[:3], name, 4))


@pytest.mark.parametrize('name', NAMES)
def test_one_frame(name: str):
    frame = moving(1)
    corrupted = corrupt(frame, name, 5)
    assert corrupted.shape == frame.shape and not np.shares_memory(corrupted, frame)
    unchanged = np.array_equal(corrupted, frame)
    assert unchanged == (name in CORRUPTION_GROUPS['video'] and name != 'h264')


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 5),
    height=st.integers(32, 50),
    width=st.integers(32, 50),
    name=st.sampled_from(CORRUPTIONS),
    severity=st.sampled_from(SEVERITIES),
    seed=st.integers(0, 2**64),
    temporal=st.sampled_from(['iid', 'shared']),
)
def test_any_clip_keeps_its_shape(count, height, width, name, severity, seed, temporal):
    if name == 'h264':
        pytest.importorskip('av', reason="'h264' encodes with PyAV")
    clip = moving(count, width, height).swapaxes(1, 2)[:, ::-1]
    corrupted = corrupt(clip, name, severity, seed, temporal)
    assert corrupted.shape == clip.shape and corrupted.dtype == np.uint8
    assert corrupted.flags.c_contiguous
    np.testing.assert_array_equal(
        corrupted, corrupt(np.ascontiguousarray(clip), name, severity, seed, temporal)
    )


def test_the_same_in_another_process():
    """With another seed of Python's hash."""
    code = (
        'import sys, zlib; sys.path.insert(0, sys.argv[1])\n'
        'from test_corruptions import *\n'
        'for name in RANDOM: print(zlib.crc32(corrupt(moving(8), name, 3, seed=1)))\n'
        'print(VideoCorruption("snow", 1)._clip_seed(dict(filename="x/y.mp4"), 0))'
    )
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get('PYTHONPATH')])]
    printed = subprocess.run(
        [sys.executable, '-c', code, str(Path(__file__).parent)],
        env=os.environ | {'PYTHONHASHSEED': '77', 'PYTHONPATH': os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    own = [zlib.crc32(corrupt(moving(8), name, 3, seed=1)) for name in RANDOM]
    own.append(VideoCorruption('snow', 1)._clip_seed(dict(filename='x/y.mp4'), 0))
    assert printed == [str(value) for value in own]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(name='gausian noise'), "name='gausian noise' .* write 'gaussian_noise'"),
        (dict(name='Snow'), "write 'snow'"),
        (dict(name='fog'), 'fog'),
        (dict(name=None), "write 'gaussian_noise' or .* or 'freeze'"),
        (dict(severity=0), 'severity=0 .* 1 to 5'),
        (dict(severity=6), 'severity=6'),
        (dict(severity=True), 'severity=True'),
        (dict(severity='3'), "severity='3'"),
        (dict(severity=2.0), 'severity=2.0'),
        (dict(seed=-1), 'seed=-1'),
        (dict(seed=None), 'seed=None'),
        (dict(temporal='static'), "temporal='static' .* temporal='shared'"),
    ],
)
def test_wrong_options_are_told_when_it_is_built(options: dict, message: str):
    options = dict(name='snow', severity=3) | options
    with pytest.raises(ValueError, match=message):
        VideoCorruption(**options)
    with pytest.raises(ValueError, match=message):
        corrupt(moving(1), **options)


@pytest.mark.parametrize(
    ('frames', 'error', 'message'),
    [
        (moving(1).astype(np.float32), TypeError, 'float32'),
        (moving(1).tolist(), TypeError, 'list'),
        (moving(1)[0], ValueError, r'\(64, 64, 3\) .* frames\[None\]'),
        (moving(2)[..., 0], ValueError, r'\(2, 64, 64\) .* gray'),
        (moving(2)[..., :1], ValueError, r'\(2, 64, 64, 1\)'),
        (moving(1)[:0], ValueError, 'T of at least 1'),
        (moving(1, 31, 64), ValueError, '31 x 64 .* at least 32'),
        (moving(1, 64, 31), ValueError, '64 x 31 .* at least 32'),
    ],
)
def test_wrong_frames_are_told(frames: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        corrupt(frames, 'snow', 1)
