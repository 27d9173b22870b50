"""The index of a shard: where its records are, with their labels and numbers of frames."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .examples import LABEL_KEYS, Example, frame_lists, pop_labels, scan_examples
from .messages import count_frames, parse_example, parse_feature
from .tfrecord import FOOTER, HEADER, damaged, file_stamp, map_records, replacing

INDEX_VERSION = 1
# What an index was made from: lengths and labels alone, or every record and its checksum. Files
# written without a CRC package hold a 1, which does not pass for a check of the checksums.
FRAMED, CHECKED = 0, 2

# Offset, labels and number of frames of a record.
Entry = tuple[int, np.ndarray, int]


@dataclass(frozen=True)
class ShardIndex:
    """The records of a shard, which had this size and modification time.

    The labels of record i are ``labels[splits[i]:splits[i + 1]]``.
    """

    size: int
    mtime_ns: int
    checked: int
    skipped: int
    offsets: np.ndarray
    num_frames: np.ndarray
    labels: np.ndarray
    splits: np.ndarray

    @classmethod
    def build(cls, path: str, errors: str) -> ShardIndex:
        """Index a shard.

        With ``errors='raise'`` only what locates the records is read, with 'skip' everything.
        """
        size, mtime_ns = file_stamp(path)
        if errors == 'raise':
            records: list[Entry | None] = list(peek_entries(path))
        else:
            records = [_entry(offset, example) for offset, example in scan_examples(path, errors)]
        entries = [entry for entry in records if entry is not None]
        return cls(
            size,
            mtime_ns,
            checked=_required_check(errors),
            skipped=len(records) - len(entries),
            offsets=np.array([offset for offset, _, _ in entries], np.int64),
            num_frames=np.array([frames for _, _, frames in entries], np.int32),
            labels=np.concatenate([np.zeros(0, np.int64), *(labels for _, labels, _ in entries)]),
            splits=np.cumsum([0, *(len(labels) for _, labels, _ in entries)], dtype=np.int64),
        )

    @classmethod
    def load(cls, file: str) -> ShardIndex | None:
        """Load an index from its file; None if there is none that can be read."""
        try:
            with np.load(file) as stored:
                if int(stored['version']) != INDEX_VERSION:
                    return None
                fields = {name: stored[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        return cls(**{k: int(v) if v.ndim == 0 else v for k, v in fields.items()})

    def save(self, file: str) -> None:
        """Save the index, complete or not at all."""
        with replacing(file) as out:
            np.savez(out, version=INDEX_VERSION, **vars(self))

    def serves(self, errors: str, stamp: tuple[int, int]) -> bool:
        """Whether the index is of the file with this stamp and was made with enough checks."""
        if (self.size, self.mtime_ns) != stamp or self.checked < _required_check(errors):
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
            frames = count_frames(buf, *next(iter(lists.values()))) if lists else 0
            entry = offset, pop_labels(features), frames
        except ValueError as error:
            raise damaged(path, offset, str(error), stop + FOOTER) from None
        yield entry


def _entry(offset: int, example: Example | None) -> Entry | None:
    if example is None:
        return None
    return offset, example['labels'], next(map(len, frame_lists(example).values()), 0)


def _required_check(errors: str) -> int:
    return FRAMED if errors == 'raise' else CHECKED
