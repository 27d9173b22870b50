"""VideoCorruption in a pipeline: seeds by name, clips of a video, and what is wrong input."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corruption_clips import clock, moving, photo, shown
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope

from adv_plugins.datasets.corruptions import VideoCorruption, corrupt

CONFIGS = Path(__file__).parents[2] / 'mm_configs'


@pytest.fixture
def mmaction_scope() -> Iterator[None]:
    """MMAction2's transforms under their plain names, as in a config with default_scope."""
    pytest.importorskip('mmaction', reason='the pipelines are those of MMAction2')
    import mmaction.datasets  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


def digits(**corruption: Any) -> Any:
    """OrderedDigits with the stock test pipeline, corrupted after decoding."""
    pytest.importorskip('sklearn', reason='OrderedDigits draws the digits of scikit-learn')
    config = Config.fromfile(CONFIGS / '_base_' / 'ordered_digits.py')
    dataset = copy.deepcopy(config.val_dataloader.dataset)
    dataset.clips_per_class = 1
    if corruption:
        dataset.pipeline.insert(2, dict(type='VideoCorruption', **corruption))
    return DATASETS.build(dataset)


def results(count: int = 8, **info: Any) -> dict:
    """What a decode transform leaves behind."""
    return dict(imgs=list(moving(count, 40, 48)), modality='RGB', filename='a/b.mp4') | info


@pytest.mark.usefixtures('mmaction_scope')
@pytest.mark.parametrize('name', ['gaussian_noise', 'jumble', 'snow'])
def test_in_the_pipeline_of_ordered_digits(name: str):
    clean, corrupted = digits(), digits(name=name, severity=4)
    for index in (0, 7):
        before, after = clean[index], corrupted[index]
        assert after['inputs'].shape == before['inputs'].shape
        assert after['inputs'].dtype == before['inputs'].dtype
        assert after['data_samples'].gt_label == before['data_samples'].gt_label
        seed = zlib.crc32(f'0/0/{index}'.encode())
        frames = before['inputs'].numpy().transpose(0, 2, 3, 1)
        expected = corrupt(np.ascontiguousarray(frames), name, 4, seed)
        np.testing.assert_array_equal(after['inputs'].numpy().transpose(0, 2, 3, 1), expected)


@pytest.mark.usefixtures('mmaction_scope')
def test_the_same_from_any_number_of_workers():
    from torch.utils.data import DataLoader

    dataset = digits(name='impulse_noise', severity=2)
    loaded = []
    for workers in (0, 2):
        loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=list)
        loaded.append([item['inputs'].numpy() for batch in loader for item in batch])
    assert len(loaded[0]) == 12
    np.testing.assert_array_equal(*loaded)


def test_the_frames_are_replaced_and_nothing_else():
    transform = VideoCorruption('gaussian_noise', 3, seed=5)
    before = results(img_shape=(40, 48))
    frames = [frame.copy() for frame in before['imgs']]
    for imgs in (before['imgs'], np.stack(before['imgs'])):
        after = transform(before | dict(imgs=imgs))
        assert isinstance(after['imgs'], list) and len(after['imgs']) == 8
        for frame in after['imgs']:
            assert frame.flags.c_contiguous and frame.dtype == np.uint8
            assert frame.shape == (40, 48, 3)
        assert {k: after[k] for k in after if k != 'imgs'} == {
            k: before[k] for k in before if k != 'imgs'
        }
    np.testing.assert_array_equal(before['imgs'], frames)


def test_a_video_draws_by_its_name_wherever_it_is():
    def corrupted(seed: int = 0, **info: Any) -> bytes:
        entry = results(**info)
        entry = {key: value for key, value in entry.items() if value is not None}
        return np.stack(VideoCorruption('jumble', 5, seed)(entry)['imgs']).tobytes()

    same = [
        dict(filename='data/val/7.mp4'),
        dict(filename='/mnt/other/7.mp4'),
        dict(filename='C:\\videos\\7.mp4'),
        dict(filename='7.mp4', sample_idx=3),
        dict(filename=Path('x') / '7.mp4'),
        dict(filename=None, frame_dir='frames/7.mp4/'),
    ]
    assert len({corrupted(**info) for info in same}) == 1
    other = [
        dict(filename='data/val/8.mp4'),
        dict(filename='data/val/7.mp4', seed=1),
        dict(filename=None, frame_dir='frames/7'),
        dict(filename=None, sample_idx=0),
        dict(filename=None, sample_idx=1),
    ]
    assert len({corrupted(**info) for info in [same[0], *other]}) == 6


@pytest.mark.parametrize(
    ('info', 'length'),
    [
        (dict(), 8),
        (dict(clip_len=1, num_clips=8), 8),
        (dict(clip_len=1, num_clips=4), 4),  # DenseSampleFrames with two positions
        (dict(clip_len=4, num_clips=2), 4),
        (dict(clip_len=8, num_clips=1), 8),
    ],
)
def test_each_clip_of_a_video_is_corrupted_on_its_own(info: dict, length: int):
    frames = clock(8)
    numbers = shown(np.stack(VideoCorruption('jumble', 5)(results(**info, imgs=frames))['imgs']))
    for start in range(0, 8, length):
        own = np.arange(start, start + length)
        assert sorted(numbers[own]) == own.tolist()
    still = np.repeat(photo(40, 48)[None], 8, axis=0)
    noise = VideoCorruption('gaussian_noise', 3, temporal='shared')
    noisy = noise(results(**info, imgs=still))['imgs']
    assert len({frame.tobytes() for frame in noisy}) == 8 // length


def test_built_from_a_config():
    pipeline = Compose([dict(type='VideoCorruption', name='freeze', severity=2)])
    assert len(pipeline(results())['imgs']) == 8
    built = TRANSFORMS.build(dict(type='VideoCorruption', name='freeze', severity=2, seed=4))
    text = "VideoCorruption(name='freeze', severity=2, seed=4, temporal='iid')"
    assert repr(built) == text
    assert repr(eval(text)) == text


@pytest.mark.parametrize(
    ('info', 'error', 'message'),
    [
        (dict(imgs=[]), ValueError, 'found no frames .* DecordDecode'),
        (dict(imgs=None), ValueError, 'found no frames'),
        (dict(imgs=[photo(40, 48), photo(40, 50)]), ValueError, r'one shape .* Resize'),
        (dict(imgs=[photo(40, 48)[..., 0]] * 4), ValueError, r'\(4, 40, 48\)'),
        (dict(imgs=[photo(40, 48) / 255]), TypeError, 'float64'),
        (dict(clip_len=3, num_clips=2), ValueError, '8 frames, .* clips of 3'),
        (dict(lazy=dict(flip=False)), ValueError, 'Fuse'),
    ],
)
def test_wrong_results_are_told(info: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        VideoCorruption('snow', 1)(results(**info))


def test_a_video_without_a_name_is_told():
    entry = results()
    del entry['filename']
    with pytest.raises(ValueError, match='neither filename nor frame_dir nor sample_idx'):
        VideoCorruption('snow', 1)(entry)
