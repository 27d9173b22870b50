"""The base of the datasets with an official release, which check the data before training starts.

The usual mistakes are silent: a list written before the archive was unpacked is merely shorter,
labels that count from 1 train a model with one unused class, and a missing file stops the run only
when its turn comes, hours later. Here all of them are reported when the dataset is built.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mmengine.fileio import exists
from mmengine.logging import print_log

from .files import ON_DISK, file_backends, find_missing, is_remote, list_folder, preview
from .text_files import read_lines

_TOOLS = 'MM=$(python -c "import mmaction; print(mmaction.__path__[0])")/.mim'
_SHOWN = 80


@dataclass(frozen=True)
class Release:
    """The facts of an official release, in the layout of MMAction2.

    Args:
        title (str): The name of the dataset.
        num_classes (int): Number of classes.
        splits (Mapping[str, int]): Number of videos of each split.
        download (str): Where the release comes from.
        folder (str): The folder of its videos, as in MMAction2's configs.
        example (str): An example of a file in that folder.
        annotations (str): The files that MMAction2's tool reads.
        lists (str): The annotation files that the tool writes, with ``{}`` for the split.
        options (str): The options with which the tool writes them.
    """

    title: str
    num_classes: int
    splits: Mapping[str, int]
    download: str
    folder: str
    example: str
    annotations: str
    lists: str
    options: str

    def sizes(self) -> str:
        """The sizes of the splits, for messages."""
        return ', '.join(f'{name} {size:,}' for name, size in self.splits.items())

    def guide(self, split: str) -> str:
        """Instructions from the download to the annotation file of a split.

        Args:
            split (str): 'train' or 'val'.

        Returns:
            str: Some lines of text.
        """
        return (
            f'{self.title} ({self.num_classes} classes; videos: {self.sizes()}) comes from '
            f'{self.download}. Expected, from the folder that holds data/:\n'
            f'  {self.folder}/{self.example}\n'
            f'  {self.annotations}\n'
            f'  {self.lists.format(split)}\n'
            'Once everything is unpacked, MMAction2 writes the last one with\n'
            f'  {_TOOLS}\n'
            f'  PYTHONPATH=$MM python $MM/tools/data/build_file_list.py {self.options} '
            f'--num-split 1 --level 1 --subset {split} --shuffle'
        )


class OfficialDataset(ABC):
    """Mixin for a dataset of MMAction2 that reports all problems with its data in one error.

    The check runs when the annotation file is read: with ``lazy_init``, at the first use. It covers
    every line, label and file, by listing folders and never by opening a video; for 108,000 folders
    of frames it takes about a second on a local disk.

    Args:
        *args: Arguments of the dataset.
        allow_subset (bool): Whether the number of listed videos may differ from the official
            splits. Defaults to False.
        **kwargs: Keyword arguments of the dataset.

    Raises:
        ValueError: If there are problems with the data.
    """

    release: ClassVar[Release]
    prefix_key: ClassVar[str]
    line_form: str

    def __init__(self, *args: Any, allow_subset: bool = False, **kwargs: Any) -> None:
        self.allow_subset = allow_subset
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the annotation file and check it, and the files it lists.

        Returns:
            list[dict]: As the base class gives it.

        Raises:
            ValueError: If there are problems; the message lists all of them.
        """
        lines, problems = self._read()
        entries, garbled = self._parse(lines)
        problems += garbled
        self._on_disk = file_backends(self.pipeline) <= ON_DISK and not is_remote(self._folder)
        problems += self._check_labels(lines, entries)
        problems += self._check_twice(entries)
        problems += self._check_size(lines)
        problems += self._check_folder() or self._check_files(list(self._used(entries)))
        if problems:
            raise ValueError(self._message(problems))
        split = {size: name for name, size in self.release.splits.items()}.get(len(entries))
        print_log(
            f'{type(self).__name__} of {self.ann_file}: {len(entries):,} videos, '
            + (f'the official {split} split' if split else 'not an official split'),
            logger='current',
        )
        return list(entries.values())

    @property
    def _folder(self) -> str:
        return str(self.data_prefix.get(self.prefix_key) or '')

    def _read(self) -> tuple[dict[int, str], list[str]]:
        """The non-empty lines by number, or the reason why there are none."""
        if not self.ann_file or not exists(self.ann_file):
            return {}, [f'There is no file ann_file={self.ann_file!r}.']
        try:
            lines = read_lines(self.ann_file)
        except ValueError as error:
            return {}, [f'ann_file: {error}']
        if lines:
            return lines, []
        return {}, [
            f'ann_file={self.ann_file!r} is empty: no video was found in {self.release.folder} '
            'when it was written, or it is the test list, which the tool cannot write.'
        ]

    def _parse(self, lines: dict[int, str]) -> tuple[dict[int, dict], list[str]]:
        """The entries by line number, and the problems with the format of the list."""
        entries, bad = {}, []
        for number, line in lines.items():
            try:
                entries[number] = self._entry(line)
            except ValueError:
                bad.append(number)
        # A list for prediction has no labels, but then no line has any.
        unlabelled = [number for number, entry in entries.items() if entry['label'] in (-1, [])]
        if not (self.test_mode and len(unlabelled) == len(lines)):
            bad = sorted({*bad, *unlabelled})
        if not bad:
            return entries, []
        shown = '; '.join(f'line {number}: {_short(lines[number])}' for number in bad[:3])
        return {number: entry for number, entry in entries.items() if number not in set(bad)}, [
            f'{len(bad):,} of {len(lines):,} lines of ann_file={self.ann_file!r} are not of the '
            f'form {self.line_form!r}: {shown}.'
        ]

    @abstractmethod
    def _entry(self, line: str) -> dict:
        """A line as an entry of the base class; a garbled line raises a ValueError."""

    def _label(self, labels: list[str]) -> int | list[int]:
        if self.multi_class:
            return [int(label) for label in labels]
        if len(labels) > 1:
            raise ValueError
        return int(labels[0]) if labels else -1

    def _check_labels(self, lines: dict[int, str], entries: dict[int, dict]) -> list[str]:
        count = self.release.num_classes
        labels = {number: _as_list(entry['label']) for number, entry in entries.items()}
        values = [label for row in labels.values() for label in row]
        if self.test_mode and set(values) <= {-1}:
            return []
        wrong = [n for n, row in labels.items() if any(not 0 <= label < count for label in row)]
        if not wrong:
            return []
        shown = '; '.join(f'line {number}: {_short(lines[number])}' for number in wrong[:3])
        low, high = min(values), max(values)
        reason = 'Is it the list of another dataset?'
        if low >= 1 and high == count:
            reason = 'They seem to count from 1: subtract 1 from each.'
        return [
            f'{len(wrong):,} of {len(entries):,} lines have a label outside 0..{count - 1}, which '
            f'are the labels of {self.release.title} (here {low} to {high}): {shown}. {reason}'
        ]

    def _check_twice(self, entries: dict[int, dict]) -> list[str]:
        first: dict[tuple, int] = {}
        twice = []
        for number, entry in entries.items():
            video = (entry.get('filename', entry.get('frame_dir')), entry.get('offset'))
            if first.setdefault(video, number) != number:
                twice.append((video[0], first[video], number))
        if not twice:
            return []
        shown = '; '.join(f'{name} on lines {a} and {b}' for name, a, b in twice[:3])
        return [
            f'{len(twice):,} lines of ann_file={self.ann_file!r} list a video again: {shown}. '
            'Keep one line for each.'
        ]

    def _check_size(self, lines: dict[int, str]) -> list[str]:
        count = len(lines)
        if not count or self.allow_subset or self._indices is not None:
            return []
        if count in self.release.splits.values():
            return []
        return [
            f'ann_file={self.ann_file!r} lists {count:,} videos, the official splits have '
            f'{self.release.sizes()}. The tool leaves out what is not unpacked when it runs: '
            'unpack everything and run it again. For a subset on purpose, write allow_subset=True.'
        ]

    def _check_folder(self) -> list[str]:
        if self.prefix_key not in self.data_prefix:
            return [
                f'data_prefix has the keys {sorted(self.data_prefix)}; write '
                f'data_prefix=dict({self.prefix_key}={self.release.folder!r}).'
            ]
        if not self._folder or not self._on_disk or os.path.isdir(self._folder):
            return []
        return [
            f'There is no folder data_prefix=dict({self.prefix_key}={self._folder!r}), which '
            f'should hold {self.release.example}.'
        ]

    def _check_files(self, entries: list[dict]) -> list[str]:
        """The problems with the files of the entries that are used."""
        key = 'frame_dir' if self.prefix_key == 'img' else 'filename'
        paths = [entry[key] for entry in entries] if self._on_disk else []
        missing = find_missing(paths)
        if not missing:
            return []
        return [
            f'{len(missing):,} of {len(paths):,} listed videos are not on disk: '
            f'{preview(missing)}. Is the archive unpacked whole, and does data_prefix='
            f'dict({self.prefix_key}={self._folder!r}) name its folder?'
        ]

    def _used(self, entries: dict[int, dict]) -> Iterator[dict]:
        """The entries that ``indices`` select."""
        values = list(entries.values())
        if self._indices is None:
            yield from values
        elif isinstance(self._indices, int):
            yield from values[: self._indices] if self._indices >= 0 else values[self._indices :]
        else:
            yield from (values[i] for i in self._indices if -len(values) <= i < len(values))

    def _message(self, problems: list[str]) -> str:
        split = 'val' if 'val' in os.path.basename(self.ann_file or '') else 'train'
        listed = '\n'.join(f'  {i}. {problem}' for i, problem in enumerate(problems, 1))
        return (
            f'{type(self).__name__} found {len(problems)} problem(s) with its data:\n{listed}\n'
            f'{self.release.guide(split)}'
        )


class OfficialVideos(OfficialDataset):
    """The mixin for ``VideoDataset``, where a video is a file."""

    prefix_key = 'video'

    @property
    def line_form(self) -> str:
        """The form of a line, for messages."""
        return f'{self.release.example}{self.delimiter}LABEL'

    def _entry(self, line: str) -> dict:
        name, *labels = line.strip().split(self.delimiter)
        return dict(filename=os.path.join(self._folder, name), label=self._label(labels))


class OfficialFrames(OfficialDataset):
    """The mixin for ``RawframeDataset``, where a video is a folder of frames."""

    prefix_key = 'img'

    @property
    def line_form(self) -> str:
        """The form of a line, for messages."""
        return f'FOLDER {"FIRST " if self.with_offset else ""}NUMBER_OF_FRAMES LABEL'

    def _entry(self, line: str) -> dict:
        name, *numbers = line.split()
        entry: dict = dict(frame_dir=os.path.join(self._folder, name))
        if self.with_offset:
            entry['offset'] = int(numbers.pop(0)) if numbers else _garbled()
        entry['total_frames'] = int(numbers.pop(0)) if numbers else _garbled()
        if entry['total_frames'] < 1:
            _garbled()
        return dict(entry, label=self._label(numbers))

    def _check_files(self, entries: list[dict]) -> list[str]:
        problems = super()._check_files(entries)
        if not self._on_disk:
            return problems
        present = [entry for entry in entries if os.path.isdir(entry['frame_dir'])]
        short = [(entry, name) for entry in present for name in self._missing_frames(entry)]
        if not short:
            return problems
        entry, name = short[0]
        names = sorted(list_folder(entry['frame_dir']))
        holds = f'{len(names)} files' + (f', {names[0]} to {names[-1]}' if names else '')
        folders = list(dict.fromkeys(entry['frame_dir'] for entry, _ in short))
        return [
            *problems,
            f'{len(folders):,} of {len(present):,} folders lack frames that the list counts: '
            f'{preview(folders)}. The first has no {name} (total_frames {entry["total_frames"]} in '
            f'the list, filename_tmpl={self.filename_tmpl!r}, start_index={self.start_index}), it '
            f'holds {holds}. Is the archive unpacked whole?',
        ]

    def _missing_frames(self, entry: dict) -> Iterator[str]:
        """The first or else the last frame, if missing: archives are unpacked in order."""
        first = self.start_index + entry.get('offset', 0)
        for index in (first, first + entry['total_frames'] - 1):
            # The files of optical flow have a direction, 'x' or 'y', before the number.
            fields = ('x', index) if self.modality == 'Flow' else (index,)
            name = self.filename_tmpl.format(*fields)
            if not os.path.exists(os.path.join(entry['frame_dir'], name)):
                yield name
                return


def _as_list(label: int | list[int]) -> list[int]:
    return label if isinstance(label, list) else [label]


def _short(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else line[:_SHOWN] + '...')


def _garbled() -> int:
    raise ValueError
