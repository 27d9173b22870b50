"""The state that a converted model carries: its attack, its step and its schedule."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .attacker import Attacker
from .autograd import gradients, inject_gradients, parameters_of
from .batch import Batch, Inputs, fresh
from .compiling import not_compiled
from .cost import within_budget
from .norm import (
    ADVERSARIAL,
    CLEAN,
    DualNorm,
    NormPath,
    auxiliary_parameters,
    check_twins,
    copy_clean_to_auxiliary,
    dual_norms,
    is_batch_norm,
    mirror_requires_grad,
    plain_batch_norms,
)
from .probe import Probe, probing
from .randomness import private_random
from .recipe import Recipe
from .record import Recorded, StepResult
from .regularizers import Regularizer
from .schedule import Schedule
from .sharding import (
    check_sharding,
    extremes,
    gathered,
    in_forward,
    is_sharded,
    reshard_all,
    shards,
)
from .step import Step, trainable
from .watch import BypassWatch, OptimizerWatch


class Adversary:
    """The adversarial training of one model, attached by :func:`adv_plugins.make_adversarial`.

    Args:
        adapter (Adapter): How the model is called.
        recipe (Recipe): The recipe of the step.
        path (NormPath): The path that the model's norms follow.

    Attributes:
        given (Recipe): The recipe as the user gave it.
        recipe (Recipe): The recipe with the interval and the fraction that its budget pays for.
        schedule (Schedule): How far the run has come.
        watch (Callable, optional): This model's copy of the recipe's watch.
    """

    def __init__(self, adapter: Adapter, recipe: Recipe, path: NormPath) -> None:
        self.adapter = adapter
        self.given = self.recipe = recipe
        self.schedule = Schedule()
        self.watch = copy.deepcopy(recipe.watch)
        self.attacker = Attacker(adapter, recipe, path, self.schedule)
        for regularizer in recipe.regularizers:
            regularizer.check(self.model)
        self._to_verify = [
            regularizer
            for regularizer in recipe.regularizers
            if type(regularizer).verify is not Regularizer.verify
        ]
        self._verified = not self._to_verify
        self._checked: tuple[int, ...] | None = None
        self._num_norms = len(dual_norms(self.model))
        self._left_plain = plain_batch_norms(self.model)
        self._bypass = BypassWatch()
        self._optimizer = OptimizerWatch()

    @property
    def model(self) -> nn.Module:
        """The converted model."""
        return self.adapter.model

    @not_compiled
    def losses(self, inputs: Inputs, target: Any) -> dict[str, Tensor]:
        """The losses of one training iteration; the plain ones where the schedule says so.

        The first call always tries the adversarial path. A recipe that does not fit the model, the
        data or the memory thus fails before anything is trained, not days later when its schedule
        begins. Under ``no_grad`` and ``inference_mode`` nothing is trained and the schedule does
        not advance.
        """
        trains, batch = torch.is_grad_enabled(), Batch(inputs)
        self._bypass.stop()
        if trains:
            self._optimizer.look()
        if any(value.requires_grad for value in batch.values.values()):
            raise ValueError(
                'the inputs require a gradient, but an adversarial step passes no gradient on to '
                'what computed them; convert the whole model, or pass inputs.detach()'
            )
        self._check_model()
        alone = not self.adapter.calls_model and is_sharded(self.model)
        if trains and alone and not in_forward(self.model):
            raise TypeError(
                f'{type(self.model).__name__} is sharded, and FSDP2 reduces the gradients of what '
                'its forward returns: call the model itself, which takes the step in its forward, '
                'in place of adversarial_loss'
            )
        gathering = gathered(self.model, as_found=not trains)
        with torch.inference_mode(False), torch.enable_grad(), gathering:
            return self._losses(batch, target, trains)

    def _losses(self, batch: Batch, target: Any, trains: bool) -> dict[str, Tensor]:
        schedule = self.schedule
        first = trains and not schedule.rehearsed
        if first and self.recipe.budget is not None:
            self.settle_budget(batch.size)
        active = schedule.is_active(self.recipe)
        if not trains or batch.is_inference():
            # Tensors that were made under inference_mode cannot take part in a graph.
            batch, target = batch.clone(), fresh(target)
        if first or active:
            self.examine(batch, target)
        watching = trains and (first or active) and self.watch is not None
        seen = self.watch(self, batch, target) if watching else {}
        if first and not active:
            self._rehearse(batch, target)
            self._warn_if_clean()
        losses_of = self._adversarial_losses if active else self._clean_losses
        losses = losses_of(batch, target)
        if trains:
            schedule.step_taken(adversarial=active)
            if active and self.recipe.adv_weight > 0:
                self._optimizer.note(self.model)
        return self.adapter.beside(losses, seen)

    @not_compiled
    def clean_losses(self, inputs: Inputs, target: Any) -> dict[str, Tensor]:
        """The plain model's losses.

        Their backward still reaches the auxiliary parameters, because DistributedDataParallel
        raises an error for a parameter that it does not reach.
        """
        self._bypass.stop()
        return self._clean_losses(Batch(inputs), target)

    def perturb(self, inputs: Inputs, target: Any) -> Inputs:
        """The adversarial inputs; in eval mode the deployed (clean) path is attacked."""
        self._check_model()
        self._bypass.stop()
        trained = self.model.training and self.schedule.started
        branch = self.recipe.attack_path if trained else CLEAN
        return self.attacker.perturb(inputs, target, self.schedule.stream(), branch)

    def examine(self, batch: Batch, target: Any) -> None:
        """Find and check what the recipe reads of the model, at the first batch.

        Raises:
            ValueError: There is nothing of the kind, or it is read wrongly.
        """
        self.attacker.find_layer(batch, target)
        # A single sample shows nothing.
        if self._verified or extremes(self.model, min(batch.size, 2))[0] < 2:
            return
        with probing(self.adapter, batch, target, self.attacker.path) as probe:
            for regularizer in self._to_verify:
                base, changed = (
                    self._recorded(regularizer, probe, seen)
                    for seen in (probe.batch, probe.with_another_first_sample())
                )
                regularizer.verify(base, changed, probe.batch.size)
        self._verified = True

    def _recorded(self, regularizer: Regularizer, probe: Probe, batch: Batch) -> list[Recorded]:
        with regularizer.record(self.model) as recorded:
            probe.forward(batch)
        return [entry.detach() for entry in recorded]

    def check_again(self) -> None:
        """Check the model at the next step as at the first one."""
        self._checked = None

    def passed_by(self, call: str) -> None:
        """Note a training forward that did not go through the step; ``call`` is what does."""
        if self.model.training and torch.is_grad_enabled():
            self._bypass.note(call)

    def settle_budget(self, batch_size: int, share: float = 1.0) -> Recipe:
        """Choose the interval and the fraction that the budget pays for.

        Called at the first batch at the latest.

        Args:
            batch_size (int): Number of samples in a batch.
            share (float): Part of the run in which the adversarial path is taken. Defaults to 1.0.

        Returns:
            Recipe: The recipe with the chosen values; it also becomes ``self.recipe``.
        """
        self.recipe = within_budget(self.given, batch_size, share)
        return self.recipe

    def go_to_first_attack(self) -> None:
        """Move the schedule to its first adversarial iteration."""
        begin, interval = self.recipe.begin, self.recipe.interval
        by_epoch = self.schedule.epoch is not None
        self.schedule.go_to(-(-begin // interval) * interval, begin if by_epoch else None)

    def drop_unused_auxiliary_grads(self, since: int) -> int:
        """Drop the gradients of the auxiliary parameters if no adversarial step produced them.

        In a clean iteration DistributedDataParallel fills their missing gradients with zeros, and
        with a zero gradient weight decay and momentum would still move the parameters. Call this
        before each step of the optimizer.

        Args:
            since (int): What the previous call returned, before the optimizer's last step.

        Returns:
            int: The number of adversarial steps so far.
        """
        steps = self.schedule.adversarial_steps
        if steps == since:
            reshard_all(self.model)
            for _, auxiliary in auxiliary_parameters(self.model):
                auxiliary.grad = None
        return steps

    def _clean_losses(self, batch: Batch, target: Any) -> dict[str, Tensor]:
        losses = dict(self.adapter.losses(batch, target))
        auxiliary = [value for _, value in auxiliary_parameters(self.model) if value.requires_grad]
        if auxiliary and not is_sharded(self.model):
            first = next(name for name in losses if 'loss' in name)
            zero = losses[first].detach().new_zeros(())
            losses[first] = losses[first] + inject_gradients(zero, dict.fromkeys(auxiliary))
        return losses

    def _adversarial_losses(self, batch: Batch, target: Any) -> dict[str, Tensor]:
        if not self.schedule.started:
            with shards(self.model):
                copy_clean_to_auxiliary(self.model)
        mirror_requires_grad(self.model)
        result = self._step(batch, target)
        return self.adapter.beside(self.adapter.report(result, self.recipe), result.metrics)

    def _step(self, batch: Batch, target: Any) -> StepResult:
        result = Step(self.attacker, self.recipe)(batch, target, self.schedule.stream())
        if not self.schedule.rehearsed:
            self._warn_if_unmoved(result.metrics, result.adversarial.batch_size)
            self._check_recomputed(result)
        return result

    def _rehearse(self, batch: Batch, target: Any) -> None:
        """Try the whole step, backward included, and leave the model unchanged."""
        random = private_random(batch.device, self.schedule.stream())
        with random, self.attacker.path.use(CLEAN, tracking=False):
            result = self._step(batch, target)
            parameters = trainable(self.model) or parameters_of(result.total)
            if parameters:
                with self.attacker.path.use(ADVERSARIAL), self.attacker.buffers.hold():
                    gradients(result.total, parameters)

    def _warn_if_unmoved(self, metrics: dict[str, Tensor], count: int) -> None:
        """Warn if the first attack had no gradient to follow."""
        solver, layer = self.recipe.solver, self.attacker.layer
        flat = self.attacker.flat and self.recipe.random_start
        unmoved = flat or (metrics['adv_unmoved'] == count and metrics['adv_nonfinite'] == 0)
        if not unmoved or metrics['adv_eps'] == 0 or solver.step_size == 0:
            return
        what = 'left all samples where they started' if flat else 'moved no sample'
        where = f' of cam_layer={layer.name!r}' if layer else ''
        warnings.warn(
            f'the first attack {what}, because the gradient of the objective is zero '
            f'everywhere: the class scores may not depend on the output{where} (a class token '
            'reads no other token of its own block: name the block before), stochastic depth may '
            'have skipped the layers between them, or later layers may still have weights of zero',
            stacklevel=2,
        )

    def _check_recomputed(self, result: StepResult) -> None:
        """Warn if the step kept the clean graph; raise if a second forward was another one."""
        if not (self.recipe.recompute and self.recipe.regularized):
            return
        again, loss = result.recomputed, result.clean.loss
        if again is None:
            warnings.warn(
                'recompute=True has no effect: the model runs in fp16, whose gradients need the '
                "loss scale of the trainer's backward, or its loss depends on a graph from before "
                'the step; train in bfloat16, or leave it out',
                stacklevel=2,
            )
        # Kernels may round otherwise, but not by so much.
        elif not torch.isclose(again, loss, rtol=0.01, atol=1e-3, equal_nan=True):
            raise RuntimeError(
                f'the clean forward gave the loss {float(loss):.6g}, and {float(again):.6g} when '
                'it ran once more; recompute=True needs a model that does the same with the same '
                'inputs, buffers and random state: write recompute=False'
            )

    def _warn_if_clean(self) -> None:
        """Warn if the run may train nothing adversarial; a trainer has checked its length."""
        recipe, schedule = self.recipe, self.schedule
        options = f'begin={recipe.begin}, end={recipe.end}, interval={recipe.interval}'
        first = -(-recipe.begin // recipe.interval) * recipe.interval
        if recipe.end is not None and recipe.end <= schedule.progress:
            told = f'no iteration from here on is adversarial ({options})'
        elif schedule.driven or recipe.begin <= schedule.progress:
            return
        elif recipe.end is not None and recipe.end <= first:
            told = f'no iteration is adversarial ({options})'
        else:
            told = f'iteration {first} is the first adversarial one ({options}); a run that ends '
            told += 'before trains nothing adversarial'
        warnings.warn(told, stacklevel=4)

    def _check_model(self) -> None:
        """Raise if the model was changed after its conversion in a way that breaks the step."""
        parts = list(self.model.modules())
        # Counted at each step: the checks themselves take longer.
        counts = (
            len(parts),
            sum(isinstance(part, DualNorm) for part in parts),
            sum(map(is_batch_norm, parts)),
            sum(len(part._parameters) + len(part._buffers) for part in parts),
            hash(frozenset(map(type, parts))),
        )
        if counts == self._checked:
            return
        check_sharding(self.model)
        first, last = extremes(self.model, 2 * self.schedule.iteration + self.schedule.started)
        if first != last:
            raise RuntimeError(
                f'the processes of a sharded model are at different iterations, from {first // 2} '
                f'to {last // 2}, and would wait for each other; call load_adversarial_state_dict '
                'on every process'
            )
        check_inference(self.model)
        plain = plain_batch_norms(self.model)
        added = [name for name in plain if name not in self._left_plain]
        if len(dual_norms(self.model)) != self._num_norms or added:
            what = f'{added[0]} was added' if added else 'norm layers were replaced'
            raise RuntimeError(
                f'{what} after make_adversarial (a SyncBN conversion?), without auxiliary norms; '
                'convert SyncBN first and call make_adversarial last'
            )
        for norm in dual_norms(self.model):
            check_twins(norm, norm._auxiliary)
        self._checked = counts


def check_inference(model: nn.Module) -> None:
    """Raise for parameters and statistics made under inference_mode: they have no gradients."""
    norms = (buffers for m in model.modules() if is_batch_norm(m) for buffers in m.named_buffers())
    for name, value in (*model.named_parameters(), *norms):
        if value.is_inference():
            raise RuntimeError(
                f'{name} was made under torch.inference_mode, and gradients cannot be computed '
                'with it; build, copy and load the model outside of it, or under torch.no_grad'
            )
