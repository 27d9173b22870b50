"""The hook that makes an unmodified recognizer adversarial inside mmengine's Runner."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..adapters.mmaction import AdversarialRecognizer
from ..adapters.wrappers import inner_model
from ..compat import safe_globals
from ..core.adversary import Adversary
from ..core.conversion import (
    adversarial_state_dict,
    get_adversary,
    is_adversarial,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from ..core.cost import step_cost
from ..core.norm import auxiliary_parameters
from ..core.recipe import Recipe, build_recipe
from ..evaluation.readable_log import make_log_readable
from .cost_meter import CostMeter
from .held_out import first_batch

ENTRY = 'adversarial'
"""The checkpoint's top-level entry for the state of the adversarial path."""


@HOOKS.register_module()
class AdversarialHook(Hook):
    """Train an unmodified recognizer with an adversarial recipe.

    Before the run, the hook converts the model in place, adds the parameters of the auxiliary norms
    to the optimizer groups of the clean ones and rebuilds DistributedDataParallel with them.
    During the run, it keeps the recipe's schedule up to date. A checkpoint's ``state_dict`` is
    that of the plain recognizer; the adversarial state is saved in the entry ``adversarial`` and
    restored with ``--resume``. Validation and test use the clean path and need no hook. The log's
    lines are those of :class:`ReadableLogHook`.

    Note:
        Its priority is higher than that of :class:`mmengine.hooks.EMAHook`, which also copies the
        model in ``before_run``.

    Args:
        recipe (dict | str | Recipe, optional): The recipe, e.g. ``dict(type='TAF', alpha=0.5)``.
            Defaults to None: the recipe of ``model=dict(type='AdversarialModel', ...)``.
        by_epoch (bool): Whether the recipe's ``begin`` and ``end`` count epochs instead of
            iterations. Defaults to True.

    Example:
        >>> custom_hooks = [
        ...     dict(type='AdversarialHook', recipe=dict(type='TAF', begin=10, interval=2))]
    """

    priority = 'VERY_HIGH'

    def __init__(
        self, recipe: Mapping[str, Any] | str | Recipe | None = None, by_epoch: bool = True
    ) -> None:
        self.recipe = None if recipe is None else build_recipe(recipe)
        self.by_epoch = by_epoch
        self._meter = CostMeter()
        self._told_layer = ''

    def before_run(self, runner: Runner) -> None:
        """Convert the model, extend the optimizer and rebuild DDP, in training; tidy the log.

        Args:
            runner (Runner): The runner.
        """
        make_log_readable(runner)
        # Another trainer in this process, such as transformers', may have removed them.
        safe_globals()
        if not isinstance(runner.optim_wrapper, BaseOptimWrapper):
            return
        wrapped = is_model_wrapper(runner.model)
        if wrapped and not isinstance(runner.model, DistributedDataParallel):
            raise TypeError(
                f'the model is wrapped in {type(runner.model).__name__}: FSDP1 moves parameters '
                'out of the norms, ZeRO-3 fails at a second backward over one graph, others do not '
                'see the adversarial parameters; leave model_wrapper_cfg out or write dict(type='
                "'MMDistributedDataParallel'), for FlexibleRunner strategy=dict(type='DDPStrategy')"
                '; a larger model needs FSDP2 in a loop of your own: examples/trainers/fsdp2.py'
            )
        model = inner_model(runner.model)
        self._convert(model)
        self._check_config(runner, get_adversary(model).recipe)
        self._keep_within_budget(runner, get_adversary(model))
        self._warn_of_schedule(runner, get_adversary(model).recipe)
        # The same seed on all ranks, so that all of them can resume from rank 0's checkpoint.
        get_adversary(model).schedule.reseed(runner.seed)
        _extend_optimizers(runner.optim_wrapper, model)
        if wrapped:
            runner.model = _rebuild_ddp(runner.model)
            if isinstance(runner, FlexibleRunner):
                runner.strategy.model = runner.model
            # Collecting the old reducer removes its hooks from the parameters.
            gc.collect()

    def before_train(self, runner: Runner) -> None:
        """Give the recipe's watch, if it has one, the first batch of the validation data.

        Args:
            runner (Runner): The runner.
        """
        model = inner_model(runner.model)
        watch = get_adversary(model).watch
        if runner.val_loop is not None and hasattr(watch, 'held_out'):
            watch.held_out = first_batch(runner.val_loop.dataloader, model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Update the schedule's position.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (Any, optional): The batch. Defaults to None.
        """
        schedule = get_adversary(inner_model(runner.model)).schedule
        schedule.go_to(runner.iter, runner.epoch if self.by_epoch else None)
        cost = self._meter.tick(schedule.adversarial_steps)
        if cost is not None:
            runner.message_hub.update_scalar('train/adv_cost', cost)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Tell after the first iteration where the attack looks; raise if there was none.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (Any, optional): The batch. Defaults to None.
            outputs (dict, optional): What ``train_step`` returned. Defaults to None.

        Raises:
            RuntimeError: The model's own ``train_step`` passed it by.
        """
        model = inner_model(runner.model)
        adversary = get_adversary(model)
        if not self._told_layer:
            self._told_layer = adversary.attacker.describe()
            if self._told_layer:
                print_log(self._told_layer, logger='current')
        if not adversary.schedule.rehearsed:
            raise RuntimeError(
                f'{type(self).__name__} announced {adversary.recipe.name}, but the '
                f'first iteration was a clean one: the train_step of {type(model).__name__} does '
                "not call the model with mode='loss', which takes the adversarial step; write "
                "losses = self(inputs, data_samples, mode='loss') there instead of self.loss(...)"
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the adversarial state to the checkpoint, beside the plain ``state_dict``.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint to be saved.
        """
        state = adversarial_state_dict(inner_model(runner.model))
        checkpoint[ENTRY] = {name: value.cpu() for name, value in state.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the adversarial state on resume.

        A run without this hook can be resumed with it: the auxiliary norms then start as copies of
        the clean ones, without optimizer state.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        model = inner_model(runner.model)
        if not (runner._resume and is_adversarial(model)):
            return
        if ENTRY in checkpoint:
            load_adversarial_state_dict(model, checkpoint[ENTRY])
        else:
            _extend_optimizer_state(checkpoint.get('optimizer', {}), runner.optim_wrapper, model)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Drop the copy of the classifier that TPNHead makes in its first validation.

        Otherwise every later validation would use it instead of the trained classifier
        (mmaction2#831), and its weights would enter the checkpoint.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): The metrics. Defaults to None.
        """
        head = getattr(inner_model(runner.model), 'cls_head', None)
        if getattr(head, 'new_cls', None) is not None:
            head.new_cls = None

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Do the same as after a validation.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): The metrics. Defaults to None.
        """
        self.after_val_epoch(runner, metrics)

    def _keep_within_budget(self, runner: Runner, adversary: Adversary) -> None:
        """Choose interval and fraction for this run, taking its clean part into account."""
        recipe = adversary.given
        if recipe.budget is None:
            return
        total = runner.max_epochs if self.by_epoch else runner.max_iters
        end = total if recipe.end is None else min(recipe.end, total)
        share = max(0.0, end - recipe.begin) / total
        # With a batch sampler the size is unknown, so always attack whole batches.
        chosen = adversary.settle_budget(runner.train_dataloader.batch_size or 1, share)
        counted = 1 + share * (step_cost(chosen) - 1) / chosen.interval
        print_log(
            f'budget={recipe.budget}: interval={chosen.interval}, fraction={chosen.fraction}, '
            f'which costs {counted:.3f} clean runs, counting forwards and backwards; if the run '
            'also has clean iterations, the measured cost is logged as adv_cost',
            logger='current',
        )

    def _check_config(self, runner: Runner, recipe: Recipe) -> None:
        if runner.cfg.get('activation_checkpointing') is not None:
            raise ValueError(
                'activation_checkpointing in mmengine is reentrant and cannot give the gradient '
                'of the inputs that an attack needs; leave it out of the config'
            )
        scheduled = recipe.begin or recipe.end is not None
        if self.by_epoch and scheduled and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'begin={recipe.begin}, end={recipe.end} count epochs, but the run is iteration-'
                'based; count iterations and write by_epoch=False'
            )

    def _warn_of_schedule(self, runner: Runner, recipe: Recipe) -> None:
        """Warn if no iteration of the run is adversarial, as in a run that was cut for a trial."""
        length = 1
        if self.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop):
            length = len(runner.train_dataloader)
        last = runner.max_iters
        if recipe.end is not None:
            last = min(last, recipe.end * length)
        first = -(-recipe.begin * length // recipe.interval) * recipe.interval
        if first >= last:
            unit = 'epochs' if self.by_epoch else 'iterations'
            total = runner.max_epochs if self.by_epoch else runner.max_iters
            print_log(
                f'no iteration of this run is adversarial: begin={recipe.begin}, end={recipe.end}, '
                f'interval={recipe.interval}, but it has {total} {unit}; write begin=0',
                logger='current',
                level=logging.WARNING,
            )

    def _convert(self, model: nn.Module) -> None:
        if is_adversarial(model):
            if self.recipe not in (None, get_adversary(model).given):
                raise ValueError(
                    'both the model (AdversarialModel) and the hook have a recipe; leave one out: '
                    "custom_hooks=[dict(type='AdversarialHook')]"
                )
        elif self.recipe is None:
            raise ValueError(
                'AdversarialHook has no recipe and the model is not adversarial; write '
                "dict(type='AdversarialHook', recipe=dict(type='TAF'))"
            )
        else:
            make_adversarial(model, self.recipe)
        if not isinstance(model, AdversarialRecognizer):
            remove_adversarial(model)
            raise TypeError(
                f'{type(self).__name__} trains recognizers of MMAction2 and classifiers of '
                f"mmpretrain, got {type(model).__name__}, whose mode='loss' would stay clean; for "
                'other models call make_adversarial(model)'
            )
        print_log(f'Adversarial training: {get_adversary(model).recipe}', logger='current')


def _optimizers(wrapper: BaseOptimWrapper) -> Iterator[Optimizer]:
    if isinstance(wrapper, OptimWrapperDict):
        for inner in wrapper.values():
            yield from _optimizers(inner)
    else:
        yield wrapper.optimizer


def _extend_optimizers(wrapper: BaseOptimWrapper, model: nn.Module) -> None:
    """Move every auxiliary parameter to the group of its clean one."""
    pairs = list(auxiliary_parameters(model))
    auxiliary = {id(value) for _, value in pairs}
    for optimizer in _optimizers(wrapper):
        if 'ZeroRedundancyOptimizer' in {kind.__name__ for kind in type(optimizer).__mro__}:
            raise TypeError(
                'ZeroRedundancyOptimizer split the parameters among the processes before the '
                "adversarial ones existed; write the plain one: optimizer=dict(type='SGD', ...)"
            )
        for group in optimizer.param_groups:
            group['params'][:] = [value for value in group['params'] if id(value) not in auxiliary]
        home = {id(value): group for group in optimizer.param_groups for value in group['params']}
        for clean, value in pairs:
            if id(clean) in home:
                home[id(clean)]['params'].append(value)
        _drop_unused_grads(optimizer, get_adversary(model))


def _drop_unused_grads(optimizer: Optimizer, adversary: Adversary) -> None:
    """Keep an optimizer from updating auxiliary parameters after clean iterations."""
    since = adversary.schedule.adversarial_steps

    def before_step(*_: Any) -> None:
        nonlocal since
        since = adversary.drop_unused_auxiliary_grads(since)

    optimizer.register_step_pre_hook(before_step)


def _extend_optimizer_state(
    state: dict[str, Any], wrapper: BaseOptimWrapper, model: nn.Module
) -> None:
    """Add entries for the auxiliary parameters to the optimizer state of a plain run."""
    if isinstance(wrapper, OptimWrapperDict):
        for name, inner in wrapper.items():
            _extend_optimizer_state(state.get(name, {}), inner, model)
        return
    auxiliary = {id(value) for _, value in auxiliary_parameters(model)}
    saved_groups = state.get('param_groups', [])
    if not saved_groups:
        # save_optimizer=False
        return
    groups = wrapper.optimizer.param_groups
    if len(saved_groups) != len(groups):
        raise ValueError(
            f'the optimizer of the clean run has {len(saved_groups)} groups of parameters, but '
            f'this one has {len(groups)}: paramwise_cfg has changed, or it gave the adversarial '
            'parameters of AdversarialModel groups of their own; write custom_hooks=[dict(type='
            "'AdversarialHook', recipe=...)] in place of AdversarialModel, or load_from without "
            'resume'
        )
    free = itertools.count(sum(len(group['params']) for group in saved_groups))
    for saved, group in zip(saved_groups, groups, strict=True):
        new = sum(id(value) in auxiliary for value in group['params'])
        saved['params'] = [*saved['params'], *itertools.islice(free, new)]


def _rebuild_ddp(old: DistributedDataParallel) -> DistributedDataParallel:
    """Rebuild the wrapper with the same settings, so that its reducer knows all parameters."""
    settings = dict(
        module=old.module,
        device_ids=old.device_ids,
        output_device=old.output_device,
        dim=old.dim,
        broadcast_buffers=old.broadcast_buffers,
        process_group=old.process_group,
        bucket_cap_mb=old.bucket_bytes_cap / 2**20,
        find_unused_parameters=old.find_unused_parameters,
        gradient_as_bucket_view=old.gradient_as_bucket_view,
        static_graph=old.static_graph,
    )
    if isinstance(old, MMDistributedDataParallel):
        settings['detect_anomalous_params'] = old.detect_anomalous_params
    return type(old)(**settings)
