"""Where the arrays of a modality are: a file for each video, or one array of all frames."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np

from ...progress import track
from ..text_files import Names, read_lines

_MAX_LISTED = 5


class PerVideoFiles:
    """The arrays of a modality, in a .npy or .npz file for each video.

    Args:
        directory (str): Where the files are.
        modality (str): Name of the array in .npz files.
        listed (Mapping[str, str]): All videos, with the place where each is listed. The file of
            the first decides between .npy and .npz.
    """

    def __init__(self, directory: str, modality: str, listed: Mapping[str, str]) -> None:
        self.directory = directory
        self.modality = modality
        first = next(iter(listed))
        existing = [s for s in ('.npy', '.npz') if os.path.exists(self._path(first, s))]
        self.suffix = existing[0] if existing else '.npy'
        missing = [name for name in listed if not os.path.exists(self.place(name))]
        if missing:
            raise FileNotFoundError(
                f'Features of {len(missing)} of {len(listed)} videos are missing for '
                f'{modality!r}, such as {_some([self.place(name) for name in missing])}: add '
                f'them, or take the videos out of {_some([listed[name] for name in missing])}.'
            )

    def load(self, record: int, name: str) -> np.ndarray:
        """The array of a video, memory-mapped if it is a .npy file."""
        path = self.place(name)
        if self.suffix == '.npy':
            return _load_array(path)
        with _reading(path), np.load(path) as content:
            if self.modality in content.files:
                return content[self.modality]
            names = sorted(content.files)
        raise ValueError(
            f'{path} has no array {self.modality!r}, only {names}: save each modality under its '
            'name.'
        )

    def lengths(
        self, records: Sequence[int], names: Sequence[str], log: Callable[[str], object]
    ) -> np.ndarray:
        """Number of frames of some videos, from the headers of their files.

        Args:
            records (Sequence[int]): The numbers of the videos.
            names (Sequence[str]): Their names.
            log (Callable): Takes lines about the progress.

        Returns:
            np.ndarray: Shape (videos,); -1 where it cannot be told, which shows when it is read.
        """
        what = f'headers of {self.modality!r} read'
        return np.array([self._length(name) for name in track(names, len(names), what, log)])

    def _length(self, name: str) -> int:
        try:
            if self.suffix == '.npy':
                with open(self.place(name), 'rb') as file:
                    return _stored_length(file)
            with (
                zipfile.ZipFile(self.place(name)) as archive,
                archive.open(f'{self.modality}.npy') as file,
            ):
                return _stored_length(file)
        # Reading it tells what is wrong with it; here nothing depends on it.
        except Exception:
            return -1

    def place(self, name: str) -> str:
        """Path of a video's file."""
        return self._path(name, self.suffix)

    def _path(self, name: str, suffix: str) -> str:
        return os.path.join(self.directory, name + suffix)


class SingleArray:
    """The arrays of a modality, as rows of one memory-mapped .npy file.

    Args:
        path (str): Path of the .npy file; the .txt file beside it names the rows of each video.
        modality (str): Name of the modality.
        listed (Mapping[str, str]): The videos, possibly only some of those in the file, with the
            place where each is listed.
    """

    def __init__(self, path: str, modality: str, listed: Mapping[str, str]) -> None:
        self.path = path
        self._array: np.ndarray | None = None
        rows_file = path.removesuffix('.npy') + '.txt'
        for file in (path, rows_file):
            if not os.path.exists(file):
                raise FileNotFoundError(
                    f'{file}, with features of {modality!r}, does not exist: a .npy file of all '
                    'frames needs a .txt beside it, with a line "name start stop" for each video.'
                )
        rows = _read_rows(rows_file, len(self._open()))
        missing = [name for name in listed if name not in rows]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(listed)} videos are missing in {rows_file}, such as '
                f'{_some(missing)}: add them, or take the videos out of '
                f'{_some([listed[name] for name in missing])}.'
            )
        self._rows = np.array([rows[name] for name in listed])

    def load(self, record: int, name: str) -> np.ndarray:
        """The memory-mapped rows of a video."""
        start, stop = self._rows[record].tolist()
        return self._open()[start:stop]

    def lengths(
        self, records: Sequence[int], names: Sequence[str], log: Callable[[str], object]
    ) -> np.ndarray:
        """Number of frames of some videos; see ``PerVideoFiles.lengths``."""
        first, end = self._rows[np.asarray(records)].T
        return end - first

    def place(self, name: str) -> str:
        """The file, and the video in it."""
        return f'{self.path}, video {name!r}'

    def _open(self) -> np.ndarray:
        if self._array is None:
            self._array = _load_array(self.path)
        return self._array

    def __getstate__(self) -> dict:
        # Pickling a memory map copies the whole file: each worker opens its own.
        return {**self.__dict__, '_array': None}


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Name the file in the errors of reading it, of which NumPy and zip files have many kinds."""
    try:
        yield
    except Exception as error:
        problem = f'{type(error).__name__}: {error}'
        raise ValueError(f'{path} cannot be read as {path[-4:]} file: {problem}') from error


def _load_array(path: str) -> np.ndarray:
    """The array in a .npy file, memory-mapped."""
    with _reading(path):
        array = np.load(path, mmap_mode='r')
        if not isinstance(array, np.ndarray):
            raise ValueError('it holds several arrays, as .npz files do')
        return array


def _stored_length(file: IO[bytes]) -> int:
    """Length of the first axis of an array, from the header of its .npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)[0][0]
    return np.lib.format.read_array_header_2_0(file)[0][0]


def _read_rows(path: str, num_rows: int) -> dict[str, tuple[int, int]]:
    """The rows of each video: the first, and the one after the last."""
    rows = {}
    names = Names('write all frames of a video on one line', path)
    for number, line in read_lines(path).items():
        try:
            name, start, stop = line.split()
            first, end = int(start), int(stop)
        except ValueError as error:
            raise ValueError(
                f'{path}, line {number}: {line!r} is not "name start stop".'
            ) from error
        if not 0 <= first <= end <= num_rows:
            raise ValueError(
                f'{path}, line {number}: the rows {first} to {end} of {name!r} are not within the '
                f'{num_rows} rows of the .npy file.'
            )
        names.add(name, number)
        rows[name] = (first, end)
    return rows


def _some(items: Sequence[str]) -> str:
    return ', '.join(items[:_MAX_LISTED])
