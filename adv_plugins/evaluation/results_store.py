"""The file in which evaluations of the same weights keep what they found, one after the other or at
the same time: nothing in it is overwritten by less, and what is damaged is put aside."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from ..files import replacing
from .class_names import are_numbers
from .pages import markdown
from .results import Cell, Robustness
from .results_file import put_aside


class ResultsStore:
    """The results of one evaluation, and the file that it shares with others.

    Args:
        folder (str | Path): The folder of the file ``robustness_<weights>.json``.
        results (Robustness): The results of this evaluation, which :meth:`save` writes.
        labels (Mapping[int, int]): The labels of its videos, as far as they are known: a file with
            others is one of other videos.
        total (int): Number of videos in the dataset.

    Attributes:
        file (Path): The file.
        stored (Robustness): What it had at the start.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        results: Robustness,
        labels: Mapping[int, int],
        total: int,
    ) -> None:
        self.file = Path(folder) / f'robustness_{results.weights}.json'
        self._results, self._labels, self._total = results, labels, total
        nothing = replace(results, missing={})
        # One process looks, and renames what it cannot use; all of them plan alike.
        found = [nothing]
        if is_main_process():
            with self._lock():
                found = [self._read() or nothing]
        broadcast_object_list(found)
        self.stored = found[0]

    def rest(self, planned: Cell) -> list[int]:
        """The videos of a planned cell that were not run yet under its condition."""
        found = self.stored.alike(planned)
        return planned.videos if found is None else found.lacks(planned)

    def resume(self, planned: Cell) -> Cell | None:
        """Take what was found under the condition of a planned cell into the results."""
        found = self.stored.alike(planned)
        if found is not None:
            self._results.labels |= {video: self.stored.labels[video] for video in found.videos}
            self._results.add(found)
            if found is self.stored.cells.get(found.key) and found.key in self.stored.missing:
                self._results.missing[found.key] = self.stored.missing[found.key]
        return found

    def save(self) -> None:
        """Write the results, together with all that the file has by now."""
        if is_main_process():
            with self._lock():
                stored = self._read()
                whole = self._results if stored is None else self._results.united(stored)
                whole.save(self.file)

    def write_page(self) -> None:
        """Write the results of this evaluation as a Markdown page beside the file."""
        if is_main_process():
            with replacing(self.file.with_suffix('.md')) as page:
                page.write(markdown(self._results).encode())

    def _lock(self) -> FileLock:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f'{self.file}.lock')

    def _read(self) -> Robustness | None:
        """What the file has; it is renamed if that is of no use."""
        try:
            found = Robustness.load(self.file)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            self._put_aside('damaged', str(error))
            return None
        if self._fits(found):
            return found
        self._put_aside('other', 'it has the results of another dataset, or of other weights')
        return None

    def _fits(self, found: Robustness) -> bool:
        own = self._results
        labels = {**self._labels, **own.labels}
        return (
            (found.weights, found.dataset) == (own.weights, own.dataset)
            and _same_classes(found.classes, own.classes)
            and all(video < self._total for video in found.labels)
            and all(labels.get(video, label) == label for video, label in found.labels.items())
        )

    def _put_aside(self, word: str, reason: str) -> None:
        aside = put_aside(self.file, word)
        text = f'renamed to {aside.name}: {reason}'
        self._results.missing[self.file.name] = text
        print_log(f'{self.file}: {text}', 'current', logging.WARNING)


def _same_classes(found: Sequence[str], own: Sequence[str]) -> bool:
    """Whether these may be the same classes: numbers may be told their names later."""
    nameless = are_numbers(found) or are_numbers(own)
    return found == own or (nameless and len(found) == len(own))
