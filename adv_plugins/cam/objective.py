"""The objective of TAF: the temporal loss of class activation maps (TAF, eq. 2-5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.adapter import Adapter
from ..core.autograd import gradients
from ..core.batch import Batch
from ..core.capture import FeatureLayer, find_module, to_frames
from ..core.checks import check_choice
from ..core.functional import random_wrong_labels
from ..core.norm import NormPath
from ..core.objectives import Objective, register_objective
from ..core.record import IGNORED, Record
from .equations import (
    CAM_NORMALIZATIONS,
    CAM_SOURCES,
    CAM_WEIGHTINGS,
    temporal_cam,
    temporal_cam_loss,
)
from .layer import cam_layer_of, forget_cam_layers


class FeatureObjective(Objective):
    """An objective that reads the features of the layer that TAF reads; subclass it.

    Attributes:
        cam_layer (str, optional): Dotted name of the layer; None: found at the first batch.
        cam_layout (str, optional): Axes of its output; None: found at the first batch.
    """

    cam_layer: str | None = None
    cam_layout: str | None = None
    needs_features: ClassVar[bool] = True
    needs_frames: ClassVar[bool] = True

    def check(self, adapter: Adapter) -> None:
        """Check the layer that is named, or known of the family; others are found later."""
        forget_cam_layers(adapter.model)
        named = self.cam_layer or adapter.find_cam_layer()
        if named:
            find_module(adapter.model, named, 'cam_layer')

    def find_layer(
        self, adapter: Adapter, batch: Batch, target: Any, path: NormPath
    ) -> FeatureLayer:
        """The CAM layer, see :mod:`adv_plugins.cam.layer`."""
        return cam_layer_of(adapter, batch, target, self.cam_layer, self.cam_layout, path)


@register_objective
@dataclass(frozen=True, kw_only=True, repr=False)
class TemporalCAM(FeatureObjective):
    """The CAM-based temporal loss (TAF, eq. 2-5).

    The CAM is computed for the label ŷ: a random wrong label if the model classifies the clip
    correctly, otherwise the true label (TAF, section 3.2).

    Args:
        num_frames (int, optional): N of eq. 5. Defaults to None: all frames.
        cam_layer (str, optional): Dotted name of the layer whose output is F'. Defaults to
            None: found at the first batch, see :mod:`adv_plugins.cam.layer`.
        cam_layout (str, optional): Axes of that output as an einops pattern, see
            :func:`adv_plugins.core.capture.to_frames`. Defaults to None: found at the first batch.
        weighting (str): ``'gap'`` or ``'elementwise'``, see
            :func:`adv_plugins.functional.temporal_cam`. Defaults to ``'gap'``.
        normalize (str): ``'minmax'`` or ``'max'``, see
            :func:`adv_plugins.functional.temporal_cam_loss`. Defaults to ``'minmax'``.
        second_order (bool): Whether the CAM's channel weights are differentiated too. False
            treats them as constants, for heads without a second derivative (SyncBatchNorm after
            the CAM layer). Defaults to True.
        cam_of (str): What the channel weights are the gradient of: ``'loss'``, the cross-entropy
            at ŷ, as eq. 2 is printed; or ``'score'``, the class score of ŷ before the softmax, as
            in GradCAM (Selvaraju et al., ICCV 2017), to which the paper refers. The cross-entropy
            falls where the score rises. So a clip that the model gets wrong becomes harder with
            ``'loss'``, and easier, as section 3.2 wants it, with ``'score'`` and a small step.
            Defaults to ``'loss'``.
    """

    num_frames: int | None = None
    cam_layer: str | None = None
    cam_layout: str | None = None
    weighting: str = 'gap'
    normalize: str = 'minmax'
    second_order: bool = True
    cam_of: str = 'loss'

    def __post_init__(self) -> None:
        for option in ('cam_layer', 'cam_layout'):
            value = getattr(self, option)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{option}={value!r} must be a string, e.g. {option}='layer4'")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(
                f'num_frames={self.num_frames} must be at least 1; None means all frames'
            )
        check_choice('weighting', self.weighting, CAM_WEIGHTINGS)
        check_choice('normalize', self.normalize, CAM_NORMALIZATIONS)
        check_choice('cam_of', self.cam_of, CAM_SOURCES)

    def targets(self, record: Record) -> Tensor:
        """ŷ of every clip, shape (B,); a clip that the loss leaves out is not attacked."""
        labels = record.hard_labels('the temporal CAM (ŷ is a class)')
        logits = record.logits.detach()
        wrong = random_wrong_labels(labels, logits.shape[1])
        return torch.where(logits.argmax(dim=1) == labels, wrong, labels)

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """The temporal loss of every clip, shape (B,)."""
        assert targets is not None
        maps = to_frames(record.features, record.batch_size, record.layer, record.layout)
        (slope,) = gradients(
            self._explained(record.logits.float(), targets),
            [record.features],
            retain_graph=True,
            create_graph=self.second_order,
        )
        if slope is None:
            raise ValueError(
                f'the logits do not depend on the output of cam_layer={record.layer!r}; name a '
                'layer between input and classifier. A model compiled as a whole hides its layers: '
                'leave out compile, or use a recipe that ascends the training loss'
            )
        slope = to_frames(slope, record.batch_size, record.layer, record.layout)
        cam = temporal_cam(maps.float(), slope.float(), self.weighting)
        return temporal_cam_loss(cam, self.num_frames, self.normalize)

    def _explained(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over the batch of what the map explains; samples without a label are left out."""
        if self.cam_of == 'loss':
            return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction='sum')
        labelled = targets != IGNORED
        scores = logits.gather(1, targets.where(labelled, 0)[:, None])[:, 0]
        return scores.where(labelled, 0).sum()
