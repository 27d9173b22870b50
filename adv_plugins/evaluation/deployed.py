"""A recognizer as it is deployed: one score a class from all views of a video.

MMAction2 tests a video on several clips and crops and averages their scores. Here these averages
are differentiable, so that what is attacked is what is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.mmaction import OmniAdapter, RecognizerAdapter, fresh_pool
from ..cam.layer import cam_layer_of
from ..core.adapter import adapter_class
from ..core.attacker import Attacker
from ..core.batch import LONE, Batch, per_sample
from ..core.capture import capture_output
from ..core.randomness import stream_seed
from ..core.recipe import Recipe
from ..core.sharding import is_sharded
from ..core.threat import InputSpace
from .cam import frame_attention, gradcam
from .labels import SEVERAL, EvaluationError, LabelError


class Deployed:
    """A recognizer in eval mode: its scores for whole videos, and attacks on them.

    Args:
        model (nn.Module): A recognizer of MMAction2 or an image classifier of mmpretrain.

    Raises:
        TypeError: The model is neither, or it is sharded.

    Example:
        >>> deployed = Deployed(runner.model.eval())
        >>> data = runner.model.data_preprocessor(batch)
        >>> deployed.scores(data['inputs'], data['data_samples'])
    """

    def __init__(self, model: nn.Module) -> None:
        kind = adapter_class(model)
        if not issubclass(kind, RecognizerAdapter) or kind is OmniAdapter:
            raise TypeError(
                f'{type(model).__name__} is no recognizer with one cls_head; attack other models '
                'with adv_plugins.evaluation.PGD and its kin, which take any function of logits'
            )
        if is_sharded(model):
            raise TypeError(
                f'{type(model).__name__} is sharded, and its processes gather parameters together, '
                'but an evaluation runs as many forwards as their own videos need; load the state '
                'dict into a whole model: torch.distributed.checkpoint.state_dict.'
                'get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))'
            )
        self.model = model
        self.adapter = kind(model)
        self._attackers: dict[int, Attacker] = {}
        head = self.adapter.head
        assert head is not None
        self.head = head
        if getattr(head, 'new_cls', None) is not None:
            # TPNHead keeps the classifier of its first test for good (mmaction2#831).
            head.new_cls = None

    def views(self, inputs: Any, data_samples: Sequence[Any]) -> Tensor:
        """The scores that the head gives to each view of each video.

        Args:
            inputs (Tensor): As they leave the data preprocessor, all views of a video together.
            data_samples (Sequence): The data samples of the B videos.

        Returns:
            Tensor: Shape (B, V, C).

        Raises:
            ValueError: The model predicts no class scores.
        """
        with capture_output(self.head) as outputs:
            self._predict(inputs, data_samples)
        if not outputs or not isinstance(outputs[-1], Tensor) or outputs[-1].ndim != 2:
            got = type(outputs[-1]).__name__ if outputs else 'no call of the head'
            raise ValueError(
                f'{type(self.model).__name__} gives {got} in mode="predict", where class scores '
                'are wanted; drop feature_extraction=True from its test_cfg'
            )
        return per_sample(outputs[-1].float(), len(data_samples))

    def scores(self, inputs: Any, data_samples: Sequence[Any]) -> Tensor:
        """The scores behind the predictions, differentiable with respect to ``inputs``.

        Args:
            inputs (Tensor): As they leave the data preprocessor, all views of a video together.
            data_samples (Sequence): The data samples of the B videos.

        Returns:
            Tensor: Shape (B, C). Under the head's ``average_clips='prob'`` the logarithm of the
            averaged probabilities, up to a constant (its softmax is the prediction); the averaged
            scores otherwise.
        """
        return self.average(self.views(inputs, data_samples))

    def average(self, views: Tensor) -> Tensor:
        """The scores (B, C) of videos out of those of their views (B, V, C); see :meth:`scores`."""
        if getattr(self.head, 'average_clips', None) == 'prob':
            # As logarithms: probabilities of 1e-50 would have no gradient in float32.
            return views.log_softmax(dim=2).logsumexp(dim=1)
        return views.mean(dim=1)

    def space(self, inputs: Tensor) -> InputSpace:
        """The map from pixel units to what the model is fed."""
        axes = self.adapter.axes(inputs, LONE)
        return replace(self.adapter.space(inputs, LONE), axes=axes)

    def one_view(self, inputs: Tensor, views: int) -> Tensor:
        """Each of the V views as a video of its own: (B, V·T, ...) as (B·V, T, ...)."""
        if inputs.ndim == 6:
            return inputs.flatten(0, 1).unsqueeze(1)
        return inputs.reshape(len(inputs) * views, -1, *inputs.shape[2:])

    def frame_attention(self, inputs: Tensor, data_samples: Sequence[Any], views: int) -> Tensor:
        """Each frame's share of the evidence for the true label.

        Args:
            inputs (Tensor): As for :meth:`scores`.
            data_samples (Sequence): The data samples of the B videos.
            views (int): V, the second axis of :meth:`views`.

        Returns:
            Tensor: Shape (B, V, T'), summing to 1 over T'; NaN for a view without evidence.

        Raises:
            EvaluationError: It cannot be told where the model's attention is.
        """
        singles, samples = self.one_view(inputs, views), _repeat(data_samples, views)
        labels = hard_labels(samples).to(inputs.device)
        with _full_precision(inputs), fresh_pool(self.model):
            try:
                cam_layer_of(self.adapter, Batch(singles), samples)
            except ValueError as error:
                raise EvaluationError(
                    f'attention=True, but {error}; to evaluate without the attention write '
                    'attention=False'
                ) from error
            maps = gradcam(self.model, singles, samples, labels)
        return per_sample(frame_attention(maps), len(data_samples))

    def perturb(
        self, recipe: Recipe, inputs: Tensor, data_samples: Sequence[Any], views: int, seed: int
    ) -> Tensor:
        """The recipe's attack on each view, on the deployed norms.

        Args:
            recipe (Recipe): Its attack is used, nothing else of it.
            inputs (Tensor): As for :meth:`scores`.
            data_samples (Sequence): The data samples of the B videos.
            views (int): V, the second axis of :meth:`views`.
            seed (int): Of the random labels and starts.

        Returns:
            Tensor: Adversarial inputs in the shape of ``inputs``.
        """
        # Kept, because an attacker tells of its units once.
        if id(recipe) not in self._attackers:
            self._attackers[id(recipe)] = Attacker(self.adapter, recipe)
        attacker = self._attackers[id(recipe)]
        singles = self.one_view(inputs, views)
        with _full_precision(inputs), fresh_pool(self.model):
            moved = attacker.perturb(singles, _repeat(data_samples, views), stream_seed(seed))
        assert isinstance(moved, Tensor)
        return moved.reshape(inputs.shape)

    def _predict(self, inputs: Any, data_samples: Sequence[Any]) -> None:
        if hasattr(self.head, 'new_cls') and self.head.new_cls is None:
            # TPNHead draws its second classifier at random and overwrites it in place: without
            # gradients, and without a trace in the caller's random numbers.
            with torch.no_grad(), torch.random.fork_rng():
                self.model(inputs, list(data_samples), mode='predict')
        self.model(inputs, list(data_samples), mode='predict')


def hard_labels(data_samples: Sequence[Any]) -> Tensor:
    """The labels of videos that have one each.

    Args:
        data_samples (Sequence): The data samples of the B videos.

    Returns:
        Tensor: Shape (B,).

    Raises:
        LabelError: A video has none, or several.
    """
    labels = [getattr(sample, 'gt_label', None) for sample in data_samples]
    if any(label is None or label.numel() != 1 or label.is_floating_point() for label in labels):
        raise LabelError(SEVERAL)
    return torch.cat([label.reshape(1) for label in labels])


def rank_labels(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The prediction for each video, and how many classes come before the true one.

    Ties go to the class with the lower index, as in ``argmax``. Where a score is not finite, the
    true class comes last.

    Args:
        scores (Tensor): Shape (B, C).
        labels (Tensor): Shape (B,).

    Returns:
        dict[str, Tensor]: ``prediction`` and ``rank`` of shape (B,); rank 0 is a correct top-1.
    """
    own = torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
    last = torch.where(own, -1.0, 0.0).to(scores)
    scores = torch.where(scores.isfinite().all(dim=1, keepdim=True), scores, last)
    score = scores.gather(1, labels[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > score) | ((scores == score) & (classes < labels[:, None]))
    return dict(prediction=scores.argmax(dim=1), rank=before.sum(dim=1))


def _repeat(data_samples: Sequence[Any], views: int) -> list[Any]:
    return [sample for sample in data_samples for _ in range(views)]


def _full_precision(inputs: Tensor) -> torch.autocast:
    """No autocast: MMAction2 computes accuracies with its losses, and cannot from bfloat16."""
    return torch.autocast(inputs.device.type, enabled=False)
