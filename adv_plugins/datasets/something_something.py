"""Something-Something V1 and V2: the official releases in MMAction2's layout, checked before use.

V1 comes as folders of frames and V2 as videos. MMAction2's ``build_file_list.py`` writes the
annotation files; ``mm_configs/taf/README.md`` describes every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mmaction.datasets import RawframeDataset, VideoDataset
from mmengine.registry import DATASETS

from .official import OfficialFrames, OfficialVideos, Release


@DATASETS.register_module()
class SomethingSomethingV1(OfficialFrames, RawframeDataset):
    """Something-Something V1: 174 classes, 86,017 training and 11,522 validation videos.

    MMAction2's ``RawframeDataset``, which in addition checks the data when it is built: every line
    of the annotation file, the labels, the number of videos (which must be that of an official
    split), and that the first and last frame of every folder are on disk. Files in a remote backend
    are not checked: those under a ``data_prefix`` such as ``s3://...``, or of a decoder whose
    ``io_backend`` is not ``'disk'``.

    Args:
        ann_file (str): Annotation file; in the official layout,
            'data/sthv1/sthv1_train_list_rawframes.txt'.
        pipeline (Sequence[dict | Callable]): Transforms.
        data_prefix (Mapping[str, str], optional): ``dict(img=...)``; in the official layout,
            'data/sthv1/rawframes'. Defaults to None, which means ``dict(img='')``.
        filename_tmpl (str): Template for the name of a frame. Defaults to '{:05}.jpg', the
            official one.
        allow_subset (bool): Whether the number of listed videos may differ from the official
            splits. Defaults to False.
        **kwargs: Further arguments of MMAction2's ``RawframeDataset``, such as ``test_mode``,
            ``data_root``, ``start_index`` or ``indices``.

    Raises:
        ValueError: If there are problems with the data; the message lists all of them.

    Example:
        >>> train_dataloader = dict(
        ...     dataset=dict(
        ...         type='SomethingSomethingV1',
        ...         ann_file='data/sthv1/sthv1_train_list_rawframes.txt',
        ...         data_prefix=dict(img='data/sthv1/rawframes'),
        ...         pipeline=train_pipeline))
    """

    release = Release(
        title='Something-Something V1',
        num_classes=174,
        splits=dict(train=86_017, val=11_522, test=10_960),
        download='20BN, whose site has closed (ask its successor Qualcomm, https://developer.'
        'qualcomm.com/software/ai-datasets/something-something)',
        folder='data/sthv1/rawframes',
        example='1/00001.jpg',
        annotations='data/sthv1/annotations/something-something-v1-{labels,train,validation,test}'
        '.csv',
        lists='data/sthv1/sthv1_{}_list_rawframes.txt',
        options='sthv1 data/sthv1/rawframes --format rawframes --rgb-prefix 0',
    )

    def __init__(
        self,
        ann_file: str,
        pipeline: Sequence[dict | Callable],
        data_prefix: Mapping[str, str] | None = None,
        filename_tmpl: str = '{:05}.jpg',
        **kwargs,
    ) -> None:
        super().__init__(
            ann_file,
            pipeline=pipeline,
            data_prefix=dict(img='') if data_prefix is None else data_prefix,
            filename_tmpl=filename_tmpl,
            **kwargs,
        )


@DATASETS.register_module()
class SomethingSomethingV2(OfficialVideos, VideoDataset):
    """Something-Something V2: 174 classes, 168,913 training and 24,777 validation videos.

    MMAction2's ``VideoDataset``, which in addition checks the data when it is built: every line of
    the annotation file, the labels, the number of videos (which must be that of an official split),
    and that every video is on disk. Files in a remote backend are not checked: those under a
    ``data_prefix`` such as ``s3://...``, or of a decoder whose ``io_backend`` is not ``'disk'``.

    Args:
        *args: Arguments of MMAction2's ``VideoDataset``: ``ann_file``, ``pipeline`` and
            ``data_prefix``. In the official layout, ``ann_file`` is
            'data/sthv2/sthv2_train_list_videos.txt' and ``data_prefix`` is
            ``dict(video='data/sthv2/videos')``.
        allow_subset (bool): Whether the number of listed videos may differ from the official
            splits. Defaults to False.
        **kwargs: Keyword arguments of MMAction2's ``VideoDataset``.

    Raises:
        ValueError: If there are problems with the data; the message lists all of them.

    Example:
        >>> train_dataloader = dict(
        ...     dataset=dict(
        ...         type='SomethingSomethingV2',
        ...         ann_file='data/sthv2/sthv2_train_list_videos.txt',
        ...         data_prefix=dict(video='data/sthv2/videos'),
        ...         pipeline=train_pipeline))
    """

    release = Release(
        title='Something-Something V2',
        num_classes=174,
        splits=dict(train=168_913, val=24_777, test=27_157),
        download='Qualcomm (https://developer.qualcomm.com/software/ai-datasets/'
        'something-something)',
        folder='data/sthv2/videos',
        example='1.webm',
        annotations='data/sthv2/annotations/something-something-v2-{labels,train,validation,test}'
        '.json (in the download: labels.json, ...)',
        lists='data/sthv2/sthv2_{}_list_videos.txt',
        options='sthv2 data/sthv2/videos --format videos',
    )
