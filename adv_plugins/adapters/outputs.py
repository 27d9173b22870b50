"""What a classifier returns: which part is the class scores, and what a loss needs of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parts = dict[str, Tensor]
"""The tensors of an output, by how a ``loss_fn(output, target)`` writes them."""

_WHOLE = 'output'
_LOGITS = (_WHOLE, f'{_WHOLE}.logits', f"{_WHOLE}['logits']")
_TOLERANCE = 0.02
"""Of the sum of soft labels; bfloat16 has two decimal digits."""


def class_scores(output: Any, size: int) -> Any:
    """The class scores in the output of a model.

    Args:
        output (Any): The output: a tensor, or a tuple, mapping or object of tensors.
        size (int): Number of samples.

    Returns:
        Any: A tensor as it is; otherwise ``logits``, or the first tensor (B, C), or the first
        (B, ...). The output itself if there is none.
    """
    parts = dict(_parts(output))
    if name := _logits(parts):
        return parts[name]
    scores = _like_scores(parts, size)
    flat = [part for part in scores.values() if part.ndim == 2]
    return next(iter(flat or scores.values()), output)


def lone_scores(output: Any, size: int) -> Tensor:
    """The class scores of a model that a loss of class scores alone can train.

    Args:
        output (Any): The output.
        size (int): Number of samples.

    Returns:
        Tensor: The class scores.

    Raises:
        TypeError: The output has no class scores, or parts beside them that want to be trained too:
            scores of other heads, or losses. The message has the ``loss_fn`` to write.
    """
    parts, scores = dict(_parts(output)), class_scores(output, size)
    if not isinstance(scores, Tensor):
        raise TypeError(
            f'the model returns a {type(output).__name__} without class scores; write a loss of '
            'it: loss_fn=lambda output, target: ...'
        )
    if _logits(parts):
        alike = {n: p for n, p in parts.items() if p.shape == scores.shape or 'logits' in n}
    else:
        alike = {n: p for n, p in _like_scores(parts, size).items() if p.ndim == scores.ndim}
    main = next(name for name, part in parts.items() if part is scores)
    heads = [name for name in alike if name != main]
    losses = [n for n, p in parts.items() if n != main and p.ndim == 0 and p.requires_grad]
    if heads or losses:
        raise TypeError(_several(parts, main, heads, losses))
    return scores


def _several(parts: Parts, main: str, heads: list[str], losses: list[str]) -> str:
    named = ', '.join(f'{n} {tuple(parts[n].shape)}' for n in (main, *heads, *losses))
    line = [f'F.cross_entropy({main}, target)']
    line += [f'0.3 * F.cross_entropy({name}, target)' for name in heads]
    return (
        f'the model returns {named}, and which of them to train and how much each counts is not '
        'clear; write loss_fn= to say it, e.g. loss_fn=lambda output, target: '
        f'{" + ".join(line + losses)}'
    )


def describe(output: Any) -> str:
    """The type of an output, and its tensors as a ``loss_fn`` writes them."""
    parts = [f'{name} {tuple(part.shape)}' for name, part in _parts(output)]
    return f'{type(output).__name__} with {", ".join(parts[:5]) or "no tensor"}'


def of_scores(loss: Any) -> bool:
    """Whether a loss is one of PyTorch's own, which take class scores and nothing else."""
    module = getattr(_innermost(loss), '__module__', None) or ''
    return module.split('.')[:2] == ['torch', 'nn']


def is_cross_entropy(loss: Any) -> bool:
    """Whether a loss is PyTorch's cross-entropy."""
    loss = _innermost(loss)
    return loss is F.cross_entropy or type(loss) is nn.CrossEntropyLoss


def check_cross_entropy(scores: Tensor, target: Any) -> None:
    """Raise where the cross-entropy of scores and labels is not defined, or always 0.

    Args:
        scores (Tensor): The class scores, (B, C) or (B, C, ...).
        target (Any): Integers (B,) or (B, ...), or floats of the shape of ``scores``.

    Raises:
        ValueError: The shapes do not fit; the message has the ``loss_fn`` to write.
    """
    if scores.ndim < 2 or scores.shape[1] == 1:
        raise ValueError(
            f'the model gives one score per sample, {tuple(scores.shape)}, of which cross-entropy '
            'is always 0 or wrong: it needs one per class. For a binary classifier write '
            f'{_binary(scores, target)}'
        )
    if not isinstance(target, Tensor):
        return
    soft = target.is_floating_point()
    if not soft and target.dtype not in (torch.int64, torch.uint8):
        raise ValueError(
            f'cross-entropy takes the indices of classes as int64, got {target.dtype}; write '
            'labels.long(), or loss_fn=lambda output, target: F.cross_entropy(output, '
            'target.long())'
        )
    if target.shape != (scores.shape if soft else (scores.shape[0], *scores.shape[2:])):
        kind = 'float' if soft else 'integer'
        raise ValueError(
            f'cross-entropy takes scores (B, C) or (B, C, ...) with integer labels (B,) or '
            f'(B, ...), or with float labels of the shape of the scores; got scores '
            f'{tuple(scores.shape)} and {kind} labels {tuple(target.shape)}. Write '
            f'{_fitting(scores, target)}'
        )


def check_soft_labels(target: Any) -> None:
    """Raise for float labels (B, C, ...) that are no probabilities: multi-hot ones.

    Raises:
        ValueError: The labels of a sample do not sum to 1.
    """
    if not isinstance(target, Tensor) or not target.is_floating_point() or target.ndim < 2:
        return
    sums = target.float().sum(dim=1)
    if ((sums - 1).abs() > _TOLERANCE).any():
        raise ValueError(
            f'cross-entropy takes float labels for probabilities, but those of one sample sum to '
            f'between {sums.min():.3g} and {sums.max():.3g} rather than to 1; for several labels a '
            'sample write loss_fn=nn.BCEWithLogitsLoss(), and where this is meant, '
            'loss_fn=F.cross_entropy'
        )


def _binary(scores: Tensor, target: Any) -> str:
    if not isinstance(target, Tensor) or target.shape == scores.shape:
        fits = isinstance(target, Tensor) and target.is_floating_point()
        labels = 'target' if fits else 'target.float()'
    else:
        labels = 'target.float().view_as(output)'
    if labels == 'target':
        return 'loss_fn=nn.BCEWithLogitsLoss()'
    return f'loss_fn=lambda output, target: F.binary_cross_entropy_with_logits(output, {labels})'


def _fitting(scores: Tensor, target: Tensor) -> str:
    """The loss that is meant by scores and labels whose shapes do not fit, as far as they tell."""
    line = 'loss_fn=lambda output, target: F.cross_entropy'
    if scores.shape == target.shape:
        binary = 'F.binary_cross_entropy_with_logits(output, target.float())'
        return f'for several labels a sample loss_fn=lambda output, target: {binary}'
    if target.is_floating_point() and target.ndim == 1:
        return f'indices of classes as integers: {line}(output, target.long())'
    if target.shape == (len(scores), 1):
        return f'{line}(output, target.squeeze(1))'
    if len(scores) != len(target):
        return (
            f'a loss of one score vector a sample; for frames among the samples {line}('
            'output.unflatten(0, (len(target), -1)).mean(1), target)'
        )
    if scores.ndim > 2 and scores[0, 0].numel() == 1:
        return f'{line}(output.flatten(1), target)'
    if scores.ndim == 3 and target.shape == scores.shape[:2]:
        return f'for scores (B, T, C) {line}(output.transpose(1, 2), target)'
    if scores.ndim == 3:
        return (
            f'the mean over frames: for scores (B, T, C) {line}(output.mean(1), target), for '
            f'scores (B, C, T) {line}(output.mean(2), target)'
        )
    return f'{line}(...) of what fits'


def _innermost(loss: Any) -> Any:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _logits(parts: Parts) -> str:
    """How the tensor that an output names ``logits``, or is itself, is written; '' if none."""
    return next((name for name in _LOGITS if name in parts), '')


def _like_scores(parts: Parts, size: int) -> Parts:
    return {
        name: part
        for name, part in parts.items()
        if part.is_floating_point() and part.ndim > 1 and len(part) == size
    }


def _parts(output: Any, text: str = _WHOLE) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output, each with how it is written."""
    if isinstance(output, Tensor):
        yield text, output
    elif isinstance(output, Mapping):
        for name, part in output.items():
            # transformers' outputs have their entries as attributes too.
            attribute = isinstance(name, str) and getattr(output, name, None) is part
            yield from _parts(part, f'{text}.{name}' if attribute else f'{text}[{name!r}]')
    elif isinstance(output, tuple) and hasattr(output, '_fields'):
        for name, part in zip(output._fields, output, strict=True):
            yield from _parts(part, f'{text}.{name}')
    elif isinstance(output, (list, tuple)):
        for place, part in enumerate(output):
            yield from _parts(part, f'{text}[{place}]')
    elif text == _WHOLE:
        # An object; its attributes may be slots or properties.
        names = dict.fromkeys((*getattr(output, '__dict__', {}), 'logits'))
        for name in names:
            yield from _parts(getattr(output, name, None), f'{text}.{name}')
