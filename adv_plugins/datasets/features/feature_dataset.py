"""FeatureDataset: frame features of your own, from NumPy files and a list of videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from mmengine.registry import DATASETS

from ..label_space import LabelSpace
from ..text_files import Names, read_lines
from .base import FrameFeatureDataset, is_positive
from .stores import PerVideoFiles, SingleArray


@DATASETS.register_module()
class FeatureDataset(FrameFeatureDataset):
    """Frame features of your own: any modalities of any width, uint8, float16 or float32.

    ``ann_file`` is a text file in MMAction2's style with one video per line: its name, then its
    labels (none for videos to predict)::

        some/video 3 17
        other_video 0

    ``data_prefix`` names the place of each modality's arrays (T, D), in one of three forms:

    - a directory with ``{name}.npy`` for each video;
    - a directory with ``{name}.npz`` for each video, which holds an array under the modality's name
      (may be compressed, and one file may hold several modalities; it is read whole);
    - one ``.npy`` file with the frames of all videos below each other, and beside it a ``.txt``
      file of the same name with a line ``name start stop`` per video, whose frames are the rows
      ``start`` to ``stop - 1``. This is the fastest for many videos.

    ``.npy`` files are memory-mapped, and only the frames of the item are read. Items carry an array
    for each modality, ``label``, ``video_id`` (the name) and ``num_frames``, that of the longest
    modality. The modalities of a video may differ in length, and all but one may have none: each
    is taken as it is, and the log counts such videos.

    Args:
        ann_file (str): The text file, relative to ``data_root``.
        modalities (Mapping[str, int]): The modalities, with their widths.
        data_prefix (Mapping[str, str]): Directory or ``.npy`` file of each modality, relative to
            ``data_root``.
        num_classes (int, optional): Number of classes; give this, ``classes`` or ``label_space``.
            Defaults to None.
        classes (Sequence[str], optional): Names of the classes. Defaults to None.
        label_space (LabelSpace | str | Sequence[str] | Mapping, optional): How labels become
            classes, see ``LabelSpace.from_config``. Defaults to None.
        multi_class (bool): Whether a video may have any number of labels; ``label`` is then a
            float32 tensor of shape (C,), as :class:`adv_plugins.evaluation.YT8MMetric` needs it.
            False: each video has one label, and ``label`` is its class index, as MMAction2's
            ``AccMetric`` needs it. Defaults to True.
        data_root (str): Root of the other paths. Defaults to ''.
        max_frames (int, optional): Frames after which a modality is cut. Defaults to None, which
            cuts nothing.
        empty_labels (str): 'keep' or 'drop' videos without a label. Defaults to 'keep'.
        skip (int): Number of videos to leave out at the start: ``skip=N`` gives the test set what
            a validation set with ``indices=N`` leaves. Defaults to 0.
        pipeline (Sequence[dict | Callable]): Transforms. Defaults to ().
        test_mode (bool): As in mmengine's ``BaseDataset``. Defaults to False.
        **kwargs: Further arguments of mmengine's ``BaseDataset``, such as ``indices`` or
            ``lazy_init``.

    Raises:
        FileNotFoundError: If features are missing.
        ValueError: If an option is out of its range, or a file cannot be used.

    Example:
        >>> dataset = dict(
        ...     type='FeatureDataset',
        ...     data_root='data/mine',
        ...     ann_file='train.txt',
        ...     data_prefix=dict(clip='features/clip', sound='features/sound.npy'),
        ...     modalities=dict(clip=512, sound=64),
        ...     classes=['cooking', 'music', 'sports'],
        ...     pipeline=[
        ...         dict(
        ...             type='PackActionInputs',
        ...             collect_keys=('clip', 'sound'),
        ...             meta_keys=('video_id', 'num_frames'))
        ...     ])
    """

    def __init__(
        self,
        ann_file: str,
        modalities: Mapping[str, int],
        data_prefix: Mapping[str, str],
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        label_space: LabelSpace | str | Sequence[str] | Mapping | None = None,
        multi_class: bool = True,
        data_root: str = '',
        max_frames: int | None = None,
        empty_labels: str = 'keep',
        skip: int = 0,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        if set(data_prefix) != set(modalities):
            raise ValueError(
                f'data_prefix has the keys {sorted(data_prefix)}, modalities has '
                f'{sorted(modalities)}: name the same modalities in both.'
            )
        self.multi_class = multi_class
        super().__init__(
            ann_file=ann_file,
            label_space=_own_label_space(num_classes, classes, label_space),
            modalities=modalities,
            max_frames=max_frames,
            empty_labels=empty_labels,
            skip=skip,
            pipeline=pipeline,
            data_root=data_root,
            data_prefix=dict(data_prefix),
            test_mode=test_mode,
            **kwargs,
        )

    def _open(self) -> range:
        lines, labels = _read_annotations(self.ann_file)
        # Flat arrays: reference counts would make every worker copy lists, page by page.
        self._names = np.array([name.encode() for name in lines])
        self._flat_labels = np.array([label for row in labels for label in row], dtype=np.int64)
        self._label_ends = np.cumsum([len(row) for row in labels])
        self._lines = np.array(list(lines.values()))
        for record in range(len(lines)):
            self._check_label(record)
        listed = {name: f'{self.ann_file}, line {line}' for name, line in lines.items()}
        self._stores = {
            modality: (SingleArray if prefix.endswith('.npy') else PerVideoFiles)(
                prefix, modality, listed
            )
            for modality, prefix in self.data_prefix.items()
        }
        return range(len(lines))

    def _check_label(self, record: int) -> None:
        """Raise a ValueError for labels that are no classes, or not one where one is needed."""
        count = int(self._target(record).sum())
        dropped = count == 0 and self.empty_labels == 'drop'
        if not (self.multi_class or dropped or count == 1):
            raise ValueError(
                f'{self._place(record)}: the video has {count} classes, but multi_class=False '
                'needs exactly one: write one label in the line, or multi_class=True.'
            )

    def _label(self, target: np.ndarray) -> torch.Tensor | int:
        return super()._label(target) if self.multi_class else int(target.argmax())

    def _labels(self, record: int) -> np.ndarray:
        start = self._label_ends[record - 1] if record else 0
        return self._flat_labels[start : self._label_ends[record]]

    def _load(self, record: int) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
        name = self._names[record].decode()
        features = {modality: store.load(record, name) for modality, store in self._stores.items()}
        return name, self._labels(record), features

    def _lengths(self, records: Sequence[int]) -> np.ndarray:
        names = [self._names[record].decode() for record in records]
        stores = [self._stores[modality] for modality in self.modalities]
        return np.stack([store.lengths(records, names, self._log) for store in stores], axis=1)

    def _place(self, record: int, modality: str | None = None) -> str:
        name = self._names[record].decode()
        if modality is None:
            return f'{self.ann_file}, line {self._lines[record]} ({name!r})'
        return self._stores[modality].place(name)


def _read_annotations(path: str) -> tuple[dict[str, int], list[list[int]]]:
    """The videos of an annotation file with their lines, and their labels."""
    lines: dict[str, int] = {}
    labels = []
    names = Names('write all labels of a video on one line', path)
    for number, line in read_lines(path).items():
        name, *words = line.split()
        try:
            row = [int(word) for word in words]
        except ValueError as error:
            raise ValueError(
                f'{path}, line {number}: {line!r} is not "name label label ...", with class '
                'indices as labels and no blanks in the name.'
            ) from error
        names.add(name, number)
        lines[name] = number
        labels.append(row)
    if not lines:
        raise ValueError(f'{path} names no video: write a line "name label label ..." for each.')
    return lines, labels


def _own_label_space(
    num_classes: int | None,
    classes: Sequence[str] | None,
    label_space: LabelSpace | str | Sequence[str] | Mapping | None,
) -> LabelSpace:
    """The label space that one of the three options describes."""
    given = [option for option in (num_classes, classes, label_space) if option is not None]
    if len(given) != 1:
        raise ValueError(
            f'num_classes={num_classes!r}, classes={classes!r} and label_space={label_space!r}: '
            'give exactly one of them.'
        )
    if label_space is not None:
        return LabelSpace.from_config(label_space)
    if classes is not None:
        return LabelSpace.flat(classes)
    if not is_positive(num_classes):
        raise ValueError(f'num_classes={num_classes!r} must be an integer of at least 1.')
    return LabelSpace.flat([str(index) for index in range(num_classes)])
