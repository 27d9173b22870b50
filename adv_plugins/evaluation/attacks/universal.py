"""Universal perturbations: one for a whole data set (Moosavi-Dezfooli et al., CVPR 2017)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.batch import LONE
from ...core.functional import NORMS
from ...core.option_values import as_count, as_length, check_within_range
from ...core.threat import Ball, InputSpace, ThreatModel
from ...files import replacing
from .base import UNIT, Attack
from .losses import log_odds
from .search import Search


@dataclass(frozen=True)
class UniversalPerturbation:
    """One perturbation for all samples; :class:`Universal` applies it.

    Args:
        delta (Tensor): In pixel units, shape (1, ...).
        eps (float): Radius of the ball that it was made for, in pixel units.
        norm (str): The norm of the ball.
    """

    delta: Tensor
    eps: float
    norm: str

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that tell it from others."""
        values = self.delta.detach().cpu().contiguous().flatten().view(torch.uint8)
        return hashlib.sha256(values.numpy()).hexdigest()[:12]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, whole or not at all."""
        content = dict(delta=self.delta.detach().cpu(), eps=self.eps, norm=self.norm)
        with replacing(path) as file:
            torch.save({'universal_perturbation': content}, file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> UniversalPerturbation:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: There is no such file, or it is another one.
        """
        try:
            content = torch.load(path, map_location='cpu', weights_only=True)
            return cls(**content['universal_perturbation'])
        except Exception as error:  # A file that is no archive may raise anything.
            raise ValueError(
                f'file={str(path)!r} holds no universal perturbation ({type(error).__name__}); '
                'write the path that universal_perturbation(...).save(path) was given'
            ) from error


def universal_perturbation(
    logits_fn: Callable[..., Tensor],
    batches: Iterable[tuple[Tensor, ...]],
    space: InputSpace | Callable[..., InputSpace] = UNIT,
    *,
    eps: float,
    norm: str = NORMS[0],
    epochs: int = 10,
    step_size: float | None = None,
    shared: Any = (),
    frames: Any = None,
    region: Any = None,
) -> UniversalPerturbation:
    """Train one perturbation on all samples: a step along the mean gradient of each batch.

    The step raises the mean log-odds against the true classes, as in universal adversarial training
    (Shafahi et al., AAAI 2020). A batch costs a forward and a backward; no parameter's ``grad`` is
    touched. Take training data here: what it was trained on says little about other samples.

    Args:
        logits_fn (Callable): Returns the scores (B, C) of inputs (B, ...), and takes whatever else
            a batch has, such as masks. The model must be in eval mode.
        batches (Iterable): Batches ``(x, labels, ...)``, as of a DataLoader, which are walked
            through in every epoch; all inputs in one shape.
        space (InputSpace | Callable): The map to pixel units and valid values; or a function that
            returns it for what a batch has but its labels, as where masks differ. Defaults to
            ``UNIT``.
        eps (float): Radius of the ball, in pixel units.
        norm (str): ``'linf'``, ``'l2'``, ``'l1'`` or ``'l21'``. Defaults to ``'linf'``.
        epochs (int): How often. Defaults to 10.
        step_size (float, optional): Length of a step, in pixel units. Defaults to None: ``eps /
            10``.
        shared (str | Sequence): Axes along which it is constant, see :class:`adv_plugins.Recipe`,
            like the two that follow. Defaults to (): none.
        frames (int | Sequence[int], optional): How many frames it changes, chosen at the first
            batch, or which. Defaults to None: all.
        region (Sequence[int] | Tensor, optional): A box or mask where it is. Defaults to None:
            everywhere.

    Returns:
        UniversalPerturbation: The perturbation after the last step.

    Raises:
        ValueError: An option or a batch is not as described.

    Example:
        >>> found = universal_perturbation(model.eval(), loader, space, eps=8 / 255)
        >>> found.save('universal.pt')
        >>> attack = Universal(file='universal.pt', eps=8 / 255)
    """
    eps, epochs = as_length('eps', eps), as_count('epochs', epochs)
    size = eps / 10 if step_size is None else as_length('step_size', step_size)
    whole = ThreatModel(eps=eps, norm=norm)
    threat = ThreatModel(eps=eps, norm=norm, shared=shared, frames=frames, region=region)
    if step_size is not None and size == 0:
        raise ValueError('step_size=0 leaves the perturbation at 0; leave it out for eps / 10')
    if {'b', 0} & {*threat.shared}:
        raise ValueError(
            f'shared={shared!r}: a universal perturbation is the same for all samples anyway; '
            'leave the batch out'
        )
    delta, ball = None, None
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(epochs):
            empty = True
            for x, labels, *rest in batches:
                empty = False
                own = space(x, *rest) if callable(space) else space
                if own.low is not None:
                    check_within_range('eps', eps, norm)
                search = Search(
                    lambda points, _, rest=rest: logits_fn(points, *rest),
                    x,
                    labels,
                    own,
                    0,
                    threat=whole,
                    objective=log_odds,
                    stop=False,
                )
                delta = torch.zeros_like(x[:1]) if delta is None else delta.to(x)
                _check_shape('the first batch', delta, x)
                _, gradient = search.evaluate_with_grad(search.active(), delta.expand_as(x))
                # One ball for all batches, so that its frames are chosen once.
                ball = ball or Ball(threat, {LONE: delta}, {LONE: InputSpace(axes=own.axes)})
                slope = {LONE: gradient.mean(dim=0, keepdim=True)}
                ball.choose_frames(slope)
                step = ball.step(slope, {LONE: delta}, size)[LONE]
                delta = ball.project({LONE: delta + step})[LONE]
            if empty:
                raise ValueError(
                    'batches has none, or none any more in the second epoch, as a generator does; '
                    'give a list or a DataLoader'
                )
    assert delta is not None
    return UniversalPerturbation(delta, eps, norm)


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """Adds one perturbation to all samples, made by :func:`universal_perturbation`.

    One forward; the model is not asked whether the perturbation fools it. Where it is, and what is
    constant in it, was decided when it was made, so there is no ``shared``, ``frames`` or
    ``region`` here.

    Args:
        eps (float): Radius of the ball that the perturbation was made for, in pixel units.
        norm (str): The norm of that ball. Defaults to ``'linf'``.
        file (str): The file of the perturbation.
    """

    file: str

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ('shared', 'frames', 'region'):
            if getattr(self, option) not in ((), None):
                raise ValueError(
                    f'{option}={getattr(self, option)} would make another perturbation out of that '
                    f'of {self.file}; leave it out, and give it to universal_perturbation(...)'
                )
        made = self.perturbation
        if self.norm != made.norm or not math.isclose(self.eps, made.eps, rel_tol=1e-6):
            raise ValueError(
                f'eps={self.eps:g}, norm={self.norm!r} is not the ball that {self.file} was made '
                f'for; write eps={made.eps!r}, norm={made.norm!r}'
            )

    @property
    def perturbation(self) -> UniversalPerturbation:
        """What the file has."""
        return UniversalPerturbation.load(self.file)

    def _run(self, search: Search) -> None:
        delta = self.perturbation.delta
        _check_shape(self.file, delta, search.clean)
        rows = search.active()
        search.evaluate(rows, search.zeros(rows))
        rows = search.active()
        search.best[rows] = search.at(rows, delta.to(search.clean).expand_as(search.clean[rows]))


def _check_shape(where: str, delta: Tensor, x: Tensor) -> None:
    """One perturbation takes inputs of one shape."""
    if delta.shape[1:] != x.shape[1:]:
        raise ValueError(
            f'inputs of the shape {tuple(x.shape[1:])} cannot take the universal perturbation of '
            f'{where}, {tuple(delta.shape[1:])}; give all of them one size and number of frames'
        )
