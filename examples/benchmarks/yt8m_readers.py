"""Videos per second of readers of YouTube-8M shards that return (id, labels, rgb, audio) as numpy.

    python examples/benchmarks/yt8m_readers.py [--tensorflow-python PYTHON]

Writes shards of random features to a temporary folder, reads them several times with each reader in
turn, checks that every reader returns the same videos, and prints a Markdown table of medians. The
package ``tfrecord`` is included if it is installed, and tf.data if the given Python has TensorFlow;
it runs in a separate process, because the two packages cannot be imported together. Trust the
ratios, which come from one run on one machine, rather than the numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Video = tuple[str, np.ndarray, np.ndarray, np.ndarray]
VERIFIED = 'adv_plugins, checksums verified'


def write_shards(folder: Path, videos: int, shards: int) -> list[str]:
    """Random videos of 60 to 300 seconds."""
    from adv_plugins.datasets.yt8m import write_examples

    rng = np.random.default_rng(0)

    def examples(count: int) -> Iterator[dict[str, Any]]:
        for i in range(count):
            seconds = rng.integers(60, 301)
            yield dict(
                id=f'{i:04x}',
                labels=np.sort(rng.choice(3862, rng.integers(1, 6), replace=False)),
                rgb=rng.integers(0, 256, (seconds, 1024), np.uint8),
                audio=rng.integers(0, 256, (seconds, 128), np.uint8),
            )

    paths = [str(folder / f'train{k:04d}.tfrecord') for k in range(shards)]
    for k, path in enumerate(paths):
        write_examples(path, examples(len(range(k, videos, shards))))
    return paths


def read_ours(paths: list[str]) -> Iterator[Video]:
    from adv_plugins.datasets import yt8m

    for path in paths:
        for video in yt8m.read_examples(path):
            yield video['id'], video['labels'], video['rgb'], video['audio']


def read_ours_shuffled(paths: list[str]) -> Iterator[Video]:
    from adv_plugins.datasets import yt8m

    shards = yt8m.YT8MShards(paths)
    for i in np.random.default_rng(1).permutation(len(shards)):
        video = shards[i]
        yield video['id'], video['labels'], video['rgb'], video['audio']


def read_tfrecord(paths: list[str]) -> Iterator[Video]:
    from tfrecord.reader import sequence_loader

    context_keys, frame_keys = {'id': 'byte', 'labels': 'int'}, {'rgb': 'byte', 'audio': 'byte'}
    for path in paths:
        for context, frames in sequence_loader(path, None, context_keys, frame_keys):
            rgb, audio = (
                np.frombuffer(b''.join(frames[key]), np.uint8).reshape(len(frames[key]), -1)
                for key in ('rgb', 'audio')
            )
            yield context['id'].decode(), context['labels'], rgb, audio


def read_tensorflow(paths: list[str], calls: int | None) -> Iterator[Video]:
    import tensorflow as tf

    def parse(record: Any) -> Any:
        context, frames = tf.io.parse_single_sequence_example(
            record,
            {'id': tf.io.FixedLenFeature([], tf.string), 'labels': tf.io.VarLenFeature(tf.int64)},
            {key: tf.io.FixedLenSequenceFeature([], tf.string) for key in ('rgb', 'audio')},
        )
        rgb, audio = (tf.io.decode_raw(frames[key], tf.uint8) for key in ('rgb', 'audio'))
        return context['id'], tf.sparse.to_dense(context['labels']), rgb, audio

    videos = tf.data.TFRecordDataset(paths).map(parse, num_parallel_calls=calls)
    for video, labels, rgb, audio in videos.as_numpy_iterator():
        yield video.decode(), labels, rgb, audio


OURS = {
    VERIFIED: read_ours,
    'adv_plugins, YT8MShards shuffled': read_ours_shuffled,
}
TENSORFLOW = {
    'tf.data, serial': lambda paths: read_tensorflow(paths, None),
    'tf.data, 2 parallel calls': lambda paths: read_tensorflow(paths, 2),
}


def digest(videos: Iterator[Video]) -> int:
    """A hash of the videos that does not depend on their order."""
    total = 0
    for name, labels, rgb, audio in videos:
        parts = (name.encode(), labels.astype(np.int64).tobytes(), rgb.tobytes(), audio.tobytes())
        total += zlib.crc32(b'|'.join(parts))
    return total


def seconds(videos: Iterator[Video]) -> float:
    start = time.perf_counter()
    for _ in videos:
        pass
    return time.perf_counter() - start


TASKS = {'digest': digest, 'seconds': seconds}


def local(read: Callable[[list[str]], Iterator[Video]], paths: list[str]) -> Callable[[str], Any]:
    return lambda task: TASKS[task](read(paths))


def remote(worker: subprocess.Popen[str], name: str) -> Callable[[str], Any]:
    """A reader in the other process; request and answer are one line of JSON each."""

    def ask(task: str) -> Any:
        worker.stdin.write(json.dumps([task, name]) + '\n')
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    return ask


def serve_tensorflow(paths: list[str]) -> None:
    """The other process's side of ``remote``."""
    for line in sys.stdin:
        task, name = json.loads(line)
        print(json.dumps(local(TENSORFLOW[name], paths)(task)), flush=True)


def has_tensorflow(python: str) -> bool:
    code = 'import importlib.util as u, sys; sys.exit(u.find_spec("tensorflow") is None)'
    return subprocess.run([python, '-c', code], check=False).returncode == 0


def measure(paths: list[str], repeats: int, python: str) -> dict[str, list[float]]:
    """Seconds of every reader and repetition; the readers take turns."""
    readers = {name: local(read, paths) for name, read in OURS.items()}
    if importlib.util.find_spec('tfrecord'):
        readers['tfrecord'] = local(read_tfrecord, paths)
    worker = None
    if has_tensorflow(python):
        command = [python, __file__, '--serve-tensorflow', *paths]
        streams = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        worker = subprocess.Popen(command, text=True, **streams)
        readers.update({name: remote(worker, name) for name in TENSORFLOW})
    found = {name: read('digest') for name, read in readers.items()}
    if len(set(found.values())) > 1:
        raise RuntimeError(f'the readers returned different videos: {found}')
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        for name, read in readers.items():
            times[name].append(read('seconds'))
    if worker is not None:
        worker.communicate()
    return times


def table(times: dict[str, list[float]], videos: int) -> str:
    lines = ['| reader | videos/s | ours, verified, is faster by |', '| --- | ---: | ---: |']
    ours = median(times[VERIFIED])
    for name, runs in times.items():
        lines.append(f'| {name} | {videos / median(runs):,.0f} | {median(runs) / ours:.2f}x |')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--videos', type=int, default=200)
    parser.add_argument('--shards', type=int, default=5)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument(
        '--tensorflow-python', default=sys.executable, help='a Python that has TensorFlow'
    )
    parser.add_argument('--serve-tensorflow', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve_tensorflow:
        serve_tensorflow(args.serve_tensorflow)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = write_shards(Path(folder), args.videos, args.shards)
        times = measure(paths, args.repeats, args.tensorflow_python)
    print(table(times, args.videos))


if __name__ == '__main__':
    main()
