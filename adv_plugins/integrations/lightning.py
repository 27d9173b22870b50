"""The Lightning callback for adversarial training of a network inside a LightningModule."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..compat import exists, naming_extra
from ..core.conversion import (
    adversarial_state_dict,
    get_adversary,
    is_adversarial,
    load_adversarial_state_dict,
    make_adversarial,
)
from ..core.recipe import Recipe

with naming_extra(__name__, 'trainers', 'lightning'):
    # The package has two names; which one the user's own code imports cannot be known.
    if exists('lightning') or not exists('pytorch_lightning'):
        from lightning.pytorch import Callback, LightningModule, Trainer
    else:
        from pytorch_lightning import Callback, LightningModule, Trainer

ENTRY = 'adversarial'
"""The checkpoint's top-level entry for the state of the adversarial path."""


class AdversarialCallback(Callback):
    """Convert the network of a LightningModule, save its state, log, and follow the schedule.

    Only the loss is left to you: compute it in ``training_step`` with
    ``self.net.adversarial_loss(x, y)``. If ``training_step`` returns the whole dict, its parts are
    logged. A Hugging Face classifier returns the adversarial total as its own ``loss``.

    The network is converted before ``configure_model`` and ``configure_optimizers``, so that the
    former may shard it (``ModelParallelStrategy``). The checkpoint's ``state_dict`` is
    that of the plain module; the adversarial state is saved in the entry ``adversarial`` and
    restored with ``trainer.fit(..., ckpt_path=...)``.

    Args:
        recipe (Recipe | str | Mapping, optional): The recipe, as for
            :func:`adv_plugins.make_adversarial`. Defaults to None: the module has already
            converted the network, and that recipe is used.
        attribute (str, optional): The module's attribute that holds the network, e.g. ``'net'``.
            Defaults to None: its only child with parameters.
        by_epoch (bool): Whether the recipe's ``begin`` and ``end`` count epochs instead of
            batches. Defaults to True.
        **options: Options of :func:`adv_plugins.make_adversarial`, e.g. ``eps=6/255``, ``mean``
            and ``std``.

    Raises:
        ValueError: There is no such network, or there are two recipes or none.

    Example:
        >>> trainer = Trainer(callbacks=[AdversarialCallback('taf', attribute='net')])
    """

    def __init__(
        self,
        recipe: Recipe | str | Mapping[str, Any] | None = None,
        attribute: str | None = None,
        by_epoch: bool = True,
        **options: Any,
    ) -> None:
        self.recipe = recipe
        self.attribute = attribute
        self.by_epoch = by_epoch
        self.options = options
        self._given: Recipe | None = None
        # Adversarial steps at the last step of each optimizer, by id, as optimizers may be deleted.
        self._steps: dict[int, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Convert the network, before ``configure_model`` shards it; only in training."""
        if stage != 'fit' or (self.recipe is None and not self.options):
            return
        name, net = self._network(pl_module)
        if not is_adversarial(net) and self.recipe is not None:
            self._check_order(trainer)
            make_adversarial(net, self.recipe, **self.options)
            self._given = get_adversary(net).given
        elif is_adversarial(net) and get_adversary(net).given is not self._given:
            raise ValueError(
                f'{name!r} is adversarial already, but the callback has a recipe too; leave one '
                'out: AdversarialCallback()'
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the private random streams of all ranks one seed."""
        name, net = self._network(pl_module)
        if not is_adversarial(net):
            raise ValueError(
                f'AdversarialCallback has no recipe and {name!r} is not adversarial; write '
                "AdversarialCallback('taf')"
            )
        # So that all of them can resume from rank 0's checkpoint.
        schedule = get_adversary(net).schedule
        schedule.reseed(trainer.strategy.broadcast(schedule.seed))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialise the count of adversarial steps for each optimizer.

        Warns if no batch of the run is an adversarial one.
        """
        _, net = self._network(pl_module)
        recipe, batches = get_adversary(net).recipe, trainer.num_training_batches
        first = recipe.begin * (batches if self.by_epoch else 1)
        if recipe.interval > 1:
            first = -(-first // recipe.interval) * recipe.interval
        last = math.inf
        if trainer.max_epochs not in (None, -1):
            last = trainer.max_epochs * batches
        if trainer.max_steps != -1 and pl_module.automatic_optimization:
            last = min(last, trainer.max_steps * trainer.accumulate_grad_batches)
        if 0 < last <= first:
            warnings.warn(
                f'begin={recipe.begin}, interval={recipe.interval}, but the run ends after {last} '
                f'batches ({batches} an epoch): no iteration is adversarial; write begin=0',
                stacklevel=2,
            )
        steps = get_adversary(net).schedule.adversarial_steps
        self._steps = {id(optimizer): steps for optimizer in trainer.optimizers}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update the schedule's position."""
        _, net = self._network(pl_module)
        get_adversary(net).schedule.go_to(epoch=trainer.current_epoch if self.by_epoch else None)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the optimizer from updating auxiliary parameters after clean iterations."""
        _, net = self._network(pl_module)
        since = self._steps[id(optimizer)]
        self._steps[id(optimizer)] = get_adversary(net).drop_unused_auxiliary_grads(since)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the other scalars that ``training_step`` returned with its loss."""
        if isinstance(outputs, Mapping):
            scalars = {
                name: value
                for name, value in outputs.items()
                if name != 'loss' and isinstance(value, Tensor) and value.ndim == 0
            }
            pl_module.log_dict(scalars)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the adversarial state to the checkpoint, beside the plain ``state_dict``."""
        _, net = self._network(pl_module)
        if is_adversarial(net):
            state = adversarial_state_dict(net)
            checkpoint[ENTRY] = {name: value.cpu() for name, value in state.items()}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the adversarial state."""
        _, net = self._network(pl_module)
        if not is_adversarial(net):
            return
        if ENTRY in checkpoint:
            load_adversarial_state_dict(net, checkpoint[ENTRY])
        else:
            warnings.warn(
                'the checkpoint is from a run without AdversarialCallback: the schedule of the '
                'recipe starts from the beginning',
                stacklevel=2,
            )

    def _check_order(self, trainer: Trainer) -> None:
        """Raise if a callback that averages weights would copy the network before conversion."""
        for callback in itertools.takewhile(lambda entry: entry is not self, trainer.callbacks):
            # By name, because older versions have only one of them.
            names = {kind.__name__ for kind in type(callback).__mro__}
            if names & {'WeightAveraging', 'StochasticWeightAveraging'}:
                raise ValueError(
                    f'{type(callback).__name__} copies the network before it is converted; put '
                    f'AdversarialCallback before {type(callback).__name__} in callbacks'
                )

    def _network(self, pl_module: LightningModule) -> tuple[str, nn.Module]:
        parts = {
            name: part
            for name, part in pl_module.named_children()
            if next(part.parameters(), None) is not None
        }
        if self.attribute in parts:
            return self.attribute, parts[self.attribute]
        if self.attribute is None and len(parts) == 1:
            return next(iter(parts.items()))
        lines = [f'attribute={name!r}' for name in parts]
        if type(pl_module).configure_model is not LightningModule.configure_model:
            lines.append(
                'AdversarialCallback(), if configure_model makes the network, and there '
                "self.net = make_adversarial(net, 'taf')"
            )
        raise ValueError(
            f'attribute={self.attribute!r} does not name a network of {type(pl_module).__name__}; '
            f'write {" or ".join(lines) or "one into it"}'
        )
