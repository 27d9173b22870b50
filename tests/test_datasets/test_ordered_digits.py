"""OrderedDigits: only the order of frames tells a pair apart, and nothing else is random."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
pytest.importorskip('mmaction', reason='the clips go through the transforms of MMAction2')

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from adv_plugins.datasets import OrderedDigits, digit_scenes
from adv_plugins.datasets.digit_images import glyph_indices, load_glyphs
from adv_plugins.datasets.digit_scenes import frame_order

CONFIGS = Path(__file__).parents[2] / 'mm_configs'
PAIRS = OrderedDigits.METAINFO['pairs']
FLIP = OrderedDigits.METAINFO['flip_label_map']


@pytest.fixture
def mmaction_scope() -> Iterator[None]:
    """MMAction2's transforms under their plain names, as in a config with default_scope."""
    import mmaction.datasets  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@pytest.fixture
def base() -> Config:
    return Config.fromfile(CONFIGS / '_base_' / 'ordered_digits.py')


def foreground(dataset: OrderedDigits, label: int, draw: int) -> np.ndarray:
    """How much each pixel differs from the clip's static background, (T, H, W)."""
    scene = dataset.scene(label // 2, draw)
    difference = np.abs(dataset.render(label, draw) - scene.background).mean(axis=-1)
    return np.clip(difference - 2 * digit_scenes._NOISE, 0, None)


def centroids(mass: np.ndarray) -> np.ndarray:
    """Centre of mass (x, y) of every frame, (T, 2)."""
    rows, columns = np.mgrid[: mass.shape[1], : mass.shape[2]]
    total = mass.sum(axis=(1, 2))
    return np.stack([(mass * axis).sum(axis=(1, 2)) / total for axis in (columns, rows)], axis=1)


def rotated(image: np.ndarray, angle: float) -> np.ndarray:
    """A frame turned counterclockwise about its centre of mass."""
    center = tuple(float(v) for v in centroids(image[None])[0])
    matrix = cv2.getRotationMatrix2D(center, angle, 1)
    return cv2.warpAffine(image.astype(np.float32), matrix, image.shape[::-1])


def turns_left(mass: np.ndarray) -> bool:
    """Whether turning each frame by 15 degrees to the left brings it closer to the next."""
    left = sum(np.abs(rotated(a, 15) - b).sum() for a, b in zip(mass, mass[1:], strict=False))
    right = sum(np.abs(rotated(a, -15) - b).sum() for a, b in zip(mass, mass[1:], strict=False))
    return left < right


def test_the_same_clip_in_any_order_of_access_and_in_another_process():
    first, second = OrderedDigits(clips_per_class=3), OrderedDigits(clips_per_class=3)
    second = pickle.loads(pickle.dumps(second))
    indices = range(len(first))
    clips = {i: first.get_data_info(i)['array'] for i in indices}
    for i in reversed(indices):
        np.testing.assert_array_equal(clips[i], second.get_data_info(i)['array'])
        np.testing.assert_array_equal(clips[i], first.get_data_info(i)['array'])


def test_rendering_leaves_the_global_random_stream_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    OrderedDigits(clips_per_class=1).get_data_info(0)
    assert np.random.rand() == expected


def test_more_clips_extend_a_dataset_and_leave_its_clips_as_they_were():
    few, many = OrderedDigits(clips_per_class=2), OrderedDigits(clips_per_class=5)
    np.testing.assert_array_equal(few.render(4, 1), many.render(4, 1))


def test_the_seed_changes_scenes_and_not_the_split():
    one, other = OrderedDigits(seed=0), OrderedDigits(seed=1)
    assert not np.array_equal(one.render(0, 0), other.render(0, 0))
    np.testing.assert_array_equal(one._glyph_indices, other._glyph_indices)


def test_no_glyph_image_is_in_both_splits():
    images, targets = load_glyphs()
    train, val = glyph_indices('train'), glyph_indices('val')
    assert not {images[i].tobytes() for i in train} & {images[i].tobytes() for i in val}
    assert len(train) + len(val) == len(images)
    for split in (train, val):
        assert np.bincount(targets[split], minlength=10).min() >= 80


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_clip_shows_only_glyphs_of_its_split(split):
    images, _ = load_glyphs()
    allowed = {images[i].tobytes() for i in glyph_indices(split)}
    dataset = OrderedDigits(split)
    for pair in range(6):
        for draw in range(20):
            assert {g.tobytes() for g in dataset.scene(pair, draw).glyphs} <= allowed


@pytest.mark.parametrize('num_frames', [8, 16])
def test_the_members_of_a_pair_hold_the_same_frames_in_the_val_pipeline(
    num_frames, base, mmaction_scope
):
    pipeline = base.val_pipeline
    pipeline[0].num_clips = num_frames
    dataset = OrderedDigits(
        'val', clips_per_class=3, num_frames=num_frames, pipeline=pipeline, test_mode=True
    )
    for first, second in PAIRS:
        for draw in range(3):
            one, other = (dataset[label * 3 + draw] for label in (first, second))
            assert one['data_samples'].gt_label.item() == first
            assert other['data_samples'].gt_label.item() == second
            assert one['inputs'].shape == (num_frames, 3, 48, 48)
            assert not torch.equal(one['inputs'], other['inputs'])
            frames = [sorted(f.numpy().tobytes() for f in i['inputs']) for i in (one, other)]
            assert frames[0] == frames[1]


@pytest.mark.parametrize('num_frames', [8, 10, 12, 16, 18])
def test_every_class_shows_every_frame_once(num_frames):
    for label in range(12):
        assert sorted(frame_order(label, num_frames)) == list(range(num_frames))


def test_the_long_term_pair_holds_to_the_end_or_falls_to_the_ground():
    heights = np.rint(3 * digit_scenes._lift_then_hold(8)).astype(int)
    assert heights[frame_order(10, 8)].tolist() == [0, 0, 1, 2, 3, 3, 3, 3]
    assert heights[frame_order(11, 8)].tolist() == [0, 1, 2, 3, 3, 3, 3, 0]
    assert OrderedDigits.METAINFO['long_term'] == (10, 11)


def test_the_motion_is_the_one_that_the_class_names():
    dataset = OrderedDigits('val', size=64)
    for draw in range(10):
        # On the screen y points down.
        for label, axis, sign in ((0, 0, 1), (1, 0, -1), (2, 1, -1), (3, 1, 1)):
            path = centroids(foreground(dataset, label, draw))[:, axis]
            assert sign * (path[-1] - path[0]) > 12
        area = (foreground(dataset, 4, draw) > 0).sum(axis=(1, 2))
        assert area[-1] > 2 * area[0]
        area = (foreground(dataset, 5, draw) > 0).sum(axis=(1, 2))
        assert area[0] > 2 * area[-1]


def test_the_flip_label_map_names_the_motion_of_the_mirrored_clip():
    dataset = OrderedDigits('val', size=64)
    assert dataset.metainfo['flip_label_map'] == {0: 1, 1: 0, 8: 9, 9: 8}
    goes_right, turned_left = {0: True, 1: False}, {8: True, 9: False}
    for draw in range(10):
        for label in (0, 1):
            for mass, shown in (
                (foreground(dataset, label, draw), label),
                (foreground(dataset, label, draw)[:, :, ::-1], FLIP[label]),
            ):
                path = centroids(mass)[:, 0]
                assert (path[-1] > path[0]) == goes_right[shown]
        for label in (8, 9):
            mass = foreground(dataset, label, draw)
            assert turns_left(mass) == turned_left[label]
            assert turns_left(mass[:, :, ::-1]) == turned_left[FLIP[label]]


def test_the_flip_of_the_train_pipeline_changes_the_label(base, mmaction_scope):
    for step in base.train_pipeline:
        if step.type == 'Flip':
            assert step.flip_label_map == FLIP
            step.flip_ratio = 1.0
    dataset = OrderedDigits(clips_per_class=1, pipeline=base.train_pipeline)
    labels = [dataset[i]['data_samples'].gt_label.item() for i in range(12)]
    assert labels == [1, 0, 2, 3, 4, 5, 6, 7, 9, 8, 10, 11]


@pytest.mark.parametrize(('split', 'count'), [('train', 30), ('val', 40)])
def test_the_classes_are_balanced(split, count):
    dataset = OrderedDigits(split)
    labels = [dataset.get_data_info(i)['label'] for i in range(0, len(dataset), 7)]
    assert set(labels) == set(range(12))
    assert (
        np.bincount([item['label'] for item in dataset.load_data_list()]).tolist() == [count] * 12
    )


@pytest.mark.parametrize('mode', ['train', 'val'])
def test_a_config_loads_batches(mode, base, mmaction_scope):
    loader_config = base[f'{mode}_dataloader']
    loader_config.dataset.clips_per_class = 2
    batch = next(iter(Runner.build_dataloader(loader_config)))
    assert len(batch['inputs']) == 16
    assert {tuple(clip.shape) for clip in batch['inputs']} == {(8, 3, 48, 48)}
    assert batch['inputs'][0].dtype == torch.uint8


def test_worker_processes_render_the_same_clips(base, mmaction_scope):
    loader_config = base.val_dataloader
    loader_config.dataset.clips_per_class = 1
    here = next(iter(Runner.build_dataloader(loader_config)))
    loader_config.num_workers = 1
    there = next(iter(Runner.build_dataloader(loader_config)))
    for one, other in zip(here['inputs'], there['inputs'], strict=True):
        assert torch.equal(one, other)


def test_tsn_is_blind_inside_every_pair_and_tsm_is_not(base, mmaction_scope):
    import mmaction.models  # noqa: F401

    scores = {}
    for name in ('tsn', 'tsm'):
        config = Config.fromfile(CONFIGS / 'baselines' / f'{name}_r18_1x1x8_ordered-digits-rgb.py')
        # A larger head than at the start of training, so that scores differ visibly.
        config.model.cls_head.init_std = 1.0
        model = MODELS.build(config.model)
        model.init_weights()
        model.eval()
        dataset = base.val_dataloader.dataset
        dataset.clips_per_class = 1
        batch = next(iter(Runner.build_dataloader(base.val_dataloader)))
        with torch.no_grad():
            samples = model.test_step(batch)
        scores[name] = torch.stack([sample.pred_score.log() for sample in samples])
    for first, second in PAIRS:
        torch.testing.assert_close(
            scores['tsn'][first], scores['tsn'][second], rtol=1e-4, atol=1e-3
        )
        assert (scores['tsm'][first] - scores['tsm'][second]).abs().max() > 0.1


@pytest.mark.parametrize(
    ('option', 'advice'),
    [
        (dict(split='test'), "write split='train' or split='val'"),
        (dict(clips_per_class=0), 'clips_per_class=30'),
        (dict(clips_per_class=True), 'clips_per_class=30'),
        (dict(num_frames=9), 'num_frames=8 or num_frames=16'),
        (dict(num_frames=6), 'at least 8'),
        (dict(num_frames=8.0), 'num_frames=8'),
        (dict(size=224), '32 to 64'),
        (dict(size='48'), 'size=48'),
        (dict(seed=-1), 'seed=0'),
    ],
)
def test_a_bad_argument_is_an_error_that_says_what_to_write(option, advice):
    with pytest.raises(ValueError, match=advice) as error:
        OrderedDigits(**option)
    ((name, value),) = option.items()
    assert f'{name}={value!r}' in str(error.value)


def test_a_missing_scikit_learn_is_an_error_that_names_the_extra(monkeypatch):
    load_glyphs.cache_clear()
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'adv_plugins\[data\]'):
        OrderedDigits()


def test_the_splits_share_no_scene():
    """Not only the glyphs differ: neither where they move, nor over what."""
    train, val = OrderedDigits('train'), OrderedDigits('val')
    for pair in range(len(PAIRS)):
        for draw in range(3):
            one, other = train.scene(pair, draw), val.scene(pair, draw)
            assert np.mean(one.background != other.background) > 0.5
            paths = [np.stack([s.x, s.y, s.side, s.angle]) for s in (one, other)]
            assert not np.array_equal(*paths)
