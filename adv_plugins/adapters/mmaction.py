"""MMAction2 recognizers: everything is read from the recognizer, nothing of it is changed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.adapter import Adapter, Record, register_adapter
from ..core.attack import InputSpace
from ..core.batch import Inputs
from ..core.capture import capture_output
from ..core.conversion import AdversarialModule
from ..core.recipe import Recipe

PIXELS = (0.0, 255.0)


class AdversarialRecognizer(AdversarialModule):
    """A recognizer that answers ``mode='loss'`` in training with the adversarial losses."""

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """As the recognizer's own; hooks that run it without gradients get the clean path."""
        if mode == 'loss' and self.training and torch.is_grad_enabled():
            return self.adversarial_loss(inputs, data_samples)
        return super().forward(inputs, data_samples, mode=mode, **kwargs)


@register_adapter
class RecognizerAdapter(Adapter):
    """MMAction2's Recognizer2D, Recognizer3D and kin: backbone, optional neck, ``cls_head``.

    Any mmengine model with a ``cls_head`` whose output are the class scores is called alike, such
    as :class:`~adv_plugins.models.FeatureTransformer`.

    Losses come from ``loss()``, logits from the head, labels from the data samples, and the
    pixel units from the data preprocessor. RGB frames that it leaves as they are have pixels
    between 0 and 255; other inputs without normalisation (features, heatmaps, skeletons) their
    own units.

    Args:
        model (nn.Module): The recognizer.
        **options: None is allowed here; the recognizer knows them.
    """

    mixin = AdversarialRecognizer

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model)
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ValueError(
                f'{given[0]}= is not for a recognizer, which knows it itself: its loss is '
                'cls_head.loss_cls, its normalisation data_preprocessor'
            )
        if getattr(model, 'cls_head', None) is None:
            raise ValueError(
                f'{type(model).__name__} has no cls_head: its forward yields no logits to attack; '
                'write model=dict(..., cls_head=dict(...))'
            )

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        # By name, so that plain PyTorch users need neither MMAction2 nor mmengine.
        kinds = {f'{kind.__module__.split(".")[0]}.{kind.__name__}' for kind in type(model).__mro__}
        return 'mmaction.BaseRecognizer' in kinds or (
            'mmengine.BaseModel' in kinds and hasattr(model, 'cls_head')
        )

    def forward(self, inputs: Inputs, target: Any) -> Record:
        with capture_output(self.model.cls_head) as outputs:
            try:
                losses = self.model.loss(inputs, target)
            except (ValueError, RuntimeError) as error:
                scores = outputs[-1] if outputs else None
                if not isinstance(scores, Tensor) or len(scores) == len(target):
                    raise
                raise ValueError(
                    f'the model gives {len(scores)} scores for {len(target)} videos: the pipeline '
                    'samples several clips or crops of each, and an attack needs one; write '
                    "clip_len or num_clips for one clip, and dict(type='CenterCrop', ...)"
                ) from error
        loss, log_vars = self.model.parse_losses(losses)
        log_vars = {name: value for name, value in log_vars.items() if name in losses}
        logits = outputs[-1] if outputs else None
        return Record(log_vars, loss, logits, self._labels(target, loss.device), len(target))

    def _labels(self, data_samples: Any, device: torch.device) -> Tensor | None:
        labels = [sample.gt_label for sample in data_samples]
        if any(label.shape != labels[0].shape for label in labels):
            return None
        stacked = torch.stack(labels).to(device)
        return stacked.squeeze(1) if stacked.ndim == 2 and stacked.shape[1] == 1 else stacked

    def space(self, values: Tensor, name: str) -> InputSpace:
        preprocessor = self.model.data_preprocessor
        # MultiModalDataPreprocessor has one for each modality.
        preprocessor = getattr(preprocessor, 'preprocessors', {}).get(name, preprocessor)
        if getattr(preprocessor, 'mean', None) is None:
            if name and values.ndim == 3:
                # Features (B, T, D) have no units but their own.
                return InputSpace()
            if values.ndim >= 5 and values.shape[2] == 3:
                return InputSpace.from_normalization(0.0, 1.0, PIXELS)
            warnings.warn(
                'the data preprocessor has no mean and std, and the inputs '
                f'{tuple(values.shape)} are no RGB frames: eps is in units of the input',
                stacklevel=2,
            )
            return InputSpace()
        mean, std = preprocessor.mean, preprocessor.std
        if preprocessor.format_shape == 'MIX2d3d' and values.ndim == 4:
            # The preprocessor's own rule for batches of images among batches of clips.
            mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        return InputSpace.from_normalization(mean, std, PIXELS)

    def select(self, target: Any, index: Tensor) -> Any:
        return [target[i] for i in index.tolist()]

    def find_cam_layer(self) -> str:
        backbone = getattr(self.model, 'backbone', self.model)
        stages = getattr(backbone, 'res_layers', None)
        if not stages:
            raise ValueError(
                f'the CAM layer of {type(backbone).__name__} is not known; name its '
                "last stage, e.g. cam_layer='backbone.layer4'"
            )
        return f'backbone.{stages[-1]}'

    def report(
        self,
        clean: Record,
        adversarial: Record,
        clean_total: Tensor,
        penalties: Mapping[str, Tensor],
        recipe: Recipe,
    ) -> dict[str, Tensor]:
        losses = _weighted({k: v.detach() for k, v in clean.losses.items()}, recipe.clean_weight)
        # The trainer sums all losses: the clean gradient rides on the first of them.
        first = next(name for name in losses if 'loss' in name)
        losses[first] = losses[first] + (clean_total - clean_total.detach())
        adversarial_losses = _weighted(adversarial.losses, recipe.adv_weight)
        losses |= {f'adv_{name}': value for name, value in adversarial_losses.items()}
        return losses | dict(penalties)


def _weighted(losses: Any, weight: float) -> dict[str, Tensor]:
    return {name: value * weight if 'loss' in name else value for name, value in losses.items()}
