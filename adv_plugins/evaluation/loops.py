"""Validation and test loops that ask every metric twice: on clean inputs and on attacked ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop, ValLoop
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from ..adapters.mmaction import OmniAdapter, RecognizerAdapter
from ..adapters.wrappers import inner_model
from ..core import batch
from ..core.adapter import Adapter, adapter_class
from ..core.attention import AttentionMap, capture_attention
from ..core.functional import attention_mse
from ..core.norm import NormPath
from ..core.recipe import Recipe, build_recipe
from ..core.step import Adversary
from .deepfool import check_options, deepfool, robustness, robustness_summary

PAPER = dict(fgm=dict(type='ART'))
"""The attack of a-art.txt eq. 4: one l2 step of 0.5 a video and modality."""


class PerVideo(BaseMetric):
    """The mean over videos of numbers that are known video by video."""

    default_prefix = ''

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep the numbers of a batch.

        Args:
            data_batch (Mapping[str, Tensor]): Values by name, shape (B,).
            data_samples (Sequence): Not used.
        """
        columns = {name: values.tolist() for name, values in data_batch.items()}
        rows = zip(*columns.values(), strict=True)
        self.results.extend(dict(zip(columns, row, strict=True)) for row in rows)

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """The means."""
        return {name: sum(r[name] for r in results) / len(results) for name in results[0]}


class PerVideoRobustness(PerVideo):
    """What DeepFool found video by video."""

    def __init__(self, max_iter: int) -> None:
        super().__init__()
        self.max_iter = max_iter

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """See :func:`~adv_plugins.evaluation.robustness_summary`."""
        rho, success, iterations = (
            torch.tensor([r[name] for r in results]) for name in ('rho', 'success', 'iterations')
        )
        return robustness_summary(rho, success.bool(), iterations.long(), self.max_iter)


class RobustEvaluation:
    """The part that :class:`AdversarialValLoop` and :class:`AdversarialTestLoop` share.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The data.
        evaluator (Evaluator | dict | list): The metrics, asked for clean inputs and, in a copy,
            for every attack.
        attacks (Mapping[str, dict | str | Recipe], optional): Recipes by name; of a recipe only
            the attack is used, on the deployed (clean) path in eval mode. Their metrics are
            ``<name>/<metric>``, beside ``<name>/eps`` and ``<name>/ratio`` (``||R|| / ||X||`` as
            the model is fed them, ``ratio_<modality>`` of several). Defaults to None: the paper's,
            ``dict(fgm=dict(type='ART'))``.
        attention (bool): Whether to report how far attention maps move under each attack:
            ``<name>/attention_mse``, and ``<name>/attention_mse/<module>`` for each module.
            Defaults to False.
        deepfool (Mapping, optional): Options of :func:`~adv_plugins.evaluation.deepfool`
            (``num_candidates``, ``overshoot``, ``max_iter``, ``criterion``) and ``num_videos``,
            for how many videos of each process it is run (None: all). Reported as ``deepfool/*``.
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
        for recipe in self.recipes.values():
            # Only to learn now, and not at the first validation, whether they fit the model.
            Adversary(self.adapter, recipe, NormPath())
        self.evaluator = AttackedEvaluator(self.evaluator, self.recipes, self.deepfool)

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
            outputs, maps = self._predict(inputs, samples)
            # Attacked predictions are written into the same data samples.
            outputs = copy.deepcopy(outputs)
            self.evaluator.process(data_samples=outputs, data_batch=data_batch)
            for name, recipe in self.recipes.items():
                moved = self._attack(recipe, idx, inputs, samples)
                attacked, moved_maps = self._predict(moved, samples)
                sizes = _sizes(inputs, moved) | _distances(maps, moved_maps, len(samples))
                self.evaluator.process_attacked(name, data_batch, attacked, sizes)
            self._fool(inputs, samples)
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
        adversary = Adversary(self.adapter, recipe, NormPath())
        # The stream of random starts: the same in every evaluation, another for every batch.
        adversary.seed, adversary.iteration = 0, idx
        return adversary.perturb(inputs, samples)

    def _fool(self, inputs: Any, samples: Any) -> None:
        if self.deepfool is None or self.evaluator.fooled >= self.deepfool['num_videos']:
            return
        index = torch.arange(min(len(samples), self.deepfool['num_videos'] - self.evaluator.fooled))
        inputs, samples = batch.take(inputs, index), self.adapter.select(samples, index)
        x = {name: value.float() for name, value in batch.modalities(inputs).items()}
        masks = {name: batch.valid_entries(inputs, name) for name in x}
        valid = {
            name: torch.ones_like(x[name], dtype=torch.bool) if mask is None else mask
            for name, mask in masks.items()
        }
        labels = None
        if self.deepfool['criterion'] == 'hit1':
            labels = torch.stack([sample.gt_label for sample in samples])

        def logits(values: dict[str, Tensor]) -> Tensor:
            scores: Tensor = self.adapter.forward(batch.replace(inputs, values), samples).logits
            return scores

        options = {key: value for key, value in self.deepfool.items() if key != 'num_videos'}
        result = deepfool(logits, x, labels=labels, valid=valid, **options)
        self.evaluator.process_fooled(
            {
                'rho': robustness(result, x, valid),
                'success': result.success,
                'iterations': result.iterations,
            }
        )


class AttackedEvaluator:
    """One evaluator for clean inputs, and a copy of it for every attack.

    Args:
        clean (Evaluator): The evaluator of the config.
        recipes (Mapping[str, Recipe]): The attacks by name.
        deepfool (Mapping, optional): Options of DeepFool, or None.
    """

    def __init__(
        self,
        clean: Evaluator,
        recipes: Mapping[str, Recipe],
        deepfool: Mapping[str, Any] | None,
    ) -> None:
        self.clean = clean
        self.recipes = recipes
        self.attacked = {name: _copy(clean, name) for name in recipes}
        self.sizes = {name: PerVideo() for name in recipes}
        self.robustness = None if deepfool is None else PerVideoRobustness(deepfool['max_iter'])
        self.fooled = 0

    def process(self, data_samples: Any, data_batch: Any) -> None:
        """Clean predictions."""
        self.clean.process(data_samples=data_samples, data_batch=data_batch)

    def process_attacked(
        self, name: str, data_batch: Any, data_samples: Any, sizes: Mapping[str, Tensor]
    ) -> None:
        """Predictions under an attack, and what is known of it video by video."""
        self.attacked[name].process(data_samples=data_samples, data_batch=data_batch)
        self.sizes[name].process(sizes, [])

    def process_fooled(self, found: Mapping[str, Tensor]) -> None:
        """What DeepFool found video by video."""
        assert self.robustness is not None
        self.robustness.process(found, [])
        self.fooled += len(found['rho'])

    def evaluate(self, size: int) -> dict[str, float]:
        """All metrics: the clean ones under their own names, then attack by attack.

        Args:
            size (int): Number of videos.
        """
        metrics = self.clean.evaluate(size)
        for name, evaluator in self.attacked.items():
            found = {'eps': self.recipes[name].eps, **self.sizes[name].evaluate(size)}
            found |= evaluator.evaluate(size)
            metrics |= {f'{name}/{key}': value for key, value in found.items()}
        if self.robustness is not None:
            # The videos that every process has done; a repeated last one would count twice.
            found = self.robustness.evaluate(size)
            metrics |= {f'deepfool/{key}': value for key, value in found.items()}
            self.fooled = 0
        return metrics


@LOOPS.register_module()
class AdversarialValLoop(RobustEvaluation, ValLoop):
    """mmengine's ValLoop with attacks; for the arguments see :class:`RobustEvaluation`."""

    stage = 'val'


@LOOPS.register_module()
class AdversarialTestLoop(RobustEvaluation, TestLoop):
    """mmengine's TestLoop with attacks; for the arguments see :class:`RobustEvaluation`."""

    stage = 'test'


def _copy(evaluator: Evaluator, name: str) -> Evaluator:
    """The evaluator for an attack; what it writes to a file goes to one of its own."""
    evaluator = copy.deepcopy(evaluator)
    for metric in evaluator.metrics:
        path = getattr(metric, 'out_file_path', None)
        if path:
            metric.out_file_path = str(Path(path).with_suffix(f'.{name}{Path(path).suffix}'))
    return evaluator


def _build(name: str, recipe: Any) -> Recipe:
    if not name or '/' in name or name == 'deepfool':
        raise ValueError(
            f"attacks has the name {name!r}, which must be a word such as 'fgm' and not 'deepfool'"
        )
    try:
        return build_recipe(recipe)
    except ValueError as error:
        raise ValueError(f'attacks[{name!r}]: {error}') from error


def _deepfool_options(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if options is None:
        return None
    defaults = dict(
        num_candidates=10,
        overshoot=0.02,
        max_iter=50,
        criterion='top1_change',
        num_videos=None,
    )
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ValueError(f'deepfool has no option {unknown[0]}=; write {", ".join(defaults)}')
    chosen = {**defaults, **options}
    count = chosen.pop('num_videos')
    check_options(**chosen)
    if count is not None and count < 1:
        raise ValueError(f'deepfool has num_videos={count}; write at least 1, or deepfool=None')
    return {**chosen, 'num_videos': float('inf') if count is None else count}


def _sizes(inputs: Any, moved: Any) -> dict[str, Tensor]:
    """``||R|| / ||X||`` of every video, by modality."""
    return {
        f'ratio_{name}' if name else 'ratio': ratio
        for name, ratio in batch.relative_sizes(inputs, moved).items()
    }


def _distances(
    clean: Sequence[AttentionMap], attacked: Sequence[AttentionMap], count: int
) -> dict[str, Tensor]:
    """How far the attention maps of every video have moved, over all modules and each."""
    found: dict[str, list[Tensor]] = {}
    for before, after in zip(clean, attacked, strict=True):
        a, mask = before.per_sample(count)
        b, _ = after.per_sample(count)
        found.setdefault(f'attention_mse/{before.name}', []).append(attention_mse(a, b, mask))
    # A module may run several times.
    means = {name: torch.stack(values).mean(dim=0) for name, values in found.items()}
    if means:
        means = {'attention_mse': torch.stack(list(means.values())).mean(dim=0), **means}
    return means
