"""What is wrong with the lists of videos, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..datasets.files import find_missing, preview
from ..datasets.inspection import (
    identities,
    inner_datasets,
    list_line,
    listed_files,
    listed_labels,
    listed_videos,
    path_of,
    unusable_files,
)
from .findings import Findings


def file_problems(stage: str, datasets: Sequence[Any]) -> list[str]:
    """Videos that are not on disk, and those that no decoder can read.

    Args:
        stage (str): The stage, for the messages.
        datasets (Sequence[Dataset]): Its datasets.
    """
    homes = [(path, inner) for inner in datasets for path in listed_files(inner)]
    missing = find_missing(path for path, _ in homes)
    faults = {path: fault for inner in datasets for path, fault in unusable_files(inner).items()}
    problems = []
    for paths, what, texts in (
        (missing, 'are not on disk', missing),
        (list(faults), 'cannot be read', [f'{path} is {fault}' for path, fault in faults.items()]),
    ):
        if paths:
            home = next(inner for path, inner in homes if path == paths[0])
            problems.append(
                f'{stage} files: {len(paths):,} of {len(homes):,} listed videos {what}: '
                f'{preview(texts)}{in_brackets(list_line(home, paths[0]))}'
            )
            if '\ufeff' in paths[0]:
                problems[-1] += '; a byte order mark stands before it: save the list without one'
    return problems


def compare_labels(
    found: Findings,
    stage: str,
    videos: int,
    datasets: Sequence[Any],
    option: str,
    num_classes: int | None,
) -> None:
    """Note which classes the videos have, and how they fit those of the model.

    Args:
        found (Findings): Where it is noted.
        stage (str): The stage.
        videos (int): Number of its videos.
        datasets (Sequence[Dataset]): Its datasets.
        option (str): The option that sets the number of classes of the model.
        num_classes (int, optional): That number; None if it is not known.
    """
    kinds = preview(dict.fromkeys(type(inner).__name__ for inner in datasets))
    counts = Counter(label for inner in datasets for row in listed_labels(inner) for label in row)
    # A test set for prediction has no labels.
    if stage == 'test' and set(counts) == {-1}:
        counts.clear()
    found.facts.append(f'{stage}: {videos:,} videos, {len(counts)} classes ({kinds})')
    if not counts or num_classes is None:
        found.facts[-1] += '; labels not compared with the model'
        return
    wrong = sorted(label for label in counts if not 0 <= label < num_classes)
    if wrong:
        found.problems.append(
            f'{stage} labels: {sum(counts[label] for label in wrong):,} labels lie outside '
            f'0..{num_classes - 1}, the classes of {option}={num_classes}: {preview(wrong)}'
            f'{in_brackets(line_of_label(datasets, wrong[0]))}'
        )
    empty = sorted(set(range(num_classes)) - set(counts))
    if stage == 'train' and len(empty) > num_classes // 2 and not wrong:
        found.warnings.append(
            f'{option}={num_classes}, but the training videos have only {len(counts)} '
            f'different labels: {preview(sorted(counts))}; {len(empty)} classes have no '
            'training video. Is this the head of another dataset, or the wrong list?'
        )
    elif stage == 'train' and empty:
        found.warnings.append(f'{len(empty)} classes have no training video: {preview(empty, 10)}')


def overlap_warnings(
    stage: str, training: Sequence[Any], evaluated: Sequence[Any], same: bool
) -> list[str]:
    """Training videos that are evaluated as if they were new ones.

    Args:
        stage (str): The stage in which they are evaluated.
        training (Sequence[Dataset]): The training datasets.
        evaluated (Sequence[Dataset]): The datasets of the stage.
        same (bool): What :func:`same_data` says, for datasets that do not list their videos.
    """
    known = dict(pair for inner in training for pair in identities(inner))
    videos = [pair for inner in evaluated for pair in identities(inner)]
    both = [(video, label) for video, label in videos if video in known]
    lesson = f'the numbers of {stage} say nothing about new videos'
    if not videos and same:
        return [f'the {stage} dataset is the training dataset: {lesson}']
    if not both:
        return []
    names = preview(video for video, _ in both)
    warnings = [
        f'{len(both):,} of the {len(videos):,} {stage} videos are training videos, so that '
        f'{lesson}: {names}'
    ]
    other = [
        f'{video} ({known[video]} in train, {label} in {stage})'
        for video, label in both
        if known[video] != label
    ]
    if other:
        warnings.append(f'{len(other):,} of them have another label in {stage}: {preview(other)}')
    return warnings


def same_data(one: Any, other: Any) -> bool:
    """Whether the configs of two data loaders have the same dataset, wrapped or not."""
    first, second = (
        [_which_videos(config) for config in _inner_configs(given)] for given in (one, other)
    )
    return any(config in first for config in second)


def line_of_label(datasets: Iterable[Any], label: int) -> str:
    """Where a list has the first video of a label."""
    for inner in datasets:
        for entry in listed_videos(inner):
            path = path_of(entry)
            if path and entry.get('label') in (label, [label]):
                return list_line(inner, path)
    return ''


def in_brackets(text: str) -> str:
    """A remark at the end of a message; nothing of no text."""
    return f' ({text})' if text else ''


def _inner_configs(given: Any) -> Iterator[Any]:
    """The configs of the datasets of a data loader's config, without wrappers."""
    if not isinstance(given, Mapping):
        inner = getattr(given, 'dataset', None)
        yield from inner_datasets(inner) if inner is not None else ()
    elif 'datasets' in given:
        for each in given['datasets']:
            yield from _inner_configs(each)
    elif 'dataset' in given:
        yield from _inner_configs(given['dataset'])
    else:
        yield given


def _which_videos(config: Any) -> Any:
    """What says which videos a dataset has, and not what is done with them."""
    if not isinstance(config, Mapping):
        return config
    return {n: v for n, v in config.items() if n not in ('pipeline', 'test_mode', '_scope_')}
