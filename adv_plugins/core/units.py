"""Whether ε can be meant in the units it is taken in: told once, at the first attack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from .batch import Batch
from .option_values import check_within_range
from .options import grey_levels
from .recipe import Recipe
from .threat import InputSpace

_FAR = 0.5
"""In ranges of the pixels: values that far outside are no pixels of this range."""
_NARROW = 1 / 50
"""In ranges of the pixels: about five grey levels."""


def check_before(
    recipe: Recipe, values: Mapping[str, Tensor], spaces: Mapping[str, InputSpace]
) -> None:
    """Check ε and the first batch against the range of the pixels, where that is known.

    Warns of values far outside of the range, and of a batch that hardly covers any of it.

    Raises:
        ValueError: An ℓ∞ ball is larger than the whole range.
    """
    eps = recipe.largest_eps
    for name, space in spaces.items():
        if space.low is None or space.high is None or not values[name].numel():
            continue
        check_within_range('eps', eps, recipe.norm)
        doubt = _doubt(values[name], space)
        if doubt:
            warnings.warn(
                f'eps={_text(eps)} is a fraction of the range of the pixels that mean, std '
                f'and value_range imply, but {doubt}: inputs {_interval(values[name])}'
                f'{_of(name)}. Write the mean, std and value_range that made these inputs',
                stacklevel=2,
            )


def _doubt(values: Tensor, space: InputSpace) -> str:
    """Why values hardly are pixels of the range; '' if they may be."""
    pixels, low = _as_pixels(values, space), torch.as_tensor(space.low)
    outside = ((pixels < -_FAR) | (pixels > 1 + _FAR)).float().mean()
    covered = pixels.max() - pixels.min()
    if outside > 0.1:
        return f'{outside:.0%} of the first batch lie far outside of it'
    if covered < _NARROW:
        return f'the first batch covers {covered:.2%} of it'
    if low.max() < -_FAR and values.min() >= 0 and values.max() <= 1:
        return 'the first batch lies between 0 and 1, as if nothing had normalised it'
    return ''


def tell_after(
    recipe: Recipe, clean: Batch, perturbed: Batch, spaces: Mapping[str, InputSpace]
) -> None:
    """Tell how large the first perturbation is, where the units are unknown or it is very large.

    Where the pixels are known, ``||R|| / ||X||`` is that of the pixels, not of the normalised
    values, which are 0 at the mean.
    """
    eps = recipe.largest_eps
    pixels, moved = (
        batch.replace({n: _as_pixels(v, spaces[n]) for n, v in batch.values.items()})
        for batch in (clean, perturbed)
    )
    for name, ratios in pixels.relative_sizes(moved).items():
        ratio = f'‖R‖/‖X‖ = {ratios.nanmean():.2g}{_of(name)}'
        values, unknown = clean.values[name], spaces[name].low is None
        wide = unknown and recipe.norm == 'linf' and eps > values.max() - values.min()
        if ratios.nanmean() > 1 or (wide and eps > 0):
            warnings.warn(
                f'the perturbation may be larger than the inputs, which lie {_interval(values)}: '
                f'{ratio} in the first attack; write a smaller eps than eps={_text(eps)}',
                stacklevel=2,
            )
        if spaces[name].advice and eps > 0:
            warnings.warn(
                f'eps={_text(eps)} is in units of the input, as the range of the pixels is '
                f'unknown: inputs {_interval(values)}, {ratio}. {spaces[name].advice}',
                stacklevel=2,
            )


def _as_pixels(values: Tensor, space: InputSpace) -> Tensor:
    """Values as fractions of the range of the pixels; as they are where it is unknown."""
    wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    if space.low is None:
        return wide
    low = torch.as_tensor(space.low, dtype=wide.dtype, device=wide.device)
    return (wide - low) / space.scale_like(wide)


def _text(eps: float) -> str:
    levels = grey_levels(eps)
    return f'{levels}/255' if levels else f'{eps:g}'


def _interval(values: Tensor) -> str:
    return f'between {values.min():.3g} and {values.max():.3g}'


def _of(name: str) -> str:
    return f' ({name})' if name else ''
