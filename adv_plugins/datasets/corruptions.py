"""Common corruptions of clips at five severities: eight of ImageNet-C, six made for video.

The eight keep the constants of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), which are meant
for frames of about 224 pixels and are not scaled with the size of the frames. :func:`corrupt`
takes an array; :class:`VideoCorruption` is the same as a step of an MMAction2 pipeline.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from fractions import Fraction
from functools import cache, lru_cache
from itertools import repeat
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

CORRUPTION_GROUPS = {
    'noise': ('gaussian_noise', 'impulse_noise', 'speckle_noise'),
    'blur': ('gaussian_blur', 'defocus_blur', 'zoom_blur'),
    'weather': ('snow', 'brightness'),
    'video': ('motion_blur', 'h264', 'frame_drop', 'packet_loss', 'jumble', 'freeze'),
}
"""Names of the corruptions by group. The group 'video' needs more than one frame to make sense."""
CORRUPTIONS = tuple(name for names in CORRUPTION_GROUPS.values() for name in names)
"""All names, in the order of their groups."""
PAPER_CORRUPTIONS = tuple(name for name in CORRUPTIONS if name not in CORRUPTION_GROUPS['video'])
"""The eight of ImageNet-C."""
SEVERITIES = (1, 2, 3, 4, 5)
TEMPORAL = ('iid', 'shared')

# One entry for each severity. On frames in [0, 1], as published with ImageNet-C.
GAUSSIAN_NOISE_STD = (0.08, 0.12, 0.18, 0.26, 0.38)
IMPULSE_NOISE_SHARE = (0.03, 0.06, 0.09, 0.17, 0.27)
SPECKLE_NOISE_STD = (0.15, 0.2, 0.35, 0.45, 0.6)
GAUSSIAN_BLUR_SIGMA = (1, 2, 3, 4, 6)
DEFOCUS_BLUR_DISK = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
"""Radius of the disk, and sigma of the blur that softens its rim."""
ZOOM_BLUR_FACTORS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
"""End and step of the zoom factors, which start at 1."""
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and deviation of the flakes, their zoom, the threshold below which there is no flake,
radius and sigma of their motion blur, and how much of the frame stays as it is."""
BRIGHTNESS_SHIFT = (0.1, 0.2, 0.3, 0.4, 0.5)

# Chosen here; they show on clips of 8 frames already.
MOTION_BLUR_FRAMES = (3, 5, 7, 9, 11)
H264_CRF = (23, 30, 37, 42, 47)
FRAME_DROP_PROBABILITY = (0.1, 0.25, 0.4, 0.55, 0.7)
PACKET_LOSS_PROBABILITY = (0.02, 0.05, 0.1, 0.2, 0.4)
JUMBLE_SHARE = (0.25, 0.375, 0.5, 0.75, 1.0)
FREEZE_SHARE = (0.2, 0.35, 0.5, 0.65, 0.8)

_MIN_SIZE = 32
_MACROBLOCK = 16
_REFRESH_PERIOD = 4


def corrupt(
    frames: np.ndarray, name: str, severity: int, seed: int = 0, temporal: str = 'iid'
) -> np.ndarray:
    """Corrupt a clip.

    The result depends on the arguments alone: no global random state is read or changed. All
    severities of a corruption draw the same random numbers and differ in what they make of them
    (the same noise, only stronger; the lost frames, and more), so that results of two severities
    differ by the severity and not by luck. The first frames of a clip do not depend on how many
    follow, as far as the corruption is one of single frames.

    Args:
        frames (np.ndarray): Shape (T, H, W, 3), uint8 RGB, H and W at least 32. Not changed.
        name (str): One of ``CORRUPTIONS``.
        severity (int): 1 to 5.
        seed (int): At least 0. Defaults to 0.
        temporal (str): Whether the noise of 'gaussian_noise', 'impulse_noise' and
            'speckle_noise' and the flakes of 'snow' are drawn anew for each frame, ``'iid'``, or
            once for the clip, ``'shared'``. The others have nothing to draw for a frame and
            ignore it. Defaults to ``'iid'``.

    Returns:
        np.ndarray: A new array of the same shape and type.

    Raises:
        ImportError: For 'h264' without PyAV.
        TypeError: If the frames are not an array of uint8.
        ValueError: If an argument is not as described.

    Example:
        >>> for name in PAPER_CORRUPTIONS:
        ...     corrupted = corrupt(frames, name, severity=3)
    """
    _check_options(name, severity, seed, temporal)
    _check_frames(frames)
    frames = np.ascontiguousarray(frames)
    rng = np.random.default_rng([zlib.crc32(name.encode()), int(seed)])
    level = int(severity) - 1
    if name in _PER_CLIP:
        return _PER_CLIP[name](frames, level, rng)
    corrupt_frame, draw = _PER_FRAME[name]
    corrupted = np.empty_like(frames)
    draws = _draw_for_frames(draw, rng, frames.shape[1:], len(frames), temporal)
    # One frame at a time: all of it stays in the cache, which is faster than the whole clip at
    # once, and a long clip needs no more memory than a short one.
    for target, frame, drawn in zip(corrupted, frames, draws, strict=True):
        target[...] = corrupt_frame(frame, level, *drawn)
    return corrupted


@TRANSFORMS.register_module()
class VideoCorruption(BaseTransform):
    """Corrupt the frames of a video in a pipeline.

    It belongs after the decoding and the ``Resize`` to the network's scale, and before the crops
    and the ``FormatShape``: the constants are made for frames of about 224 pixels.

    What is random depends on ``seed``, the name of the video and the number of the clip: not on
    worker processes, ranks, the order of the videos or the folder of the data. The name is the
    last part of ``filename`` or ``frame_dir``; videos without either go by ``sample_idx``.

    The frames are split into the clips that the model sees: ``clip_len`` frames, or all
    ``num_clips`` of them where ``clip_len`` is 1, as for 2-D recognizers. Each clip is corrupted
    on its own.

    Required Keys:

        - imgs
        - filename, frame_dir or sample_idx
        - clip_len, num_clips (optional)

    Modified Keys:

        - imgs

    Args:
        name (str): One of ``CORRUPTIONS``.
        severity (int): 1 to 5.
        seed (int): At least 0. Defaults to 0.
        temporal (str): ``'iid'`` or ``'shared'``, see :func:`corrupt`. Defaults to ``'iid'``.

    Raises:
        ValueError: If an option is not as described.

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> test_pipeline = [
        ...     dict(type='DecordInit'),
        ...     dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8,
        ...          test_mode=True),
        ...     dict(type='DecordDecode'),
        ...     dict(type='Resize', scale=(-1, 256)),
        ...     dict(type='VideoCorruption', name='snow', severity=3),
        ...     dict(type='CenterCrop', crop_size=224),
        ...     dict(type='FormatShape', input_format='NCHW'),
        ...     dict(type='PackActionInputs')]
    """

    def __init__(self, name: str, severity: int, seed: int = 0, temporal: str = 'iid') -> None:
        _check_options(name, severity, seed, temporal)
        self.name = name
        self.severity = severity
        self.seed = seed
        self.temporal = temporal

    def transform(self, results: dict) -> dict:
        """Replace the frames by their corrupted versions.

        Args:
            results (dict): What the transforms before have made of a video, with ``imgs``: a list
                of T frames of one shape (H, W, 3), or an array of them, uint8 RGB.

        Returns:
            dict: The same dict, with ``imgs`` as a list of T contiguous arrays.

        Raises:
            TypeError: If the frames are not uint8.
            ValueError: If there are no frames, if they are not RGB or not of one shape, or if the
                video has no name.
        """
        clips = _split_into_clips(results)
        results['imgs'] = [
            frame
            for number, clip in enumerate(clips)
            for frame in corrupt(
                clip, self.name, self.severity, self._clip_seed(results, number), self.temporal
            )
        ]
        return results

    def _clip_seed(self, results: dict, clip: int) -> int:
        """A number for ``seed``, this video and one of its clips."""
        return zlib.crc32(f'{self.seed}/{clip}/{_video_name(results)}'.encode())

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(name={self.name!r}, severity={self.severity}, '
            f'seed={self.seed}, temporal={self.temporal!r})'
        )


# ---- ImageNet-C: one frame at a time, given what was drawn for it


def _gaussian_noise(frame: np.ndarray, level: int, noise: np.ndarray) -> np.ndarray:
    """Noise that does not depend on the frame. ``noise`` is standard normal, (H, W, 3)."""
    return _to_uint8(frame / 255.0 + GAUSSIAN_NOISE_STD[level] * noise)


def _impulse_noise(frame: np.ndarray, level: int, hit: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """Salt and pepper in single channels. ``hit`` and ``salt`` are uniform, (H, W, 3)."""
    extreme = np.where(salt <= 0.5, np.uint8(255), np.uint8(0))
    return np.where(hit <= IMPULSE_NOISE_SHARE[level], extreme, _to_uint8(frame / 255.0))


def _speckle_noise(frame: np.ndarray, level: int, noise: np.ndarray) -> np.ndarray:
    """Noise in proportion to the frame. ``noise`` is standard normal, (H, W, 3)."""
    x = frame / 255.0
    return _to_uint8(x + x * (SPECKLE_NOISE_STD[level] * noise))


def _gaussian_blur(frame: np.ndarray, level: int) -> np.ndarray:
    sigma = GAUSSIAN_BLUR_SIGMA[level]
    return _to_uint8(gaussian_filter(frame / 255.0, (sigma, sigma, 0), mode='nearest'))


def _defocus_blur(frame: np.ndarray, level: int) -> np.ndarray:
    return _to_uint8(cv2.filter2D(frame / 255.0, -1, _disk(*DEFOCUS_BLUR_DISK[level])))


def _zoom_blur(frame: np.ndarray, level: int) -> np.ndarray:
    """Mean of the frame and of its zoomed versions, the first of which is itself."""
    height, width = frame.shape[:2]
    end, step = ZOOM_BLUR_FACTORS[level]
    factors = np.arange(1, end, step)
    x = (frame / 255.0).astype(np.float32)
    columns = x.reshape(height, width * 3).astype(np.float64)
    # Transposed, so that what is interpolated is the first axis both times.
    total = np.zeros((width, height * 3), dtype=np.float32)
    for factor in factors:
        rows = _zoom_matrix(height, factor)[:height] @ columns
        rows = rows.reshape(height, width, 3).swapaxes(0, 1).reshape(width, height * 3)
        total += (_zoom_matrix(width, factor)[:width] @ rows).astype(np.float32)
    total = total.reshape(width, height, 3).swapaxes(0, 1)
    return _to_uint8((x + total) / (len(factors) + 1))


def _snow(frame: np.ndarray, level: int, noise: np.ndarray, angle: float) -> np.ndarray:
    """Flakes that fall at an angle over a paler frame. ``noise`` is standard normal, (H, W)."""
    mean, std, zoom, threshold, radius, sigma, keep = SNOW[level]
    height, width = noise.shape
    flakes = _zoom_matrix(height, zoom) @ (mean + std * noise) @ _zoom_matrix(width, zoom).T
    flakes[flakes < threshold] = 0
    flakes = _directional_blur(np.clip(flakes, 0, 1), radius, sigma, angle)[:height, :width]
    flakes = np.round(flakes * 255).astype(np.uint8) / 255.0
    x = frame.astype(np.float32) / np.float32(255)
    gray = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None]
    pale = keep * x + (1 - keep) * np.maximum(x, gray * 1.5 + 0.5)
    return _to_uint8(pale + (flakes + flakes[::-1, ::-1])[..., None])


def _brightness(frame: np.ndarray, level: int) -> np.ndarray:
    """A higher value at the same hue and saturation: all channels grow by the same factor."""
    shift = BRIGHTNESS_SHIFT[level]
    x = frame / 255.0
    value = x.max(axis=-1, keepdims=True)
    # In this order the largest channel is the new value itself, with no rounding in between.
    shares = np.divide(x, value, out=np.ones_like(x), where=value > 0)
    return _to_uint8(shares * np.minimum(value + shift, 1))


def _to_uint8(x: np.ndarray) -> np.ndarray:
    """Grey levels of values in [0, 1], rounded down as in ImageNet-C."""
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


@cache
def _disk(radius: int, rim_sigma: float) -> np.ndarray:
    """A disk of sum 1 with a soft rim."""
    reach, rim = (8, 3) if radius <= 8 else (radius, 5)
    axis = np.arange(-reach, reach + 1)
    inside = (axis**2 + axis[:, None] ** 2 <= radius**2).astype(np.float32)
    return cv2.GaussianBlur(inside / inside.sum(), (rim, rim), sigmaX=rim_sigma)


@lru_cache(maxsize=256)
def _zoom_matrix(size: int, factor: float) -> csr_array:
    """Zoom along one axis into its middle, as a matrix (at least ``size``, ``size``).

    Linear interpolation that maps the ends of the crop to the ends of the result, as
    ``scipy.ndimage.zoom`` has it. For some sizes that function rounds the last coordinate to
    outside of the crop and leaves a black line there; this one does not.
    """
    crop = int(np.ceil(size / factor))
    zoomed = round(crop * factor)
    position = np.arange(zoomed) * ((crop - 1) / (zoomed - 1))
    low = np.minimum(position.astype(int), crop - 2)
    weight = position - low
    start = (size - crop) // 2
    rows = np.tile(np.arange(zoomed), 2)
    columns = start + np.concatenate([low, low + 1])
    return csr_array((np.concatenate([1 - weight, weight]), (rows, columns)), shape=(zoomed, size))


def _directional_blur(image: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Blur (H, W) by moving it ever further in one direction, with edges that repeat.

    The original calls ImageMagick; this follows the package imagecorruptions, which needs none.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    direction = np.deg2rad(angle)
    down, right = (
        np.ceil(steps * component - 0.5).astype(int)
        for component in (np.sin(direction), np.cos(direction))
    )
    margin = steps[-1]
    padded = np.pad(image, margin, mode='edge')
    blurred = np.zeros_like(image)
    for weight, dy, dx in zip(weights, down + margin, right + margin, strict=True):
        blurred += weight * padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
    return blurred


# ---- what is drawn for one frame


def _draw_nothing(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return ()


def _draw_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return (rng.standard_normal(shape),)


def _draw_two_uniforms(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return rng.random(shape), rng.random(shape)


def _draw_flakes(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple:
    return rng.standard_normal(shape[:2]), rng.uniform(-135, -45)


def _draw_for_frames(
    draw: Callable[..., tuple],
    rng: np.random.Generator,
    shape: tuple[int, ...],
    count: int,
    temporal: str,
) -> Iterator[tuple]:
    """What is drawn for each of ``count`` frames of a shape (H, W, 3)."""
    if temporal == 'shared':
        return repeat(draw(rng, shape), count)
    return (draw(rng, shape) for _ in range(count))


# ---- video: the whole clip


def _motion_blur(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A long exposure: each frame is the mean of the frames around it.

    The window of ``MOTION_BLUR_FRAMES`` frames is centred at the frame; at the ends of the clip
    it has only the frames that exist. A clip of one frame stays as it is.
    """
    reach = MOTION_BLUR_FRAMES[level] // 2
    blurred = np.empty_like(frames)
    for t in range(len(frames)):
        window = frames[max(t - reach, 0) : t + reach + 1]
        blurred[t] = np.rint(window.sum(axis=0, dtype=np.uint16) / np.float32(len(window)))
    return blurred


def _h264(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Strong compression: the clip is encoded by x264 and decoded, both by PyAV in memory.

    The quality is set by ``H264_CRF``, where 23 is x264's default and 6 more halve the bit
    rate, at 25 frames per second, with 4:2:0 colour. The frames of the clip are what is encoded:
    if they were sampled far apart they have more motion between them than the video had. Odd sizes
    are padded for the encoder. The result may differ between versions of x264, not between runs.
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
    # What the encoder decides depends on the number of threads, which is by default the machine's.
    encoder.thread_count = 1
    packets = []
    for t, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(format='yuv420p')
        picture.pts = t
        packets += encoder.encode(picture)
    return packets + encoder.encode()


def _decode_h264(packets: list[Any]) -> np.ndarray:
    """The clip (T, H, W, 3) of all packets of a stream."""
    decoder = _av().CodecContext.create('h264', 'r')
    decoder.thread_count = 1
    pictures = [picture for packet in packets for picture in decoder.decode(packet)]
    pictures += decoder.decode()
    return np.stack([picture.to_ndarray(format='rgb24') for picture in pictures])


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
    """Lost frames: in place of each, the last frame that arrived is shown.

    Every frame but the first is lost with ``FRAME_DROP_PROBABILITY``, one by one.
    """
    arrived = rng.random(len(frames)) >= FRAME_DROP_PROBABILITY[level]
    # A lost frame counts as frame 0, which makes the first one safe.
    return frames[np.maximum.accumulate(np.where(arrived, np.arange(len(frames)), 0))]


def _packet_loss(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Lost packets of a stream: bands of the frame are stuck in the past until a refresh.

    This is a model of what a decoder shows, not a damaged H.264 stream, whose repair differs
    between decoders. A packet holds one row of macroblocks (16 pixels high) of one frame and is
    lost with ``PACKET_LOSS_PROBABILITY``. A lost row is concealed by the same row of the previous
    output. As the rows that follow in time are coded relative to it, it stays so until the next
    row that arrives and is coded on its own, which each is in every fourth frame, taking turns.
    The first frame always arrives.
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

    The clip is cut into windows of ``JUMBLE_SHARE`` of its frames, at least two, the last of them
    shorter if need be. In each one the frames take each other's places along one random cycle, so
    that none keeps its own. At severity 5 the window is the whole clip.
    """
    window = max(2, round(JUMBLE_SHARE[level] * len(frames)))
    keys = rng.random(len(frames))
    order = np.arange(len(frames))
    for start in range(0, len(frames), window):
        cycle = start + np.argsort(keys[start : start + window])
        order[cycle] = np.roll(cycle, 1)
    return frames[order]


def _freeze(frames: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A frozen picture: one run of frames is replaced by the first of them.

    The run has ``FREEZE_SHARE`` of the frames, at least two, and lies anywhere in the clip.
    """
    count = len(frames)
    length = min(max(2, round(FREEZE_SHARE[level] * count)), count)
    start = int(rng.random() * (count - length + 1))
    order = np.arange(count)
    order[start : start + length] = start
    return frames[order]


_PER_FRAME: dict[str, tuple[Callable[..., np.ndarray], Callable[..., tuple]]] = {
    'gaussian_noise': (_gaussian_noise, _draw_normal),
    'impulse_noise': (_impulse_noise, _draw_two_uniforms),
    'speckle_noise': (_speckle_noise, _draw_normal),
    'gaussian_blur': (_gaussian_blur, _draw_nothing),
    'defocus_blur': (_defocus_blur, _draw_nothing),
    'zoom_blur': (_zoom_blur, _draw_nothing),
    'snow': (_snow, _draw_flakes),
    'brightness': (_brightness, _draw_nothing),
}
_PER_CLIP: dict[str, Callable[..., np.ndarray]] = {
    'motion_blur': _motion_blur,
    'h264': _h264,
    'frame_drop': _frame_drop,
    'packet_loss': _packet_loss,
    'jumble': _jumble,
    'freeze': _freeze,
}


# ---- what goes in


def _split_into_clips(results: dict) -> list[np.ndarray]:
    """The frames of a pipeline as clips (T, H, W, 3), see :class:`VideoCorruption`."""
    imgs = results.get('imgs')
    if imgs is None or len(imgs) == 0:
        raise ValueError(
            "VideoCorruption found no frames (results['imgs']): put it after a transform that "
            'decodes, such as DecordDecode, RawFrameDecode or ArrayDecode.'
        )
    if 'lazy' in results:
        raise ValueError(
            'VideoCorruption needs the frames as they will be, but lazy transforms are pending: '
            "put it after dict(type='Fuse')."
        )
    shapes = {np.shape(frame) for frame in imgs}
    if len(shapes) > 1:
        raise ValueError(
            f'VideoCorruption needs frames of one shape and got {sorted(shapes)}: put a Resize '
            'or a crop to one size before it.'
        )
    frames = np.asarray(imgs)
    length = results.get('clip_len', 1)
    if length == 1:
        length = results.get('num_clips', len(frames))
    if len(frames) % length:
        raise ValueError(
            f'VideoCorruption got {len(frames)} frames, which are no whole number of clips of '
            f"{length} (results['clip_len'], results['num_clips']): put it before transforms that "
            'add or remove frames.'
        )
    return np.split(frames, len(frames) // length)


def _video_name(results: dict) -> str:
    """What a video is called wherever its data is kept."""
    for key in ('filename', 'frame_dir'):
        if key in results:
            return re.split(r'[/\\]', str(results[key]).rstrip('/\\'))[-1]
    if 'sample_idx' in results:
        return str(results['sample_idx'])
    raise ValueError(
        'VideoCorruption draws by the name of a video, and this one has neither filename nor '
        "frame_dir nor sample_idx: set one of them, for example results['filename'] = 'clip_7'."
    )


def _check_frames(frames: object) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        found = frames.dtype if isinstance(frames, np.ndarray) else type(frames).__name__
        raise TypeError(
            f'frames must be a numpy array of uint8 in [0, 255], got {found}: corrupt them before '
            'they are normalised, or write np.clip(np.rint(frames), 0, 255).astype(np.uint8).'
        )
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(
            f'frames of shape {frames.shape} must be (T, H, W, 3), RGB and with T of at least 1: '
            'write frames[None] for one frame, np.repeat(frames[..., None], 3, -1) for gray ones.'
        )
    if min(frames.shape[1:3]) < _MIN_SIZE:
        raise ValueError(
            f'frames of {frames.shape[1]} x {frames.shape[2]} pixels are too small: H and W must '
            f'be at least {_MIN_SIZE}. Enlarge them first, for example by Resize.'
        )


def _check_options(name: object, severity: object, seed: object, temporal: object) -> None:
    if name not in CORRUPTIONS:
        spelled = name.lower().replace(' ', '_') if isinstance(name, str) else ''
        near = get_close_matches(spelled, CORRUPTIONS, n=3, cutoff=0.5)
        choices = ' or '.join(map(repr, near)) or ', '.join(map(repr, CORRUPTIONS))
        raise ValueError(f'name={name!r} is no corruption: write {choices}.')
    if not _is_int(severity) or severity not in SEVERITIES:
        raise ValueError(
            f'severity={severity!r} must be an integer from 1 to 5: write for example severity=3, '
            'and leave the corruption out for clean frames.'
        )
    if not _is_int(seed) or seed < 0:
        raise ValueError(f'seed={seed!r} must be an integer of at least 0: write for example 0.')
    if temporal not in TEMPORAL:
        raise ValueError(
            f"temporal={temporal!r} is unknown: write temporal='iid' for noise of each frame's "
            "own, or temporal='shared' for the same in all frames."
        )


def _is_int(value: Any) -> bool:
    """Whether a value is an integer, which a boolean in a config is not meant to be."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
