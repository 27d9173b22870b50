"""YT8MSample: real shards with their targets, and a first use that is safe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the sample draws the digits of scikit-learn')

from mmengine.registry import DATASETS

from adv_plugins import progress
from adv_plugins.datasets.ordered_digits import CLASSES
from adv_plugins.datasets.yt8m import checksum, dequantize, read_examples
from adv_plugins.datasets.yt8m_sample import (
    SAMPLE_CLASSES,
    SPLITS,
    VERTICALS,
    SampleRenderer,
    YT8MSample,
    audio_features,
    fit_projection,
    folder,
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

    monkeypatch.setattr(folder, '_write_shards', write)
    return calls


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob('*.tfrecord'))}


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
    monkeypatch.setattr(folder, '_VIDEOS_PER_SHARD', 4)
    write_sample(tmp_path / 'sample', TINY)
    paths = sorted((tmp_path / 'sample').glob('train*.tfrecord'))
    assert [path.name for path in paths] == ['train0000.tfrecord', 'train0001.tfrecord']
    ids = [[example['id'] for example in read_examples(path)] for path in paths]
    assert list(map(len, ids)) == [4, 2]
    assert sum(ids, []) == [e['id'] for e in read_examples(sample / 'train0000.tfrecord')]


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
            cwd=Path(folder.__file__).parents[3],
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

    monkeypatch.setattr(folder, 'FileLock', refuse)
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

    monkeypatch.setattr(folder, '_write_shards', fail)
    with pytest.raises(OSError, match='disk full'):
        write_sample(root, TINY, seed=1)
    assert contents(root) == before
    assert {path.name for path in tmp_path.iterdir()} - {'sample.lock'} == {'sample'}
    write_sample(root, TINY)


def test_what_a_killed_process_left_is_cleared(
    tmp_path: Path, fake_shards: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # A process that is killed clears nothing.
        patch.setattr(folder.shutil, 'rmtree', lambda *args, **kwargs: None)
        write_sample(tmp_path / 'sample', TINY)
    (left,) = {path.name for path in tmp_path.iterdir()} - {'sample', 'sample.lock'}
    write_sample(tmp_path / 'sample', TINY, seed=1)
    assert {path.name for path in tmp_path.iterdir()} - {'sample.lock'} == {'sample'}


@pytest.mark.parametrize(
    'name',
    [
        'sample.old',
        'sample.building',
        'sample.tmp',
        'sample.bak',
        'sample2',
        '.sample',
        'sample.yt8m_sample_in_work',
        f'sample.notes{folder._WORK_SUFFIX}',
        f'other.{"0" * 32}{folder._WORK_SUFFIX}',
    ],
)
def test_what_is_beside_the_sample_is_not_touched(
    name: str, tmp_path: Path, fake_shards: list[dict]
) -> None:
    """Also if it is a copy of a sample, which somebody keeps."""
    write_sample(tmp_path / name, TINY)
    (tmp_path / name / 'notes.txt').write_text('mine')
    for seed in range(2):
        write_sample(tmp_path / 'sample', TINY, seed)
        assert (tmp_path / name / 'notes.txt').read_text() == 'mine'
        assert len(contents(tmp_path / name)) == 3


def test_what_somebody_put_into_a_sample_is_not_deleted_with_it(
    tmp_path: Path, fake_shards: list[dict]
) -> None:
    root = tmp_path / 'sample'
    write_sample(root, TINY)
    (root / 'weights.pth').write_bytes(b'precious')
    (root / 'work').mkdir()
    write_sample(root, TINY)
    with pytest.raises(FileExistsError, match='holds weights.pth, work beside a sample.*another'):
        write_sample(root, TINY, seed=1)
    assert (root / 'weights.pth').read_bytes() == b'precious' and len(fake_shards) == 1
    assert len(contents(root)) == 3


def test_what_appears_in_the_place_of_the_sample_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_shards: list[dict]
) -> None:
    root = tmp_path / 'sample'
    write = folder._write_shards

    def meanwhile(*args: object) -> None:
        write(*args)
        root.mkdir()
        (root / 'mine').touch()

    monkeypatch.setattr(folder, '_write_shards', meanwhile)
    with pytest.raises(FileExistsError, match='is no sample'):
        write_sample(root, TINY)
    assert [path.name for path in root.iterdir()] == ['mine']
    assert {path.name for path in tmp_path.iterdir()} == {'sample', 'sample.lock'}


def test_a_swap_that_fails_puts_the_old_sample_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_shards: list[dict]
) -> None:
    root = tmp_path / 'sample'
    write_sample(root, TINY)
    root.chmod(0o2750)
    before = contents(root)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == 'new':
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'rename', fail)
        with pytest.raises(KeyboardInterrupt):
            write_sample(root, TINY, seed=1)
    assert contents(root) == before
    assert {path.name for path in tmp_path.iterdir()} == {'sample', 'sample.lock'}
    write_sample(root, TINY, seed=1)
    assert contents(root) != before and root.stat().st_mode & 0o7777 == 0o2750


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(folder, '_log', lines.append)
    monkeypatch.setattr(progress, '_MOST', 0.0)
    write_sample(tmp_path / 'sample', TINY)
    told = [line.split(',')[0] for line in lines]
    assert [line for line in told if 'train' in line] == [
        f'{done} of 6 videos of the train split made' for done in range(1, 6)
    ]
    assert '1 of 2 videos of the validate split made' in told
    assert told[0].startswith('Making 11 videos') and told[-1].startswith('Made 11 videos')


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
        (dict(split='val'), "split='val' is unknown; write split='train' or"),
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


def test_a_missing_checksum_library_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(checksum, 'google_crc32c', None)
    with pytest.raises(ImportError, match=r'adv_plugins\[yt8m\]'):
        write_sample(tmp_path / 'sample', dict(train=6, validate=3, test=3))
    assert not list(tmp_path.iterdir())
