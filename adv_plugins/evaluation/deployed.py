"""A recognizer as it is deployed: one score a class from all views of a video.

What is evaluated must be what is attacked. MMAction2 tests a video on several clips and crops and
averages their scores; here those averages are differentiable, so that an attack sees through them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..adapters.mmaction import OmniAdapter, RecognizerAdapter, fresh_pool
from ..core import batch
from ..core.adapter import adapter_class
from ..core.attack import InputSpace
from ..core.capture import capture_output
from ..core.norm import NormPath
from ..core.recipe import Recipe
from ..core.step import Adversary
from ..datasets.files import some
from .cam import frame_attention, gradcam


class Deployed:
    """A recognizer in eval mode, asked for what its users see.

    Args:
        model (nn.Module): A recognizer of MMAction2 or an image classifier of mmpretrain.

    Raises:
        TypeError: The model is another one.

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
                'by adv_plugins.evaluation.PGD and its like, which take any function of logits'
            )
        self.model = model
        self.adapter = kind(model)
        head = self.adapter.head
        assert head is not None
        self.head = head
        if getattr(head, 'new_cls', None) is not None:
            # TPNHead keeps the classifier of its first test for good (mmaction2#831).
            head.new_cls = None

    def views(self, inputs: Any, data_samples: Sequence[Any]) -> Tensor:
        """What the head gives for each view of each video, shape (B, V, C)."""
        with capture_output(self.head) as outputs:
            self._predict(inputs, data_samples)
        if not outputs or not isinstance(outputs[-1], Tensor) or outputs[-1].ndim != 2:
            got = type(outputs[-1]).__name__ if outputs else 'no call of the head'
            raise ValueError(
                f'{type(self.model).__name__} gives {got} in mode="predict", where class scores '
                'are wanted; drop feature_extraction=True from its test_cfg'
            )
        return batch.per_sample(outputs[-1].float(), len(data_samples))

    def scores(self, inputs: Any, data_samples: Sequence[Any]) -> Tensor:
        """The scores that the prediction of a video is made of, differentiable by ``inputs``.

        Args:
            inputs (Tensor): As they leave the data preprocessor, all views of a video together.
            data_samples (Sequence): The data samples of the B videos.

        Returns:
            Tensor: Shape (B, C). The logarithm of the averaged probabilities where the head says
            ``average_clips='prob'`` (its softmax is the prediction), the averaged scores otherwise.
        """
        return self.average(self.views(inputs, data_samples))

    def average(self, views: Tensor) -> Tensor:
        """The scores (B, C) of videos from those of their views (B, V, C); see :meth:`scores`."""
        if getattr(self.head, 'average_clips', None) == 'prob':
            # In the logarithm, since probabilities of 1e-50 would have no gradient in float32.
            return views.log_softmax(dim=2).logsumexp(dim=1)
        return views.mean(dim=1)

    def space(self, inputs: Tensor) -> InputSpace:
        """The map from pixel units to what the model is fed."""
        return self.adapter.space(inputs, batch.LONE)

    def one_view(self, inputs: Tensor, views: int) -> Tensor:
        """Each of the V views as a video of its own: (B, V·T, ...) as (B·V, T, ...)."""
        if inputs.ndim == 6:
            return inputs.flatten(0, 1).unsqueeze(1)
        return inputs.reshape(len(inputs) * views, -1, *inputs.shape[2:])

    def frame_attention(self, inputs: Tensor, data_samples: Sequence[Any], views: int) -> Tensor:
        """The share of the evidence for the true label that each frame holds.

        Args:
            inputs (Tensor): As for :meth:`scores`.
            data_samples (Sequence): The data samples of the B videos.
            views (int): V, the second axis of :meth:`views`.

        Returns:
            Tensor: Shape (B, V, T'), summing to 1 over T'.
        """
        singles, samples = self.one_view(inputs, views), _repeat(data_samples, views)
        labels = hard_labels(samples).to(inputs.device)
        with _full_precision(inputs), fresh_pool(self.model):
            maps = gradcam(self.model, singles, samples, labels)
        return batch.per_sample(frame_attention(maps), len(data_samples))

    def perturb(
        self, recipe: Recipe, inputs: Tensor, data_samples: Sequence[Any], views: int, seed: int
    ) -> Tensor:
        """The recipe's attack on each view, on the deployed norms.

        Args:
            recipe (Recipe): Of which only the attack is used.
            inputs (Tensor): As for :meth:`scores`.
            data_samples (Sequence): The data samples of the B videos.
            views (int): V, the second axis of :meth:`views`.
            seed (int): Of the random labels and starts.

        Returns:
            Tensor: Adversarial inputs in the shape of ``inputs``.
        """
        adversary = Adversary(self.adapter, recipe, NormPath())
        adversary.seed = seed
        singles = self.one_view(inputs, views)
        with _full_precision(inputs), fresh_pool(self.model):
            moved = adversary.perturb(singles, _repeat(data_samples, views))
        assert isinstance(moved, Tensor)
        return moved.reshape(inputs.shape)

    def _predict(self, inputs: Any, data_samples: Sequence[Any]) -> None:
        if hasattr(self.head, 'new_cls') and self.head.new_cls is None:
            # TPNHead draws weights for its second classifier, and overwrites them in place.
            with torch.no_grad(), torch.random.fork_rng():
                self.model(inputs, list(data_samples), mode='predict')
        self.model(inputs, list(data_samples), mode='predict')


def hard_labels(data_samples: Sequence[Any]) -> Tensor:
    """The labels of videos that have one each, shape (B,).

    Raises:
        ValueError: A video has none, or several.
    """
    labels = [getattr(sample, 'gt_label', None) for sample in data_samples]
    if any(label is None or label.numel() != 1 or label.is_floating_point() for label in labels):
        raise ValueError(
            'robustness is evaluated on videos with one label each; for several labels a video '
            "write test_cfg=dict(type='AdversarialTestLoop', ...)"
        )
    return torch.cat([label.reshape(1) for label in labels])


def judge(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The prediction of each video, and how many classes come before the true one.

    Ties go to the class with the lower index, as in ``argmax``. A model that gives a score that is
    not finite has not found the true class: that one comes last.

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


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint of which all fits, or say what does not.

    Args:
        model (nn.Module): The recognizer.
        checkpoint (str): A file that training wrote, or a URL.

    Raises:
        ValueError: Weights are missing, left over, or of another shape.
    """
    file = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    file = file.get('state_dict', file)
    # What TPNHead leaves behind after a test is no weight of its own (mmaction2#831).
    state = {n.removeprefix('module.'): v for n, v in file.items() if '.new_cls.' not in n}
    own = model.state_dict()
    problems = [*unfit_weights(state, own).values()]
    problems += [f'{name} (not in the model)' for name in state if name not in own]
    if problems:
        raise ValueError(
            f'{checkpoint} does not fit the config: {len(problems)} weights differ: '
            f'{some(problems)}; is it a checkpoint of this config?'
        )
    model.load_state_dict(state)


def unfit_weights(file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, str]:
    """The weights of a model for which a file has no value, each with the reason."""
    unfit = {}
    for name, value in model.items():
        if name not in file:
            unfit[name] = f'{name} (not in the file)'
        elif file[name].shape != value.shape:
            got, wanted = tuple(file[name].shape), tuple(value.shape)
            unfit[name] = f'{name} ({got} in the file, {wanted} wanted)'
    return unfit


def weights_digest(model: nn.Module) -> str:
    """What tells one set of weights from another: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _repeat(data_samples: Sequence[Any], views: int) -> list[Any]:
    return [sample for sample in data_samples for _ in range(views)]


def _full_precision(inputs: Tensor) -> torch.autocast:
    """MMAction2 computes accuracies with its losses, and cannot from bfloat16."""
    return torch.autocast(inputs.device.type, enabled=False)
