"""YT8MSample: real shards, labels that follow what is seen and heard, and a safe first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the sample draws the digits of scikit-learn')

from mmengine.registry import DATASETS
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from adv_plugins.datasets import yt8m_sample
from adv_plugins.datasets.ordered_digits import (
    CLASSES,
    OrderedDigits,
    frame_order,
    glyph_indices,
    render_scene,
)
from adv_plugins.datasets.yt8m import dequantize, quantize, read_examples
from adv_plugins.datasets.yt8m_sample import (
    SAMPLE_CLASSES,
    SAMPLE_RATE,
    SPLITS,
    VERTICALS,
    SampleRenderer,
    YT8MSample,
    audio_features,
    event_sound,
    fit_projection,
    visual_features,
    write_sample,
)

TINY = dict(train=6, validate=2, test=3)
STEP = 4 / 255


@pytest.fixture(scope='module')
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sample, not to be changed."""
    root = tmp_path_factory.mktemp('yt8m') / 'sample'
    write_sample(root, TINY)
    return root


@pytest.fixture
def fake_shards(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Replaces the slow part of ``write_sample``; lists the calls."""
    calls = []

    def write(folder: Path, sizes: dict, seed: int) -> None:
        calls.append(dict(sizes=sizes, seed=seed))
        for split in SPLITS:
            (folder / f'{split}0000.tfrecord').write_bytes(b'shard' * (seed + 1))

    monkeypatch.setattr(yt8m_sample, '_write_shards', write)
    return calls


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob('*.tfrecord'))}


def event(label: int, draw: int = 0, length: int = 10) -> np.ndarray:
    """The sound of one event, a row a second."""
    scene = OrderedDigits(num_frames=length, lazy_init=True).scene(label // 2, draw)
    return event_sound(scene, frame_order(label, length), 300.0).reshape(length, -1)


def peak_frequencies(seconds: np.ndarray) -> np.ndarray:
    """The strongest frequency of each second, in Hz."""
    return np.abs(np.fft.rfft(seconds * np.hanning(SAMPLE_RATE))).argmax(axis=1)


def loudness(seconds: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(seconds**2, axis=1))


# ------------------------------------------------------------------------------------- the shards


@pytest.mark.parametrize('split', SPLITS)
def test_the_real_reader_reads_the_shards(sample: Path, split: str) -> None:
    examples = list(read_examples(sample / f'{split}0000.tfrecord'))
    assert len(examples) == TINY[split]
    for example in examples:
        frames = len(example['rgb'])
        assert 12 <= frames <= 40
        assert example['rgb'].shape == (frames, 1024)
        assert example['audio'].shape == (frames, 128)
        assert example['rgb'].dtype == example['audio'].dtype == np.uint8
        labels = example['labels']
        assert labels.dtype == np.int64
        assert len(set(labels.tolist())) == len(labels)
        assert (labels < 12).any()
        assert ((labels >= 12) & (labels < 22)).any()
        assert labels.min() >= 0
        assert labels.max() < 28


def test_ids_are_unique_over_the_splits(sample: Path) -> None:
    ids = [example['id'] for path in sample.glob('*.tfrecord') for example in read_examples(path)]
    assert len(set(ids)) == len(ids) == sum(TINY.values())
    assert {len(name) for name in ids} == {4}


def test_shards_hold_the_quantised_projection_of_the_training_pca(sample: Path) -> None:
    """Every step again, from the public functions: the error is the quantiser's own."""
    videos = {
        split: [SampleRenderer(split).render(index) for index in range(TINY[split])]
        for split in SPLITS
    }
    for key, width, describe in (
        ('rgb', 1024, lambda video: visual_features(video.frames)),
        ('audio', 128, lambda video: audio_features(video.waveform)),
    ):
        train = np.concatenate([describe(video) for video in videos['train']])
        project = fit_projection(train, width)
        for split in SPLITS:
            examples = read_examples(sample / f'{split}0000.tfrecord')
            for example, video in zip(examples, videos[split], strict=True):
                np.testing.assert_array_equal(example['labels'], video.labels)
                truth = np.clip(project(describe(video)), -2, 2)
                error = dequantize(example[key]) - truth - 1 / 128
                assert np.abs(error).max() <= STEP / 2 + 1e-3


def test_features_use_the_range_of_the_quantiser(sample: Path) -> None:
    for key, first in (('rgb', 1.0), ('audio', 1.0)):
        examples = read_examples(sample / 'train0000.tfrecord')
        features = dequantize(np.concatenate([example[key] for example in examples]))
        assert features[:, 0].std() == pytest.approx(first, abs=0.15)
        assert np.mean(np.abs(features) > 1.99) < 0.05
        assert np.abs(features.mean(axis=0)).max() < 0.2


def test_bytes_depend_on_the_seed_alone(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / 'again', TINY)
    write_sample(tmp_path / 'other', TINY, seed=1)
    assert contents(tmp_path / 'again') == contents(sample)
    other = contents(tmp_path / 'other')
    assert other.keys() == contents(sample).keys()
    assert all(other[name] != data for name, data in contents(sample).items())


def test_large_splits_have_several_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Path
) -> None:
    monkeypatch.setattr(yt8m_sample, '_VIDEOS_PER_SHARD', 4)
    write_sample(tmp_path / 'sample', TINY)
    paths = sorted((tmp_path / 'sample').glob('train*.tfrecord'))
    assert [path.name for path in paths] == ['train0000.tfrecord', 'train0001.tfrecord']
    ids = [[example['id'] for example in read_examples(path)] for path in paths]
    assert list(map(len, ids)) == [4, 2]
    assert sum(ids, []) == [e['id'] for e in read_examples(sample / 'train0000.tfrecord')]


# ------------------------------------------------------------------------------------ the dataset


def test_dataset_gives_the_videos_with_their_targets(sample: Path) -> None:
    for split in SPLITS:
        dataset = DATASETS.build(
            dict(type='YT8MSample', split=split, data_root=str(sample), sizes=TINY)
        )
        examples = list(read_examples(sample / f'{split}0000.tfrecord'))
        assert len(dataset) == TINY[split]
        for item, example in zip((dataset[i] for i in range(len(dataset))), examples, strict=True):
            assert item['video_id'] == example['id']
            assert np.flatnonzero(item['label'].numpy()).tolist() == example['labels'].tolist()
            np.testing.assert_array_equal(item['rgb'], example['rgb'])
            np.testing.assert_array_equal(item['audio'], example['audio'])


def test_classes_and_verticals(sample: Path) -> None:
    dataset = YT8MSample('test', str(sample), TINY)
    assert dataset.metainfo['classes'] == SAMPLE_CLASSES
    assert SAMPLE_CLASSES[:12] == CLASSES
    assert len(set(SAMPLE_CLASSES)) == 28
    verticals = dataset.metainfo['verticals']
    named = {key: [SAMPLE_CLASSES[i] for i in group] for key, group in verticals.items()}
    assert {key: sorted(group) for key, group in named.items()} == {
        key: sorted(group) for key, group in VERTICALS.items()
    }
    assert sorted(sum(verticals.values(), ())) == list(range(28))


def test_first_use_is_the_first_item_not_the_constructor(
    tmp_path: Path, fake_shards: list[dict]
) -> None:
    YT8MSample('test', str(tmp_path / 'sample'), TINY, lazy_init=True)
    assert fake_shards == []


# ------------------------------------------------------------------------------------- the labels


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

    monkeypatch.setattr(yt8m_sample, 'frame_order', spy_order)
    monkeypatch.setattr(yt8m_sample, 'render_scene', spy_render)
    monkeypatch.setattr(yt8m_sample, 'event_sound', spy_sound)
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
        yt8m_sample, 'render_scene', lambda scene: (scenes.append(scene), render_scene(scene))[1]
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
    monkeypatch.setattr(yt8m_sample, '_BACKGROUNDS', tuple(map(tone, tones)))
    # Nothing else to be heard.
    monkeypatch.setattr(yt8m_sample, '_EVENT_DB', (-200, -200))
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


# ------------------------------------------------------------------------------------- the sounds


@pytest.mark.parametrize('draw', [0, 1, 2])
def test_pitch_follows_the_height(draw: int) -> None:
    rising = peak_frequencies(event(CLASSES.index('lift'), draw))
    falling = peak_frequencies(event(CLASSES.index('put down'), draw))
    assert (np.diff(rising) > 0).all()
    assert rising[-1] > 1.5 * rising[0]
    assert (np.diff(falling) < 0).all()
    np.testing.assert_allclose(falling[::-1], rising, rtol=0.06)


def test_pitch_is_the_formula_of_the_height() -> None:
    source = OrderedDigits(num_frames=10, lazy_init=True)
    # Hardly any motion up or down, so that each second has one pitch.
    scene = source.scene(0, 3)
    heard = peak_frequencies(event_sound(scene, np.arange(10), 300.0).reshape(10, -1))
    np.testing.assert_allclose(heard, 300 * 4 ** (1 - scene.y), rtol=0.02)


def test_loudness_follows_the_size() -> None:
    approach = loudness(event(CLASSES.index('approach')))
    away = loudness(event(CLASSES.index('move away')))
    assert (np.diff(approach) > 0).all()
    assert (np.diff(away) < 0).all()
    side = OrderedDigits(num_frames=10, lazy_init=True).scene(2, 0).side
    # A second averages over the way to its neighbours.
    np.testing.assert_allclose(approach[1:-1] / approach[1], (side[1:-1] / side[1]) ** 2, rtol=0.05)


def test_drop_sounds_different_from_hold() -> None:
    hold = peak_frequencies(event(CLASSES.index('lift then hold')))
    drop = peak_frequencies(event(CLASSES.index('lift then drop')))
    assert hold[-1] > 1.5 * hold[0]
    assert drop[-1] == pytest.approx(drop[0], rel=0.05)


def test_a_click_marks_the_change_of_digit_and_ticks_the_turn() -> None:
    scene = OrderedDigits(num_frames=10, lazy_init=True).scene(
        CLASSES.index('zero then one') // 2, 0
    )
    scene = replace(scene, angle=np.zeros(10), which=(np.arange(10) >= 3).astype(int))
    for order in (np.arange(10), np.arange(10)[::-1]):
        with_click = event_sound(scene, order, 300.0)
        still = event_sound(replace(scene, which=np.zeros(10, int)), order, 300.0)
        second = int(np.flatnonzero(np.diff(scene.which[order]))[0]) + 1
        difference = np.abs(with_click - still)
        assert difference[: second * SAMPLE_RATE].max() < 1e-5
        assert difference[second * SAMPLE_RATE :][: SAMPLE_RATE // 10].max() > 1
    turn = OrderedDigits(num_frames=10, lazy_init=True).scene(CLASSES.index('turn left') // 2, 0)
    ticks = event_sound(turn, np.arange(10), 300.0) - event_sound(
        replace(turn, angle=np.zeros(10)), np.arange(10), 300.0
    )
    heard = loudness(ticks.reshape(10, -1)) > 0.01
    expected = np.diff(np.floor(turn.angle / 45), prepend=np.floor(turn.angle[0] / 45)) != 0
    np.testing.assert_array_equal(heard, expected)
    assert expected.sum() >= 2


def test_a_long_tone_stays_in_tune_and_does_not_jump() -> None:
    """Closed form: the phase after n samples of f Hz is 2 pi f n / rate."""
    frequencies = np.full(4000, 440.7)
    wave = np.sin(yt8m_sample._phase(frequencies))
    time = np.arange(len(wave)) / SAMPLE_RATE
    np.testing.assert_allclose(wave, np.sin(2 * np.pi * 440.7 * time), atol=1e-4)


def test_backgrounds_sound_like_their_names() -> None:
    spectra = {}
    names = (*VERTICALS['Music'], *VERTICALS['Noise'])
    for name, make in zip(names, yt8m_sample._BACKGROUNDS, strict=True):
        assert make.__name__ == f'_{name}'
        wave = make(np.random.default_rng(0), 12)
        assert wave.shape == (12 * SAMPLE_RATE,)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        spectra[name] = np.mean(np.abs(np.fft.rfft(wave.reshape(12, -1))) ** 2, axis=0)
    hertz = np.arange(SAMPLE_RATE // 2 + 1)
    center = {name: (hertz * s).sum() / s.sum() for name, s in spectra.items()}
    assert center['hiss'] > 4000
    assert center['wind'] < 1000
    # A hum is its harmonics, and nothing between them.
    peaks = np.argsort(spectra['hum'])[-3:]
    assert set(peaks % 100) == {0} or set(peaks % 120) == {0}
    assert 110 < np.argmax(spectra['drone']) < 410
    assert np.argmax(spectra['arpeggio']) > 200
    beats = yt8m_sample._drums(np.random.default_rng(0), 12).reshape(-1, 1600)
    assert loudness(beats).max() > 5 * loudness(beats).min()


# ------------------------------------------------------------------------------------ the features


def test_a_frame_is_described_without_its_neighbours() -> None:
    video = SampleRenderer('train').render(1)
    seen, heard = visual_features(video.frames), audio_features(video.waveform)
    assert seen.shape == (len(video.frames), 1216)
    assert heard.shape == (len(video.frames), 256)
    assert seen.dtype == heard.dtype == np.float32
    order = np.random.default_rng(0).permutation(len(seen))
    waveform = video.waveform.reshape(len(seen), -1)[order].ravel()
    np.testing.assert_allclose(visual_features(video.frames[order]), seen[order], atol=1e-6)
    np.testing.assert_allclose(audio_features(waveform), heard[order], atol=1e-6)
    np.testing.assert_allclose(visual_features(video.frames[3:4]), seen[3:4], atol=1e-6)


def test_edge_histograms_agree_with_a_loop_over_pixels() -> None:
    image = np.random.default_rng(0).random((8, 8))
    expected = np.zeros((2, 2, 4))
    for y in range(8):
        for x in range(8):
            dy = image[min(y + 1, 7), x] - image[max(y - 1, 0), x]
            dx = image[y, min(x + 1, 7)] - image[y, max(x - 1, 0)]
            turn = (np.degrees(np.arctan2(dy, dx)) % 360) / 90
            share = turn % 1
            expected[y // 4, x // 4, int(turn) % 4] += np.hypot(dx, dy) * (1 - share)
            expected[y // 4, x // 4, (int(turn) + 1) % 4] += np.hypot(dx, dy) * share
    expected = np.sqrt(expected.ravel() / expected.sum())
    got = yt8m_sample._edge_histograms(image[None], 2, 4)[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_crop_of_a_blob_does_not_depend_on_its_place() -> None:
    blob = np.random.default_rng(0).random((12, 12)).astype(np.float32)
    maps = np.zeros((3, 48, 48), np.float32)
    for i, (y, x) in enumerate([(10, 10), (25, 12), (30, 28)]):
        maps[i, y : y + 12, x : x + 12] = blob
    maps[2, 2, 2] = 0.5
    crops = yt8m_sample._crop_salient(maps, 16)
    assert crops[0].max() > 0.9
    np.testing.assert_array_equal(crops[1], crops[0])
    np.testing.assert_array_equal(crops[2], crops[0])
    # An empty map, and a blob in the corner, are no error.
    maps[:] = 0
    maps[1, :5, 43:] = 1
    crops = yt8m_sample._crop_salient(maps, 16)
    assert not crops[0].any()
    assert crops[1].any()


def test_the_crop_of_a_blob_does_not_depend_on_its_size() -> None:
    steps = np.arange(48)
    y, x = (steps - 22)[:, None], steps - 25
    maps = np.stack([np.exp(-((y**2 + x**2 / 2) / (2 * sd**2))) for sd in (1.5, 3)])
    crops = yt8m_sample._crop_salient(maps.astype(np.float32), 16)
    # To the rounding of places to pixels.
    assert np.abs(crops[0] - crops[1]).mean() < 0.08


def test_a_tone_is_loudest_in_its_mel_band() -> None:
    for frequency in (300, 1000, 4000):
        time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
        wave = np.sin(2 * np.pi * frequency * time).astype(np.float32)
        wave[: SAMPLE_RATE // 2] = 0
        features = audio_features(wave).reshape(2, 4, 64)
        low, high, here = (2595 * np.log10(1 + hz / 700) for hz in (125, 7500, frequency))
        band = 65 * (here - low) / (high - low) - 1
        assert np.abs(features[1].argmax(axis=1) - band).max() < 1
        np.testing.assert_allclose(features[0, :1], np.log(0.01), atol=1e-4)
        assert features[0, 3].argmax() == features[1, 0].argmax()


def test_projection_is_sklearns_pca_up_to_sign() -> None:
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((5000, 12)) * np.geomspace(3, 0.3, 12)) @ rng.random((12, 12)) + 5
    data = data.astype(np.float32)
    project = fit_projection(data, 6)
    other = PCA(6, whiten=True, svd_solver='full').fit(data.astype(np.float64))
    target = 0.4 + 0.6 * np.exp(-10 * np.arange(6) / 6)
    expected = other.transform(data) * target
    got = project(data)
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got, expected * signs, atol=2e-3)
    np.testing.assert_allclose(got.std(axis=0), target, rtol=1e-3)
    largest = np.abs(project.matrix).argmax(axis=0)
    assert (project.matrix[largest, np.arange(6)] > 0).all()


def test_components_beyond_the_rank_are_zero_and_weak_ones_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    data = np.zeros((50, 20), np.float32)
    data[:, :3] = rng.standard_normal((50, 3))
    data[:, 3] = 1e-4 * rng.standard_normal(50)
    other = rng.standard_normal((9, 20)).astype(np.float32)
    project = fit_projection(data, 10)
    assert np.isfinite(project.matrix).all()
    assert not project(other)[:, 4:].any()
    assert project(data)[:, :3].std(axis=0).min() > 0.4
    assert project(data)[:, 3].std() < 0.03


def test_quantising_costs_half_a_step_and_the_offset() -> None:
    features = np.linspace(-2, 2, 10_001, dtype=np.float32)
    error = dequantize(quantize(features)) - features - 1 / 128
    assert np.abs(error).max() <= STEP / 2 + 1e-5


# ------------------------------------------------------------------------------------ the first use


def test_two_processes_make_one_sample(sample: Path, tmp_path: Path) -> None:
    script = (
        'import sys\n'
        'from adv_plugins.datasets.yt8m_sample import YT8MSample\n'
        f'dataset = YT8MSample("test", sys.argv[1], {TINY!r})\n'
        'print("item", dataset[2]["video_id"], int(dataset[2]["rgb"].sum()))\n'
    )
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', script, str(tmp_path / 'sample')]
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=Path(yt8m_sample.__file__).parents[2],
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert ''.join(outputs).count('Making 11 videos') == 1
    assert ''.join(outputs).count('Made 11 videos') == 1
    example = list(read_examples(sample / 'test0000.tfrecord'))[2]
    for output in outputs:
        assert f'item {example["id"]} {example["rgb"].sum()}' in output
    left = {path.name for path in tmp_path.iterdir()} - {'sample.lock'}
    assert left == {'sample'}


def test_a_finished_sample_is_kept(tmp_path: Path, fake_shards: list[dict]) -> None:
    root = tmp_path / 'data' / 'sample'
    write_sample(root, TINY)
    (root / 'train0000.tfrecord.index.npz').write_bytes(b'index')
    write_sample(root, TINY)
    write_sample(str(root) + '/', {key: TINY[key] for key in reversed(SPLITS)}, seed=np.int64(0))
    assert len(fake_shards) == 1
    assert (root / 'train0000.tfrecord.index.npz').exists()


def test_a_finished_sample_needs_no_lock(
    tmp_path: Path, fake_shards: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that can only be read."""
    write_sample(tmp_path / 'sample', TINY)

    def refuse(path: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(yt8m_sample, 'FileLock', refuse)
    write_sample(tmp_path / 'sample', TINY)
    with pytest.raises(PermissionError):
        write_sample(tmp_path / 'sample', TINY, seed=1)


def make_stale(root: Path, how: str) -> None:
    marker = root / 'yt8m_sample.json'
    if how == 'version':
        marker.write_text(json.dumps({**json.loads(marker.read_text()), 'version': 0}))
    elif how == 'marker cut':
        marker.write_text(marker.read_text()[:20])
    elif how == 'marker of another kind':
        marker.write_text('[]')
    elif how == 'shard missing':
        (root / 'test0000.tfrecord').unlink()
    else:
        (root / 'test0000.tfrecord').write_bytes(b'sha')


@pytest.mark.parametrize(
    'how', ['version', 'marker cut', 'marker of another kind', 'shard missing', 'shard cut']
)
def test_a_stale_or_half_sample_is_made_anew(
    how: str, tmp_path: Path, fake_shards: list[dict]
) -> None:
    root = tmp_path / 'sample'
    write_sample(root, TINY)
    whole = contents(root)
    make_stale(root, how)
    (root / 'train0000.tfrecord.index.npz').write_bytes(b'old')
    write_sample(root, TINY)
    assert len(fake_shards) == 2
    assert contents(root) == whole
    assert not (root / 'train0000.tfrecord.index.npz').exists()
    assert {path.name for path in tmp_path.iterdir()} - {'sample.lock'} == {'sample'}


def test_other_sizes_or_seed_replace_the_sample(tmp_path: Path, fake_shards: list[dict]) -> None:
    write_sample(tmp_path / 'sample', TINY)
    write_sample(tmp_path / 'sample', TINY, seed=1)
    larger = {**TINY, 'test': 4}
    write_sample(tmp_path / 'sample', larger, seed=1)
    assert fake_shards == [
        dict(sizes=TINY, seed=0),
        dict(sizes=TINY, seed=1),
        dict(sizes=larger, seed=1),
    ]


def test_a_failure_keeps_the_old_sample_and_leaves_nothing(
    tmp_path: Path, fake_shards: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / 'sample'
    write_sample(root, TINY)
    before = contents(root)

    def fail(folder: Path, sizes: dict, seed: int) -> None:
        (folder / 'train0000.tfrecord').write_bytes(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(yt8m_sample, '_write_shards', fail)
    with pytest.raises(OSError, match='disk full'):
        write_sample(root, TINY, seed=1)
    assert contents(root) == before
    assert {path.name for path in tmp_path.iterdir()} - {'sample.lock'} == {'sample'}
    write_sample(root, TINY)


def test_what_a_killed_process_left_is_cleared(tmp_path: Path, fake_shards: list[dict]) -> None:
    for state in ('building', 'old'):
        (tmp_path / f'sample.{state}').mkdir()
        (tmp_path / f'sample.{state}' / 'train0009.tfrecord').write_bytes(b'half')
    write_sample(tmp_path / 'sample', TINY)
    assert sorted(contents(tmp_path / 'sample')) == [f'{s}0000.tfrecord' for s in sorted(SPLITS)]
    assert {path.name for path in tmp_path.iterdir()} - {'sample.lock'} == {'sample'}


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path, fake_shards: list[dict]) -> None:
    root = tmp_path / 'yt8m'
    root.mkdir()
    write_sample(root, TINY)
    (root / 'yt8m_sample.json').unlink()
    (root / 'train0000.tfrecord').write_bytes(b'precious')
    with pytest.raises(FileExistsError, match='is no sample.*data/yt8m_sample'):
        write_sample(root, TINY)
    assert (root / 'train0000.tfrecord').read_bytes() == b'precious'
    (tmp_path / 'file').write_bytes(b'precious')
    with pytest.raises(FileExistsError, match='is no sample'):
        write_sample(tmp_path / 'file', TINY)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(split='val'), "split='val' is unknown: write one of split='train'"),
        (dict(sizes=dict(train=3)), 'for each split: write for example'),
        (dict(sizes={**TINY, 'test': 0}), 'at least 1 for each split'),
        (dict(sizes={**TINY, 'test': True}), 'at least 1 for each split'),
        (dict(sizes=300), 'sizes=300 must give'),
        (dict(seed=-1), 'seed=-1 must be an integer of at least 0'),
        (dict(seed=1.5), 'seed=1.5 must be'),
    ],
)
def test_wrong_options_are_told(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        YT8MSample(**{'data_root': str(tmp_path / 'sample'), **options})
    assert not list(tmp_path.iterdir())
