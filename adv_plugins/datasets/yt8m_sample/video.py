"""The videos of the sample: what is seen and heard, and the labels that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...core.checks import check_choice, is_integer
from ..digit_images import glyph_indices, load_glyphs
from ..digit_scenes import Scene, frame_order, render_scene
from ..ordered_digits import CLASSES, OrderedDigits
from .classes import FIRST_DIGIT, FIRST_SOUND
from .sound import event_sound, mix

SPLITS = ('train', 'validate', 'test')

# Probability of 1, 2, 3 or 4 events in a video: most labels of YouTube-8M hold for all of it.
_EVENTS = (0.6, 0.25, 0.1, 0.05)
_MAX_EVENTS = len(_EVENTS)
# Seconds of a video's only event, and of one among several: 12 to 40 in all.
_LENGTHS_ALONE, _LENGTHS = (12, 14, 16), (8, 10)


@dataclass(frozen=True)
class SampleVideo:
    """A video of the sample before its features are extracted.

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

    A video shows one handwritten digit in one to four events, each in a scene of its own. Events
    in which a zero and a one take turns have their own digits.

    Args:
        split (str): 'train', 'validate' or 'test'.
        seed (int): Chooses the videos. Defaults to 0.

    Example:
        >>> video = SampleRenderer('train').render(0)
        >>> len(video.waveform) == SAMPLE_RATE * len(video.frames)
        True
    """

    def __init__(self, split: str, seed: int = 0) -> None:
        check_choice('split', split, SPLITS)
        self._rng_key = (checked_seed(seed), SPLITS.index(split))
        digits_split = 'train' if split == 'train' else 'val'
        self.glyph_indices = glyph_indices(digits_split)
        # Different splits share no scene, whatever their seeds.
        scene_seed = len(SPLITS) * seed + SPLITS.index(split)
        # Lazy: only their scenes are used, not their lists of clips.
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
            labels |= {FIRST_DIGIT + digit for digit in digits}
            frames.append(render_scene(scene)[order])
            sounds.append(event_sound(scene, order, pitch))
        waveform, background = mix(rng, np.concatenate(sounds))
        labels |= {FIRST_SOUND + sound for sound in background}
        return SampleVideo(
            np.array(sorted(labels), dtype=np.int64), np.concatenate(frames), waveform
        )


def _with_glyph(scene: Scene, glyph: int) -> tuple[Scene, set[int]]:
    """The scene with the video's glyph in it, and the digits that it shows."""
    if scene.which.any():
        return scene, {0, 1}
    images, targets = load_glyphs()
    glyphs = np.repeat(images[[glyph]], len(scene.glyphs), axis=0)
    return replace(scene, glyphs=glyphs), {int(targets[glyph])}


def checked_seed(seed: int) -> int:
    """The seed as Python's integer.

    Raises:
        ValueError: If it is no integer of at least 0.
    """
    if not is_integer(seed) or seed < 0:
        raise ValueError(
            f'seed={seed!r} must be an integer of at least 0: write for example seed=0.'
        )
    return int(seed)
