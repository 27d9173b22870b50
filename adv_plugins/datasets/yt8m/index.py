"""The index of a shard: where its records are, with their labels and numbers of frames."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...files import replacing
from .examples import LABEL_KEYS, Example, frame_lists, list_name, pop_labels, scan_examples
from .messages import count_frames, parse_example, parse_feature
from .tfrecord import FOOTER, HEADER, Stamp, damaged, file_stamp, map_records

INDEX_VERSION = 2
# What an index was made from: lengths and labels alone, or every record and its checksum. Files
# written without a CRC package hold a 1, which does not pass for a check of the checksums.
FRAMED, CHECKED = 0, 2
_CONTENT = ('offsets', 'lists', 'num_frames', 'labels', 'splits')
# Longer than a tick of the clock that file systems take their times from.
_TICK_NS = 20_000_000

# Offset, labels and number of frames by list of a record.
Entry = tuple[int, np.ndarray, dict[str, int]]


@dataclass(frozen=True)
class ShardIndex:
    """The records of a shard, which had this size and these times.

    The labels of record i are ``labels[splits[i]:splits[i + 1]]``. It has ``num_frames[i, j]``
    frames in the list ``lists[j]``, -1 if it has no such list.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    checked: int
    skipped: int
    offsets: np.ndarray
    lists: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    splits: np.ndarray

    @classmethod
    def build(cls, path: str, errors: str) -> ShardIndex:
        """Index a shard.

        With ``errors='raise'`` only what locates the records is read, with 'skip' everything.
        """
        stamp = _settled_stamp(path)
        if errors == 'raise':
            records: list[Entry | None] = list(peek_entries(path))
        else:
            records = [_entry(offset, example) for offset, example in scan_examples(path, errors)]
        entries = [entry for entry in records if entry is not None]
        lists = sorted({name for _, _, frames in entries for name in frames})
        counts = [[frames.get(name, -1) for name in lists] for _, _, frames in entries]
        return cls(
            *stamp,
            checked=_required_check(errors),
            skipped=len(records) - len(entries),
            offsets=np.array([offset for offset, _, _ in entries], np.int64),
            lists=np.array(lists, dtype=np.str_),
            num_frames=_narrowed(np.array(counts, np.int64).reshape(len(entries), len(lists))),
            labels=np.concatenate([np.zeros(0, np.int64), *(labels for _, labels, _ in entries)]),
            splits=np.cumsum([0, *(len(labels) for _, labels, _ in entries)], dtype=np.int64),
        )

    @classmethod
    def load(cls, file: str) -> ShardIndex | None:
        """Load an index from its file; None if there is none, or one of another version.

        Raises:
            ValueError: If the file is not what ``save`` wrote.
        """
        if not os.path.lexists(file):
            return None
        try:
            with np.load(file) as stored:
                if int(stored['version']) != INDEX_VERSION:
                    return None
                fields = {name: stored[name] for name in cls.__dataclass_fields__}
                digest = str(stored['digest'])
        # Damage shows in as many ways as NumPy and zip files have parts, and an index can always
        # be made again.
        except Exception as error:
            raise ValueError(f'{type(error).__name__}: {error}') from error
        if digest != _digest(fields):
            raise ValueError('its content is not what was written')
        return cls(**{k: int(v) if v.ndim == 0 else v for k, v in fields.items()})

    def save(self, file: str) -> None:
        """Save the index, complete or not at all."""
        with replacing(file) as out:
            np.savez(out, version=INDEX_VERSION, digest=_digest(vars(self)), **vars(self))

    @property
    def stamp(self) -> Stamp:
        """The stamp of the shard when it was indexed."""
        return Stamp(self.size, self.mtime_ns, self.ctime_ns)

    @property
    def content(self) -> str:
        """A digest of what was found in the shard: equal for equal records."""
        return _digest({name: getattr(self, name) for name in _CONTENT})

    def serves(self, errors: str, stamp: Stamp) -> bool:
        """Whether the index is of the file with this stamp and was made with enough checks."""
        if self.stamp != stamp or self.checked < _required_check(errors):
            return False
        return errors == 'skip' or self.skipped == 0


def peek_entries(path: str) -> Iterator[Entry]:
    """The entries of a shard without reading its frames, which are nearly all of its bytes."""
    for buf, start, stop in map_records(path):
        offset = start - HEADER
        try:
            context, lists = parse_example(buf, start, stop)
            spans = {key: context[key] for key in LABEL_KEYS if key in context}
            features = {key: parse_feature(buf, *span) for key, span in spans.items()}
            frames = {
                list_name(key): count_frames(buf, *span) for key, span in (lists or {}).items()
            }
            entry = offset, pop_labels(features), frames
        except ValueError as error:
            raise damaged(path, offset, str(error), stop + FOOTER) from None
        yield entry


def _entry(offset: int, example: Example | None) -> Entry | None:
    if example is None:
        return None
    frames = {name: len(value) for name, value in frame_lists(example).items()}
    return offset, example['labels'], frames


def _required_check(errors: str) -> int:
    return FRAMED if errors == 'raise' else CHECKED


def _narrowed(counts: np.ndarray) -> np.ndarray:
    """The counts in two bytes each if they fit: there is one for each list of each record."""
    return counts.astype(np.int16 if counts.max(initial=0) < 2**15 else np.int32)


def _settled_stamp(path: str) -> Stamp:
    """The stamp of a shard, from which every later change differs.

    Two changes within one tick of the clock have the same times, so a tick is waited for.
    """
    stamp = file_stamp(path)
    if not 0 <= time.time_ns() - stamp.ctime_ns < _TICK_NS:
        return stamp
    time.sleep(_TICK_NS / 1e9)
    return file_stamp(path)


def _digest(fields: Mapping[str, Any]) -> str:
    """What tells the fields from all others: names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in fields.items():
        array = np.ascontiguousarray(value)
        digest.update(f'{name} {array.dtype.str} {np.shape(value)} '.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
