"""TFRecord files: records found, checked, read and written.

A file is a chain of records. A record is the length of its data (8 bytes), the checksum of the
length (4), the data, and the checksum of the data (4).
"""

from __future__ import annotations

import errno
import gzip
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from ...files import replacing
from .checksum import masked_crc32c

HEADER, FOOTER = 12, 4
# Protobuf's own limit of a message.
MAX_LENGTH = 2**31 - 1


class Stamp(NamedTuple):
    """Size of a file, and when its content and its entry on the disk last changed (ns).

    Anyone may set the second time, and copies keep it; the last is the system's own.
    """

    size: int
    mtime_ns: int
    ctime_ns: int


class TFRecordError(ValueError):
    """A file or a record that cannot be read.

    Args:
        message (str): What is wrong, and what to do about it.
        path (str): The file. Defaults to ''.
        offset (int): Byte at which the record begins, after decompression. Defaults to 0.
        next_offset (int, optional): Byte at which the next record begins. Defaults to None: it
            cannot be found, as after a damaged length.
    """

    # Only the message is required: a DataLoader rebuilds a worker's error from its text.
    def __init__(
        self, message: str, path: str = '', offset: int = 0, next_offset: int | None = None
    ) -> None:
        super().__init__(message)
        self.path, self.offset, self.next_offset = path, offset, next_offset


def damaged(path: str, offset: int, problem: str, next_offset: int | None = None) -> TFRecordError:
    """The error for a record that is damaged."""
    text = (
        f'{path}, record at byte {offset}: {problem}. Download or write the shard again, or leave '
        "damaged records out with errors='skip'."
    )
    return TFRecordError(text, path, offset, next_offset)


def file_stamp(path: str) -> Stamp:
    """What tells whether a shard has changed, without reading it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        text = 'no such shard (it has to be a local file, or a glob of local files)'
        raise FileNotFoundError(errno.ENOENT, text, path) from None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_gzip(path: str) -> bool:
    """Whether the content of a file is gzipped, whatever its name."""
    with open(path, 'rb') as file:
        header = file.read(HEADER)
    # The length of a record may begin with gzip's magic bytes, but then its checksum fits.
    return header[:2] == b'\x1f\x8b' and header[8:] != masked_crc32c(header[:8])


def open_records(path: str) -> BinaryIO:
    """Open a file for ``read_record``, decompressed if its content is gzipped."""
    return (gzip.open if is_gzip(path) else open)(path, 'rb')  # type: ignore


def read_record(file: BinaryIO, path: str) -> bytes | None:
    """Data of the record at the file's position; None at the end of the file."""
    offset = file.tell()
    try:
        header = file.read(HEADER)
        if not header:
            if offset == 0:
                raise damaged(path, 0, 'the file is empty')
            return None
        length = _length(header, path, offset)
        data, footer = file.read(length), file.read(FOOTER)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, offset, f'the gzip stream is cut or damaged ({error})') from None
    if len(footer) < FOOTER:
        missing = length + FOOTER - len(data) - len(footer)
        raise damaged(path, offset, f'the file is cut, {missing} bytes are missing')
    if masked_crc32c(data) != footer:
        raise damaged(path, offset, 'the checksum of the data does not fit', file.tell())
    return data


def map_records(path: str) -> Iterator[tuple[mmap.mmap, int, int]]:
    """Where the data of each record begin and end in the memory-mapped file.

    Only the lengths are read and checked; of the data, only what the caller looks at is read.
    """
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise damaged(path, 0, 'the file is empty')
        buf = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, 'MADV_RANDOM'):
        buf.madvise(mmap.MADV_RANDOM)
    offset = 0
    while offset < size:
        start = offset + HEADER
        stop = start + _length(buf[offset:start], path, offset)
        if stop + FOOTER > size:
            missing = stop + FOOTER - size
            raise damaged(path, offset, f'the file is cut, {missing} bytes are missing')
        yield buf, start, stop
        offset = stop + FOOTER


def write_records(path: str, records: Iterable[bytes]) -> int:
    """Write a file, gzipped if its name ends with '.gz', and return the number of its records."""
    count = 0
    with replacing(path) as plain:
        # No name and no time in the gzip header: equal records give equal files.
        zipped = path.endswith('.gz')
        with gzip.GzipFile('', 'wb', fileobj=plain, mtime=0) if zipped else plain as file:
            for data in records:
                length = struct.pack('<Q', len(data))
                for part in (length, masked_crc32c(length), data, masked_crc32c(data)):
                    file.write(part)
                count += 1
        if count == 0:
            raise ValueError(f'{path}: no examples to write, and an empty shard is an error')
    return count


def _length(header: bytes, path: str, offset: int) -> int:
    """Length of a record's data, from the 12 bytes in front of them."""
    if len(header) < HEADER:
        raise damaged(path, offset, f'the file is cut after {len(header)} bytes of a header')
    length = struct.unpack_from('<Q', header)[0]
    if header[8:] != masked_crc32c(header[:8]) or length > MAX_LENGTH:
        raise damaged(
            path, offset, f'the length field is damaged ({length}), so the rest cannot be found'
        )
    return length
