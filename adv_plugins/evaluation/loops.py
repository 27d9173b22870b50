"""Validation and test loops that compute every metric on clean and on attacked videos."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop, ValLoop
from mmengine.runner.amp import autocast
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..adapters.mmaction import OmniAdapter, RecognizerAdapter
from ..adapters.wrappers import inner_model
from ..attention import AttentionMap, capture_attention
from ..attention.distances import attention_mse
from ..core.adapter import Adapter, adapter_class
from ..core.attacker import Attacker
from ..core.batch import Batch
from ..core.option_values import as_count, check_within_range
from ..core.randomness import stream_seed
from ..core.recipe import Recipe
from ..datasets.files import preview
from .attacked_evaluator import AttackedEvaluator
from .attacks.recipes import build_attack_recipe
from .deepfool import checked_options, deepfool, robustness
from .labels import LabelError, check_classes, listed_labels
from .readable_log import make_log_readable

PAPER = dict(fgm=dict(type='ART'))
"""The attack of A-ART, eq. 4: one ℓ2 step of length 0.5 per video and modality."""


class RobustEvaluation:
    """What :class:`AdversarialValLoop` and :class:`AdversarialTestLoop` have in common.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The data.
        evaluator (Evaluator | dict | list): The metrics, computed for clean videos and for every
            attack.
        attacks (Mapping[str, dict | str | Recipe], optional): Recipes by name. Only the attack of
            a recipe is used, on the deployed (clean) path in eval mode. Reported are
            ``<name>/<metric>`` for every metric, ``<name>/eps``, and ``<name>/ratio``:
            ``||R|| / ||X||`` of what the model is fed, ``ratio_<modality>`` for each of several
            modalities. Defaults to None: that of A-ART, ``dict(fgm=dict(type='ART'))``.
        attention (bool): Whether to report how much the attention maps change under each attack:
            ``<name>/attention_mse`` over all modules, and ``<name>/attention_mse/<module>``.
            Defaults to False.
        deepfool (Mapping, optional): Options of :func:`adv_plugins.evaluation.deepfool`
            (``num_candidates``, ``overshoot``, ``max_iter``, ``criterion``), and ``num_videos``:
            on how many videos each process runs it (None: all). Reported as ``deepfool/*``.
            Defaults to None: it is not run.
        fp16 (bool): Whether to evaluate under autocast. Defaults to False.

    Raises:
        ValueError: An unknown recipe or option.
        TypeError: The model is no recognizer.

    Example:
        >>> test_cfg = dict(
        ...     type='AdversarialTestLoop',
        ...     attacks=dict(
        ...         fgm=dict(type='ART', eps=0.5),
        ...         pgd=dict(type='ART', eps=0.5, steps=10)),
        ...     attention=True,
        ...     deepfool=dict(num_candidates=10, max_iter=50, num_videos=256))
    """

    stage: str

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        attacks: Mapping[str, Any] | None = None,
        attention: bool = False,
        deepfool: Mapping[str, Any] | None = None,
        fp16: bool = False,
    ) -> None:
        attacks = PAPER if attacks is None else attacks
        self.recipes = {name: _build(name, entry) for name, entry in attacks.items()}
        self.attention = attention
        self.deepfool = _deepfool_options(deepfool)
        super().__init__(runner, dataloader, evaluator, fp16)
        model = inner_model(runner.model)
        kind = adapter_class(model)
        if not issubclass(kind, RecognizerAdapter) or kind is OmniAdapter:
            raise TypeError(
                f'{type(self).__name__} evaluates recognizers, not {type(model).__name__}; for '
                'other models call make_adversarial(model).eval().perturb(inputs, target)'
            )
        self.model: nn.Module = model
        self.adapter: Adapter = kind(model)
        self._labels_checked = False
        # An attack that does not fit the model fails here, not at the first validation.
        # They are kept, because an attacker tells of its units once.
        self._attackers = {id(r): Attacker(self.adapter, r) for r in self.recipes.values()}
        for name, recipe in self.recipes.items():
            if _in_pixels(model.data_preprocessor):
                check_within_range(f'attacks[{name!r}]: eps', recipe.eps, recipe.norm)
        self.evaluator = AttackedEvaluator(self.evaluator, self.recipes, self.deepfool)

    def run(self) -> Any:
        """Evaluate; whether the videos have labels is checked before the first one is read."""
        make_log_readable(self.runner)
        if self.recipes and not self._labels_checked:
            dataset = self.dataloader.dataset
            try:
                labels = listed_labels(dataset, range(len(dataset)))
            except LabelError:
                # Several a video: the metrics and the losses say what they take.
                labels = {}
            check_classes(labels, getattr(self.adapter.head, 'num_classes', math.inf))
            self._labels_checked = True
        return super().run()

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predict one batch clean and under every attack.

        Args:
            idx (int): Index of the batch.
            data_batch (Any): The batch.
        """
        hook = dict(batch_idx=idx, data_batch=data_batch)
        self.runner.call_hook(f'before_{self.stage}_iter', **hook)
        with torch.no_grad(), autocast(enabled=self.fp16):
            data = self.model.data_preprocessor(data_batch, False)
            inputs, samples = data['inputs'], data['data_samples']
            if self.recipes:
                _check_labelled(idx, samples)
            outputs, maps = self._predict(inputs, samples)
            # The predictions under attack are written into the same data samples.
            outputs = copy.deepcopy(outputs)
            self.evaluator.process(data_samples=outputs, data_batch=data_batch)
            for name, recipe in self.recipes.items():
                adversarial = self._attack(recipe, idx, inputs, samples)
                attacked, attacked_maps = self._predict(adversarial, samples)
                columns = _sizes(inputs, adversarial)
                columns |= _distances(maps, attacked_maps, len(samples))
                self.evaluator.process_attacked(name, data_batch, attacked, columns)
            self._deepfool(inputs, samples)
        self.runner.call_hook(f'after_{self.stage}_iter', outputs=outputs, **hook)

    def _predict(self, inputs: Any, samples: Any) -> tuple[Any, list[AttentionMap]]:
        if not self.attention:
            return self.model(inputs, samples, mode='predict'), []
        with capture_attention(self.model) as maps:
            outputs = self.model(inputs, samples, mode='predict')
        if not maps:
            raise ValueError(
                f'attention=True, but {type(self.model).__name__} computes no attention that is '
                'known; write attention=False'
            )
        return outputs, maps

    def _attack(self, recipe: Recipe, idx: int, inputs: Any, samples: Any) -> Any:
        # The random starts are the same in every evaluation, and others for every batch.
        return self._attackers[id(recipe)].perturb(inputs, samples, stream_seed(0, idx))

    def _deepfool(self, inputs: Any, samples: Any) -> None:
        """Run DeepFool on the batch, on as many of its videos as ``num_videos`` still asks for."""
        if self.deepfool is None:
            return
        missing = self.deepfool['num_videos'] - self.evaluator.num_deepfool
        if missing <= 0:
            return
        index = torch.arange(min(len(samples), missing))
        batch, samples = Batch(inputs).take(index), self.adapter.select(samples, index)
        x = {name: value.float() for name, value in batch.values.items()}
        masks = {name: batch.valid(name) for name in x}
        valid = {
            name: torch.ones_like(x[name], dtype=torch.bool) if mask is None else mask
            for name, mask in masks.items()
        }
        labels = None
        if self.deepfool['criterion'] == 'hit1':
            labels = torch.stack([_label_set(sample) for sample in samples])

        def logits(values: dict[str, Tensor]) -> Tensor:
            scores: Tensor = self.adapter.forward(batch.replace(values), samples).logits
            return scores

        options = {key: value for key, value in self.deepfool.items() if key != 'num_videos'}
        result = deepfool(logits, x, labels=labels, valid=valid, **options)
        columns = dict(
            rho=robustness(result, x, valid),
            success=result.success,
            iterations=result.iterations,
        )
        self.evaluator.process_deepfool(columns)


@LOOPS.register_module()
class AdversarialValLoop(RobustEvaluation, ValLoop):
    """mmengine's ValLoop with attacks; for the arguments see
    :class:`adv_plugins.evaluation.loops.RobustEvaluation`.
    """

    stage = 'val'


@LOOPS.register_module()
class AdversarialTestLoop(RobustEvaluation, TestLoop):
    """mmengine's TestLoop with attacks; for the arguments see
    :class:`adv_plugins.evaluation.loops.RobustEvaluation`.
    """

    stage = 'test'


def _build(name: Any, entry: Any) -> Recipe:
    """The recipe of the attack of a name; errors say which attack they are about."""
    if not isinstance(name, str) or not name or '/' in name or name == 'deepfool':
        raise ValueError(
            f"attacks has the name {name!r}, which must be a word such as 'fgm' and not 'deepfool'"
        )
    try:
        return build_attack_recipe(entry)
    except ValueError as error:
        raise ValueError(f'attacks[{name!r}]: {error}') from error


def _deepfool_options(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All options of DeepFool, checked, and how many videos it is run on."""
    if options is None:
        return None
    given, count = options, None
    if isinstance(options, Mapping):
        given, count = dict(options), options.get('num_videos')
        given.pop('num_videos', None)
    try:
        chosen = checked_options(given)
        count = float('inf') if count is None else as_count('num_videos', count)
    except ValueError as error:
        raise ValueError(f'deepfool: {error}') from error
    return {**chosen, 'num_videos': count}


def _check_labelled(idx: int, samples: Sequence[Any]) -> None:
    """Raise a LabelError for a batch with unlabelled videos, of a dataset that has no list."""
    labels = (getattr(sample, 'gt_label', None) for sample in samples)
    places = [
        place
        for place, label in enumerate(labels)
        if isinstance(label, Tensor) and label.numel() == 1 and label.item() < 0
    ]
    if places:
        raise LabelError(
            f'batch {idx} has videos without a label (a negative one) at the places '
            f'{preview(places)}, but an attack needs one; write the ann_file of a list with '
            'labels, or attacks={} and only metrics that need none'
        )


def _label_set(sample: Any) -> Tensor:
    """The labels of a predicted video: 1 for each label and 0 elsewhere, shape (C,)."""
    label, count = sample.gt_label, len(sample.pred_score)
    return label if label.shape == (count,) else one_hot(label.reshape(()), count)


def _in_pixels(preprocessor: Any) -> bool:
    """Whether the normalisation, and with it the value range, is known."""
    parts = getattr(preprocessor, 'preprocessors', {'': preprocessor})
    return all(getattr(part, 'mean', None) is not None for part in parts.values())


def _sizes(inputs: Any, adversarial: Any) -> dict[str, Tensor]:
    """``||R|| / ||X||`` of every video, by modality."""
    return {
        f'ratio_{name}' if name else 'ratio': ratio
        for name, ratio in Batch(inputs).relative_sizes(Batch(adversarial)).items()
    }


def _distances(
    clean: Sequence[AttentionMap], attacked: Sequence[AttentionMap], count: int
) -> dict[str, Tensor]:
    """The change of the attention maps of every video, over all modules and in each."""
    by_module: dict[str, list[Tensor]] = {}
    for before, after in zip(clean, attacked, strict=True):
        a, mask = before.per_sample(count)
        b, _ = after.per_sample(count)
        by_module.setdefault(f'attention_mse/{before.name}', []).append(attention_mse(a, b, mask))
    # A module may run several times.
    means = {name: torch.stack(values).mean(dim=0) for name, values in by_module.items()}
    if means:
        means = {'attention_mse': torch.stack(list(means.values())).mean(dim=0), **means}
    return means
