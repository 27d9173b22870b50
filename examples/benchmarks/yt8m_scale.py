"""Reading YouTube-8M at scale: indexes, memory and open files by shards, and loader vs. model.

    python examples/benchmarks/yt8m_scale.py [--shards 4] [--records 250] [--max-shards 4000] ...

Writes shards of random features to a temporary folder, with 60 to 300 frames per video like the
real ones, and measures

- the time to index them, with one process and with several;
- the time, memory and open files needed to open many shards with existing indexes and to read at
  random across all of them. Only counts matter here, so these are hard links to a few shards and
  their indexes, which have as many records as a real training shard but tiny frames;
- the videos per second of the ``DataLoader``, with mmengine's ``pseudo_collate`` and this package's
  ``packed_collate``, compared with those of a training step of ``mm_configs/aart``.

From these it projects the numbers for the full data set, and states its assumptions. Writes
``yt8m_scale.json`` and, as Markdown tables, ``yt8m_scale.md`` to ``--out``. Needs Linux (memory and
open files are read from /proc) and ``pip install "adv_plugins[mmaction,yt8m]"``. Trust the ratios,
which come from one run on one machine, rather than the seconds. "Cold" means that the shards were
dropped from this system's page cache; the cache of a virtual machine's host, or of the disk, may
still hold them. This is a single long file so that it can be copied to the machine with the data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import pickle
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch.utils.data import DataLoader

from adv_plugins import make_adversarial
from adv_plugins.datasets.features import YT8MFrameDataset, packed_collate
from adv_plugins.datasets.yt8m import YT8MShards, write_examples

CONFIG = 'mm_configs/aart/transformer_1xb64_yt8m-317.py'
ROOT = Path(__file__).resolve().parents[2]
FORK = multiprocessing.get_context('fork')

# The 2018 version: shards and videos of each split, and bytes of all three splits.
SHARDS = 3844
SPLITS = dict(train=3_888_919, validate=1_112_356, test=1_133_323)
BYTES = 1.53e12
TRAIN_RECORDS = round(SPLITS['train'] / SHARDS)

REAL = dict(rgb=1024, audio=128)
TINY = dict(rgb=8, audio=4)
DISTINCT = 4  # Shards behind the many links.
COLLATES = dict(pseudo_collate=pseudo_collate, packed_collate=packed_collate)
ENOUGH = 20  # Seconds after which no further step of the model is measured.
SPARE = 6  # Files that may be opened while reading, besides those already open.


# --------------------------------------------------------------------------- shards


def write_shards(
    folder: Path, shards: int, records: int, frames: tuple[int, int], widths: Mapping[str, int]
) -> list[str]:
    """Write shards of random videos, with three labels per video on average."""
    rng = np.random.default_rng(0)

    def example(number: int) -> dict[str, Any]:
        length = rng.integers(frames[0], frames[1] + 1)
        features = {k: rng.integers(0, 256, (length, w), np.uint8) for k, w in widths.items()}
        labels = np.sort(rng.choice(3862, rng.integers(1, 6), replace=False))
        return dict(id=f'{number:04x}', labels=labels, **features)

    folder.mkdir()
    paths = [str(folder / f'train{k:04d}.tfrecord') for k in range(shards)]
    for path in paths:
        write_examples(path, map(example, range(records)))
    return paths


def link_shards(folder: Path, paths: Sequence[str], count: int) -> None:
    """Hard-link a few shards and their indexes under many names."""
    folder.mkdir()
    links = [(paths[k % len(paths)], folder / f'train{k:04d}.tfrecord') for k in range(count)]
    for source, target in links:
        os.link(source, target)
    # A link changes the times of a shard, for which its index is made again.
    YT8MShards(paths)
    for source, target in links:
        os.link(index_file(source), index_file(target))


def index_file(path: str | Path) -> str:
    return f'{path}.index.npz'


def index_parts(paths: Sequence[str]) -> dict[str, float]:
    """Bytes of an index file per record, and per shard in addition."""
    arrays = records = total = 0
    for path in paths:
        total += os.path.getsize(index_file(path))
        with np.load(index_file(path)) as stored:
            arrays += sum(stored[key].nbytes for key in stored.files if stored[key].ndim)
            records += len(stored['offsets'])
    return dict(by_record=arrays / records, by_shard=(total - arrays) / len(paths))


# --------------------------------------------------------------------------- processes


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a forked process, which shares the arguments, and return its result.

    Raises:
        EOFError: The function raised; the process has printed the traceback.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=lambda: sender.send(function(*args)))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        receiver.close()
        child.join()


def memory() -> dict[str, int]:
    """Bytes of this process in RAM.

    ``anonymous`` excludes pages of files, and ``private`` excludes pages shared with other
    processes.
    """
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()[1:]
    sizes = {line.split(':')[0]: 1024 * int(line.split()[1]) for line in lines}
    private = sizes['Private_Clean'] + sizes['Private_Dirty']
    return dict(rss=sizes['Rss'], pss=sizes['Pss'], anonymous=sizes['Anonymous'], private=private)


def growth(since: Mapping[str, int]) -> dict[str, int]:
    return {key: value - since[key] for key, value in memory().items()}


def open_files(pid: int | str = 'self') -> list[int]:
    return [int(name) for name in os.listdir(f'/proc/{pid}/fd')]


def maps_of(folder: str) -> int:
    """The number of memory maps of files in a folder."""
    return sum(folder in line for line in Path('/proc/self/maps').read_text().splitlines())


@contextmanager
def at_most_files(spare: int) -> Iterator[None]:
    """Limit the number of open files to those open now, plus some spare ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The limit applies to file numbers, and a new file gets the lowest free one.
    free = itertools.filterfalse(set(open_files()).__contains__, itertools.count())
    limit = next(itertools.islice(free, spare, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def drop_cache(paths: Sequence[str]) -> None:
    """Drop files from this system's page cache."""
    for path in paths:
        with open(path, 'rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_reads() -> np.ndarray:
    """Bytes that this process read from disk, and page faults that had to wait for the disk."""
    lines = Path('/proc/self/io').read_text().splitlines()
    fetched = next(int(line.split()[1]) for line in lines if line.startswith('read_bytes'))
    return np.array([fetched, resource.getrusage(resource.RUSAGE_SELF).ru_majflt])


# --------------------------------------------------------------------------- (a) indexes


def build_index(path: str, errors: str) -> np.ndarray:
    """Index a shard; returns CPU seconds, bytes from disk and page faults that waited for it."""
    before = np.r_[time.process_time(), disk_reads()]
    YT8MShards(path, errors=errors)
    return np.r_[time.process_time(), disk_reads()] - before


def build(paths: Sequence[str], processes: int, errors: str, cold: bool) -> dict[str, float]:
    """Rebuild the indexes of shards, with processes that were started before the measurement."""
    for path in paths:
        Path(index_file(path)).unlink(missing_ok=True)
    if cold:
        drop_cache(paths)
    with FORK.Pool(processes) as pool:
        pool.map(abs, range(processes))
        start = time.perf_counter()
        reads = pool.starmap(build_index, [(path, errors) for path in paths], chunksize=1)
        seconds = time.perf_counter() - start
    cpu, fetched, faults = sum(reads).tolist()
    return dict(seconds=seconds, cpu=cpu, fetched=fetched, faults=faults)


def measure_index(paths: Sequence[str], processes: int, repeats: int) -> dict[str, Any]:
    """Seconds and bytes of the indexes of shards in the real format."""
    wanted = [
        dict(processes=count, errors=errors, cold=cold)
        for errors in ('skip', 'raise')
        for cold in (True, False)
        for count in sorted({1, processes})
    ]
    runs: list[list[dict[str, float]]] = [[] for _ in wanted]
    for _ in range(repeats):
        for found, options in zip(runs, wanted, strict=True):
            found.append(build(paths, **options))
    records = len(YT8MShards(paths))
    builds = [
        options | {key: median(run[key] for run in found) for key in found[0]}
        for options, found in zip(wanted, runs, strict=True)
    ]
    return dict(
        shards=len(paths),
        records=records,
        bytes_per_video=sum(map(os.path.getsize, paths)) / records,
        builds=builds,
    )


# --------------------------------------------------------------------------- (b) many shards


def open_and_read(folder: str, reads: int) -> dict[str, Any]:
    """Open the shards of a folder, and read at random across all of them."""
    # Do one-time work, such as loading the vocabulary and imports, before measuring.
    YT8MFrameDataset('train0000*', folder, modalities=TINY)[0]
    files, before = len(open_files()), memory()
    with at_most_files(SPARE):
        start = time.perf_counter()
        dataset = YT8MFrameDataset(data_root=folder, modalities=TINY)
        records = len(dataset)
        found: dict[str, Any] = dict(records=records, seconds=time.perf_counter() - start)
        found['opened'] = growth(before)
        found['pickled'] = len(pickle.dumps(dataset))
        order = reading_order(records, len(list(Path(folder).glob('*.tfrecord'))), reads)
        opened = memory()
        read_all(dataset, order)
        found['reading'] = growth(opened)
        found['maps'] = maps_of(folder)
        found['files_left'] = len(open_files()) - files
        found['forked'] = in_child(read_as_forked, dataset, order)
        found['spawned'] = in_child(read_as_spawned, pickle.dumps(dataset), order)
    sampled = memory()
    sampler = iter(InfiniteSampler(dataset, shuffle=True, seed=0))
    next(sampler)
    found['sampler'] = growth(sampled)['anonymous']
    return found


def reading_order(records: int, shards: int, reads: int) -> list[int]:
    """Random records, including at least one of each shard."""
    rng = np.random.default_rng(0)
    others = rng.integers(0, records, reads)
    return rng.permutation(np.r_[0 : records : records // shards, others]).tolist()


def read_all(dataset: YT8MFrameDataset, order: Sequence[int]) -> None:
    for i in order:
        dataset[i]


def read_as_forked(dataset: YT8MFrameDataset, order: Sequence[int]) -> dict[str, int]:
    """Memory growth of a forked worker, which shares the index of its parent."""
    before = memory()
    read_all(dataset, order)
    return growth(before)


def read_as_spawned(pickled: bytes, order: Sequence[int]) -> dict[str, int]:
    """Memory growth of a spawned worker, which loads the indexes it needs, in the end all."""
    before = memory()
    read_all(pickle.loads(pickled), order)
    return growth(before)


def measure_shards(folder: Path, counts: Sequence[int], reads: int) -> dict[str, Any]:
    """Measure opening and reading for several numbers of shards."""
    paths = write_shards(folder / 'tiny', min(DISTINCT, max(counts)), TRAIN_RECORDS, (1, 1), TINY)
    rows = []
    for count in counts:
        link_shards(folder / f'{count}', paths, count)
        rows.append(dict(shards=count) | in_child(open_and_read, f'{folder}/{count}', reads))
    return dict(index=index_parts(paths), reads=reads, rows=rows)


# --------------------------------------------------------------------------- (c) the loader


def run_through(loader: DataLoader) -> tuple[float, int]:
    """Seconds of a pass, and the maximum number of files that one process opened during it."""
    start, files = time.perf_counter(), 0
    for _ in loader:
        workers = [child.pid for child in multiprocessing.active_children()]
        files = max(files, *(len(open_files(pid)) for pid in ['self', *workers]))
    return time.perf_counter() - start, files


def make_loaders(
    dataset: YT8MFrameDataset, batch: int, workers: int
) -> dict[tuple[int, str, str], DataLoader]:
    """The loaders for each number of workers, access and collate function."""
    orders = dict(
        sequential=range(len(dataset)),
        shuffled=np.random.default_rng(0).permutation(len(dataset)).tolist(),
    )
    wanted = [(0, access, 'pseudo_collate') for access in orders]
    for count in range(1, workers + 1):
        wanted.append((count, 'shuffled', 'pseudo_collate'))
        wanted += [(count, access, 'packed_collate') for access in orders]
    return {
        (count, access, collate): DataLoader(
            dataset,
            batch_size=batch,
            sampler=orders[access],
            num_workers=count,
            persistent_workers=count > 0,
            collate_fn=COLLATES[collate],
        )
        for count, access, collate in wanted
    }


def measure_loader(
    dataset: YT8MFrameDataset, paths: Sequence[str], batch: int, workers: int, repeats: int
) -> list[dict[str, Any]]:
    """Videos per second of the loader; all loaders take turns."""
    rows = []
    for (count, access, collate), loader in make_loaders(dataset, batch, workers).items():
        # The first pass starts the workers and fills the page cache.
        files = run_through(loader)[1]
        row = dict(workers=count, access=access, collate=collate, files=files)
        rows.append((loader, row | dict(warm=[], cold=[], fetched=[])))
    for _ in range(repeats):
        for loader, row in rows:
            row['warm'].append(run_through(loader)[0])
            drop_cache(paths)
            before = disk_reads()
            row['cold'].append(run_through(loader)[0])
            row['fetched'].append(int((disk_reads() - before)[0]))
    return [summarize(row, len(dataset)) for _, row in rows]


def summarize(row: dict[str, Any], videos: int) -> dict[str, Any]:
    """Medians; bytes from disk only without workers, when the main process itself reads."""
    rates = {cache: videos / median(row[cache]) for cache in ('warm', 'cold')}
    fetched = median(row.pop('fetched')) / videos if row['workers'] == 0 else None
    return row | dict(fetched_per_video=fetched, videos_per_second=rates)


def measure_model(
    config: Config, dataset: YT8MFrameDataset, batch: int, device: str, repeats: int
) -> dict[str, float]:
    """Videos per second of a clean and an ART training step, which take turns."""
    order = np.random.default_rng(1).permutation(len(dataset))[:batch].tolist()
    steps = {}
    for name in ('clean', 'ART'):
        model = MODELS.build(config.model).to(device).train()
        if name == 'ART':
            make_adversarial(model, 'art')
        steps[name] = model, OptimWrapper(torch.optim.Adam(model.parameters(), lr=2e-4))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for count in [1] + [batch] * repeats:
        for name, (model, optimizer) in steps.items():
            data = pseudo_collate([dataset[i] for i in order[:count]])
            start = time.perf_counter()
            model.train_step(data, optimizer)
            if device.startswith('cuda'):
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
        if sum(sum(seconds) for seconds in times.values()) > ENOUGH:
            break
    # The first step is a warm-up.
    return {name: len(order) / median(seconds[1:]) for name, seconds in times.items()}


# --------------------------------------------------------------------------- (d) the full set


def project(found: Mapping[str, Any], bandwidth: float, latency: float) -> dict[str, Any]:
    """Project the measured seconds and bytes to the training split and to all three splits."""
    return {
        'training split': _project(found, ['train'], bandwidth, latency),
        'all three splits': _project(found, list(SPLITS), bandwidth, latency),
    }


def _project(
    found: Mapping[str, Any], splits: Sequence[str], bandwidth: float, latency: float
) -> dict[str, Any]:
    index, many = found['index'], found['many_shards']
    videos, shards = sum(SPLITS[split] for split in splits), SHARDS * len(splits)
    size = BYTES * videos / sum(SPLITS.values())
    times = videos / index['records']
    cpu = {
        row['errors']: row['cpu'] * times
        for row in index['builds']
        if row['processes'] == 1 and not row['cold']
    }
    faults = next(r['faults'] for r in index['builds'] if r['cold'] and r['errors'] == 'raise')
    waits = faults * times * latency
    processes = max(row['processes'] for row in index['builds'])
    builds = {
        f'{headers}, {count} processes': seconds
        for count in sorted({1, processes, 8})
        for headers, seconds in (
            ("'raise'", (cpu['raise'] + waits) / count),
            ("'skip'", max(cpu['skip'] / count, size / bandwidth)),
        )
    }
    last = many['rows'][-1]
    by_record = {key: last[key]['anonymous'] / last['records'] for key in ('opened', 'spawned')}
    by_record['sampler'] = last['sampler'] / last['records']
    # The time of loader and step is proportional to frames, and lengths differ from the real ones.
    heavier = size / videos / index['bytes_per_video']
    rates = {
        f'{row["workers"]} workers, {row["collate"]}': row['videos_per_second']['warm']
        for row in found['loader']
        if row['access'] == 'shuffled'
    } | {f'{name} step': rate for name, rate in found['model'].items()}
    return dict(
        videos=videos,
        shards=shards,
        bytes=size,
        index_bytes=videos * many['index']['by_record'] + shards * many['index']['by_shard'],
        build_seconds=builds,
        open_seconds=shards * last['seconds'] / last['shards'],
        memory={key: videos * value for key, value in by_record.items()},
        forked=max(0, last['forked']['private']),
        pickled=shards * last['pickled'] / last['shards'],
        epoch_seconds={name: videos * heavier / rate for name, rate in rates.items()},
        epoch_disk_seconds={
            'in order': size / bandwidth,
            'shuffled, one reader': size / bandwidth + videos * latency,
        },
    )


# --------------------------------------------------------------------------- the report


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def mb(size: float) -> str:
    return f'{size / 1e6:,.1f}'


def duration(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.3g} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def index_table(index: Mapping[str, Any]) -> str:
    def cells(row: Mapping[str, Any]) -> list[Any]:
        passes = dict(skip="every byte (`'skip'`)", **{'raise': "headers (`'raise'`)"})
        return [
            f'{passes[row["errors"]]}, {"cold" if row["cold"] else "warm"}',
            row['processes'],
            f'{1e3 * row["seconds"] / index["shards"]:,.0f}',
            f'{1e6 * row["seconds"] / index["records"]:,.0f}',
            f'{1e6 * row["cpu"] / index["records"]:,.0f}',
            f'{row["fetched"] / index["records"] / 1e3:,.1f}',
            f'{row["faults"] / index["records"]:.1f}',
        ]

    header = ['what is read, page cache', 'processes', 'ms a shard', 'µs a record', 'CPU µs']
    header += ['kB a record from disk', 'waits for disk a record']
    return markdown(header, [cells(row) for row in index['builds']])


def shards_table(many: Mapping[str, Any]) -> str:
    def cells(row: Mapping[str, Any]) -> list[Any]:
        return [
            f'{row["shards"]:,}',
            f'{row["records"]:,}',
            f'{row["seconds"]:.2f}',
            mb(row['opened']['rss']),
            f'{row["opened"]["anonymous"] / row["records"]:.1f}',
            f'{row["reading"]["rss"] / 1e6:+,.1f}',
            mb(row['pickled']),
            mb(row['forked']['private']),
            mb(row['spawned']['anonymous']),
            f'{row["files_left"]} / {row["maps"]}',
        ]

    header = ['shards', 'records', 'open, s', 'RAM, MB', 'bytes a record']
    header += ['RAM after reading, MB', 'pickled, MB', 'own RAM of a forked worker, MB']
    header += ['of a spawned worker, MB', 'files / maps left open']
    return markdown(header, [cells(row) for row in many['rows']])


def loader_table(rows: Sequence[Mapping[str, Any]], model: Mapping[str, float]) -> str:
    cells = []
    for row in rows:
        rates = row['videos_per_second']
        fetched = row['fetched_per_video']
        cells.append(
            [
                f'loader, {row["workers"]} workers, {row["access"]}, `{row["collate"]}`',
                f'{rates["warm"]:,.0f}',
                f'{rates["cold"]:,.0f}',
                '' if fetched is None else f'{fetched / 1e3:,.0f}',
                row['files'],
            ]
        )
    cells += [[f'model, {name} step', f'{rate:,.1f}', '', '', ''] for name, rate in model.items()]
    header = ['', 'videos/s, warm', 'videos/s, cold', 'kB a video from disk', 'open files']
    return markdown(header, cells)


def projection_table(projection: Mapping[str, Mapping[str, Any]]) -> str:
    def nested(name: str, key: str, show: Callable[[float], str]) -> list[list[str]]:
        keys = next(iter(projection.values()))[key]
        return [
            [name.format(part), *(show(found[key][part]) for found in projection.values())]
            for part in keys
        ]

    def flat(name: str, key: str, show: Callable[[float], str]) -> list[str]:
        return [name, *(show(found[key]) for found in projection.values())]

    rows = [
        flat('videos', 'videos', '{:,}'.format),
        flat('shards', 'shards', '{:,}'.format),
        flat('TB', 'bytes', lambda size: f'{size / 1e12:.2f}'),
        flat('indexes on disk, MB', 'index_bytes', mb),
    ]
    rows += nested('indexing with errors={}', 'build_seconds', duration)
    rows += [flat('opening', 'open_seconds', duration)]
    labels = dict(
        opened='RAM of a process that opens it, MB',
        sampler="RAM of mmengine's shuffling sampler, MB",
        spawned='RAM of a spawned worker, MB',
    )
    for key, label in labels.items():
        rows += [[label, *(mb(found['memory'][key]) for found in projection.values())]]
    rows += [
        flat('own RAM of a forked worker, MB', 'forked', mb),
        flat('sent to a spawned worker, MB', 'pickled', mb),
    ]
    rows += nested('epoch, {}', 'epoch_seconds', duration)
    rows += nested('epoch, disk, {}', 'epoch_disk_seconds', duration)
    return markdown(['', *projection], rows)


def report(found: Mapping[str, Any]) -> str:
    """The Markdown page."""
    machine = ', '.join(f'{key} {value}' for key, value in found['machine'].items())
    index, many, disk = found['index'], found['many_shards'], found['disk']
    parts, average = many['index'], BYTES / sum(SPLITS.values())
    sections = [
        f"""
        {machine}. Medians of {found['repeats']} runs that take turns.
        """,
        f"""
        **Indexing** {index['shards']} shards in the real format, {index['records']} videos of 60 to
        300 frames ({index['bytes_per_video'] / 1e3:,.0f} kB each). An index file takes
        {parts['by_record']:.1f} bytes per record and {parts['by_shard']:,.0f} per shard.
        """,
        index_table(index),
        f"""
        **Many shards** with existing indexes: hard links to {DISTINCT} shards of
        {TRAIN_RECORDS:,} records with one frame each. {many['reads']:,} random reads and one from
        each shard, while the system allows at most {SPARE} further open files. RAM is the growth of
        the process; a forked worker copies pages with its parent's Python objects, a spawned one
        loads the indexes.
        """,
        shards_table(many),
        f"""
        **Loader and model**, batches of {found['batch_size']}; the step is that of `{CONFIG}` on
        {found['device']}. Open files are those of the process with the most.
        """,
        loader_table(found['loader'], found['model']),
        f"""
        **The full set**, projected. Assumptions: {disk['bandwidth'] / 1e6:,.0f} MB/s,
        {1e3 * disk['latency']:g} ms per random read, and for each indexing process a free core and
        one read in flight. Indexing (CPU seconds and waits) scales with the records, loader and
        step with the frames ({average / 1e3:,.0f} kB per video on average), opening with the
        shards. Loader, disk and step run in parallel, so the slowest one determines the time of an
        epoch, and a step on a GPU leaves the cores to the workers. 1.5 TB do not fit in the page
        cache, so every epoch reads the disk again.
        """,
        projection_table(found['projection']),
    ]
    return '\n\n'.join(s if s.startswith('|') else ' '.join(s.split()) for s in sections) + '\n'


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    models = [
        line.partition(':')[2].strip()
        for line in Path('/proc/cpuinfo').read_text().splitlines()
        if line.startswith('model name')
    ]
    return dict(
        CPU=models[0] if models else cpu,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All numbers of the report."""
    init_default_scope('mmaction')
    paths = write_shards(folder / 'real', args.shards, args.records, (60, 300), REAL)
    index = measure_index(paths, args.processes, args.repeats)
    counts = [count for count in (10, 100, 1000) if count < args.max_shards]
    many = measure_shards(folder, [*counts, args.max_shards], args.reads)
    config = Config.fromfile(ROOT / CONFIG)
    dataset = DATASETS.build(
        config.train_dataloader.dataset | dict(data_root=str(folder / 'real'), ann_file='train*')
    )
    # Fork the workers first, because a step starts threads, and those do not survive a fork.
    loader = measure_loader(dataset, paths, args.batch_size, args.workers, args.repeats)
    model = measure_model(config, dataset, args.batch_size, args.device, args.repeats)
    found = dict(
        machine=describe_machine(),
        repeats=args.repeats,
        batch_size=args.batch_size,
        device=args.device,
        disk=dict(bandwidth=args.disk_bandwidth * 1e6, latency=args.disk_latency / 1e3),
        index=index,
        many_shards=many,
        loader=loader,
        model=model,
    )
    return found | dict(projection=project(found, **found['disk']))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--shards', type=int, default=4, help='shards in the real format')
    parser.add_argument('--records', type=int, default=250, help='their records (really 1,012)')
    parser.add_argument('--max-shards', type=int, default=4000, help='maximum number of links')
    parser.add_argument('--reads', type=int, default=10_000, help='random reads across the links')
    parser.add_argument('--workers', type=int, default=2, help='maximum workers of the loader')
    parser.add_argument('--processes', type=int, default=2, help='maximum indexing processes')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--disk-bandwidth', type=float, default=500, help='MB/s, to project')
    parser.add_argument('--disk-latency', type=float, default=0.1, help='ms, to project')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/yt8m_scale'))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'yt8m_scale.json').write_text(json.dumps(found, indent=1))
    (args.out / 'yt8m_scale.md').write_text(report(found))
    print(report(found))


if __name__ == '__main__':
    main()
