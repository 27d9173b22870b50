"""The corruptions as a step of an MMAction2 pipeline."""

from __future__ import annotations

import re
import zlib

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from .apply import check_options, corrupt


@TRANSFORMS.register_module()
class VideoCorruption(BaseTransform):
    """Corrupt the frames of a video in a pipeline.

    Put it after decoding and the ``Resize`` to the network's scale, and before the crops and
    ``FormatShape``: the constants are meant for frames of about 224 pixels.

    The random numbers depend on ``seed``, the name of the video and the number of the clip, and
    not on worker processes, ranks, the order of the videos or the folder of the data. The name is
    the last part of ``filename`` or ``frame_dir``; without either it is ``sample_idx``.

    The frames are split into the clips that the model sees, each of ``clip_len`` frames, or of
    ``num_clips`` frames where ``clip_len`` is 1, as for 2-D recognizers. Each clip is corrupted
    on its own.

    Required Keys:

        - imgs
        - filename, frame_dir or sample_idx
        - clip_len, num_clips (optional)

    Modified Keys:

        - imgs

    Args:
        name (str): One of ``CORRUPTIONS``.
        severity (int): 1 to 5.
        seed (int): At least 0. Defaults to 0.
        temporal (str): ``'iid'`` or ``'shared'``, see :func:`corrupt`. Defaults to ``'iid'``.

    Raises:
        ValueError: If an option is not as described.

    Example:
        >>> # in a config, with custom_imports = dict(imports=['adv_plugins'])
        >>> test_pipeline = [
        ...     dict(type='DecordInit'),
        ...     dict(type='SampleFrames', clip_len=1, frame_interval=1, num_clips=8,
        ...          test_mode=True),
        ...     dict(type='DecordDecode'),
        ...     dict(type='Resize', scale=(-1, 256)),
        ...     dict(type='VideoCorruption', name='snow', severity=3),
        ...     dict(type='CenterCrop', crop_size=224),
        ...     dict(type='FormatShape', input_format='NCHW'),
        ...     dict(type='PackActionInputs')]
    """

    def __init__(self, name: str, severity: int, seed: int = 0, temporal: str = 'iid') -> None:
        check_options(name, severity, seed, temporal)
        self.name = name
        self.severity = severity
        self.seed = seed
        self.temporal = temporal

    def transform(self, results: dict) -> dict:
        """Replace the frames by their corrupted versions.

        Args:
            results (dict): What the earlier transforms made of a video, with ``imgs``: a list of T
                frames of one shape (H, W, 3), or an array of them, uint8 RGB.

        Returns:
            dict: The same dict, with ``imgs`` as a list of T contiguous arrays.

        Raises:
            TypeError: If the frames are not uint8.
            ValueError: If there are no frames, if they are not RGB or not of one shape, or if the
                video has no name.
        """
        clips = _split_into_clips(results)
        results['imgs'] = [
            frame
            for number, clip in enumerate(clips)
            for frame in corrupt(
                clip, self.name, self.severity, self._clip_seed(results, number), self.temporal
            )
        ]
        return results

    def _clip_seed(self, results: dict, clip: int) -> int:
        """The seed of one clip of a video."""
        return zlib.crc32(f'{self.seed}/{clip}/{_video_name(results)}'.encode())

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(name={self.name!r}, severity={self.severity}, '
            f'seed={self.seed}, temporal={self.temporal!r})'
        )


def _split_into_clips(results: dict) -> list[np.ndarray]:
    """The frames of a pipeline as clips (T, H, W, 3), see :class:`VideoCorruption`."""
    imgs = results.get('imgs')
    if imgs is None or len(imgs) == 0:
        raise ValueError(
            "VideoCorruption found no frames (results['imgs']): put it after a transform that "
            'decodes, such as DecordDecode, RawFrameDecode or ArrayDecode.'
        )
    if 'lazy' in results:
        raise ValueError(
            'VideoCorruption needs the transformed frames, but lazy transforms are pending: '
            "put it after dict(type='Fuse')."
        )
    shapes = {np.shape(frame) for frame in imgs}
    if len(shapes) > 1:
        raise ValueError(
            f'VideoCorruption needs frames of one shape and got {sorted(shapes)}: put a Resize '
            'or a crop to one size before it.'
        )
    frames = np.asarray(imgs)
    length = results.get('clip_len', 1)
    if length == 1:
        length = results.get('num_clips', len(frames))
    if len(frames) % length:
        raise ValueError(
            f'VideoCorruption got {len(frames)} frames, which are no whole number of clips of '
            f"{length} (results['clip_len'], results['num_clips']): put it before transforms that "
            'add or remove frames.'
        )
    return np.split(frames, len(frames) // length)


def _video_name(results: dict) -> str:
    """The name of a video, whatever folder its data is in."""
    for key in ('filename', 'frame_dir'):
        if key in results:
            return re.split(r'[/\\]', str(results[key]).rstrip('/\\'))[-1]
    if 'sample_idx' in results:
        return str(results['sample_idx'])
    raise ValueError(
        'VideoCorruption derives its seed from the name of a video, but this one has neither '
        'filename nor frame_dir nor sample_idx: set one of them, for example '
        "results['filename'] = 'clip_7'."
    )
