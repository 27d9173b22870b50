"""MMAction2 recognizers and similar models; all information is read from the unchanged model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.adapter import Adapter, class_names, register_adapter
from ..core.autograd import with_gradient_of
from ..core.batch import LONE, Batch, Inputs
from ..core.capture import capture_output
from ..core.conversion import AdversarialModule, get_adversary, note_call
from ..core.recipe import Recipe
from ..core.record import Record, StepResult
from ..core.threat import InputSpace
from .cam_layers import WITHOUT_PIXELS, feature_map, find_cam_layer, leading_modality
from .classifier import ignore_index

PIXELS = (0.0, 255.0)


class AdversarialRecognizer(AdversarialModule):
    """A recognizer that returns the adversarial losses for ``mode='loss'`` in training mode."""

    def forward(
        self, inputs: Any, data_samples: Any = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """Like the recognizer's own forward; calls without gradients take the clean path."""
        if mode == 'loss' and self.training and torch.is_grad_enabled():
            return self.adversarial_loss(inputs, data_samples)
        return super().forward(inputs, data_samples, mode=mode, **kwargs)

    def loss(self, *args: Any, **kwargs: Any) -> Any:
        """The recognizer's own losses, of which a ``train_step`` of its own may be made."""
        note_call(self, "self(inputs, data_samples, mode='loss') instead of self.loss(...)")
        return super().loss(*args, **kwargs)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """One training iteration, which a ``train_step`` of the recognizer's own may keep clean."""
        logged = super().train_step(*args, **kwargs)
        note_call(self, "self(inputs, data_samples, mode='loss') in train_step")
        return logged


@register_adapter
class RecognizerAdapter(Adapter):
    """MMAction2's Recognizer2D, Recognizer3D and the like: backbone, optional neck, ``cls_head``.

    It also handles any other mmengine model with a ``cls_head`` that outputs the class scores, such
    as :class:`adv_plugins.models.FeatureTransformer`, and mmpretrain's image classifiers, whose
    head is called ``head``.

    Losses come from ``loss()``, logits from the head, labels from the data samples, and the
    pixel units from the data preprocessor. If it does not normalise, RGB frames have pixels between
    0 and 255, and other inputs (features, heatmaps, skeletons, spectrograms) keep their own units.

    Where the head has class scores for each modality (RGBPoseHead), its loss counts all of them.
    The logits, and with them the temporal CAM, are those of the first of its ``loss_components``.

    Args:
        model (nn.Module): The recognizer.
        **options: Must all be None, because the recognizer itself determines them.
    """

    mixin = AdversarialRecognizer
    calls_model = False

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model)
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ValueError(
                f'{given[0]}= is not for a recognizer, which defines it itself: its loss is '
                'cls_head.loss_cls, its normalisation data_preprocessor'
            )
        if self.head is None:
            raise ValueError(
                f'{type(model).__name__} has no cls_head: its forward yields no logits to attack; '
                'write model=dict(..., cls_head=dict(...))'
            )

    @property
    def head(self) -> nn.Module | None:
        """The module that outputs the class scores."""
        head = getattr(self.model, 'cls_head', None)
        return getattr(self.model, 'head', None) if head is None else head

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        kinds = class_names(model)
        classifier = 'mmpretrain.ImageClassifier' in kinds or hasattr(model, 'cls_head')
        return 'mmaction.BaseRecognizer' in kinds or ('mmengine.BaseModel' in kinds and classifier)

    def forward(self, batch: Batch, target: Any) -> Record:
        with capture_output(self.head) as outputs:
            try:
                losses = self._losses(batch.inputs, target)
            except (ValueError, RuntimeError) as error:
                scores = self._logits(outputs)
                if not isinstance(scores, Tensor) or len(scores) == batch.size:
                    raise
                raise ValueError(
                    f'the model gives {len(scores)} scores for {batch.size} videos: the pipeline '
                    'samples several clips or crops of each, and an attack needs one; write '
                    "clip_len or num_clips for one clip, and dict(type='CenterCrop', ...)"
                ) from error
        loss, log_vars = self._parse(losses)
        labels = _labels(target, loss.device)
        ignored = ignore_index(getattr(self.head, 'loss_cls', None))
        return Record(log_vars, loss, self._logits(outputs), labels, batch.size, ignored)

    def _logits(self, outputs: Sequence[Any]) -> Any:
        """The class scores among the outputs of the head; None if it was not called."""
        scores = outputs[-1] if outputs else None
        by_modality = scores if isinstance(scores, Mapping) else {}
        return by_modality.get(leading_modality(self.head), scores)

    def losses(self, batch: Batch, target: Any) -> dict[str, Tensor]:
        return self._parse(self._losses(batch.inputs, target))[1]

    def _parse(self, losses: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, log_vars = self.model.parse_losses(losses)
        if not isinstance(loss, Tensor):
            raise ValueError(
                f'the head of {type(self.model).__name__} returns no loss: mmengine adds up the '
                f"entries with 'loss' in their name, but there are only {', '.join(losses)}"
            )
        return loss, {name: value for name, value in log_vars.items() if name in losses}

    def _losses(self, inputs: Inputs, target: Any) -> Any:
        return self.model.loss(inputs, target)

    def space(self, values: Tensor, name: str) -> InputSpace:
        if class_names(self.model) & WITHOUT_PIXELS:
            return InputSpace(
                advice='Skeletons and spectrograms have no pixels: choose eps by this ratio'
            )
        preprocessor = self.model.data_preprocessor
        # MultiModalDataPreprocessor has one for each modality, in a ModuleDict, which has no get.
        preprocessor = dict(getattr(preprocessor, 'preprocessors', {})).get(name, preprocessor)
        if getattr(preprocessor, 'mean', None) is None:
            if name and values.ndim == 3:
                # Features (B, T, D) have no pixel units.
                return InputSpace()
            images = values.ndim == 4 and 'mmpretrain.ImageClassifier' in class_names(self.model)
            if (values.ndim >= 5 and values.shape[2] == 3) or (images and values.shape[1] == 3):
                return InputSpace.from_normalization(0.0, 1.0, PIXELS)
            return InputSpace(
                advice='If they are pixels, give the data_preprocessor their mean and std; if they '
                'are not (heatmaps, skeletons, spectrograms), choose eps by this ratio'
            )
        mean, std = preprocessor.mean, preprocessor.std
        if getattr(preprocessor, 'format_shape', '') == 'MIX2d3d' and values.ndim == 4:
            # The preprocessor's own rule for batches of images among batches of clips.
            mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
        return InputSpace.from_normalization(mean, std, PIXELS)

    def clip_axes(self, values: Tensor, name: str) -> Sequence[tuple[int, int, int]]:
        kinds, axes = class_names(self.model), values.ndim
        if 'mmaction.RecognizerGCN' in kinds:
            return [(axes - 3, axes - 4, axes - 2)]
        if 'mmaction.RecognizerAudio' in kinds:
            return [(axes - 2, axes - 4, axes - 1)]
        if 'mmaction.Recognizer2D' in kinds:
            return [(axes - 4, axes - 2, axes - 1)]
        return super().clip_axes(values, name)

    def axes(self, values: Tensor, name: str) -> dict[str, int]:
        axes = super().axes(values, name)
        clip = next(iter(self.clip_axes(values, name)), ())
        rest = set(range(values.ndim - 4, values.ndim)) - {*clip}
        # Skeletons have persons and joints for height and width.
        return {'b': 0, **dict(zip('thw', clip, strict=True)), 'c': rest.pop()} if clip else axes

    def select(self, target: Any, index: Tensor) -> Any:
        return [target[i] for i in index.tolist()]

    def find_cam_layer(self) -> str:
        if 'adv_plugins.FeatureTransformer' in class_names(self.model):
            raise ValueError(
                'the CAM layer of FeatureTransformer is not known, as features have no height and '
                "width; name it with cam_layer and cam_layout, or write 'art' or 'ceaugmentation'"
            )
        return find_cam_layer(self.model)

    def feature_map(
        self, layer: str, output: Any, batch: Batch, layout: str | None
    ) -> tuple[Any, str | None]:
        if getattr(self.model, 'backbone', None) is None or LONE not in batch.values:
            return output, layout
        return feature_map(self.model, layer, output, batch.values[LONE], layout)

    def report(self, result: StepResult, recipe: Recipe) -> dict[str, Tensor]:
        one = result.clean is result.adversarial
        clean = {} if one else result.clean.losses
        losses = {
            name: (value * recipe.clean_weight if 'loss' in name else value).detach()
            for name, value in clean.items()
        }
        # The trainer sums all losses: the first one carries the gradient of the clean part, or,
        # where that was taken at other weights, of all of them.
        source = result.total if recipe.weight_eps else result.clean_loss
        adversarial = result.adversarial.losses.items()
        losses = self.beside(
            losses, {f'adv_{n}': recipe.weigh(v) if 'loss' in n else v for n, v in adversarial}
        )
        losses = self.beside(losses, result.penalties)
        if recipe.weight_eps or not one:
            first = next(name for name in losses if 'loss' in name)
            losses[first] = with_gradient_of(losses[first], source)
        return losses


class AdversarialOmniRecognizer(AdversarialRecognizer):
    """A RecognizerOmni that returns the adversarial losses of each source (clips, images)."""

    def forward(self, *sources: Any, mode: str, **kwargs: Any) -> Any:
        """Like the recognizer's own forward."""
        if not (mode == 'loss' and self.training and torch.is_grad_enabled()):
            return super(AdversarialRecognizer, self).forward(*sources, mode=mode, **kwargs)
        adversary, losses = get_adversary(self), {}
        with adversary.schedule.one_iteration():
            for number, source in enumerate(sources):
                inputs, data_samples = source['inputs'], source['data_samples']
                if adversary.recipe.objective.needs_frames and inputs.ndim == 4:
                    # Images have no frames to move attention between, so they are not attacked.
                    of_source = adversary.clean_losses(inputs, data_samples)
                else:
                    of_source = self.adversarial_loss(inputs, data_samples)
                losses |= {f'{name}_{number}': value for name, value in of_source.items()}
        return losses


@register_adapter
class OmniAdapter(RecognizerAdapter):
    """MMAction2's RecognizerOmni, which trains on clips and on images in turn.

    For images it uses the weights of the batch norms directly, without their forward or running
    statistics, so both paths share the clean norms for images.
    """

    mixin = AdversarialOmniRecognizer

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        return 'mmaction.RecognizerOmni' in class_names(model)

    def _losses(self, inputs: Inputs, target: Any) -> Any:
        losses = self.model.loss([dict(inputs=inputs, data_samples=target)])
        return {name.removesuffix('_0'): value for name, value in losses.items()}


def _labels(data_samples: Any, device: torch.device) -> Tensor | None:
    """The labels of data samples; None if there are none, or not one of one shape for each."""
    if not isinstance(data_samples, (list, tuple)) or not data_samples:
        return None
    # After mmpretrain's mixup the labels are in gt_score.
    field = 'gt_score' if hasattr(data_samples[0], 'gt_score') else 'gt_label'
    given = [getattr(sample, field, None) for sample in data_samples]
    if any(label is None for label in given):
        return None
    labels = [torch.as_tensor(label, device=device) for label in given]
    if any(label.shape != labels[0].shape for label in labels):
        return None
    stacked = torch.stack(labels)
    return stacked.squeeze(1) if stacked.ndim == 2 and stacked.shape[1] == 1 else stacked


@contextmanager
def fresh_pool(model: nn.Module) -> Iterator[None]:
    """Reset the pooling of TPNHead, which keeps a pool that fits only the first clips it saw."""
    head = getattr(model, 'cls_head', None)
    if not hasattr(head, 'avg_pool2d'):
        yield
        return
    kept, head.avg_pool2d = head.avg_pool2d, None
    try:
        yield
    finally:
        head.avg_pool2d = kept
