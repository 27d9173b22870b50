"""The corruptions made for video against their definition."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from corruption_clips import NEEDS_AV, clock, distance, moving, photo, shown

from adv_plugins.datasets.corruptions import SEVERITIES, corrupt
from adv_plugins.datasets.corruptions.per_clip import _encode_h264


@pytest.mark.parametrize('count', [1, 2, 8, 13])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_motion_blur_is_a_mean_over_a_centred_window(severity: int, count: int):
    clip = moving(count, 33, 40)
    expected = np.empty_like(clip)
    for t in range(count):
        near = [clip[s].astype(float) for s in range(count) if abs(s - t) <= severity]
        expected[t] = np.rint(sum(near) / len(near))
    np.testing.assert_array_equal(corrupt(clip, 'motion_blur', severity), expected)


@NEEDS_AV
def test_h264_loses_quality_with_severity_at_odd_sizes():
    clip = moving(8, 75, 91)
    errors = [(corrupt(clip, 'h264', s).astype(float) - clip) ** 2 for s in SEVERITIES]
    psnr = [10 * np.log10(255**2 / error.mean()) for error in errors]
    assert psnr[0] > 24
    assert (np.diff(psnr) < -0.5).all(), psnr
    # The edges that were padded for the encoder are no worse than the rest.
    assert errors[0][:, -1].mean() < 3 * errors[0].mean()
    assert errors[0][:, :, -1].mean() < 3 * errors[0].mean()


@NEEDS_AV
def test_h264_keeps_frames_in_order_and_a_still_clip_still():
    still = np.repeat(photo(64, 64)[None], 12, axis=0)
    for severity in SEVERITIES:
        assert distance(*np.array_split(corrupt(still, 'h264', severity), 2)) < 3
    levels = np.linspace(20, 230, 12).astype(np.uint8)
    ramp = np.broadcast_to(levels[:, None, None, None], (12, 48, 48, 3))
    means = corrupt(np.ascontiguousarray(ramp), 'h264', 1).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, levels, atol=4)


@NEEDS_AV
def test_h264_does_not_depend_on_the_number_of_cores():
    # x264 writes its settings into the stream.
    stream = b''.join(bytes(packet) for packet in _encode_h264(moving(2, 224, 224), 30))
    assert b' threads=1 ' in stream and b'crf=30.0 ' in stream


def test_h264_without_pyav_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r'adv_plugins\[data\]'):
        corrupt(moving(2), 'h264', 1)


@pytest.mark.parametrize('severity', SEVERITIES)
def test_frame_drop_repeats_the_last_frame_that_arrived(severity: int):
    lost = []
    for seed in range(20):
        numbers = shown(corrupt(clock(250), 'frame_drop', severity, seed))
        assert numbers[0] == 0
        fresh = numbers[1:] == np.arange(1, 250)
        assert (fresh | (numbers[1:] == numbers[:-1])).all()
        lost.append(1 - fresh.mean())
    # Five standard errors of a share of 20 x 249 draws.
    probability = (0.1, 0.25, 0.4, 0.55, 0.7)[severity - 1]
    assert np.mean(lost) == pytest.approx(probability, abs=0.036)


@pytest.mark.parametrize('severity', SEVERITIES)
def test_packet_loss_sticks_until_a_row_is_refreshed(severity: int):
    height = 16 * 20 + 5
    output = corrupt(clock(250, height), 'packet_loss', severity)[..., 0].astype(int)
    assert (output == output[..., :1]).all()
    assert (output[0] == 0).all()
    now = np.arange(250)[:, None, None]
    # All of it was at the same place in this frame or is what was shown before.
    assert ((output[1:] == now[1:]) | (output[1:] == output[:-1])).all()
    bands = output[:, ::16, 0]
    assert (output[:, :, 0] == np.repeat(bands, 16, axis=1)[:, :height]).all()
    # A band is right only if all its packets since the last refresh have arrived: one to four.
    probability = (0.02, 0.05, 0.1, 0.2, 0.4)[severity - 1]
    expected = 1 - np.mean([(1 - probability) ** k for k in (1, 2, 3, 4)])
    assert (bands != now[..., 0]).mean() == pytest.approx(expected, abs=0.03)
    # Without a refresh no band comes back.
    back = (bands[1:] == now[1:, 0]) & (bands[:-1] != now[:-1, 0])
    frame, band = np.nonzero(back)
    assert len(frame) and ((frame + 1 + band) % 4 == 0).all()


@pytest.mark.parametrize('count', [2, 5, 8, 16, 33])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_jumble_permutes_within_windows(severity: int, count: int):
    window = max(2, round((0.25, 0.375, 0.5, 0.75, 1)[severity - 1] * count))
    for seed in range(10):
        numbers = shown(corrupt(clock(count), 'jumble', severity, seed))
        for start in range(0, count, window):
            own = np.arange(start, min(start + window, count))
            inside = numbers[own]
            assert sorted(inside) == own.tolist()
            assert len(own) == 1 or (inside != own).all()


def test_jumble_has_every_order_without_a_fixed_frame_that_is_one_cycle():
    clip = clock(4)
    orders = {tuple(shown(corrupt(clip, 'jumble', 5, seed))) for seed in range(150)}
    assert len(orders) == 6  # (4 - 1)! cycles


@pytest.mark.parametrize('count', [2, 5, 8, 32])
@pytest.mark.parametrize('severity', SEVERITIES)
def test_freeze_holds_the_first_frame_of_one_run(severity: int, count: int):
    length = max(2, round((0.2, 0.35, 0.5, 0.65, 0.8)[severity - 1] * count))
    starts = set()
    for seed in range(60):
        numbers = shown(corrupt(clock(count), 'freeze', severity, seed))
        start = int(np.flatnonzero(numbers != np.arange(count))[0]) - 1
        expected = np.arange(count)
        expected[start : start + length] = start
        np.testing.assert_array_equal(numbers, expected)
        starts.add(start)
    possible = count - length + 1
    assert starts <= set(range(possible))
    assert len(starts) == possible or possible > 10
