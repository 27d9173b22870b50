"""YT8MSample: a small multi-label dataset in YouTube-8M's own format, made on first use.

Whoever has no YouTube-8M shards runs the same pipeline on this one. A video is a sequence of
OrderedDigits events, one frame a second, with a sound track synthesised from the same
trajectories. Every second becomes a visual and an audio vector, PCA reduces them to 1024 and 128
components as YouTube-8M did, and the quantised features are written to real shards. Nothing is
downloaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from .features import YT8MFrameDataset
from .label_space import LabelSpace, Node
from .ordered_digits import (
    CLASSES,
    OrderedDigits,
    Scene,
    _load_glyphs,
    frame_order,
    glyph_indices,
    render_scene,
)
from .yt8m import quantize, write_examples

SPLITS = ('train', 'validate', 'test')
SIZES = {'train': 2000, 'validate': 300, 'test': 600}
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
VERTICALS = {
    'Paths': (*CLASSES[:4], *CLASSES[10:]),
    'Changes': CLASSES[4:10],
    'Digits': tuple(f'digit {name}' for name in DIGITS),
    'Music': ('drone', 'arpeggio', 'drums'),
    'Noise': ('hum', 'hiss', 'wind'),
}
SAMPLE_CLASSES = (*CLASSES, *VERTICALS['Digits'], *VERTICALS['Music'], *VERTICALS['Noise'])
SAMPLE_RATE = 16_000

_MARKER = 'yt8m_sample.json'
# Raise it with every change of what is written: samples of other versions are made anew.
_VERSION = 1
_VIDEOS_PER_SHARD = 400
_RGB, _AUDIO = 1024, 128
_FIRST_DIGIT = len(CLASSES)
_FIRST_SOUND = _FIRST_DIGIT + len(DIGITS)
# How often a video has 1, 2, 3 or 4 events: most labels of YouTube-8M hold for the whole video.
_EVENTS = (0.6, 0.25, 0.1, 0.05)
_MAX_EVENTS = len(_EVENTS)
# Seconds of an event: of the only one of a video, and of one among several. 12 to 40 in all.
_LENGTHS_ALONE, _LENGTHS = (12, 14, 16), (8, 10)
# Loudness in dB. The background is up to 30 dB below the events, and missing in a quarter.
_EVENT_DB, _BACKGROUND_DB, _ROOM_DB = (-6, 0), (-30, -8), (-45, -30)
_BACKGROUND_RATE = 0.75
# Pitch, loudness and swell change at this rate, in Hz: often enough to be heard as gliding.
_CONTROL_RATE = 100
_CONTROL_STEP = SAMPLE_RATE // _CONTROL_RATE
# Windows of the spectrum: 40 a second in 4 groups, which cover 0.97 s as VGGish's patches do.
_WINDOW, _HOP, _WINDOWS, _GROUPS, _BANDS = 512, 384, 40, 4, 64


# ------------------------------------------------------------------------------------- the dataset


@DATASETS.register_module()
class YT8MSample(YT8MFrameDataset):
    """An embedded stand-in for YouTube-8M: 28 classes, about 3.6 labels and 17 frames a video.

    The 12 motions of ``OrderedDigits`` need the order of the frames; lifts and approaches can be
    heard too. The 10 digits can only be seen, and of the 6 background sounds at most one can be
    heard. The verticals are Paths, Changes, Digits, Music and Noise. No handwritten glyph of the
    training videos is in the others.

    The shards are made on first use, in about a minute on two cores, once for all processes of
    the machine. They are made anew if ``sizes`` or ``seed`` differ from those of the folder, so
    give all datasets of a config the same ones, or another ``data_root``.

    Args:
        split (str): 'train', 'validate' or 'test'. Defaults to 'train'.
        data_root (str): Folder for the shards, which belongs to the sample alone. Defaults to
            'data/yt8m_sample'.
        sizes (Mapping[str, int], optional): Videos of each split. Defaults to None, which means
            dict(train=2000, validate=300, test=600).
        seed (int): Chooses the videos, never the split of the glyphs. Defaults to 0.
        pipeline (Sequence[dict | Callable]): Transforms of the items of ``YT8MFrameDataset``.
            Defaults to ().
        **kwargs: Further arguments of ``YT8MFrameDataset``, such as ``max_frames``.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an argument is out of its range.
        FileExistsError: If ``data_root`` holds something else.

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> train_dataloader = dict(
        ...     batch_size=64,
        ...     num_workers=0,
        ...     sampler=dict(type='InfiniteSampler', shuffle=True),
        ...     collate_fn=dict(type='pseudo_collate'),
        ...     dataset=dict(
        ...         type='YT8MSample',
        ...         split='train',
        ...         pipeline=[
        ...             dict(
        ...                 type='PackActionInputs',
        ...                 collect_keys=('rgb', 'audio'),
        ...                 meta_keys=('video_id', 'num_frames'))
        ...         ]))
    """

    def __init__(
        self,
        split: str = 'train',
        data_root: str = 'data/yt8m_sample',
        sizes: Mapping[str, int] | None = None,
        seed: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        **kwargs,
    ) -> None:
        _check_split(split)
        self.split = split
        self.sizes = _checked_sizes(sizes)
        self.seed = _checked_seed(seed)
        super().__init__(
            ann_file=f'{split}*.tfrecord',
            data_root=data_root,
            label_space=sample_label_space(),
            pipeline=pipeline,
            **kwargs,
        )

    def _open(self) -> np.ndarray:
        write_sample(self.data_root, self.sizes, self.seed)
        return super()._open()


def sample_label_space() -> LabelSpace:
    """The classes of the sample, grouped into verticals.

    Returns:
        LabelSpace: 28 classes; class ``i`` is raw label ``i`` of the shards.
    """
    vertical_of = {name: vertical for vertical, names in VERTICALS.items() for name in names}
    nodes = [Node(name, entities=[name], verticals=[vertical_of[name]]) for name in SAMPLE_CLASSES]
    return LabelSpace(nodes, entities=SAMPLE_CLASSES, name='yt8m_sample')


# ---------------------------------------------------------------------------- the folder of shards


def write_sample(
    data_root: str | Path, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> None:
    """Make the shards of the sample, unless the folder already holds these very ones.

    Several processes may call it at once: one works and the others wait. The folder appears whole
    or not at all. Shards of equal arguments have equal bytes on one machine; elsewhere another
    linear algebra library may round a few features to the neighbouring byte.

    Args:
        data_root (str | Path): Folder to make, which belongs to the sample alone: an older sample
            in it is replaced as a whole. A lock file of the same name is left beside it.
        sizes (Mapping[str, int], optional): Videos of each split. Defaults to None, which means
            dict(train=2000, validate=300, test=600).
        seed (int): Chooses the videos. Defaults to 0.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an argument is out of its range.
        FileExistsError: If the folder holds something else.

    Example:
        >>> write_sample('data/yt8m_sample')
        >>> sorted(path.name for path in Path('data/yt8m_sample').glob('t*.tfrecord'))[:2]
        ['test0000.tfrecord', 'test0001.tfrecord']
    """
    wanted = dict(version=_VERSION, seed=_checked_seed(seed), sizes=_checked_sizes(sizes))
    root = Path(data_root).resolve()
    # Looked at before the lock as well: a finished sample may be on a read-only disk.
    if _is_current(root, wanted):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{root}.lock'):
        if _is_current(root, wanted):
            return
        _check_replaceable(root)
        videos = sum(wanted['sizes'].values())
        print_log(f'Making {videos} videos in {root}, once and for all runs.', 'current')
        _replace_folder(root, wanted)
        print_log(f'Made {videos} videos in {root}.', 'current')


def _is_current(root: Path, wanted: Mapping) -> bool:
    """Whether the folder holds the wanted sample with all of its shards uncut."""
    try:
        marker = json.loads((root / _MARKER).read_text(encoding='utf-8'))
        shards = marker.pop('shards')
        return marker == wanted and all(
            (root / name).stat().st_size == size for name, size in shards.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_replaceable(root: Path) -> None:
    """Real YouTube-8M shards have the same names: only a marked folder is ever replaced."""
    if not root.exists() or (root / _MARKER).exists():
        return
    if not root.is_dir() or any(root.iterdir()):
        raise FileExistsError(
            f'data_root={str(root)!r} exists and is no sample (it has no {_MARKER}): nothing in '
            'it is touched. Write another data_root, such as data/yt8m_sample.'
        )


def _replace_folder(root: Path, wanted: Mapping) -> None:
    """Make the sample beside its folder, then exchange the two; the caller holds the lock."""
    building, old = (root.with_name(f'{root.name}.{state}') for state in ('building', 'old'))
    for leftover in (building, old):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir()
    try:
        _write_shards(building, wanted['sizes'], wanted['seed'])
        sizes = {path.name: path.stat().st_size for path in sorted(building.glob('*.tfrecord'))}
        marker = json.dumps({**wanted, 'shards': sizes}, indent=1)
        (building / _MARKER).write_text(marker + '\n', encoding='utf-8')
        if root.exists():
            root.rename(old)
        building.rename(root)
    finally:
        for leftover in (building, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_shards(folder: Path, sizes: Mapping[str, int], seed: int) -> None:
    """Write all splits, with the PCA of the training frames."""
    projections: list[FeatureProjection] = []
    for number, split in enumerate(SPLITS):
        videos = list(_raw_features(SampleRenderer(split, seed), sizes[split]))
        if not projections:
            projections = [
                fit_projection(np.concatenate([video[kind] for video in videos]), width)
                for kind, width in ((1, _RGB), (2, _AUDIO))
            ]
        examples = [
            dict(
                # Four characters that tell nothing, as YouTube-8M's ids since 2018.
                id=f'{number}{np.base_repr(index, 36).lower():0>3}',
                labels=labels,
                rgb=quantize(projections[0](visual)),
                audio=quantize(projections[1](audio)),
            )
            for index, (labels, visual, audio) in enumerate(videos)
        ]
        for shard, start in enumerate(range(0, len(examples), _VIDEOS_PER_SHARD)):
            path = folder / f'{split}{shard:04d}.tfrecord'
            write_examples(path, examples[start : start + _VIDEOS_PER_SHARD])


def _raw_features(
    renderer: SampleRenderer, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Labels, visual and audio features of the first videos, in order."""

    def work(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        video = renderer.render(index)
        return video.labels, visual_features(video.frames), audio_features(video.waveform)

    # Most of the time is spent in NumPy, which lets the other thread run.
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from pool.map(work, range(count))


# --------------------------------------------------------------------------------------- the videos


@dataclass(frozen=True)
class SampleVideo:
    """A video of the sample before its features are taken.

    Args:
        labels (np.ndarray): Shape (L,), int64, sorted indices into ``SAMPLE_CLASSES``.
        frames (np.ndarray): Shape (T, 48, 48, 3), uint8 RGB, one a second.
        waveform (np.ndarray): Shape (16000 T,), float32, mono at 16 kHz.
    """

    labels: np.ndarray
    frames: np.ndarray
    waveform: np.ndarray


class SampleRenderer:
    """Renders the videos of one split.

    A video shows one handwritten digit in one to four events, each in a scene of its own; the
    events that swap a zero and a one bring their own digits.

    Args:
        split (str): 'train', 'validate' or 'test'.
        seed (int): Chooses the videos. Defaults to 0.

    Example:
        >>> video = SampleRenderer('train').render(0)
        >>> len(video.waveform) == SAMPLE_RATE * len(video.frames)
        True
    """

    def __init__(self, split: str, seed: int = 0) -> None:
        _check_split(split)
        self._rng_key = (_checked_seed(seed), SPLITS.index(split))
        digits_split = 'train' if split == 'train' else 'val'
        self.glyph_indices = glyph_indices(digits_split)
        # No two splits of any two seeds share a scene.
        scene_seed = len(SPLITS) * seed + SPLITS.index(split)
        # Only their scenes are asked for, which need no list of clips.
        self._sources = {
            length: OrderedDigits(digits_split, num_frames=length, seed=scene_seed, lazy_init=True)
            for length in {*_LENGTHS_ALONE, *_LENGTHS}
        }

    def render(self, index: int) -> SampleVideo:
        """Render a video.

        Args:
            index (int): Number of the video, from 0.

        Returns:
            SampleVideo: Always the same one for a split, seed and index.
        """
        rng = np.random.default_rng([*self._rng_key, index])
        count = rng.choice(_MAX_EVENTS, p=_EVENTS) + 1
        motions = rng.choice(len(CLASSES), size=count)
        lengths = rng.choice(_LENGTHS_ALONE if count == 1 else _LENGTHS, size=count)
        glyph = rng.choice(self.glyph_indices)
        pitch = rng.uniform(200, 500)
        labels, frames, sounds = set(motions.tolist()), [], []
        for event, (motion, length) in enumerate(zip(motions, lengths, strict=True)):
            scene = self._sources[length].scene(motion // 2, _MAX_EVENTS * index + event)
            scene, digits = _with_glyph(scene, glyph)
            order = frame_order(motion, length)
            labels |= {_FIRST_DIGIT + digit for digit in digits}
            frames.append(render_scene(scene)[order])
            sounds.append(event_sound(scene, order, pitch))
        waveform, background = _mix(rng, np.concatenate(sounds))
        labels |= {_FIRST_SOUND + sound for sound in background}
        return SampleVideo(
            np.array(sorted(labels), dtype=np.int64), np.concatenate(frames), waveform
        )


def _with_glyph(scene: Scene, glyph: int) -> tuple[Scene, set[int]]:
    """The scene with the glyph of the video in it, and the digits that it shows."""
    if scene.which.any():
        return scene, {0, 1}
    images, targets = _load_glyphs()
    glyphs = np.repeat(images[[glyph]], len(scene.glyphs), axis=0)
    return replace(scene, glyphs=glyphs), {int(targets[glyph])}


# --------------------------------------------------------------------------------------- the sounds


def event_sound(scene: Scene, order: np.ndarray, pitch: float) -> np.ndarray:
    """What an event sounds like: the same rule for all motions, so that the sound follows them.

    The pitch rises with the glyph's height and the loudness with its size. It ticks as the glyph
    turns through multiples of 45 degrees, and clicks when another glyph takes its place.

    Args:
        scene (Scene): The event.
        order (np.ndarray): Shape (T,), the order of its frames.
        pitch (float): Frequency in Hz of a glyph at the bottom; at the top it is four times that.

    Returns:
        np.ndarray: Shape (16000 T,), float32.
    """
    centers = (np.arange(len(order) * _CONTROL_RATE) + 0.5) / _CONTROL_RATE - 0.5
    height, side = (
        np.interp(centers, np.arange(len(order)), track[order])
        for track in (1 - scene.y, scene.side)
    )
    phase = _phase(pitch * 4**height)
    tone = np.sin(phase) + np.float32(0.3) * np.sin(2 * phase)
    sound = tone * np.repeat(((side / 0.45) ** 2).astype(np.float32), _CONTROL_STEP)
    for state, frequency, gain in (
        (np.floor(scene.angle[order] / 45), 3000, 1),
        (scene.which[order], 1100, 3),
    ):
        knock = _knock(frequency, gain)
        for second in np.flatnonzero(np.diff(state)) + 1:
            sound[second * SAMPLE_RATE :][: len(knock)] += knock
    return sound


def _knock(frequency: float, gain: float) -> np.ndarray:
    """A quarter of a second of a tone that dies away."""
    time = np.arange(SAMPLE_RATE // 4, dtype=np.float32) / SAMPLE_RATE
    return np.float32(gain) * np.exp(-20 * time) * np.sin(np.float32(2 * np.pi) * frequency * time)


def _mix(rng: np.random.Generator, sound: np.ndarray) -> tuple[np.ndarray, set[int]]:
    """The events with the noise of the room and perhaps a background, and which one that is."""
    sound = sound * _gain(rng, _EVENT_DB) + _white(rng, len(sound)) * _gain(rng, _ROOM_DB)
    if rng.random() >= _BACKGROUND_RATE:
        return sound, set()
    kind = int(rng.integers(len(_BACKGROUNDS)))
    background = _BACKGROUNDS[kind](rng, len(sound) // SAMPLE_RATE)
    background *= _gain(rng, _BACKGROUND_DB) / np.sqrt(np.mean(background**2))
    return sound + background, {kind}


def _gain(rng: np.random.Generator, decibels: tuple[float, float]) -> np.float32:
    return np.float32(10 ** (rng.uniform(*decibels) / 20))


def _phase(frequencies: np.ndarray, step: int = _CONTROL_STEP) -> np.ndarray:
    """Phase in radians of a tone that keeps each frequency for ``step`` samples, without jumps."""
    turns = np.cumsum(frequencies) * (step / SAMPLE_RATE)
    # Whole turns are dropped before the precision of float32 would suffer.
    start = np.concatenate([[0], turns[:-1]]) % 1
    within = (frequencies / SAMPLE_RATE)[:, None] * np.arange(step)
    return (2 * np.pi * (start[:, None] + within)).astype(np.float32).ravel()


def _white(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Uniform white noise of variance 1."""
    return (rng.random(samples, dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5)


def _colored(rng: np.random.Generator, seconds: int, exponent: float) -> np.ndarray:
    """Noise whose amplitude goes with a power of the frequency, seconds being independent."""
    spectrum = np.fft.rfft(_white(rng, seconds * SAMPLE_RATE).reshape(seconds, SAMPLE_RATE))
    frequencies = np.maximum(np.arange(spectrum.shape[1]), 60.0) ** exponent
    return np.fft.irfft(spectrum * frequencies.astype(np.float32)).astype(np.float32).ravel()


def _decays(seconds: int, period: int, decay: float) -> np.ndarray:
    """An envelope that falls from 1 anew every ``period`` samples."""
    time = np.arange(seconds * SAMPLE_RATE, dtype=np.int64) % period
    return np.exp(np.arange(period, dtype=np.float32) / np.float32(-decay))[time]


def _steady(frequency: float, seconds: int) -> np.ndarray:
    return _phase(np.full(seconds * _CONTROL_RATE, frequency))


def _drone(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """A held fifth with its octave."""
    phase = _steady(rng.uniform(60, 100), seconds)
    return np.sin(2 * phase) + np.sin(3 * phase) + np.sin(4 * phase)


def _arpeggio(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Four plucked notes of a pentatonic scale a second."""
    step = SAMPLE_RATE // 4
    scale = rng.uniform(220, 330) * 2 ** (np.array([0, 3, 5, 7, 10]) / 12)
    notes = rng.choice(scale, size=4 * seconds)
    return _decays(seconds, step, 2000) * np.sin(_phase(notes, step))


def _drums(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """A bass drum with a snare on the off-beat."""
    beat = int(SAMPLE_RATE * rng.uniform(0.35, 0.6))
    bass = _decays(seconds, beat, 1000) * np.sin(_steady(60, seconds))
    snare = np.roll(_decays(seconds, beat, 500), beat // 2) * _white(rng, len(bass))
    return bass + np.float32(0.3) * snare


def _hum(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """The mains of either half of the world."""
    phase = _steady(rng.choice([100, 120]), seconds)
    return np.sum([np.sin(k * phase) / np.float32(k) for k in range(1, 7)], axis=0)


def _hiss(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Noise of high frequencies."""
    return _colored(rng, seconds, 1)


def _wind(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Noise of low frequencies that swells every few seconds."""
    time = np.arange(seconds * _CONTROL_RATE) / _CONTROL_RATE
    swell = 1 + 0.8 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.3) * time + rng.random()))
    return np.repeat(swell.astype(np.float32), _CONTROL_STEP) * _colored(rng, seconds, -1)


# In the order of their labels.
_BACKGROUNDS = (_drone, _arpeggio, _drums, _hum, _hiss, _wind)


# ------------------------------------------------------------------------------------- the features


def visual_features(frames: np.ndarray) -> np.ndarray:
    """Describe each frame by where something stands out, what it looks like, edges and colours.

    Args:
        frames (np.ndarray): Shape (T, 48, 48, 3), uint8 RGB.

    Returns:
        np.ndarray: Shape (T, 1216), float32. A row depends on its own frame alone.
    """
    count, size = frames.shape[:2]
    image = frames.astype(np.float32) / 255
    colors = image.reshape(count, 8, size // 8, 8, size // 8, 3).mean(axis=(2, 4))
    grey = image @ np.full(3, 1 / 3, dtype=np.float32)
    # What differs from the background by more than its own contrast: the glyphs.
    salient = np.abs(grey - np.median(grey, axis=(1, 2), keepdims=True))
    salient = np.maximum(salient - np.float32(0.15), 0)
    where = salient.reshape(count, 16, size // 16, 16, size // 16).mean(axis=(2, 4))
    what = _crop_salient(salient, 16)
    parts = [
        _edge_histograms(grey, 8, 4),
        0.3 * colors,
        _unit(where),
        _unit(what),
        _edge_histograms(what, 4, 16),
    ]
    return np.concatenate([part.reshape(count, -1) for part in parts], 1).astype(np.float32)


def _crop_salient(salient: np.ndarray, side: int, reach: int = 10) -> np.ndarray:
    """The most salient blob of each map (T, H, W), brought to the same place and size.

    The blob is the window of 2 ``reach`` + 1 pixels with the greatest sum; its centre and its
    spread give the crop (T, side, side).
    """
    count, size = salient.shape[:2]
    padded = np.pad(salient, ((0, 0), (reach, reach), (reach, reach)))
    sums = np.pad(padded.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    width = 2 * reach + 1
    rows = sums[:, width:] - sums[:, :-width]
    windows = rows[:, :, width:] - rows[:, :, :-width]
    corners = np.stack(np.divmod(windows.reshape(count, -1).argmax(1), size), axis=1)
    steps = np.arange(width)
    item = np.arange(count)[:, None, None]
    y, x = ((corners[:, [axis]] + steps) for axis in (0, 1))
    window = padded[item, y[:, :, None], x[:, None, :]]
    mass = window.sum(axis=(1, 2)) + 1e-6
    profiles = np.stack([window.sum(axis=2), window.sum(axis=1)], axis=1) / mass[:, None, None]
    center = profiles @ steps
    spread = np.sqrt((profiles * (steps - center[:, :, None]) ** 2).sum(axis=(1, 2)))
    grid = np.linspace(-2, 2, side) * spread[:, None, None]
    places = corners[:, :, None] - reach + center[:, :, None] + grid
    y, x = np.moveaxis(np.clip(np.rint(places), 0, size - 1).astype(np.int64), 1, 0)
    return salient[item, y[:, :, None], x[:, None, :]]


def _edge_histograms(images: np.ndarray, cells: int, bins: int) -> np.ndarray:
    """Directions of the gradient, weighted by its size, in cells of each image (T, H, W).

    Returns:
        np.ndarray: Shape (T, cells * cells * bins), the roots of shares of the whole image.
    """
    count, size = images.shape[:2]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode='edge')
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    strength = np.sqrt(dx**2 + dy**2)
    direction = np.arctan2(dy, dx) * np.float32(bins / (2 * np.pi))
    lower = np.floor(direction)
    upper_share = direction - lower
    lower = lower.astype(np.int64)
    cell = np.arange(size) // (size // cells)
    cell = (np.arange(count)[:, None, None] * cells + cell[:, None]) * cells + cell
    histogram = np.zeros(count * cells * cells * bins)
    for offset, share in ((0, 1 - upper_share), (1, upper_share)):
        place = cell * bins + (lower + offset) % bins
        histogram += np.bincount(place.ravel(), (strength * share).ravel(), len(histogram))
    histogram = histogram.reshape(count, -1)
    return np.sqrt(histogram / (histogram.sum(axis=1, keepdims=True) + 1e-6))


def _unit(maps: np.ndarray) -> np.ndarray:
    """Maps (T, H, W) of norm 1 or, where they are empty, 0."""
    return maps / (np.sqrt(np.sum(maps**2, axis=(1, 2), keepdims=True)) + 1e-3)


def audio_features(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrum of each second, in four parts.

    Args:
        waveform (np.ndarray): Shape (16000 T,), float32, mono at 16 kHz.

    Returns:
        np.ndarray: Shape (T, 256), float32: 64 mel bands of each quarter of a second.
    """
    seconds = waveform.reshape(-1, SAMPLE_RATE)
    windows = np.lib.stride_tricks.sliding_window_view(seconds, _WINDOW, axis=1)
    windows = windows[:, : _WINDOWS * _HOP : _HOP]
    taper = np.hanning(_WINDOW).astype(np.float32)
    features = [
        np.log(np.abs(np.fft.rfft(second * taper)) @ _mel_filters() + 0.01)
        .reshape(_GROUPS, -1, _BANDS)
        .mean(axis=1)
        for second in windows
    ]
    return np.stack(features).reshape(len(seconds), -1).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """Triangular filters (257, 64), equally spaced in mel from 125 to 7500 Hz as in VGGish."""
    low, high = 1127 * np.log1p(np.array([125, 7500]) / 700)
    edges = 700 * np.expm1(np.linspace(low, high, _BANDS + 2) / 1127)
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)[:, None]
    rise = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rise, fall), 0).astype(np.float32)


@dataclass(frozen=True)
class FeatureProjection:
    """A PCA whose components are scaled to the range of YouTube-8M's quantiser.

    Args:
        mean (np.ndarray): Shape (D,), float32.
        matrix (np.ndarray): Shape (D, K), float32.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Project features (T, D) to (T, K)."""
        return (features - self.mean) @ self.matrix


def fit_projection(features: np.ndarray, num_components: int) -> FeatureProjection:
    """Fit the PCA.

    The standard deviation falls from 1 in the first component to 0.4 in most, which gives frames
    about the norm of YouTube-8M's. The sign of a component makes its largest weight positive.
    Components beyond the rank of the features are 0.

    Args:
        features (np.ndarray): Shape (N, D), with D of at least ``num_components``.
        num_components (int): Components to keep, ``K``.

    Returns:
        FeatureProjection: The projection.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), 4096):
        centered = features[start : start + 4096] - mean
        covariance += centered.T @ centered
    variances, axes = np.linalg.eigh(covariance / len(features))
    variances, axes = variances[::-1][:num_components], axes[:, ::-1][:, :num_components]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    # Fewer frames than components leave axes that only rounding chose: these say nothing. Axes of
    # little variance are not blown up.
    known = variances > 1e-9 * variances[0]
    deviations = np.sqrt(np.maximum(variances, 1e-5 * variances[0]))
    targets = 0.4 + 0.6 * np.exp(-10 * np.arange(num_components) / num_components)
    matrix = axes * (known * targets / deviations)
    return FeatureProjection(mean.astype(np.float32), matrix.astype(np.float32))


# --------------------------------------------------------------------------------------- the checks


def _check_split(split: str) -> None:
    if split not in SPLITS:
        names = ', '.join(f'split={name!r}' for name in SPLITS)
        raise ValueError(f'split={split!r} is unknown: write one of {names}.')


def _checked_sizes(sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Sizes of the three splits, in their order."""
    sizes = SIZES if sizes is None else sizes
    fit = isinstance(sizes, Mapping) and set(sizes) == set(SPLITS)
    if not fit or not all(_is_int(size) and size >= 1 for size in sizes.values()):
        raise ValueError(
            f'sizes={sizes!r} must give a number of videos of at least 1 for each split: write '
            'for example sizes=dict(train=2000, validate=300, test=600).'
        )
    return {split: int(sizes[split]) for split in SPLITS}


def _checked_seed(seed: int) -> int:
    if not _is_int(seed) or seed < 0:
        raise ValueError(
            f'seed={seed!r} must be an integer of at least 0: write for example seed=0.'
        )
    return int(seed)


def _is_int(value: object) -> bool:
    """Whether a value is an integer, which a boolean in a config is not meant to be."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
