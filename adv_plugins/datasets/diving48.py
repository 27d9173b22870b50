"""Diving48 with its V2 annotations: the official release in MMAction2's layout, checked before use.

MMAction2's ``build_file_list.py`` writes the annotation files, that of the official test split
under the name ``val``; ``mm_configs/taf/README.md`` describes every step.
"""

from __future__ import annotations

from mmaction.datasets import VideoDataset
from mmengine.registry import DATASETS

from .official import OfficialVideos, Release


@DATASETS.register_module()
class Diving48(OfficialVideos, VideoDataset):
    """Diving48, V2 annotations: 48 classes, 15,027 training and 1,970 test videos.

    MMAction2's ``VideoDataset``, which in addition checks the data when it is built: every line of
    the annotation file, the labels, the number of videos (which must be that of an official split),
    and that every video is on disk. Files in a remote backend are not checked: those under a
    ``data_prefix`` such as ``s3://...``, or of a decoder whose ``io_backend`` is not ``'disk'``.

    Args:
        *args: Arguments of MMAction2's ``VideoDataset``: ``ann_file``, ``pipeline`` and
            ``data_prefix``. In the official layout, ``ann_file`` is
            'data/diving48/diving48_train_list_videos.txt' (``val`` for the test split) and
            ``data_prefix`` is ``dict(video='data/diving48/videos')``.
        allow_subset (bool): Whether the number of listed videos may differ from the official
            splits. Defaults to False.
        **kwargs: Keyword arguments of MMAction2's ``VideoDataset``.

    Raises:
        ValueError: If there are problems with the data; the message lists all of them.

    Example:
        >>> train_dataloader = dict(
        ...     dataset=dict(
        ...         type='Diving48',
        ...         ann_file='data/diving48/diving48_train_list_videos.txt',
        ...         data_prefix=dict(video='data/diving48/videos'),
        ...         pipeline=train_pipeline))
    """

    release = Release(
        title='Diving48 (V2 annotations)',
        num_classes=48,
        splits=dict(train=15_027, test=1_970),
        download='http://www.svcl.ucsd.edu/projects/resound/dataset.html',
        folder='data/diving48/videos',
        example='-0BRGrkpHxE_00000.mp4',
        annotations='data/diving48/annotations/Diving48_V2_{train,test}.json',
        lists='data/diving48/diving48_{}_list_videos.txt',
        options='diving48 data/diving48/videos --format videos',
    )
