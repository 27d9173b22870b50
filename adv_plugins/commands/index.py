"""``adv-plugins index``: index the shards of YouTube-8M, in several processes.

Training indexes what is not indexed yet, in one process; see
:class:`adv_plugins.datasets.yt8m.YT8MShards`.
"""

from __future__ import annotations

import argparse
import glob
import logging
import os
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from ..datasets.yt8m import YT8MShards
from ..datasets.yt8m.checksum import require_crc32c
from ..datasets.yt8m.shards import LOGGER, find_shards
from ..progress import track
from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='path',
        help='a shard, a folder (all *.tfrecord in it and below), or a glob in quotation marks',
    )
    parser.add_argument(
        '--processes',
        type=int,
        default=os.cpu_count() or 1,
        metavar='N',
        help='how many shards are indexed at once (default: the number of cores, %(default)s)',
    )
    parser.add_argument(
        '--errors',
        choices=['raise', 'skip'],
        default='raise',
        help="the config's errors: skip reads every byte and leaves damaged records out",
    )
    parser.add_argument(
        '--index-dir',
        type=Path,
        help='what the config says: where indexes go, if not to the shards',
    )


def run(args: argparse.Namespace) -> int:
    """Index all shards, and list those that cannot be indexed.

    Returns:
        int: 1 if there are any.
    """
    paths = _shards(args)
    job = partial(index_shard, errors=args.errors, index_dir=args.index_dir)
    counts: Counter[str] = Counter()
    problems = []
    pool = ProcessPoolExecutor(args.processes, initializer=_prepare_process)
    try:
        jobs = [pool.submit(job, path) for path in paths]
        log = partial(print, file=sys.stderr)
        for done in track(as_completed(jobs), len(jobs), 'shards indexed', log):
            problem, found = done.result()
            counts.update(found)
            problems += [problem] if problem else []
    except BrokenProcessPool as error:
        raise CommandError(
            'one of the processes was killed, perhaps for want of memory; run the command again, '
            'with a smaller --processes: what was indexed stays'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    for problem in sorted(problems):
        print(f'not indexed: {problem}', file=sys.stderr)
    left_out = f', {counts["skipped"]:,} damaged ones left out' if counts['skipped'] else ''
    print(
        f'{len(paths) - len(problems):,} of {len(paths):,} shards are indexed: '
        f'{counts["records"]:,} records{left_out}'
    )
    return 1 if problems else 0


def index_shard(path: str, errors: str, index_dir: Path | None) -> tuple[str, dict[str, int]]:
    """Index a shard that is not indexed yet.

    Args:
        path (str): The shard.
        errors (str): 'raise' or 'skip', as for YT8MShards.
        index_dir (Path, optional): The folder for the index; None: beside the shard.

    Returns:
        tuple: What is wrong in words, '' if nothing is, and the numbers of records.
    """
    try:
        shards = YT8MShards(path, errors, index_dir)
    except (ValueError, OSError) as error:  # Both name the shard.
        return str(error), {}
    except Exception as error:  # One shard must not stop the others.
        return f'{path}: {type(error).__name__}: {error}', {}
    counts = dict(records=len(shards), skipped=sum(shards.skipped.values()))
    unsaved = next(iter(shards.unsaved.values()), None)
    return '' if unsaved is None else f'the index cannot be written: {unsaved}', counts


def _shards(args: argparse.Namespace) -> list[str]:
    """The shards that are meant."""
    if args.processes < 1:
        raise CommandError(f'--processes {args.processes} must be 1 or more')
    globs = [
        os.path.join(glob.escape(path), '**', '*.tfrecord') if os.path.isdir(path) else path
        for path in args.paths
    ]
    try:
        require_crc32c()
        paths = find_shards(globs)
    except (ValueError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error
    names = Counter(os.path.basename(path) for path in paths)
    name, times = names.most_common(1)[0]
    if args.index_dir is not None and times > 1:
        raise CommandError(
            f'--index-dir {args.index_dir}: {times} shards are called {name}; index each folder '
            'into an --index-dir of its own'
        )
    return paths


def _prepare_process() -> None:
    # Ctrl-C ends the main process, which then ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What it warns of is told by the main process, once.
    LOGGER.setLevel(logging.ERROR)
