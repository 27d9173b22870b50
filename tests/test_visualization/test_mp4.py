"""Clips as .mp4 files: what is read back is what was written."""

import sys
from fractions import Fraction

import numpy as np
import pytest

from adv_plugins.visualization.mp4 import enlarge, write_mp4


def smooth_clip(length, height, width):
    rows, columns = np.mgrid[:height, :width]
    frames = [
        np.stack([255 * columns / width, 255 * rows / height, 0 * rows + 30 * t], axis=-1)
        for t in range(length)
    ]
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize(('size', 'scale', 'written'), [((30, 41), None, 8), ((33, 47), 1, 1)])
def test_mp4(tmp_path, size, scale, written):
    av = pytest.importorskip('av', reason='needs adv_plugins[data]')
    frames = smooth_clip(7, *size)
    write_mp4(tmp_path / 'clip.mp4', frames, fps=2.5, scale=scale)
    with av.open(str(tmp_path / 'clip.mp4')) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == Fraction(5, 2)
        # What browsers play.
        assert (stream.codec_context.name, stream.pix_fmt) == ('h264', 'yuv420p')
        decoded = np.stack([x.to_ndarray(format='rgb24') for x in container.decode(stream)])
    large = frames.repeat(written, 1).repeat(written, 2)
    height, width = large.shape[1:3]
    assert decoded.shape == (7, height + height % 2, width + width % 2, 3)
    difference = np.abs(decoded[:, :height, :width].astype(float) - large)
    assert difference.mean() < 3
    # The order of frames and colours is seen by that bound.
    assert np.abs(decoded[:, :height, :width].astype(float) - large[::-1]).mean() > 10
    assert np.abs(decoded[:, :height, :width].astype(float) - large[..., ::-1]).mean() > 10


def test_mp4_errors(tmp_path, monkeypatch):
    frames = smooth_clip(2, 8, 8)
    for options, message in ((dict(scale=0), 'scale=0'), (dict(fps=0), 'fps=0')):
        with pytest.raises(ValueError, match=message):
            write_mp4(tmp_path / 'clip.mp4', frames, **options)
    for wrong in (frames[0], frames[..., :2], frames.astype(float), frames[:0]):
        with pytest.raises(ValueError, match=r'uint8 RGB of the shape \(T, H, W, 3\)'):
            write_mp4(tmp_path / 'clip.mp4', wrong)
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r'adv_plugins\[data\]'):
        write_mp4(tmp_path / 'clip.mp4', frames)
    assert not list(tmp_path.iterdir())


def test_enlarged_as_far_as_needed():
    assert enlarge(np.zeros((1, 224, 300, 3), np.uint8)).shape == (1, 224, 300, 3)
    assert enlarge(np.zeros((1, 223, 300, 3), np.uint8)).shape == (1, 446, 600, 3)
    assert enlarge(np.zeros((1, 300, 30, 3), np.uint8)).shape == (1, 2400, 240, 3)


def test_a_film_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    av = pytest.importorskip('av', reason='needs adv_plugins[data]')
    path = tmp_path / 'films/clip.mp4'
    write_mp4(path, smooth_clip(3, 16, 16))
    old = path.read_bytes()
    # The index is in front, so that a browser plays it at once.
    assert old.index(b'moov') < old.index(b'mdat')

    class Interrupting:
        def from_ndarray(*args, **kwargs):
            raise KeyboardInterrupt

    monkeypatch.setattr(av, 'VideoFrame', Interrupting)
    with pytest.raises(KeyboardInterrupt):
        write_mp4(path, smooth_clip(3, 32, 32))
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ['clip.mp4']
