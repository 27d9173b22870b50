"""The corruptions made for video: what happens to a clip as a whole.

The strengths, one entry for each severity, were chosen for this package; they show on clips of
eight frames already.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

MOTION_BLUR_FRAMES = (3, 5, 7, 9, 11)
H264_CRF = (23, 30, 37, 42, 47)
FRAME_DROP_PROBABILITY = (0.1, 0.25, 0.4, 0.55, 0.7)
PACKET_LOSS_PROBABILITY = (0.02, 0.05, 0.1, 0.2, 0.4)
JUMBLE_SHARE = (0.25, 0.375, 0.5, 0.75, 1.0)
FREEZE_SHARE = (0.2, 0.35, 0.5, 0.65, 0.8)

_MACROBLOCK = 16
_REFRESH_PERIOD = 4


def _motion_blur(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A long exposure: each frame is the mean of the frames around it.

    The window of ``MOTION_BLUR_FRAMES`` frames is centred on the frame and is cut off at the ends
    of the clip. A clip of one frame is unchanged.
    """
    reach = MOTION_BLUR_FRAMES[level] // 2
    blurred = np.empty_like(frames)
    for t in range(len(frames)):
        window = frames[max(t - reach, 0) : t + reach + 1]
        blurred[t] = np.rint(window.sum(axis=0, dtype=np.uint16) / np.float32(len(window)))
    return blurred


def _h264(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Strong compression: the clip is encoded by x264 and decoded again, in memory by PyAV.

    ``H264_CRF`` sets the quality: 23 is x264's default, and 6 more halve the bit rate. The stream
    has 25 frames per second and 4:2:0 colour. It is the sampled frames that are encoded: sampled
    far apart they have more motion from one to the next than the video had. Odd sizes are padded
    for the encoder. The result may differ between versions of x264, but not between runs.
    """
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode='edge')
    return _decode_h264(_encode_h264(padded, H264_CRF[level]))[:, :height, :width].copy()


def _encode_h264(frames: np.ndarray, crf: int) -> list[Any]:
    """Packets of a clip with even H and W."""
    av = _av()
    encoder = av.CodecContext.create('libx264', 'w')
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt = 'yuv420p'
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.options = {'crf': str(crf)}
    # The output depends on the number of threads, by default that of the machine's cores.
    encoder.thread_count = 1
    packets = []
    for t, frame in enumerate(frames):
        # One thread here too: once, on a busy machine, two runs were seen to differ.
        picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
        picture = picture.reformat(format='yuv420p', threads=1)
        picture.pts = t
        packets += encoder.encode(picture)
    return packets + encoder.encode()


def _decode_h264(packets: list[Any]) -> np.ndarray:
    """The clip (T, H, W, 3) decoded from all packets of a stream."""
    decoder = _av().CodecContext.create('h264', 'r')
    decoder.thread_count = 1
    pictures = [picture for packet in packets for picture in decoder.decode(packet)]
    pictures += decoder.decode()
    frames = [picture.reformat(format='rgb24', threads=1).to_ndarray() for picture in pictures]
    return np.stack(frames)


def _av() -> Any:
    """PyAV, imported late because it is an optional dependency."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "The corruption 'h264' encodes clips with PyAV, which is not installed: "
            'pip install "adv_plugins[data]"'
        ) from error
    return av


def _frame_drop(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Lost frames: each shows the last frame that arrived instead.

    Every frame but the first is lost with ``FRAME_DROP_PROBABILITY``, independently of the others.
    """
    arrived = rng.random(len(frames)) >= FRAME_DROP_PROBABILITY[level]
    # A lost frame counts as frame 0, so that frame 0 itself is always shown.
    return frames[np.maximum.accumulate(np.where(arrived, np.arange(len(frames)), 0))]


def _packet_loss(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Lost packets of a stream: bands of the frame freeze until they are refreshed.

    This models what a decoder shows; a damaged H.264 stream is repaired differently by every
    decoder. A packet holds one row of macroblocks (16 pixels high) of one frame and is lost with
    ``PACKET_LOSS_PROBABILITY``. A lost row shows the same row of the previous output. Later rows
    are coded relative to it, so it stays frozen until a row arrives that is coded on its own: each
    row is in every fourth frame, in turn. The first frame always arrives.
    """
    rows = -(-frames.shape[1] // _MACROBLOCK)
    lost = rng.random((len(frames), rows)) < PACKET_LOSS_PROBABILITY[level]
    output = frames.copy()
    stuck = np.zeros(rows, dtype=bool)
    for t in range(1, len(frames)):
        refreshed = (np.arange(rows) + t) % _REFRESH_PERIOD == 0
        stuck = lost[t] | (stuck & ~refreshed)
        lines = np.repeat(stuck, _MACROBLOCK)[: frames.shape[1]]
        output[t, lines] = output[t - 1, lines]
    return output


def _jumble(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Wrong order: frames are permuted within windows of the clip.

    The clip is cut into windows of ``JUMBLE_SHARE`` of its frames, at least two; the last window
    may be shorter. Each window is permuted by one random cycle, so that no frame keeps its place.
    At severity 5 the window is the whole clip.
    """
    window = max(2, round(JUMBLE_SHARE[level] * len(frames)))
    keys = rng.random(len(frames))
    order = np.arange(len(frames))
    for start in range(0, len(frames), window):
        cycle = start + np.argsort(keys[start : start + window])
        order[cycle] = np.roll(cycle, 1)
    return frames[order]


def _freeze(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A frozen picture: one run of frames is replaced by its first frame.

    The run has ``FREEZE_SHARE`` of the frames, at least two, and starts anywhere in the clip.
    """
    count = len(frames)
    length = min(max(2, round(FREEZE_SHARE[level] * count)), count)
    start = int(rng.random() * (count - length + 1))
    order = np.arange(count)
    order[start : start + length] = start
    return frames[order]


PER_CLIP: dict[str, Callable[..., np.ndarray]] = {
    'motion_blur': _motion_blur,
    'h264': _h264,
    'frame_drop': _frame_drop,
    'packet_loss': _packet_loss,
    'jumble': _jumble,
    'freeze': _freeze,
}
"""For each corruption by name: the function ``(frames, level, rng)``."""
