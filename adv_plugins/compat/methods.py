"""Methods of MMAction2 that fail beside numpy 2, in bfloat16 or for some batches.

They are replaced once MMAction2 is imported.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .installed import mentions


def color_jitter() -> bool:
    """Let the ``ColorJitter`` of MMAction2 and the one of mmpretrain lower hues under numpy 2.

    Upstream: for about half of all clips MMAction2 1.2.0 adds a negative number to unsigned bytes,
    and so does mmcv 2.1.0 for mmpretrain, where numpy 2 raises an ``OverflowError``
    (torchvision#8536 was the same break).

    Returns:
        bool: True if a method was replaced, False if MMAction2's transforms have not been imported
        or both work as they are.
    """
    processing = sys.modules.get('mmaction.datasets.transforms.processing')
    if processing is None:
        return False
    import mmcv
    import numpy as np

    image, replaced = np.zeros((1, 1, 3)), False
    try:
        processing.ColorJitter.adjust_hue(image, -0.1)
    except OverflowError:
        processing.ColorJitter.adjust_hue = staticmethod(_adjust_hue)
        replaced = True
    try:
        mmcv.adjust_hue(image.astype(np.uint8), -0.1, backend='cv2')
    except OverflowError:
        fixed = _with_wrapped_turns(mmcv.adjust_hue)
        for module in (mmcv, mmcv.image, mmcv.image.photometric):
            module.adjust_hue = fixed
        replaced = True
    return replaced


def bfloat16_scores() -> bool:
    """Let MMAction2's heads take class scores in bfloat16.

    Upstream: MMAction2 1.2.0 computes its top-k accuracy in numpy, which has no bfloat16, so that
    ``AmpOptimWrapper(dtype='bfloat16')`` fails with a ``TypeError`` at the first loss.

    Returns:
        bool: True if a method was replaced, False if MMAction2's heads have not been imported or
        work as they are.
    """
    places = (
        ('base', 'BaseHead', 'loss_by_feat'),
        ('omni_head', 'OmniHead', 'loss_by_feat'),
        ('rgbpose_head', 'RGBPoseHead', 'loss_by_scores'),
    )
    replaced = False
    for file, name, method in places:
        heads = sys.modules.get(f'mmaction.models.heads.{file}')
        if heads is None or not mentions('mmaction', f'models/heads/{file}.py', 'cpu().numpy()'):
            continue
        head = getattr(heads, name)
        original = vars(head)[method]
        if not hasattr(original, '__wrapped__'):
            setattr(head, method, _in_float32(original))
            replaced = True
    return replaced


def scores_by_modality() -> bool:
    """Let ``RGBPoseHead`` take as many clips as there are classes.

    Upstream: for such a batch MMAction2 1.2.0 asks the dict of class scores for its size, in a
    correction of soft labels for heads with one tensor of scores, and ends in an
    ``AttributeError``.

    Returns:
        bool: True if a method was replaced, False if MMAction2's heads have not been imported or
        work as they are.
    """
    heads = sys.modules.get('mmaction.models.heads.rgbpose_head')
    if heads is None:
        return False
    head = heads.RGBPoseHead
    asks = mentions('mmaction', 'models/heads/rgbpose_head.py', 'and cls_scores.size()[0] == 1')
    if not asks or hasattr(head.loss_by_feat, '__wrapped__'):
        return False
    head.loss_by_feat = _with_sized_scores(head.loss_by_feat)
    return True


def tube_overlap() -> bool:
    """Let MMAction2's ``MultiSportsMetric`` compare tubes under numpy 2.4.

    Upstream: MMAction2 1.2.0 makes an integer of an array with one element, for which numpy 2.4
    raises a ``TypeError``.

    Returns:
        bool: True if a function was replaced, False if MMAction2's metrics have not been imported
        or work as they are.
    """
    utils = sys.modules.get('mmaction.evaluation.functional.multisports_utils')
    if utils is None:
        return False
    import numpy as np

    tube = np.array([[0.0, 0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0]])
    try:
        utils.iou3dt_voc(tube, tube)
    except TypeError:
        utils.iou3dt_voc = _tube_overlap
        return True
    return False


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    """A head's loss that takes class scores in bfloat16 as float32."""

    @functools.wraps(original)
    def loss(self: Any, cls_scores: Any, targets: Any) -> Any:
        if str(getattr(cls_scores, 'dtype', '')) == 'torch.bfloat16':
            cls_scores = cls_scores.float()
        return original(self, cls_scores, targets)

    return loss


class _SizedScores(dict[str, Any]):
    """The class scores of each modality, with the size that all of them have."""

    def size(self) -> Any:
        return next(iter(self.values())).size()


def _with_sized_scores(original: Callable[..., Any]) -> Callable[..., Any]:
    """A head's loss that may ask scores by modality for their size."""

    @functools.wraps(original)
    def loss(self: Any, cls_scores: Any, data_samples: Any) -> Any:
        return original(self, _SizedScores(cls_scores), data_samples)

    return loss


def _adjust_hue(image: Any, factor: float) -> Any:
    """Turn the hue of an image (H, W, 3) by ``255 * factor`` of OpenCV's 180 steps."""
    import cv2
    import numpy as np

    hsv = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    # Signed, and as numpy 1 computed it.
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(factor * 255)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


class _WrappedTurn(float):
    """A factor of a turn that gives byte steps modulo 256, as numpy 1 did."""

    def __mul__(self, steps: Any) -> int:
        return int(float(self) * steps) % 256


def _with_wrapped_turns(original: Callable[..., Any]) -> Callable[..., Any]:
    """mmcv's ``adjust_hue``, which makes an unsigned byte of the factor times 255."""

    @functools.wraps(original)
    def adjust_hue(img: Any, hue_factor: float, *args: Any, **kwargs: Any) -> Any:
        return original(img, _WrappedTurn(hue_factor), *args, **kwargs)

    return adjust_hue


def _tube_overlap(b1: Any, b2: Any, spatialonly: bool = False, temporalonly: bool = False) -> float:
    """The overlap of two tubes, rows of ``(frame, x1, y1, x2, y2)``, as MMAction2 defines it."""
    from mmaction.evaluation.functional.multisports_utils import iou3d_voc

    start, stop = max(b1[0, 0], b2[0, 0]), min(b1[-1, 0], b2[-1, 0])
    if stop < start:
        return 0.0
    union = max(b1[-1, 0], b2[-1, 0]) - min(b1[0, 0], b2[0, 0])
    if temporalonly:
        return (stop - start) / union
    common = [
        tube[(tube[:, 0] == start).argmax() : (tube[:, 0] == stop).argmax() + 1]
        for tube in (b1, b2)
    ]
    return iou3d_voc(*common) * (1.0 if spatialonly else (stop - start) / union)
