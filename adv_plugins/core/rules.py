"""The conditions on the options of a recipe, as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .checks import is_integer
from .functional import NORMS
from .radius import Radius
from .structure import Mask


@dataclass(frozen=True)
class Rule:
    """A condition on one option of a recipe.

    Args:
        option (str): The option.
        holds (Callable): Whether a recipe meets the condition.
        text (str): The text after ``option=value`` in the error; ``{eps}`` and the like stand for
            the recipe's options.
    """

    option: str
    holds: Callable[[Any], bool]
    text: str

    def check(self, recipe: Any) -> None:
        """Raise a ValueError unless the recipe meets the condition."""
        value = getattr(recipe, self.option)
        if not self.holds(recipe):
            text = self.text.format(**vars(recipe))
            raise ValueError(f'{self.option}={value!r} {text}')


def _not_negative(option: str) -> Rule:
    def holds(recipe: Any) -> bool:
        value = getattr(recipe, option)
        if (option, value) == ('step_size', None) or (
            option == 'eps' and isinstance(value, Radius)
        ):
            return True
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and 0 <= float(value) < math.inf

    return Rule(option, holds, 'must be finite and not negative')


def _positive_integer(option: str) -> Rule:
    def holds(recipe: Any) -> bool:
        value = getattr(recipe, option)
        return is_integer(value) and value >= 1

    return Rule(option, holds, 'must be a whole number, at least 1')


def _choice(option: str, allowed: Sequence[str | None]) -> Rule:
    choices = ' or '.join(f'{option}={choice!r}' for choice in allowed if choice is not None)
    return Rule(option, lambda r: getattr(r, option) in allowed, f'is unknown; write {choices}')


def _is_axis(axis: Any) -> bool:
    return axis in ('b', 't', 'c', 'h', 'w') or (is_integer(axis) and axis >= 0)


def one_for_all(shared: Any) -> bool:
    """Whether samples share a perturbation."""
    return isinstance(shared, tuple) and bool({'b', 0} & {*shared})


def _is_count(frames: Any) -> bool:
    return is_integer(frames) and frames >= 1


def _are_places(frames: Any) -> bool:
    listed = isinstance(frames, tuple) and len(frames) > 0
    return listed and all(is_integer(place) and place >= 0 for place in frames)


RULES = (
    _choice('attack_path', ('clean', 'adversarial')),
    _choice('attack_dtype', (None, 'bfloat16', 'float16')),
    Rule('eps', lambda r: r.eps is not None, 'must be a number, e.g. eps=8 / 255'),
    *map(_not_negative, ('eps', 'step_size', 'clean_weight', 'adv_weight', 'weight_eps', 'begin')),
    *map(_positive_integer, ('steps', 'interval')),
    Rule(
        'fraction',
        lambda r: 0 < r.fraction <= 1,
        'must lie in (0, 1]; to switch the adversarial path off for a while, write begin, end or '
        'interval',
    ),
    Rule('attack_scale', lambda r: 0 < r.attack_scale <= 1, 'must lie in (0, 1], e.g. 0.5'),
    Rule(
        'attack_scale',
        lambda r: r.attack_scale == 1 or not r.objective.compares,
        'makes frames smaller, and {objective} compares with those of the clean forward; leave it '
        'out',
    ),
    Rule(
        'attack_dtype',
        lambda r: r.attack_dtype is None or not (r.starts_at_clean and r.steps == 1),
        'applies to forwards that only the attack needs, and one step from the clean forward needs '
        'none; leave it out, or write steps=2 or more, attack_scale=0.5 or random_start=True',
    ),
    Rule(
        'recompute',
        lambda r: not r.recompute or r.regularizers,
        'is for regularizers, as only they keep the clean graph; leave it out, or write '
        "regularizers=[dict(type='AttentionFrobenius')]",
    ),
    Rule(
        'budget',
        lambda r: r.budget is None or 1 < r.budget < math.inf,
        'must be greater than 1, the cost of a clean run; write e.g. budget=1.25',
    ),
    Rule(
        'budget',
        lambda r: r.budget is None or (r.interval, r.fraction) == (1, 1),
        'chooses interval and fraction; leave out interval={interval} and fraction={fraction}',
    ),
    Rule(
        'objective',
        lambda r: r.random_start or not r.objective.compares,
        'has no gradient at the clean input, from which the attack would start; write '
        'random_start=True',
    ),
    Rule('end', lambda r: r.end is None or r.end > r.begin, 'must be greater than begin={begin}'),
    Rule(
        'shared',
        lambda r: not (one_for_all(r.shared) and getattr(r.eps, 'per_sample', False)),
        'finds one perturbation for the batch, but eps={eps} differs from sample to sample',
    ),
)
"""The conditions on a recipe."""

THREAT_RULES = (
    _choice('norm', NORMS),
    Rule(
        'joint',
        lambda r: not r.joint or r.dims is None,
        'is one norm over the whole sample, dims={dims} one over some axes; write one of them',
    ),
    Rule(
        'joint', lambda r: not (r.joint and r.norm == 'l21'), "has no frames; leave out norm='l21'"
    ),
    Rule(
        'shared',
        lambda r: isinstance(r.shared, tuple) and all(map(_is_axis, r.shared)),
        "must be axes by letter (b, t, c, h, w) or number; write shared='h w', or shared=(3, 4)",
    ),
    Rule(
        'frames',
        lambda r: r.frames is None or _is_count(r.frames) or _are_places(r.frames),
        'must be how many, at least 1, or a list of their numbers, counted from 0; write frames=4, '
        'or frames=[0, 1]',
    ),
    Rule(
        'region',
        lambda r: (
            r.region is None
            or (isinstance(r.region, Mask) and bool(r.region.places.any()))
            or (_are_places(r.region) and min(r.region[2:]) > 0)
        ),
        'must be (top, left, height, width) in pixels, none negative and the last two not 0; or a '
        'mask, a tensor or list of the shape (height, width) with a place that is True',
    ),
    Rule(
        'dims',
        lambda r: not isinstance(r.dims, int),
        'must be a tuple of axes; write dims=({dims},)',
    ),
    Rule(
        'dims',
        lambda r: r.dims is None or all(axis > 0 for axis in r.dims),
        'must be positive axes; axis 0 is the batch, and samples do not share a ball',
    ),
)
"""The conditions on a threat model."""
