"""Methods of MMAction2 that fail beside numpy 2 or in bfloat16, replaced once it is imported."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .installed import mentions


def color_jitter() -> bool:
    """Let MMAction2's ``ColorJitter`` lower hues under numpy 2.

    Upstream: for about half of all clips MMAction2 1.2.0 adds a negative number to unsigned bytes,
    where numpy 2 raises an ``OverflowError`` (torchvision#8536 was the same break).

    Returns:
        bool: True if the method was replaced, False if MMAction2's transforms have not been
        imported or work as they are.
    """
    processing = sys.modules.get('mmaction.datasets.transforms.processing')
    if processing is None:
        return False
    import numpy as np

    try:
        processing.ColorJitter.adjust_hue(np.zeros((1, 1, 3)), -0.1)
    except OverflowError:
        processing.ColorJitter.adjust_hue = staticmethod(_adjust_hue)
        return True
    return False


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


def _in_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    """A head's loss that takes class scores in bfloat16 as float32."""

    @functools.wraps(original)
    def loss(self: Any, cls_scores: Any, targets: Any) -> Any:
        if str(getattr(cls_scores, 'dtype', '')) == 'torch.bfloat16':
            cls_scores = cls_scores.float()
        return original(self, cls_scores, targets)

    return loss


def _adjust_hue(image: Any, factor: float) -> Any:
    """Turn the hue of an image (H, W, 3) by ``255 * factor`` of OpenCV's 180 steps."""
    import cv2
    import numpy as np

    hsv = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    # Signed, and as numpy 1 computed it.
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(factor * 255)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
