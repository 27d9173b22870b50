"""The arms of the study on TAF: how each one trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adv_plugins import TAF, AdvProp, CEAugmentation, Recipe
from adv_plugins.cam import FeatureObjective
from adv_plugins.core.record import Record

from .nets import CAM_LAYER, CAM_LAYOUT


@dataclass(frozen=True, kw_only=True, repr=False)
class RandomSigns(FeatureObjective):
    """The controls: every pixel moves up or down by chance, as far as TAF moves it.

    The net starts with an identity called ``input``, so what is captured there is the clip.

    Args:
        block (int): Side of the squares of pixels that move together. Defaults to 1.
    """

    block: int = 1
    cam_layer: str = 'input'
    cam_layout: str = 'b t c h w'

    def targets(self, record: Record) -> None:
        """None: no label is looked at."""

    def __call__(self, record: Record, targets: Tensor | None) -> Tensor:
        """A random plane: its gradient has a random sign in every pixel."""
        coarse = record.features[..., :: self.block, :: self.block]
        signs = torch.randint_like(coarse, 2).mul_(2).sub_(1)
        for axis in (-2, -1):
            signs = signs.repeat_interleave(self.block, axis)
        return (record.features * signs).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class Arm:
    """How a net is trained after the base.

    Args:
        title (str): The row's name in a table.
        recipe (str): ``'TAF'``, ``'CE'``, ``'noise'``, ``'AdvProp'``, or ``''`` for clean training.
        options (Mapping): Options of the recipe. Defaults to {}: the recipe's own.
        epochs (int): Epochs after the base. Defaults to 18.
        from_scratch (bool): Whether the recipe trains the base too. Defaults to False.
    """

    title: str
    recipe: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 18
    from_scratch: bool = False

    def build(self) -> Recipe | None:
        """The recipe; None for clean training."""
        if not self.recipe:
            return None
        if self.recipe == 'noise':
            taf = TAF()
            return Recipe(
                name='RandomSigns',
                objective=RandomSigns(**self.options),
                eps=taf.eps,
                step_size=taf.step_size,
                clean_weight=taf.clean_weight,
                adv_weight=taf.adv_weight,
            )
        if self.recipe == 'TAF':
            return TAF(cam_layer=CAM_LAYER, cam_layout=CAM_LAYOUT, **self.options)
        return {'CE': CEAugmentation, 'AdvProp': AdvProp}[self.recipe](**self.options)


def _attack(eps: int, step_size: int, steps: int) -> dict[str, Any]:
    """A row of TAF, table 2c, in grey levels."""
    return dict(eps=eps / 255, step_size=step_size / 255, steps=steps)


MAIN = ('clean', 'taf', 'noise', 'ce')
ARMS: dict[str, Arm] = {
    'base': Arm('base, before fine-tuning'),
    'clean': Arm('clean fine-tuning'),
    'taf': Arm('TAF', 'TAF'),
    'noise': Arm('random signs of the same size (control)', 'noise'),
    'ce': Arm('CE-based', 'CE'),
    # 2.33 times the epochs, which cost what TAF costs.
    'longer': Arm('clean fine-tuning, 42 epochs', epochs=42),
    'blocks': Arm('random signs of 2×2 pixels', 'noise', dict(block=2)),
    'score': Arm("TAF, `cam_of='score'`", 'TAF', dict(cam_of='score')),
    'advprop': Arm(
        'AdvProp from scratch, one step',
        'AdvProp',
        dict(steps=1, step_size=4 / 255),
        from_scratch=True,
    ),
    'n2': Arm('TAF, N = 2', 'TAF', dict(num_frames=2)),
    'n4': Arm('TAF, N = 4', 'TAF', dict(num_frames=4)),
    'alpha0.5': Arm('TAF, α = 0.5', 'TAF', dict(alpha=0.5)),
    'alpha0.9': Arm('TAF, α = 0.9', 'TAF', dict(alpha=0.9)),
    'eps6': Arm('TAF, ε = 6, β = 2, K = 1', 'TAF', _attack(6, 2, 1)),
    'eps6-k3': Arm('TAF, ε = 6, β = 2, K = 3', 'TAF', _attack(6, 2, 3)),
    'eps64-k3': Arm('TAF, ε = 64, β = 32, K = 3', 'TAF', _attack(64, 32, 3)),
    'shared': Arm('TAF, shared norms: `dual_bn=False`', 'TAF', dict(dual_bn=False)),
    'budget': Arm('TAF, `budget=1.25`', 'TAF', dict(budget=1.25)),
    'fraction': Arm('TAF, `fraction=0.25`', 'TAF', dict(fraction=0.25)),
    'interval': Arm('TAF, `interval=2`', 'TAF', dict(interval=2)),
    'small': Arm('TAF, `attack_scale=0.5`', 'TAF', dict(attack_scale=0.5)),
}
"""The arms by the name that ``--arms`` takes; 'base' is measured with every seed."""
