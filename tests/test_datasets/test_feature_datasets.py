"""YT8MFrameDataset and FeatureDataset: every record once, as stored, and errors that name it."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip('mmaction', reason='items go through PackActionInputs of MMAction2')

from mmengine.dataset import ClassBalancedDataset, DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader

from adv_plugins.datasets.features import FeatureDataset, YT8MFrameDataset, base
from adv_plugins.datasets.label_space import LabelSpace
from adv_plugins.datasets.yt8m import YT8MShards, examples, write_examples

WIDTHS = dict(rgb=8, audio=4)
CLASSES = [f'class {i}' for i in range(6)]
# Two shards of unequal size, 11 records; some without labels, some labelled twice.
LABELS = [[0], [1, 5], [], [2, 2], [3], [0, 1, 2], [], [4], [5], [1], [3, 4]]
LENGTHS = [3, 7, 1, 12, 5, 9, 2, 4, 6, 8, 3]


def video(index: int, labels: list[int] | None = None, width: int = 8) -> dict[str, Any]:
    """An example whose every byte is told by its number."""
    rng = np.random.default_rng(index)
    frames = LENGTHS[index % len(LENGTHS)]
    return dict(
        id=f'v{index}',
        labels=np.array(LABELS[index] if labels is None else labels, dtype=np.int64),
        rgb=rng.integers(0, 256, (frames, width), dtype=np.uint8),
        audio=rng.integers(0, 256, (frames, 4), dtype=np.uint8),
    )


VIDEOS = [video(i) for i in range(len(LABELS))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_examples(tmp_path / 'train0000.tfrecord', VIDEOS[:4])
    write_examples(tmp_path / 'train0001.tfrecord', VIDEOS[4:])
    return tmp_path


@pytest.fixture
def yt8m_dataset(shards: Path) -> Callable[..., YT8MFrameDataset]:
    def build(**options: Any) -> YT8MFrameDataset:
        defaults = dict(data_root=str(shards), modalities=WIDTHS, label_space=CLASSES)
        return YT8MFrameDataset(**{**defaults, **options})

    return build


@pytest.fixture
def own_dataset(tmp_path: Path) -> Callable[..., FeatureDataset]:
    """The same videos as a FeatureDataset of .npy files; ``store`` chooses another form."""
    lines = [' '.join(map(str, [f'set/{v["id"]}', *v['labels']])) for v in VIDEOS]
    (tmp_path / 'train.txt').write_text('\n'.join(lines) + '\n')

    def build(store: str = 'npy', **options: Any) -> FeatureDataset:
        prefix = STORES[store](tmp_path, {f'set/{v["id"]}': v for v in VIDEOS})
        defaults = dict(
            ann_file='train.txt',
            data_root=str(tmp_path),
            data_prefix=prefix,
            modalities=WIDTHS,
            num_classes=6,
        )
        return FeatureDataset(**{**defaults, **options})

    return build


def store_npy(root: Path, videos: dict[str, dict]) -> dict[str, str]:
    for name, content in videos.items():
        for modality in WIDTHS:
            path = root / 'features' / modality / f'{name}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, content[modality])
    return dict(rgb='features/rgb', audio='features/audio')


def store_npz(root: Path, videos: dict[str, dict]) -> dict[str, str]:
    for name, content in videos.items():
        path = root / 'both' / f'{name}.npz'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{modality: content[modality] for modality in WIDTHS})
    return dict(rgb='both', audio='both')


def store_rows(root: Path, videos: dict[str, dict]) -> dict[str, str]:
    """One array a modality, in another order than the annotation file, with a row of waste."""
    for modality, width in WIDTHS.items():
        rows, lines = [np.zeros((1, width), np.uint8)], []
        for name in reversed(videos):
            start = sum(map(len, rows))
            rows.append(videos[name][modality])
            lines.append(f'{name} {start} {start + len(rows[-1])}')
        np.save(root / f'{modality}.npy', np.concatenate(rows))
        (root / f'{modality}.txt').write_text('\n'.join(lines))
    return dict(rgb='rgb.npy', audio='audio.npy')


STORES = dict(npy=store_npy, npz=store_npz, rows=store_rows)


def one_hot(labels: Any, num_classes: int = 6) -> list[float]:
    return [float(i in list(labels)) for i in range(num_classes)]


def ids(dataset: Any) -> list[str]:
    return [dataset[i]['video_id'] for i in range(len(dataset))]


def assert_is_video(item: dict, expected: dict, max_frames: int | None = None) -> None:
    for modality in WIDTHS:
        assert item[modality].dtype == np.uint8
        assert np.array_equal(item[modality], expected[modality][:max_frames])
        assert type(item[modality]) is np.ndarray
        assert item[modality].flags.writeable
    assert item['num_frames'] == len(item['rgb'])
    assert item['label'].dtype == torch.float32
    assert item['label'].tolist() == one_hot(expected['labels'])


# ---------------------------------------------------------------------------------------- items


@pytest.mark.parametrize('max_frames', [300, 5, None])
def test_yt8m_items_are_the_records(yt8m_dataset: Callable, max_frames: int | None) -> None:
    dataset = yt8m_dataset(max_frames=max_frames)
    assert len(dataset) == 11
    for index, expected in enumerate(VIDEOS):
        item = dataset[index]
        assert item['video_id'] == f'v{index}'
        assert item['sample_idx'] == index
        assert_is_video(item, expected, max_frames)
    assert dataset[-1]['video_id'] == 'v10'
    assert dataset[-1]['sample_idx'] == 10


@pytest.mark.parametrize('max_frames', [5, None])
@pytest.mark.parametrize('store', STORES)
def test_own_items_are_the_arrays(
    own_dataset: Callable, store: str, max_frames: int | None
) -> None:
    dataset = own_dataset(store, max_frames=max_frames)
    assert len(dataset) == 11
    for index, expected in enumerate(VIDEOS):
        item = dataset[index]
        assert item['video_id'] == f'set/v{index}'
        assert_is_video(item, expected, max_frames)


def test_defaults_are_those_of_youtube_8m(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb, audio = (rng.integers(0, 256, (302, width), dtype=np.uint8) for width in (1024, 128))
    example = dict(id='abcd', labels=[3861, 730], rgb=rgb, audio=audio)
    write_examples(tmp_path / 'train0000.tfrecord', [example])
    dataset = DATASETS.build(dict(type='YT8MFrameDataset', data_root=str(tmp_path)))
    item = dataset[0]
    assert (item['rgb'].shape, item['audio'].shape) == ((300, 1024), (300, 128))
    assert item['num_frames'] == 300
    assert np.flatnonzero(item['label']).tolist() == [730, 3861]


def test_widths_types_and_lengths_of_ones_own(own_dataset: Callable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = dict(
        clip=rng.standard_normal((4, 3)).astype(np.float16),
        sound=rng.standard_normal((9, 2)).astype(np.float32),
        text=rng.integers(0, 256, (1, 5), dtype=np.uint8),
    )
    for name, array in arrays.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / 'a.npy', array)
    (tmp_path / 'own.txt').write_text('a 1\n')
    dataset = own_dataset(
        ann_file='own.txt',
        data_prefix={name: name for name in arrays},
        modalities=dict(clip=3, sound=2, text=5),
    )
    item = dataset[0]
    for name, array in arrays.items():
        assert item[name].dtype == array.dtype
        assert np.array_equal(item[name], array)
    assert item['num_frames'] == 9


def test_one_label_a_video(own_dataset: Callable, tmp_path: Path) -> None:
    """As MMAction2's own datasets have it; and it is known without the features."""
    (tmp_path / 'one.txt').write_text('set/v1 4\nset/v0 0\nset/v2\n')
    options = dict(ann_file='one.txt', multi_class=False)
    dataset = own_dataset(**options, empty_labels='drop')
    assert [dataset[i]['label'] for i in range(2)] == [4, 0]
    assert all(type(dataset[i]['label']) is int for i in range(2))
    assert dataset.get_cat_ids(0) == [4] and dataset.get_subset([1])[0]['label'] == 0
    (tmp_path / 'features/rgb/set/v1.npy').unlink()
    assert dataset.get_label(0) == 4 and own_dataset().get_label(1).tolist() == one_hot([1, 5])
    with pytest.raises(ValueError, match=r'one.txt, line 3 .*has 0 classes.*multi_class=True'):
        own_dataset(**options)
    with pytest.raises(ValueError, match=r'train.txt, line 2 .*has 2 classes.*write one label'):
        own_dataset(multi_class=False, empty_labels='drop')


def test_fortran_order_arrives_contiguous(own_dataset: Callable, tmp_path: Path) -> None:
    dataset = own_dataset()
    array = np.arange(24, dtype=np.uint8).reshape(3, 8)
    np.save(tmp_path / 'features/rgb/set/v0.npy', np.asfortranarray(array))
    assert np.array_equal(torch.from_numpy(dataset[0]['rgb']).numpy(), array)
    assert dataset[0]['rgb'].flags.c_contiguous


def test_a_modality_can_be_left_out(yt8m_dataset: Callable) -> None:
    item = yt8m_dataset(modalities=dict(audio=4))[0]
    assert 'rgb' not in item
    assert np.array_equal(item['audio'], VIDEOS[0]['audio'])


@pytest.mark.parametrize('kind', ['yt8m_dataset', 'own_dataset'])
def test_metainfo_is_there_before_the_data(kind: str, request: pytest.FixtureRequest) -> None:
    nodes = [dict(name='all'), dict(name='even', parents=['all'], entities=[0, 2, 4])]
    options: dict[str, Any] = dict(label_space=dict(nodes=nodes, entities=CLASSES))
    if kind == 'own_dataset':
        options['num_classes'] = None
    dataset = request.getfixturevalue(kind)(lazy_init=True, metainfo=dict(task='it'), **options)
    assert not dataset._fully_initialized
    assert dataset.metainfo == dict(task='it', classes=('all', 'even'), verticals={'all': (0, 1)})
    assert dataset[5]['label'].tolist() == [1, 1]
    assert dataset[1]['label'].tolist() == [0, 0]


# -------------------------------------------------------------------------------------- pipeline


@pytest.fixture
def mmaction_scope() -> Iterator[None]:
    import mmaction.datasets  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmaction'):
        yield


@pytest.mark.usefixtures('mmaction_scope')
@pytest.mark.parametrize('kind', ['yt8m_dataset', 'own_dataset'])
@pytest.mark.filterwarnings('error:The given NumPy array is not writable')
def test_packed_and_collated(kind: str, request: pytest.FixtureRequest) -> None:
    pack = dict(
        type='PackActionInputs',
        collect_keys=('rgb', 'audio'),
        meta_keys=('video_id', 'num_frames'),
    )
    dataset = request.getfixturevalue(kind)(pipeline=[pack])
    batch = next(iter(DataLoader(dataset, batch_size=3, collate_fn=pseudo_collate)))
    for index in range(3):
        for modality in WIDTHS:
            tensor = batch['inputs'][modality][index]
            assert tensor.dtype == torch.uint8
            assert np.array_equal(tensor.numpy(), VIDEOS[index][modality])
        sample = batch['data_samples'][index]
        assert sample.gt_label.tolist() == one_hot(LABELS[index])
        assert sample.video_id.endswith(f'v{index}')
        assert sample.num_frames == LENGTHS[index]


# -------------------------------------------------------------------------------------- sharding


def loaders(
    dataset: Any, sampler: type, monkeypatch: pytest.MonkeyPatch, workers: int, **options: Any
) -> list[DataLoader]:
    """What each of two ranks iterates over."""
    made = []
    for rank in range(2):
        info = (rank, 2)
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda info=info: info)
        made.append(
            DataLoader(
                dataset,
                batch_size=2,
                sampler=sampler(dataset, shuffle=True, seed=5, **options),
                num_workers=workers,
                collate_fn=pseudo_collate,
            )
        )
    return made


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['yt8m_dataset', 'own_dataset'])
def test_each_record_once_over_ranks_and_workers(
    kind: str, workers: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = request.getfixturevalue(kind)()
    ranks = loaders(dataset, DefaultSampler, monkeypatch, workers, round_up=False)
    seen = [[name for batch in loader for name in batch['video_id']] for loader in ranks]
    assert [len(names) for names in seen] == [6, 5]
    assert sorted(seen[0] + seen[1]) == sorted(ids(dataset))
    assert seen[0] + seen[1] != ids(dataset)


@pytest.mark.parametrize('workers', [0, 2])
def test_infinite_sampler_gives_each_record_once_a_round(
    workers: int, yt8m_dataset: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = yt8m_dataset(indices=8)
    ranks = loaders(dataset, InfiniteSampler, monkeypatch, workers)
    # 3 rounds of 8 records are 6 batches of 2 in each of 2 ranks.
    seen = [
        [name for batch in itertools.islice(loader, 6) for name in batch['video_id']]
        for loader in ranks
    ]
    for i in range(3):
        this = slice(4 * i, 4 * i + 4)
        assert sorted(seen[0][this] + seen[1][this]) == [f'v{k}' for k in range(8)]


def test_a_resumed_run_goes_on_where_it_was(
    yt8m_dataset: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(dataset: Any, start: int, stop: int) -> list[str]:
        loader = loaders(dataset, InfiniteSampler, monkeypatch, 0)[1]
        batches = itertools.islice(loader, start, stop)
        return [name for batch in batches for name in batch['video_id']]

    whole = order(yt8m_dataset(), 0, 20)
    # The resumed process builds everything anew; mmengine skips the batches that it has seen.
    assert order(yt8m_dataset(), 0, 9) + order(yt8m_dataset(), 9, 20) == whole


def test_a_spawned_worker_reads_the_same(yt8m_dataset: Callable, own_dataset: Callable) -> None:
    for dataset in (yt8m_dataset(), own_dataset('rows')):
        again = pickle.loads(pickle.dumps(dataset))
        assert ids(again) == ids(dataset)
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=1,
        collate_fn=pseudo_collate,
        multiprocessing_context='spawn',
    )
    batches = list(loader)
    assert [name for batch in batches for name in batch['video_id']] == ids(dataset)
    assert np.array_equal(batches[0]['rgb'][3], VIDEOS[3]['rgb'])


# --------------------------------------------------------------------------------------- subsets


@pytest.mark.parametrize('kind', ['yt8m_dataset', 'own_dataset'])
@pytest.mark.parametrize('indices', [4, -3, 0, 11, [7, 0, -1], np.array([2, 2]), range(1, 9, 3)])
def test_subsets(kind: str, indices: Any, request: pytest.FixtureRequest) -> None:
    build = request.getfixturevalue(kind)
    whole = build()
    names = ids(whole)
    if isinstance(indices, int):
        expected = names[:indices] if indices >= 0 else names[indices:]
    else:
        expected = [names[i] for i in indices]
    subset = whole.get_subset(indices)
    assert ids(subset) == expected
    assert len(whole) == 11
    assert ids(build(indices=indices)) == expected
    whole.get_subset_(indices)
    assert ids(whole) == expected
    assert [item['sample_idx'] for item in map(whole.__getitem__, range(len(whole)))] == list(
        range(len(expected))
    )


@pytest.mark.parametrize('errors', ['raise', 'skip'])
def test_positions_end_with_the_dataset(yt8m_dataset: Callable, errors: str) -> None:
    dataset = yt8m_dataset(errors=errors)
    assert len(list(dataset)) == 11
    for position in (11, -12):
        with pytest.raises(IndexError):
            dataset[position]


def test_indices_mean_the_same_videos_whatever_the_label_space(
    yt8m_dataset: Callable, own_dataset: Callable
) -> None:
    kept = [i for i, labels in enumerate(LABELS) if labels]
    for dataset in (yt8m_dataset(empty_labels='drop'), own_dataset(empty_labels='drop')):
        assert [name.split('/')[-1] for name in ids(dataset)] == [f'v{i}' for i in kept]
    first = [f'v{i}' for i in kept if i < 5]
    assert 0 < len(first) < 5
    assert ids(yt8m_dataset(empty_labels='drop', indices=5)) == first


def test_skip_leaves_what_indices_take(yt8m_dataset: Callable, own_dataset: Callable) -> None:
    for build in (yt8m_dataset, own_dataset):
        everything = ids(build())
        assert ids(build(indices=4)) + ids(build(skip=4)) == everything
        assert ids(build(skip=4, indices=2)) == everything[4:6]
        for skip in (11, -1):
            with pytest.raises(ValueError, match=f'skip={skip} leaves none of the 11 videos'):
                build(skip=skip)


def test_a_label_space_that_leaves_labels_out(yt8m_dataset: Callable) -> None:
    space = LabelSpace([dict(name='two', entities=[2])], entities=CLASSES)
    assert ids(yt8m_dataset(label_space=space, empty_labels='drop')) == ['v3', 'v5']
    kept = yt8m_dataset(label_space=space)
    targets = [kept[i]['label'].item() for i in range(11)]
    assert targets == [float(2 in labels) for labels in LABELS]
    none = LabelSpace([dict(name='nobody has it', entities=[6])], entities=[*CLASSES, 'seven'])
    with pytest.raises(ValueError, match="No video of .*train.*empty_labels='keep'"):
        yt8m_dataset(label_space=none, empty_labels='drop')


@pytest.mark.parametrize('kind', ['yt8m_dataset', 'own_dataset'])
def test_classes_of_a_video_for_balancing(kind: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(kind)(empty_labels='drop')
    kept = [labels for labels in LABELS if labels]
    assert [dataset.get_cat_ids(i) for i in range(len(kept))] == [sorted(set(x)) for x in kept]
    assert len(ClassBalancedDataset(dataset, oversample_thr=0.5)) > len(dataset)


# -------------------------------------------------------------------------------- faults of shards


def test_shards_by_list_glob_and_absolute_path(yt8m_dataset: Callable, shards: Path) -> None:
    assert ids(yt8m_dataset(ann_file='train0001.tfrecord')) == [f'v{i}' for i in range(4, 11)]
    both = ['train0000.tfrecord', str(shards / 'train0001*')]
    assert ids(yt8m_dataset(ann_file=both)) == [f'v{i}' for i in range(11)]
    with pytest.raises(FileNotFoundError, match='validate'):
        yt8m_dataset(ann_file='validate*.tfrecord')


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(base, 'print_log', lambda text, **_: messages.append(text))
    return messages


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (video(1, width=5), r'rgb: .*shape \(7, 5\), but modalities says \(T, 8\)'),
        (video(1, labels=[2, 6]), r'labels \[6\] are no indices into the 6 raw labels'),
        (dict(id='x', labels=[1], mean_rgb=np.zeros(8, np.float32)), "no 'rgb', .* mean_rgb"),
        ({**video(1), 'rgb': np.zeros((7, 8), np.int64)}, 'features are int64: store them as'),
    ],
)
def test_a_record_that_does_not_fit_the_options(
    bad: dict, message: str, yt8m_dataset: Callable, shards: Path, logged: list[str]
) -> None:
    path = shards / 'train0001.tfrecord'
    write_examples(path, [VIDEOS[4], bad, VIDEOS[6], VIDEOS[7]])
    dataset = yt8m_dataset()
    offset = YT8MShards(path).location(1)[1]
    assert offset > 0
    with pytest.raises(ValueError, match=rf'{path}, record at byte {offset}.*{message}'):
        dataset[5]
    assert dataset[4]['video_id'] == 'v4'
    # With errors='skip' the next one takes its place, wherever and whenever it is asked for.
    skipping = yt8m_dataset(errors='skip')
    for _ in range(2):
        assert ids(skipping) == ['v0', 'v1', 'v2', 'v3', 'v4', 'v6', 'v6', 'v7']
    assert skipping[5]['sample_idx'] == 6
    assert len(logged) == 1
    assert f'{path}, record at byte {offset}' in logged[0]


def test_the_last_bad_record_is_replaced_by_the_first(yt8m_dataset: Callable, shards: Path) -> None:
    write_examples(shards / 'train0001.tfrecord', [VIDEOS[4], video(5, width=3)])
    dataset = yt8m_dataset(errors='skip')
    assert dataset[5]['video_id'] == dataset[-1]['video_id'] == 'v0'


def test_replacing_has_an_end(yt8m_dataset: Callable, shards: Path) -> None:
    write_examples(shards / 'train0000.tfrecord', [video(i, width=3) for i in range(4)])
    dataset = yt8m_dataset(errors='skip', max_refetch=2)
    assert dataset[2]['video_id'] == 'v4'
    with pytest.raises(ValueError, match=r'max_refetch=2 records in a row.*shape \(\d+, 3\)'):
        dataset[1]


def test_a_record_without_frames(
    yt8m_dataset: Callable, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {**VIDEOS[4], 'rgb': np.zeros((0, 8), np.uint8), 'audio': np.zeros((0, 4), np.uint8)}
    path = shards / 'train0001.tfrecord'
    with monkeypatch.context() as patch:
        # The writer refuses to write such records.
        patch.setattr(examples, 'check_frames', lambda *args, **kwargs: None)
        write_examples(path, [empty, VIDEOS[6]])
    dataset = yt8m_dataset()
    with pytest.raises(ValueError, match=f'{path}, record at byte .*no frames'):
        dataset[4]
    assert ids(yt8m_dataset(errors='skip')) == ['v0', 'v1', 'v2', 'v3', 'v6']


def unequal_videos() -> list[dict]:
    """165 and 162 frames, 88 and 87, 9 and 9, and one without sound."""
    rng = np.random.default_rng(0)
    return [
        dict(
            id=f'v{i}',
            labels=[i],
            rgb=rng.integers(0, 256, (frames, 8), dtype=np.uint8),
            audio=rng.integers(0, 256, (others, 4), dtype=np.uint8),
        )
        for i, (frames, others) in enumerate([(165, 162), (87, 88), (9, 9), (5, 0)])
    ]


@pytest.mark.parametrize('store', ['yt8m', *STORES])
@pytest.mark.parametrize(
    ('max_frames', 'told'),
    [
        (
            None,
            'of 3 of 4 videos differ in length (frames of the first: rgb 165, audio 162)',
        ),
        # The same window of both, as far as there is one: the first two are equal in it.
        (50, 'of 1 of 4 videos differ in length (frames of the first: rgb 5, audio 0)'),
    ],
)
def test_modalities_of_unequal_lengths(
    store: str, max_frames: int | None, told: str, tmp_path: Path, logged: list[str]
) -> None:
    videos = unequal_videos()
    options = dict(modalities=WIDTHS, max_frames=max_frames)
    if store == 'yt8m':
        write_examples(tmp_path / 'a.tfrecord', videos)
        dataset = YT8MFrameDataset(str(tmp_path / 'a.tfrecord'), label_space=CLASSES, **options)
    else:
        prefix = STORES[store](tmp_path, {video['id']: video for video in videos})
        (tmp_path / 'list.txt').write_text('v0 0\nv1 1\nv2 2\nv3 3\n')
        options.update(data_root=str(tmp_path), data_prefix=prefix, num_classes=6)
        dataset = FeatureDataset('list.txt', **options)
    items = list(dataset)
    for item, video in zip(items, videos, strict=True):
        for name in WIDTHS:
            assert np.array_equal(item[name], video[name][:max_frames])
            assert item[name].dtype == np.uint8 and item[name].flags.writeable
        assert item['num_frames'] == max(len(item[name]) for name in WIDTHS)
    # Once, when it is opened, and not for each record.
    assert len(logged) == 1 and f'{told}, and 1 of these lack one' in logged[0]
    assert "input_norm='l2_frame' refuses" in logged[0]
    collate = [
        pseudo_collate([dict(inputs={n: torch.from_numpy(item[n]) for n in WIDTHS})])['inputs']
        for item in items
    ]
    assert [len(batch['audio'][0]) for batch in collate] == [len(item['audio']) for item in items]


def test_only_what_is_selected_counts_as_unequal(tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / 'a.tfrecord'
    write_examples(path, unequal_videos())
    options = dict(label_space=CLASSES, modalities=WIDTHS)
    assert len(YT8MFrameDataset(str(path), indices=[2], **options)) == 1
    assert len(YT8MFrameDataset(str(path), label_space=CLASSES, modalities=dict(audio=4))) == 4
    assert logged == []
    assert len(YT8MFrameDataset(str(path), indices=2, **options)) == 2
    assert len(logged) == 1 and 'of 2 of 2 videos differ' in logged[0]


def test_headers_are_not_trusted_with_what_reading_tells(
    own_dataset: Callable, tmp_path: Path, logged: list[str]
) -> None:
    own_dataset()
    (tmp_path / 'features/rgb/set/v2.npy').write_bytes(b'no array')
    np.save(tmp_path / 'features/audio/set/v0.npy', VIDEOS[0]['audio'][:-1])
    dataset = FeatureDataset(
        'train.txt',
        WIDTHS,
        dict(rgb='features/rgb', audio='features/audio'),
        num_classes=6,
        data_root=str(tmp_path),
    )
    assert 'of 1 of 11 videos differ' in logged[-1]
    with pytest.raises(ValueError, match='v2.npy cannot be read'):
        dataset[2]


def test_a_cut_shard(yt8m_dataset: Callable, shards: Path) -> None:
    path = shards / 'train0000.tfrecord'
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match='train0000.tfrecord, record at byte .* cut'):
        yt8m_dataset()
    assert ids(yt8m_dataset(errors='skip')) == [f'v{i}' for i in range(11) if i != 3]


def test_a_label_without_a_class_is_found_when_empty_videos_are_dropped(
    yt8m_dataset: Callable, shards: Path
) -> None:
    write_examples(shards / 'train0001.tfrecord', [video(4, labels=[4000])])
    with pytest.raises(ValueError, match=r'train0001.tfrecord, record at byte 0.*\[4000\]'):
        yt8m_dataset(empty_labels='drop')


# ------------------------------------------------------------------------------- faults of arrays


@pytest.mark.parametrize('store', ['npy', 'npz'])
def test_missing_files_are_found_at_once(own_dataset: Callable, tmp_path: Path, store: str) -> None:
    data_prefix = own_dataset(store).data_prefix
    folder = data_prefix['rgb']
    for index in range(1, 11):
        Path(folder, 'set', f'v{index}.{store}').unlink()
    listed = ', '.join(f'{folder}/set/v{i}.{store}' for i in range(1, 6))
    with pytest.raises(
        FileNotFoundError, match=f"10 of 11 videos are missing for 'rgb', such as {listed}:"
    ):
        FeatureDataset(str(tmp_path / 'train.txt'), WIDTHS, data_prefix, num_classes=6)


def test_missing_rows_are_found_at_once(own_dataset: Callable, tmp_path: Path) -> None:
    prefix = store_rows(tmp_path, {f'set/{v["id"]}': v for v in VIDEOS})
    options = dict(
        ann_file='train.txt',
        modalities=WIDTHS,
        data_prefix=prefix,
        num_classes=6,
        data_root=str(tmp_path),
    )
    rows = tmp_path / 'audio.txt'
    text = rows.read_text()
    # Its first line is that of the last video.
    rows.write_text(text.split('\n', 1)[1])
    with pytest.raises(FileNotFoundError, match=f'1 of 11 videos are missing in {rows}.*set/v10'):
        FeatureDataset(**options)
    rows.write_text('set/v0 55 99')
    with pytest.raises(ValueError, match='audio.txt, line 1: the rows 55 to 99 .*61 rows'):
        FeatureDataset(**options)
    rows.write_text('set/v0 1')
    with pytest.raises(ValueError, match="audio.txt, line 1: 'set/v0 1' is not"):
        FeatureDataset(**options)
    rows.unlink()
    with pytest.raises(FileNotFoundError, match='audio.txt.* needs a .txt beside it'):
        FeatureDataset(**options)


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((3, 7), np.uint8), r'shape \(3, 7\), but modalities says \(T, 8\)'),
        (np.zeros(8, np.uint8), r'shape \(8,\), but modalities says \(T, 8\)'),
        (np.zeros((3, 8)), 'features are float64: store them as uint8, float16, float32'),
        (b'no array', 'cannot be read as .npy file'),
        (b'', 'cannot be read as .npy file'),
        (np.array([{}]), 'cannot be read as .npy file: ValueError'),
        (np.array(5, np.uint8), r'shape \(\), but modalities says \(T, 8\)'),
    ],
)
def test_wrong_arrays_are_named(
    array: Any, message: str, own_dataset: Callable, tmp_path: Path
) -> None:
    dataset = own_dataset()
    path = tmp_path / 'features/rgb/set/v2.npy'
    path.write_bytes(array) if isinstance(array, bytes) else np.save(path, array)
    with pytest.raises(ValueError, match=rf'{path}.*({message})'):
        dataset[2]


def test_an_npz_without_the_modality(own_dataset: Callable, tmp_path: Path) -> None:
    dataset = own_dataset('npz')
    np.savez(tmp_path / 'both/set/v2.npz', rgb=VIDEOS[2]['rgb'])
    with pytest.raises(ValueError, match=r"v2.npz has no array 'audio', only \['rgb'\]"):
        dataset[2]
    (tmp_path / 'both/set/v3.npz').write_bytes(b'PK\x03\x04 cut')
    with pytest.raises(ValueError, match='v3.npz cannot be read as .npz file'):
        dataset[3]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('set/v0 1\nset/v1 cat', "mine.txt, line 2: 'set/v1 cat' is not"),
        ('set/v0 1\n\nset/v0 2', "mine.txt, line 3: 'set/v0' is there twice, first on line 1"),
        ('set/v0 1\n\nset/v1 6', r"mine.txt, line 3 \('set/v1'\): the labels \[6\].*0 to 5"),
        ('set/v0 -1', r"mine.txt, line 1 \('set/v0'\): the labels \[-1\]"),
        ('\n', 'mine.txt names no video'),
    ],
)
def test_wrong_annotations(text: str, message: str, own_dataset: Callable, tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        own_dataset(ann_file='mine.txt')


def test_annotations_as_an_editor_of_windows_saves_them(
    own_dataset: Callable, tmp_path: Path
) -> None:
    (tmp_path / 'mine.txt').write_bytes(b'\xef\xbb\xbfset/v0 1\r\n\r\nset/v1\r\n\r\n')
    assert ids(own_dataset(ann_file='mine.txt')) == ['set/v0', 'set/v1']
    (tmp_path / 'mine.txt').write_text('set/v0 1\n', encoding='utf-16')
    with pytest.raises(ValueError, match='mine.txt is not a text file in UTF-8.*UTF-16'):
        own_dataset(ann_file='mine.txt')


@pytest.mark.parametrize('store', STORES)
def test_a_line_that_is_split_by_a_comma(store: str, own_dataset: Callable, tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').write_text('set/v0 1\n\nset/v1,1\n')
    with pytest.raises(FileNotFoundError, match='set/v1,1.* mine.txt, line 3|mine.txt, line 3'):
        own_dataset(store, ann_file='mine.txt')


def test_rows_of_a_video_that_is_there_twice(own_dataset: Callable, tmp_path: Path) -> None:
    store_rows(tmp_path, {f'set/{v["id"]}': v for v in VIDEOS})
    rows = tmp_path / 'audio.txt'
    text = rows.read_text()
    rows.write_bytes(b'\xef\xbb\xbf' + text.replace('\n', '\r\n').encode() + b'\r\n\r\n')
    prefix = dict(data_prefix=dict(rgb='rgb.npy', audio='audio.npy'))
    assert len(own_dataset(**prefix)) == 11
    (tmp_path / 'audio.txt').write_text(text + '\n\nset/v0 0 1\n')
    options = dict(num_classes=6, data_root=str(tmp_path), **prefix)
    with pytest.raises(
        ValueError, match=r"audio.txt, line 13: 'set/v0' is there twice, first on line 11: write"
    ):
        FeatureDataset('train.txt', WIDTHS, **options)


# --------------------------------------------------------------------------------------- memory


def test_only_the_rows_of_the_item_are_read(tmp_path: Path) -> None:
    rows = np.lib.format.open_memmap(
        tmp_path / 'rgb.npy', mode='w+', dtype=np.uint8, shape=(40_000, 512)
    )
    rows[30_000:30_100] = 7
    rows.flush()
    (tmp_path / 'rgb.txt').write_text('a 0 20000\nb 30000 40000')
    (tmp_path / 'list.txt').write_text('b 0\na 0')
    tracemalloc.start()
    try:
        dataset = FeatureDataset(
            'list.txt',
            dict(rgb=512),
            dict(rgb='rgb.npy'),
            num_classes=1,
            data_root=str(tmp_path),
            max_frames=100,
        )
        item = dataset[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (item['rgb'] == 7).all()
    assert item['rgb'].shape == (100, 512)
    assert peak < rows.nbytes / 10
    # A worker is sent the path of the array, not its content.
    assert len(pickle.dumps(dataset)) < rows.nbytes / 100
    item['rgb'][:] = 0
    assert (dataset[0]['rgb'] == 7).all()


def test_no_object_for_each_record(tmp_path: Path) -> None:
    def size(num_records: int, **options: int) -> int:
        path = tmp_path / f'{num_records}.tfrecord'
        frame = np.zeros((1, 1), np.uint8)
        if not path.exists():
            write_examples(path, (dict(id='a', labels=[0], rgb=frame) for _ in range(num_records)))
        only = dict(modalities=dict(rgb=1), label_space=['only'])
        dataset = YT8MFrameDataset(str(path), **only, **options)
        assert dataset.data_list == []
        assert dataset._shards.labels(0).tolist() == [0]
        return len(pickle.dumps(dataset))

    # The index of the shards is in its file, and all records, or the first ones, are a range.
    for options in ({}, dict(skip=10), dict(indices=900), dict(indices=-900)):
        assert size(3000, **options) - size(1000, **options) < 20


# -------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(errors='ignore'), "errors='ignore' is unknown; write errors='raise' or"),
        (dict(empty_labels='no'), "empty_labels='no' is unknown; write empty_labels='keep'"),
        (dict(max_frames=0), 'max_frames=0 must be an integer of at least 1, or None'),
        (dict(max_frames=True), 'max_frames=True'),
        (dict(modalities=dict(rgb=0)), "modalities={'rgb': 0} must give each modality its width"),
        (dict(modalities={}), 'modalities={} must give'),
        (dict(label_space='Finanse'), "mean 'Finance'"),
        (dict(metainfo=dict(classes=['x'])), "metainfo has 'classes'.*label_space"),
    ],
)
def test_wrong_options_of_yt8m(options: dict, message: str, shards: Path) -> None:
    with pytest.raises(ValueError, match=message):
        YT8MFrameDataset(data_root=str(shards), **options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(classes=['x']), r"num_classes=6, classes=\['x'\] and label_space=None: give exactly"),
        (dict(num_classes=None), 'num_classes=None, classes=None and label_space=None: give'),
        (dict(num_classes=0), 'num_classes=0 must be an integer of at least 1'),
        (dict(data_prefix=dict(rgb='x')), r"keys \['rgb'\], modalities has \['audio', 'rgb'\]"),
    ],
)
def test_wrong_options_of_ones_own(options: dict, message: str, own_dataset: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        own_dataset(**options)


def test_named_classes(own_dataset: Callable) -> None:
    dataset = own_dataset(num_classes=None, classes=CLASSES)
    assert dataset.metainfo['classes'] == tuple(CLASSES)
    assert dataset.metainfo['verticals'] == {}
    assert own_dataset().metainfo['classes'] == tuple('012345')
