"""What all attacks share: their options, and how a batch is attacked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.functional import NORMS
from ...core.option_values import as_length, check_within_range
from ...core.threat import InputSpace, ThreatModel
from .losses import margins
from .search import LogitsFn, Search

UNIT = InputSpace()
"""The units of the input itself, without bounds."""


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Looks for an input in the ball around each sample that fools the model.

    A sample that the model gets wrong from the start is returned clean. For any other the result
    is the first input that fools the model; if none does, the one with the highest loss of all
    that were tried, the clean one included. The model does not see a sample again once it is
    fooled.

    Args:
        eps (float): Radius of the ball around each sample, in pixel units; also as text, such as
            ``'8/255'``.
        norm (str): ``'linf'``, ``'l2'``, ``'l1'`` or ``'l21'``, over all axes but the batch, see
            :class:`adv_plugins.Recipe`. Defaults to ``'linf'``.
        shared (str | Sequence): Axes along which a perturbation is constant, see
            :class:`adv_plugins.Recipe`, like the two that follow. Defaults to (): none.
        frames (int | Sequence[int], optional): How many frames may be changed, or which. Restarts
            stay in the frames of the first run; a black box draws them. Defaults to None: all.
        region (Sequence[int] | Tensor, optional): A box (top, left, height, width) or a mask where
            frames may be changed. Defaults to None: everywhere.

    Raises:
        ValueError: An option outside of what is allowed.
    """

    eps: float
    norm: str = NORMS[0]
    # Not Any: the API reference would look for its import in the files of the subclasses.
    shared: object = ()
    frames: object = None
    region: object = None

    black_box: ClassVar[bool | None] = False
    """Whether it works without gradients; None: some parts of it do."""

    @property
    def least_classes(self) -> int:
        """How many classes it needs."""
        return 2

    @property
    def cost(self) -> int:
        """What a sample that is never fooled costs, in forwards; a backward counts as two."""
        return 1

    def __post_init__(self) -> None:
        # The dataclass is frozen.
        vars(self).update(eps=as_length('eps', self.eps))
        threat = self.threat
        vars(self).update(shared=threat.shared, frames=threat.frames, region=threat.region)
        if {'b', 0} & {*threat.shared}:
            raise ValueError(
                f'shared={self.shared} is one perturbation for several samples, which are attacked '
                "one by one here; write a perturbation of a whole data set: dict(type='Universal')"
            )

    @property
    def threat(self) -> ThreatModel:
        """Which perturbations are allowed."""
        return ThreatModel(**self.ball)

    @property
    def ball(self) -> dict[str, Any]:
        """The options that say which perturbations are allowed."""
        return {name: getattr(self, name) for name in ('eps', 'norm', 'shared', 'frames', 'region')}

    def __call__(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        labels: Tensor,
        space: InputSpace = UNIT,
        seed: int | Tensor = 0,
    ) -> Tensor:
        """Attack a batch.

        Parameters' ``grad``, the global random state and the caller's tensors stay as they are.
        It may be called where gradients are off.

        Args:
            logits_fn (Callable): ``logits_fn(x, index)`` returns the logits or log-probabilities,
                shape (n, C), of inputs (n, ...) that replace the samples at the positions
                ``index`` (n,) of the batch. It is called for some of the samples only, and
                ``index`` says which masks or data samples belong to them. The model must be in
                eval mode, so that no sample's scores depend on another sample.
            x (Tensor): Clean inputs as the model sees them, shape (B, ...), float32 or float64.
            labels (Tensor): True classes, integers of shape (B,).
            space (InputSpace): The map to pixel units, valid values and padding. Defaults to
                ``UNIT``: the units of the input, without bounds.
            seed (int | Tensor): Seeds of the random numbers: one for each sample, integers (B,),
                such as the index of the video; or a single one, with which every sample gets the
                same random numbers. In both cases the result for a sample does not depend on the
                rest of the batch. Defaults to 0.

        Returns:
            Tensor: Adversarial inputs in the ball and within valid values (where the clean ones
            are), detached; shape, dtype and device of ``x``.

        Raises:
            ValueError: An argument, or what ``logits_fn`` returns, is not as described; or the
                value range is known and ``eps`` is larger.
        """
        return self.search(logits_fn, x, labels, space, seed).best

    def search(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        labels: Tensor,
        space: InputSpace = UNIT,
        seed: int | Tensor = 0,
        stop: bool = True,
    ) -> Search:
        """Attack a batch, and return all that was found.

        Args:
            logits_fn (Callable): As when the attack is called, like the four arguments that follow.
            x (Tensor): Clean inputs.
            labels (Tensor): True classes.
            space (InputSpace): The map to pixel units. Defaults to ``UNIT``.
            seed (int | Tensor): Seeds of the random numbers. Defaults to 0.
            stop (bool): Whether a sample is done once it is fooled. False: every sample, the wrong
                ones too, is attacked to the end, and of the inputs that fool the model, or of all
                if none does, its result is the one with the highest loss. Defaults to True.

        Returns:
            Search: ``best`` are the adversarial inputs, ``columns`` what else there is to tell.
        """
        if space.low is not None:
            check_within_range('eps', self.eps, self.norm)
        # Evaluation loops run without gradients; attacks need them.
        with torch.inference_mode(False), torch.enable_grad():
            search = Search(
                logits_fn,
                x,
                labels,
                space,
                seed,
                threat=self.threat,
                objective=self._objective,
                stop=stop,
            )
            self._run(search)
        return search

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the attack raises, one value a sample."""
        return -margins(logits, labels)

    @abstractmethod
    def _run(self, search: Search) -> None:
        """Search for each sample of the batch."""
