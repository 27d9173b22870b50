"""DeepFool: how far each input is from a wrong prediction, in the ℓ2 norm.

Each step goes to the nearest decision boundary of the linearised model (Moosavi-Dezfooli et al.,
CVPR 2016, algorithm 2), until the prediction is wrong. The norm of the sum of the steps, relative
to the norm of the input, is the robustness rho of the model at that input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.checks import near_names
from ..core.functional import expand_like
from .option_values import as_count, as_number

CRITERIA = ('top1_change', 'hit1', 'any_flip')
# What the paper's own code adds to the length of each step, in units of the input: a step across
# a boundary that is very near would otherwise be lost to rounding.
_PUSH = 1e-4

Inputs = Tensor | Mapping[str, Tensor]
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class DeepFoolResult:
    """The result of :func:`deepfool` for each of B samples.

    Args:
        perturbation (Tensor or dict[str, Tensor]): What to add to the input, a tensor or a dict as
            that is; overshoot included. Where ``success`` is false, it is the sum of the steps up
            to the last one, and as a rule shorter than the perturbation that is needed.
        iterations (Tensor): Number of steps, shape (B,); 0 where the prediction was wrong already.
        success (Tensor): Whether the criterion is met at the perturbed input, shape (B,).
    """

    perturbation: Tensor | Parts
    iterations: Tensor
    success: Tensor


def deepfool(
    logits_fn: Callable[..., Tensor],
    x: Inputs,
    num_candidates: int = 10,
    overshoot: float = 0.02,
    max_iter: int = 50,
    criterion: str = 'top1_change',
    labels: Tensor | None = None,
    valid: Inputs | None = None,
) -> DeepFoolResult:
    """Find a minimal l2 perturbation that makes each prediction incorrect.

    The model must be in eval mode, so that no sample's logits depend on another sample. It always
    gets the whole batch, even when some samples are finished, so that ``logits_fn`` may close over
    masks. A step costs one forward, and one backward per candidate; no parameter's ``grad`` is
    touched.

    Args:
        logits_fn (Callable): Takes a tensor or dict like ``x`` and returns logits, shape (B, C).
        x (Tensor or dict[str, Tensor]): Inputs of shape (B, ...), float32 or float64. The
            modalities of a dict are perturbed jointly: one perturbation, one norm.
        num_candidates (int): How many classes are considered, the predicted one included: those
            with the highest logits of the clean input, for ``'any_flip'`` those with logits
            nearest to 0. Defaults to 10.
        overshoot (float): Each step is longer by this share of its length. Defaults to 0.02.
        max_iter (int): Steps after which the search for a sample ends. Defaults to 50.
        criterion (str): What an incorrect prediction is. ``'top1_change'``: the highest logit
            belongs to another class than for the clean input. ``'hit1'``: the highest logit
            belongs to none of the labels; where this holds from the start, no perturbation is
            needed. ``'any_flip'``: the sign of any logit changes, that is, a probability crosses
            0.5. Defaults to ``'top1_change'``.
        labels (Tensor, optional): 1 for each label and 0 elsewhere, shape (B, C); only for
            ``'hit1'``. Defaults to None.
        valid (Tensor or dict[str, Tensor], optional): False where nothing may be perturbed, such
            as padding. It has the leading dimensions of ``x`` ((B, T) for (B, T, D)) or
            broadcasts to it. Defaults to None: all of ``x`` is valid.

    Returns:
        DeepFoolResult: Perturbation, number of iterations and success of each sample. A sample
        without a finite nonzero gradient stops where it is, without success.

    Raises:
        ValueError: An option, a shape or a type is not as described.

    Example:
        >>> result = deepfool(model, features, valid=mask)
        >>> rho = robustness(result, features, valid=mask)
        >>> robustness_summary(rho, result.success, result.iterations, max_iter=50)
    """
    check_options(num_candidates, overshoot, max_iter, criterion)
    # Evaluation loops run without gradients; DeepFool needs them.
    with torch.inference_mode(False), torch.enable_grad():
        clean = {name: part.detach().clone() for name, part in _checked_parts(x).items()}
        masks = _masks(valid, clean)
        perturbation = {name: torch.zeros_like(part) for name, part in clean.items()}
        logits, probe = _forward(logits_fn, x, clean, perturbation)
        goal = _Goal(criterion, logits.detach(), labels, num_candidates)
        success = goal.reached(logits.detach())
        finished = success.clone()
        iterations = torch.zeros_like(success, dtype=torch.long)
        for _ in range(max_iter):
            if finished.all():
                break
            step, reachable = _step_to_boundary(logits, probe, masks, goal)
            moves = reachable & ~finished
            for name, part in perturbation.items():
                part += torch.where(expand_like(moves, part), (1 + overshoot) * step[name], 0)
            iterations += moves
            del logits, probe  # The old graph goes before the new one is made.
            logits, probe = _forward(logits_fn, x, clean, perturbation)
            success |= goal.reached(logits.detach())
            # Without a step now there will be none later: the input stays the same.
            finished |= success | ~moves
    result = perturbation if isinstance(x, Mapping) else perturbation['x']
    return DeepFoolResult(result, iterations, success)


def robustness(result: DeepFoolResult, x: Inputs, valid: Inputs | None = None) -> Tensor:
    """Relative size ``||r|| / ||x||`` of each sample's perturbation (DeepFool paper, eq. 2).

    Its mean is rho, see :func:`robustness_summary`. For samples without success it only says how
    far the search went.

    Args:
        result (DeepFoolResult): What :func:`deepfool` returned for ``x``.
        x (Tensor or dict[str, Tensor]): The clean inputs. The norm is joint over a dict.
        valid (Tensor or dict[str, Tensor], optional): As for :func:`deepfool`. Defaults to None.

    Returns:
        Tensor: Shape (B,); NaN where the norm of the input is 0 or not finite, unless the
        prediction was wrong already: no perturbation is 0, whatever the input.
    """
    clean = _checked_parts(x)
    masks = _masks(valid, clean)
    size, reference = (
        _joint_norm({name: torch.where(masks[name], part, 0) for name, part in parts.items()})
        for parts in (_checked_parts(result.perturbation), clean)
    )
    rho = size / torch.where((reference > 0) & reference.isfinite(), reference, math.nan)
    return torch.where(result.success.to(size.device) & (size == 0), size, rho)


def robustness_summary(
    rho: Tensor, success: Tensor, iterations: Tensor, max_iter: int = 50
) -> dict[str, float]:
    """Summarise DeepFool over a dataset; successes and failures are kept apart.

    Args:
        rho (Tensor): The :func:`robustness` of each sample, shape (N,).
        success (Tensor): That of the results, shape (N,).
        iterations (Tensor): Those of the results, shape (N,).
        max_iter (int): That of :func:`deepfool`. Defaults to 50.

    Returns:
        dict[str, float]: ``rho_mean`` and ``rho_median`` of the successes, with 0 for samples that
        were wrong already; ``rho_failed_mean``, how far the search went for the failures;
        ``success_rate``, and ``already_wrong``, the part of it that needed no step; the rates of
        the failures, ``at_max_iter`` and ``stuck`` (no gradient, or no class to go to), which add
        up to 1 with ``success_rate``; ``iterations_mean`` of all samples; and
        ``num_undefined``, how many samples have no finite rho and are thus in no mean of it. NaN
        where there is nothing to average.

    Raises:
        ValueError: Shapes differ, or there is no sample.
    """
    if not rho.shape == success.shape == iterations.shape or rho.ndim != 1 or len(rho) == 0:
        raise ValueError(
            'rho, success and iterations must have one shape (N,), N at least 1, got '
            f'{tuple(rho.shape)}, {tuple(success.shape)} and {tuple(iterations.shape)}'
        )
    rho, iterations, defined = rho.double(), iterations.double(), rho.isfinite()
    fooled, failed = rho[success & defined], rho[~success & defined]
    return {
        'rho_mean': float(fooled.mean()),
        'rho_median': float(torch.quantile(fooled, 0.5)) if len(fooled) else math.nan,
        'rho_failed_mean': float(failed.mean()),
        'success_rate': float(success.double().mean()),
        'already_wrong': float((success & (iterations == 0)).double().mean()),
        'at_max_iter': float((~success & (iterations >= max_iter)).double().mean()),
        'stuck': float((~success & (iterations < max_iter)).double().mean()),
        'iterations_mean': float(iterations.mean()),
        'num_undefined': int((~defined).sum()),
    }


class _Goal:
    """The criterion for one batch: whether it is met, and across which boundaries it can be.

    Args:
        criterion (str): One of ``CRITERIA``.
        clean (Tensor): Logits of the clean inputs, shape (B, C).
        labels (Tensor, optional): For ``'hit1'``, shape (B, C).
        num_candidates (int): How many classes are considered, the predicted one included.

    Attributes:
        candidates (Tensor): The classes that a step may go to (for ``'any_flip'``, whose signs it
            may flip), shape (B, K).
        allowed (Tensor): False for the fillers of a sample with fewer than K, shape (B, K).
        pairwise (bool): Whether a boundary lies between two classes; else at a logit of 0.
    """

    def __init__(
        self, criterion: str, clean: Tensor, labels: Tensor | None, num_candidates: int
    ) -> None:
        self.pairwise = criterion != 'any_flip'
        if self.pairwise:
            own = _label_sets(labels, clean) if criterion == 'hit1' else _one_hot_top(clean)
            self._wrong = ~own
            # NaN would sort first.
            rank = clean.nan_to_num(float('-inf')).masked_fill(own, float('-inf'))
            count = min(num_candidates, clean.shape[1]) - 1
        else:
            self._signs = clean > 0
            rank = -clean.abs().nan_to_num(float('inf'))
            count = min(num_candidates, clean.shape[1])
        best = rank.topk(count, dim=1)
        self.candidates, self.allowed = best.indices, best.values > float('-inf')

    def reached(self, logits: Tensor) -> Tensor:
        """Whether the criterion is met, shape (B,); never by logits that are NaN."""
        if self.pairwise:
            met = self._wrong.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1)
        else:
            met = ((logits > 0) != self._signs).any(dim=1)
        return met & ~logits.isnan().any(dim=1)


def _step_to_boundary(
    logits: Tensor, probe: Parts, masks: Parts, goal: _Goal
) -> tuple[Parts, Tensor]:
    """The shortest step to a boundary of the linearised model, and whether there is one.

    The candidates are taken one after the other, so that memory holds two gradients instead of K.
    """
    height = logits
    if goal.pairwise:
        height = logits - logits.gather(1, logits.detach().argmax(dim=1, keepdim=True))
    nearest = torch.full(logits.shape[:1], float('inf'), dtype=logits.dtype, device=logits.device)
    step = {name: torch.zeros_like(part) for name, part in probe.items()}
    for column, allowed in zip(goal.candidates.T[:, :, None], goal.allowed.T, strict=True):
        value = height.gather(1, column).squeeze(1)
        normal = _gradient(value, probe, masks)
        norm = _joint_norm(normal)
        value = value.detach()
        distance = value.abs() / norm
        # Without a gradient the distance is infinite or NaN, which is never nearer.
        better = allowed & norm.isfinite() & (distance < nearest)
        nearest = torch.where(better, distance, nearest)
        scale = torch.where(value > 0, -1, 1) * (distance + _PUSH) / norm
        for name, part in step.items():
            chosen = expand_like(better, part)
            step[name] = torch.where(chosen, expand_like(scale, part) * normal[name], part)
    return step, nearest.isfinite()


def _gradient(value: Tensor, probe: Parts, masks: Parts) -> Parts:
    """Gradient of one value per sample, 0 where the input is not valid."""
    gradients = torch.autograd.grad(
        value.sum(), list(probe.values()), retain_graph=True, allow_unused=True
    )
    return {
        name: torch.zeros_like(part) if gradient is None else torch.where(masks[name], gradient, 0)
        for (name, part), gradient in zip(probe.items(), gradients, strict=True)
    }


def _forward(
    logits_fn: Callable[..., Tensor], x: Inputs, clean: Parts, perturbation: Parts
) -> tuple[Tensor, Parts]:
    """Logits of the perturbed inputs, and the inputs that gradients are taken for."""
    probe = {name: (clean[name] + perturbation[name]).requires_grad_() for name in clean}
    logits = logits_fn(probe if isinstance(x, Mapping) else probe['x'])
    batch = len(next(iter(clean.values())))
    if logits.ndim != 2 or len(logits) != batch or logits.shape[1] == 0:
        raise ValueError(
            f'logits_fn must return logits of shape ({batch}, classes), got {tuple(logits.shape)}'
        )
    if not logits.requires_grad:
        raise ValueError(
            'the logits of logits_fn do not depend on its input by differentiable operations; '
            'let it run without torch.no_grad() and without detach()'
        )
    return logits, probe


def _joint_norm(parts: Parts) -> Tensor:
    """The l2 norm of each sample over all parts, shape (B,)."""
    norms = [torch.linalg.vector_norm(part.flatten(1), dim=1) for part in parts.values()]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def _one_hot_top(logits: Tensor) -> Tensor:
    """True at the highest logit of each sample, shape (B, C)."""
    top = logits.argmax(dim=1, keepdim=True)
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(1, top, True)


def _label_sets(labels: Tensor | None, logits: Tensor) -> Tensor:
    """The labels as booleans (B, C), or a clear error."""
    if labels is None or labels.shape != logits.shape or not ((labels == 0) | (labels == 1)).all():
        got = None if labels is None else tuple(labels.shape)
        raise ValueError(
            "criterion='hit1' needs labels of 0 and 1 in the shape of the logits, "
            f'{tuple(logits.shape)}, got the shape {got}; one-hot encode class indices'
        )
    return labels.to(logits.device).bool()


def _checked_parts(x: Inputs) -> Parts:
    """The inputs by name; a single tensor gets the name ``'x'``."""
    parts = dict(x) if isinstance(x, Mapping) else {'x': x}
    if not parts:
        raise ValueError('x must hold at least one tensor, got an empty dict')
    batch = {part.shape[:1] for part in parts.values()}
    for name, part in parts.items():
        if part.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f'{name!r} must be float32 or float64, got {part.dtype}; convert it first '
                '(features stored as bytes: dequantise them)'
            )
        if part.ndim < 2 or len(batch) > 1:
            raise ValueError(
                f'all inputs must have shape (batch, ...) with one batch size, {name!r} has '
                f'{tuple(part.shape)}'
            )
    return parts


def _masks(valid: Inputs | None, parts: Parts) -> Parts:
    """A boolean mask for each part, broadcast to it."""
    if valid is None:
        return {name: part.new_ones((), dtype=torch.bool) for name, part in parts.items()}
    masks = dict(valid) if isinstance(valid, Mapping) else {'x': valid}
    if masks.keys() != parts.keys():
        raise ValueError(f'valid must have the keys of x, {sorted(parts)}, got {sorted(masks)}')
    broadcast = {}
    for name, part in parts.items():
        mask = masks[name].to(part.device).bool()
        shape = mask.shape + (1,) * (part.ndim - mask.ndim)
        try:
            broadcast[name] = mask.reshape(shape).expand(part.shape)
        except RuntimeError as error:
            raise ValueError(
                f'the mask of {name!r} must have the leading dimensions of its shape '
                f'{tuple(part.shape)} or broadcast to it, got {tuple(mask.shape)}'
            ) from error
    return broadcast


OPTIONS: dict[str, Any] = dict(
    num_candidates=10, overshoot=0.02, max_iter=50, criterion='top1_change'
)
"""The options of :func:`deepfool` that a config can set, with their defaults."""


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of :func:`deepfool` that a config can set.

    Args:
        options (Mapping): Some of them; numbers also as text.

    Returns:
        dict: Given ones and defaults.

    Raises:
        ValueError: An option is unknown, or its value is not allowed.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'deepfool={options!r} must be a dict; write deepfool=dict(max_iter=50)')
    for name in options:
        if name not in OPTIONS:
            near = ' or '.join(near_names(name, OPTIONS) or OPTIONS)
            raise ValueError(f'deepfool has no option {name}=; write {near}')
    chosen = {**OPTIONS, **options}
    counts = {name: as_count(name, chosen[name], 0) for name in ('num_candidates', 'max_iter')}
    chosen |= counts | dict(overshoot=as_number('overshoot', chosen['overshoot']))
    check_options(**chosen)
    return chosen


def check_options(num_candidates: int, overshoot: float, max_iter: int, criterion: str) -> None:
    """Raise a ValueError unless these are options of :func:`deepfool`."""
    if criterion not in CRITERIA:
        raise ValueError(f'criterion must be one of {CRITERIA}, got {criterion!r}')
    least = 1 if criterion == 'any_flip' else 2
    if num_candidates < least:
        raise ValueError(
            f'num_candidates must be at least {least} for {criterion!r}, got {num_candidates}'
        )
    if max_iter < 1:
        raise ValueError(f'max_iter must be at least 1, got {max_iter}')
    if overshoot < 0:
        raise ValueError(f'overshoot must not be negative, got {overshoot}')
