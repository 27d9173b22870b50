"""The folder of shards: made once for all processes, whole or not at all."""

from __future__ import annotations

import glob
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from mmengine.logging import print_log

from ...core.checks import is_integer
from ...progress import track
from ..files import preview
from ..yt8m import quantize, write_examples
from ..yt8m.checksum import require_crc32c
from .features import audio_features, visual_features
from .projection import FeatureProjection, fit_projection
from .video import SPLITS, SampleRenderer, checked_seed

SIZES = {'train': 2000, 'validate': 300, 'test': 600}

_MARKER = 'yt8m_sample.json'
# Raise it with every change of what is written: samples of other versions are made again.
_VERSION = 1
_VIDEOS_PER_SHARD = 400
# All that a sample's folder can hold: the shards, their indexes, and what is left of writing one.
_OWN_FILES = re.compile(
    rf'{re.escape(_MARKER)}|({"|".join(SPLITS)})\d{{4,}}\.tfrecord(\.index\.npz)?(\.\w{{8}}\.tmp)?'
)
# Where it is made: a name that nobody else gives a folder.
_WORK_SUFFIX = '.yt8m_sample_in_work'
_RGB, _AUDIO = 1024, 128


def write_sample(
    data_root: str | Path, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> None:
    """Make the shards of the sample, unless the folder already holds them.

    Several processes may call it at once: one works and the others wait. The folder appears whole
    or not at all. Equal arguments give equal bytes on one machine; on another one a different
    linear algebra library may round a few features to the neighbouring byte.

    Args:
        data_root (str | Path): Folder to make, which must hold nothing else: an older sample in it
            is replaced as a whole. A lock file of the same name is left beside it, and nothing
            else beside it is touched.
        sizes (Mapping[str, int], optional): Videos of each split. Defaults to None, which means
            dict(train=2000, validate=300, test=600).
        seed (int): Chooses the videos. Defaults to 0.

    Raises:
        ImportError: If scikit-learn or google-crc32c is not installed.
        ValueError: If an argument is out of its range.
        FileExistsError: If the folder holds something else.

    Example:
        >>> write_sample('data/yt8m_sample')
        >>> sorted(path.name for path in Path('data/yt8m_sample').glob('t*.tfrecord'))[:2]
        ['test0000.tfrecord', 'test0001.tfrecord']
    """
    wanted = dict(version=_VERSION, seed=checked_seed(seed), sizes=checked_sizes(sizes))
    root = Path(data_root).resolve()
    # Looked at before the lock as well: a finished sample may be on a read-only disk.
    if _is_current(root, wanted):
        return
    # Not after a minute of rendering.
    require_crc32c()
    root.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        if _is_current(root, wanted):
            return
        _check_replaceable(root)
        videos = sum(wanted['sizes'].values())
        _log(f'Making {videos} videos in {root}, once and for all runs.')
        _replace_folder(root, wanted)
        _log(f'Made {videos} videos in {root}.')


def _log(message: str) -> None:
    print_log(message, 'current')


def _locked(root: Path) -> AcquireReturnProxy:
    """Hold the lock of a sample until the end of the ``with`` block."""
    lock = FileLock(f'{root}.lock')
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _log(f'Waiting for another process that makes the videos in {root}.')
        return lock.acquire()


def _is_current(root: Path, wanted: Mapping) -> bool:
    """Whether the folder holds the wanted sample with all its shards complete."""
    try:
        marker = json.loads((root / _MARKER).read_text(encoding='utf-8'))
        shards = marker.pop('shards')
        return marker == wanted and all(
            (root / name).stat().st_size == size for name, size in shards.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_replaceable(root: Path) -> None:
    """Refuse a folder without the marker: real YouTube-8M shards have the same names."""
    if not root.exists():
        return
    names = [path.name for path in root.iterdir()] if root.is_dir() else None
    if names is None or (names and _MARKER not in names):
        raise FileExistsError(
            f'data_root={str(root)!r} exists and is no sample (it has no {_MARKER}), so nothing '
            'in it was touched: write another data_root, such as data/yt8m_sample.'
        )
    foreign = sorted(name for name in names if not _OWN_FILES.fullmatch(name))
    if foreign:
        raise FileExistsError(
            f'data_root={str(root)!r} holds {preview(foreign)} beside a sample of other sizes or '
            'another seed, which would be replaced as a whole; nothing was touched: move what is '
            'not the sample elsewhere, or write another data_root.'
        )


def _replace_folder(root: Path, wanted: Mapping) -> None:
    """Make the sample beside its folder, then swap the two; the caller holds the lock."""
    # Left by a process that was killed: no other one is at work on this folder.
    for leftover in root.parent.glob(f'{glob.escape(root.name)}.*{_WORK_SUFFIX}'):
        if re.fullmatch(r'[0-9a-f]{32}', leftover.name[len(root.name) + 1 : -len(_WORK_SUFFIX)]):
            shutil.rmtree(leftover, ignore_errors=True)
    work = root.with_name(f'{root.name}.{uuid.uuid4().hex}{_WORK_SUFFIX}')
    new, old = work / 'new', work / 'old'
    try:
        new.mkdir(parents=True)
        _write_shards(new, wanted['sizes'], wanted['seed'])
        sizes = {path.name: path.stat().st_size for path in sorted(new.glob('*.tfrecord'))}
        marker = json.dumps({**wanted, 'shards': sizes}, indent=1)
        (new / _MARKER).write_text(marker + '\n', encoding='utf-8')
        # Again: making it has taken a minute.
        _check_replaceable(root)
        try:
            if root.exists():
                shutil.copymode(root, new)
                root.rename(old)
            new.rename(root)
        except BaseException:
            if old.exists() and not root.exists():
                old.rename(root)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_shards(folder: Path, sizes: Mapping[str, int], seed: int) -> None:
    """Write all splits, projected by the PCA of the training frames."""
    projections: list[FeatureProjection] = []
    for number, split in enumerate(SPLITS):
        rendered = _raw_features(SampleRenderer(split, seed), sizes[split])
        what = f'videos of the {split} split made'
        videos = list(track(rendered, sizes[split], what, _log))
        if not projections:
            _log('Fitting the projections of the features.')
            projections = [
                fit_projection(np.concatenate([video[kind] for video in videos]), width)
                for kind, width in ((1, _RGB), (2, _AUDIO))
            ]
        examples = [
            dict(
                # Four characters without meaning, as YouTube-8M's ids since 2018.
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

    # Most of the time is spent in NumPy, which releases Python's lock.
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from pool.map(work, range(count))


def checked_sizes(sizes: Mapping[str, int] | None) -> dict[str, int]:
    """The sizes of the three splits, in the order of ``SPLITS``.

    Raises:
        ValueError: If a split is missing or has no video.
    """
    sizes = SIZES if sizes is None else sizes
    complete = isinstance(sizes, Mapping) and set(sizes) == set(SPLITS)
    if not complete or not all(is_integer(size) and size >= 1 for size in sizes.values()):
        raise ValueError(
            f'sizes={sizes!r} must give a number of videos of at least 1 for each split: write '
            'for example sizes=dict(train=2000, validate=300, test=600).'
        )
    return {split: int(sizes[split]) for split in SPLITS}
