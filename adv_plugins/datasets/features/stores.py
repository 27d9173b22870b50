"""Where the arrays of a modality are: a file for each video, or one array of all frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from zipfile import BadZipFile

import numpy as np
from mmengine.fileio import list_from_file

_MAX_LISTED = 5


class PerVideoFiles:
    """The arrays of a modality, in a .npy or .npz file for each video.

    Args:
        directory (str): Where the files are.
        modality (str): Name of the array in .npz files.
        names (Sequence[str]): All videos. The file of the first decides between .npy and .npz.
    """

    def __init__(self, directory: str, modality: str, names: Sequence[str]) -> None:
        self.directory = directory
        self.modality = modality
        existing = [s for s in ('.npy', '.npz') if os.path.exists(self._path(names[0], s))]
        self.suffix = existing[0] if existing else '.npy'
        missing = [name for name in names if not os.path.exists(self.place(name))]
        if missing:
            raise FileNotFoundError(
                f'Features of {len(missing)} of {len(names)} videos are missing for '
                f'{modality!r}, such as {_listed([self.place(name) for name in missing])}: add '
                'them, or take the videos out of ann_file.'
            )

    def load(self, record: int, name: str) -> np.ndarray:
        """The array of a video, memory-mapped if it is a .npy file."""
        path = self.place(name)
        content = _load_array(path)
        if self.suffix == '.npy':
            return content
        with content:
            if self.modality not in content.files:
                raise ValueError(
                    f'{path} has no array {self.modality!r}, only {sorted(content.files)}: save '
                    'each modality under its name.'
                )
            return content[self.modality]

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
        names (Sequence[str]): The videos, possibly only some of those in the file.
    """

    def __init__(self, path: str, modality: str, names: Sequence[str]) -> None:
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
        missing = [name for name in names if name not in rows]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(names)} videos are missing in {rows_file}, such as '
                f'{_listed(missing)}: add them, or take the videos out of ann_file.'
            )
        self._rows = np.array([rows[name] for name in names])

    def load(self, record: int, name: str) -> np.ndarray:
        """The memory-mapped rows of a video."""
        start, stop = self._rows[record].tolist()
        return self._open()[start:stop]

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


def _load_array(path: str) -> np.ndarray | np.lib.npyio.NpzFile:
    """Open a .npy (memory-mapped) or .npz file."""
    try:
        return np.load(path, mmap_mode='r')
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        raise ValueError(f'{path} cannot be read as {path[-4:]} file: {error}') from error


def _read_rows(path: str, num_rows: int) -> dict[str, tuple[int, int]]:
    """The rows of each video: the first, and the one after the last."""
    rows = {}
    for number, line in enumerate(list_from_file(path), start=1):
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
        rows[name] = (first, end)
    return rows


def _listed(items: Sequence[str]) -> str:
    return ', '.join(items[:_MAX_LISTED])
