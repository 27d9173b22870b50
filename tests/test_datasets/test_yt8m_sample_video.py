"""The videos of YT8MSample: labels follow what is seen and heard; splits share nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the sample draws the digits of scikit-learn')

from sklearn.datasets import load_digits

from adv_plugins.datasets.digit_images import glyph_indices
from adv_plugins.datasets.digit_scenes import frame_order, render_scene
from adv_plugins.datasets.yt8m_sample import SAMPLE_RATE, SPLITS, SampleRenderer, event_sound
from adv_plugins.datasets.yt8m_sample import sound as sound_module
from adv_plugins.datasets.yt8m_sample import video as renderer_module


@pytest.mark.parametrize('split', SPLITS)
def test_labels_follow_what_is_rendered(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Motions from the frame orders asked for, digits from the glyphs in the rendered scenes."""
    motions, scenes, heard = [], [], []

    def spy_sound(scene, order: np.ndarray, pitch: float) -> np.ndarray:
        heard.append(order)
        return event_sound(scene, order, pitch)

    def spy_order(label: int, num_frames: int) -> np.ndarray:
        motions.append(int(label))
        return frame_order(label, num_frames)

    def spy_render(scene) -> np.ndarray:
        scenes.append(scene)
        return render_scene(scene)

    monkeypatch.setattr(renderer_module, 'frame_order', spy_order)
    monkeypatch.setattr(renderer_module, 'render_scene', spy_render)
    monkeypatch.setattr(renderer_module, 'event_sound', spy_sound)
    digits = load_digits()
    targets = dict(zip((i.tobytes() for i in digits.images / 16), digits.target, strict=True))
    renderer = SampleRenderer(split)
    counts = set()
    for index in range(20):
        for seen in (motions, scenes, heard):
            seen.clear()
        video = renderer.render(index)
        labels = set(video.labels.tolist())
        shown = {
            int(targets[scene.glyphs[which].astype(np.float64).tobytes()])
            for scene in scenes
            for which in set(scene.which.tolist())
        }
        assert {label for label in labels if label < 12} == set(motions)
        assert {label - 12 for label in labels if 12 <= label < 22} == shown
        orders = [frame_order(m, len(s.x)) for m, s in zip(motions, scenes, strict=True)]
        shots = [render_scene(s)[order] for s, order in zip(scenes, orders, strict=True)]
        np.testing.assert_array_equal(video.frames, np.concatenate(shots))
        np.testing.assert_array_equal(np.concatenate(heard), np.concatenate(orders))
        counts.add(len(motions))
    assert counts >= {1, 2}
    assert counts <= {1, 2, 3, 4}


def test_no_glyph_is_in_training_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_digits().images / 16
    number = {image.tobytes(): index for index, image in enumerate(images)}
    scenes: list = []
    monkeypatch.setattr(
        renderer_module,
        'render_scene',
        lambda scene: (scenes.append(scene), render_scene(scene))[1],
    )
    glyphs = {}
    for split in SPLITS:
        scenes.clear()
        renderer = SampleRenderer(split)
        for index in range(25):
            renderer.render(index)
        glyphs[split] = {
            number[glyph.astype(np.float64).tobytes()] for s in scenes for glyph in s.glyphs
        }
        allowed = glyph_indices('train' if split == 'train' else 'val')
        assert glyphs[split] <= set(allowed.tolist())
        assert set(renderer.glyph_indices) == set(allowed)
        # The static distractors are drawn by the source, from its own split.
        assert {source.split for source in renderer._sources.values()} == {
            'train' if split == 'train' else 'val'
        }
    assert not glyphs['train'] & (glyphs['validate'] | glyphs['test'])


def test_validate_and_test_share_no_scene_for_any_seeds() -> None:
    backgrounds = [
        SampleRenderer(split, seed)._sources[8].scene(0, 0).background
        for seed in (0, 1, 2, 3)
        for split in ('validate', 'test')
    ]
    for i, background in enumerate(backgrounds):
        for other in backgrounds[:i]:
            assert np.mean(background != other) > 0.5


def test_the_seed_chooses_what_happens_too() -> None:
    videos = [[SampleRenderer('train', seed).render(i) for i in range(8)] for seed in (0, 1)]
    plans = [[(len(v.frames), v.labels.tolist()) for v in same_seed] for same_seed in videos]
    assert not any(plan == other for plan, other in zip(*plans, strict=True))


def test_background_is_labelled_and_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every background replaced by a tone of its own, the label names the tone heard."""

    def tone(frequency: int) -> Callable:
        time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        wave = np.sin(2 * np.pi * frequency * time).astype(np.float32)
        return lambda rng, seconds: np.tile(wave, seconds)

    tones = [4000 + 500 * kind for kind in range(6)]
    monkeypatch.setattr(sound_module, '_BACKGROUNDS', tuple(map(tone, tones)))
    # Nothing else to be heard.
    monkeypatch.setattr(sound_module, '_EVENT_DB', (-200, -200))
    renderer = SampleRenderer('train')
    heard = set()
    for index in range(24):
        video = renderer.render(index)
        sounds = [label - 22 for label in video.labels.tolist() if label >= 22]
        assert len(sounds) <= 1
        spectrum = np.abs(np.fft.rfft(video.waveform[:SAMPLE_RATE]))
        loud = [kind for kind, hz in enumerate(tones) if spectrum[hz] > 20 * np.median(spectrum)]
        assert loud == sounds
        heard |= {tuple(sounds)}
    assert () in heard
    assert len(heard) >= 5


def test_videos_of_one_class_share_no_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four events in each video, all of the same motion and length."""
    scenes: list = []
    monkeypatch.setattr(renderer_module, '_EVENTS', (0, 0, 0, 1))
    monkeypatch.setattr(renderer_module, '_LENGTHS', (8,))
    monkeypatch.setattr(renderer_module, 'CLASSES', renderer_module.CLASSES[:1])
    monkeypatch.setattr(
        renderer_module,
        'render_scene',
        lambda scene: (scenes.append(scene), render_scene(scene))[1],
    )
    renderer = SampleRenderer('train')
    for index in range(3):
        assert 0 in renderer.render(index).labels
    assert len(scenes) == 12
    for i, scene in enumerate(scenes):
        for other in scenes[:i]:
            assert np.mean(scene.background != other.background) > 0.5
