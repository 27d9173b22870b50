"""A dry run: do everything that training does before its first update, and report all problems.

Example:
    adv-plugins dry-run CONFIG
    mim train mmaction2 CONFIG --cfg-options runner_type=DryRunner
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..adapters.wrappers import inner_model
from ..core.conversion import get_adversary, is_adversarial
from ..datasets.files import preview
from ..datasets.inspection import (
    describe_shapes,
    inner_datasets,
    listed_videos,
    path_of,
    unreadable_line,
    unreadable_list,
)
from .checkpoints import compare_weights
from .data import compare_labels, file_problems, overlap_warnings, same_data
from .findings import Findings, ProblemsFound
from .heard import heard
from .optimizers import full_precision, without_updates
from .setup import describe_cost, describe_norms, lacks_start

STAGES = ('train', 'val', 'test')


class _NoModel(BaseModel):
    """A placeholder for a model that cannot be built, so that the rest can still be checked."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Never called."""


@RUNNERS.register_module()
class DryRunner(Runner):
    """A Runner whose ``train`` checks a config instead of training.

    It does everything that ``Runner.train`` does before the first update, with any config:

    - the datasets of ``train``, ``val`` and ``test`` build, the files they list exist and are not
      empty (where MMAction2's decoders read them from disk), their labels are classes of the
      model's ``cls_head``, videos of ``train`` are in no other, and the first video of each goes
      through its pipeline;
    - model, hooks, loops, evaluators, optimizer and schedulers build;
    - ``before_run`` of the hooks runs, which makes the model adversarial if the config says so;
    - weights load: those named by ``init_cfg`` or ``pretrained``, and those of ``load_from`` or
      ``resume``, whose entries must fit the model. If only the head does not fit ``load_from``,
      that is just a warning, because fine-tuning for other classes needs another head;
    - one training batch passes through the ``train_step`` of the model, forward and backward, with
      the adversarial recipe regardless of its schedule. No parameter changes.

    A failure does not stop the dry run: checks that depend on it are skipped, the others still run,
    and the report and the error at the end list all problems. The report also tells what the recipe
    set up, and lists as warnings what the checks warned of. The dry run writes only the log: no
    checkpoint, no config, and nothing to visualisation backends. In a distributed run, each rank
    makes its own checks, and all of them end with the same error.

    Raises:
        ProblemsFound: There are problems; raised at the end of ``train``. It is a RuntimeError.

    Example:
        >>> # in a config, or on the command line: --cfg-options runner_type=DryRunner
        >>> runner_type = 'DryRunner'
        >>> # for a config without custom_imports=dict(imports=['adv_plugins']), or one in pure
        >>> # Python, which reads none
        >>> runner_type = 'adv_plugins.dry_run.DryRunner'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._found = Findings()
        self._weights_from: list[str] = []
        super().__init__(*args, **kwargs)

    def train(self) -> nn.Module:
        """Check everything, then report.

        Returns:
            nn.Module: The model, with the weights that training would start with.

        Raises:
            ProblemsFound: There are problems.
        """
        self._report_model()
        self._given = {stage: getattr(self, f'_{stage}_dataloader') for stage in STAGES}
        stages = [stage for stage in STAGES if self._given[stage] is not None]
        for stage in stages:
            self._check_stage(stage)
        opened = [stage for stage in stages if f'{stage} first video' in self._found.passed]
        if opened:
            self._found.facts.append(
                f'only the first video of {", ".join(opened)} was opened; what the others contain '
                'was not checked'
            )
        self._check('optimizer', self._check_optimizer, needs=('model', 'train loop'))
        self._check('hooks before the run', self._check_hooks, needs=('model', 'optimizer'))
        # What does not fit is compared below, and told more exactly than mmengine does.
        self._check('pretrained weights', self._init_model_weights, needs=('model',), listen=False)
        self._check('load_from and resume', self._check_load, needs=('model',), listen=False)
        start = ('hooks before the run', 'pretrained weights', 'load_from and resume')
        self._check('start', self._check_start, needs=start)
        data = [f'train {part}' for part in ('dataset', 'files', 'labels', 'first video')]
        self._check('first batch', self._check_batch, needs=(*data, 'hooks before the run'))
        # The training step averages gradients, so either every rank runs it or none does.
        self._found.gather()
        self._check('training step', self._check_step, needs=('first batch',))
        self._report()
        return self.model

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model; one that cannot be built is reported as a problem."""
        built = self._check('model', super().build_model, model)
        return _NoModel() if built is None else built

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model, if there is one."""
        if isinstance(model, _NoModel):
            return model
        return super().wrap_model(model_wrapper_cfg, model)

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """Register a hook; one that cannot be built is reported as a problem."""
        name = hook.get('type') if isinstance(hook, dict) else type(hook).__name__
        self._check(f'hook {name}', super().register_hook, hook, priority)

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Build the visualizer without its backends, because a dry run should not be recorded."""
        visualizer = super().build_visualizer(visualizer)
        visualizer._vis_backends = {}
        return visualizer

    def dump_config(self) -> None:
        """Do nothing: a written config would replace that of a real run in the work directory."""

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint and report what does not fit, which Runner only logs."""
        model = inner_model(self.model).state_dict()
        try:
            checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        except Exception as error:
            if str(filename) in str(error):
                raise
            reason = f'{type(error).__name__}: {error}'
            raise RuntimeError(f'{filename} is no whole checkpoint: {reason}') from error
        compare_weights(self._found, filename, checkpoint, model, self._resume)
        self._weights_from.append(filename)
        return checkpoint

    def _check(
        self,
        name: str,
        check: Callable[..., Any],
        *args: Any,
        needs: tuple[str, ...] = (),
        listen: bool = True,
    ) -> Any:
        """Run a check unless one that it needs has failed; report an exception as a problem."""
        failed = [need for need in needs if need not in self._found.passed]
        if failed:
            self._found.skipped[name] = self._found.skipped.get(failed[0], failed[0])
            return None
        count = len(self._found.problems)
        result = None
        with heard() if listen else nullcontext([]) as said:
            try:
                result = check(*args)
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f'{Path(frame.filename).name}:{frame.lineno}'
                # The message comes last, as it may end with a command to copy.
                self._found.problems.append(f'{name}: {type(error).__name__} in {place}: {error}')
        self._found.warnings += said
        if len(self._found.problems) == count:
            self._found.passed.add(name)
        return result

    def _check_stage(self, stage: str) -> None:
        """Check the data of a stage and the loop that uses it."""
        dataset = f'{stage} dataset'
        self._check(dataset, self._check_dataset, stage)
        for part, check in (
            ('files', self._check_files),
            ('labels', self._check_labels),
            ('first video', self._check_first_video),
        ):
            self._check(f'{stage} {part}', check, stage, needs=(dataset,))
        if stage != 'train' and self._given['train'] is not None:
            needs = (dataset, 'train dataset')
            self._check(f'{stage} overlap', self._check_overlap, stage, needs=needs)
        # With a placeholder, the loop and everything that reads its schedule can be checked.
        if dataset not in self._found.passed:
            setattr(self, f'_{stage}_dataloader', DataLoader([None]))
        self._check(f'{stage} loop', lambda: getattr(self, f'{stage}_loop'))

    def _check_dataset(self, stage: str) -> None:
        try:
            loader = self.build_dataloader(
                getattr(self, f'_{stage}_dataloader'),
                seed=self.seed,
                diff_rank_seed=self._randomness_cfg.get('diff_rank_seed', False),
            )
        except Exception as error:
            line, problem = unreadable_line(error), unreadable_list(error)
            if problem:
                raise ValueError(problem) from error
            if not line:
                raise
            raise ValueError(
                f'{line} cannot be split: {error}; a line of VideoDataset is a path and its label, '
                'one of RawframeDataset a folder, its number of frames and its label; where paths '
                "have spaces, VideoDataset takes another delimiter, e.g. delimiter=','"
            ) from error
        setattr(self, f'_{stage}_dataloader', loader)
        if len(loader.dataset) == 0:
            raise ValueError(f'the {stage} dataset is empty')
        if len(loader) == 0:
            raise ValueError(
                f'{len(loader.dataset)} videos make no batch of {loader.batch_size}, and '
                'drop_last=True drops a smaller one; lower batch_size'
            )

    def _inner_datasets(self, stage: str) -> list[Any]:
        return list(inner_datasets(getattr(self, f'_{stage}_dataloader').dataset))

    def _check_files(self, stage: str) -> None:
        self._found.problems += file_problems(stage, self._inner_datasets(stage))

    def _check_labels(self, stage: str) -> None:
        videos = len(getattr(self, f'_{stage}_dataloader').dataset)
        option, num_classes = _num_classes(inner_model(self.model))
        datasets = self._inner_datasets(stage)
        compare_labels(self._found, stage, videos, datasets, option, num_classes)

    def _check_overlap(self, stage: str) -> None:
        training, videos = self._inner_datasets('train'), self._inner_datasets(stage)
        same = same_data(self._given['train'], self._given[stage])
        self._found.warnings += overlap_warnings(stage, training, videos, same)

    def _check_first_video(self, stage: str) -> None:
        dataset = getattr(self, f'_{stage}_dataloader').dataset
        try:
            dataset[0]
        except Exception as error:
            entry = next(listed_videos(next(inner_datasets(dataset))), {})
            video = path_of(entry)
            if not video or video in str(error):
                raise
            raise RuntimeError(f'{video}: {type(error).__name__}: {error}') from error

    def _check_optimizer(self) -> None:
        config, left_out = self.optim_wrapper, []
        if get_device() not in ('cuda', 'npu', 'mlu', 'musa'):
            config = full_precision(config, left_out)
        if left_out:
            self._found.unchecked.append(
                f'{left_out[0]}, which needs a GPU: the training step was tried in full precision'
            )
        self.optim_wrapper = self.build_optim_wrapper(config)
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)

    def _check_hooks(self) -> None:
        for hook in self._hooks:
            self._check(f'before_run of {type(hook).__name__}', hook.before_run, self)
        model = inner_model(self.model)
        if is_adversarial(model):
            self._found.facts.append(f'adversarial: {get_adversary(model).recipe}')
        else:
            self._found.facts.append('adversarial: no')

    def _check_load(self) -> None:
        self.load_or_resume()
        if self._resume and not self._weights_from:
            self._found.warnings.append(
                f'resume=True, but {self.work_dir} has no checkpoint: the run would start anew'
            )

    def _check_start(self) -> None:
        """Warn if a recipe for trained models starts with random weights."""
        model = inner_model(self.model)
        if not is_adversarial(model) or self._weights_from:
            return
        recipe = get_adversary(model).recipe
        if lacks_start(recipe, model, self.cfg.get('model')):
            self._found.warnings.append(
                f'{recipe.name} fine-tunes a trained model, but this one starts with random '
                "weights; write load_from='the_trained_model.pth', or begin= the epoch at which "
                'the model has been trained'
            )

    def _check_batch(self) -> None:
        """Fetch the first batch as the training loop would."""
        self.optim_wrapper.initialize_count_status(
            self.model, self.train_loop.iter, self.train_loop.max_iters
        )
        self.call_hook('before_train')
        self.call_hook('before_train_epoch')
        self._batch = next(iter(self.train_dataloader))
        self.call_hook('before_train_iter', batch_idx=0, data_batch=self._batch)

    def _check_step(self) -> None:
        """Run the batch forward and backward as the training loop would."""
        model = inner_model(self.model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError('no parameter of the model requires a gradient: nothing is trained')
        self.model.train()
        with without_updates(self.optim_wrapper):
            if is_adversarial(model):
                logged = self._adversarial_step(model)
            else:
                logged = self.model.train_step(self._batch, optim_wrapper=self.optim_wrapper)
        losses = {name: torch.as_tensor(value).item() for name, value in logged.items()}
        values = ', '.join(f'{name} {value:.4g}' for name, value in losses.items())
        self._found.facts.append(f'training batch: {describe_shapes(self._batch)}: {values}')
        infinite = [name for name, value in losses.items() if not math.isfinite(value)]
        if infinite:
            self._found.problems.append(f'training step: not finite: {preview(infinite)}')
        idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            self._found.warnings.append(f'{len(idle)} parameters got no gradient: {preview(idle)}')
        self.optim_wrapper.zero_grad()

    def _adversarial_step(self, model: nn.Module) -> Any:
        """The same with the recipe, whatever its schedule is; report what the recipe set up."""
        adversary = get_adversary(model)
        adversary.go_to_first_attack()
        before = adversary.schedule.adversarial_steps
        logged = self.model.train_step(self._batch, optim_wrapper=self.optim_wrapper)
        if adversary.schedule.adversarial_steps == before:
            self._found.problems.append(
                f'training step: nothing adversarial happened: the train_step of '
                f"{type(model).__name__} does not call the model with mode='loss', which takes the "
                f"step of {adversary.recipe.name}; write self(inputs, data_samples, mode='loss') "
                'there instead of self.loss(...)'
            )
            return logged
        norms, lost = describe_norms(model, self.optim_wrapper)
        facts = [adversary.attacker.describe(), norms, describe_cost(self, adversary)]
        self._found.facts += filter(None, facts)
        self._found.warnings += [lost] if lost else []
        return logged

    def _report_model(self) -> None:
        if 'model' not in self._found.passed:
            return
        model = inner_model(self.model)
        parameters = list(model.parameters())
        count, trained = (
            sum(p.numel() for p in parameters if p.requires_grad or not only)
            for only in (False, True)
        )
        self._found.facts.append(
            f'model: {type(model).__name__}, {count:,} parameters, {trained:,} trained'
        )

    def _report(self) -> None:
        found = self._found
        if is_main_process():
            level = logging.ERROR if found.problems else logging.INFO
            self.logger.log(level, found.report(f'Dry run of {self._experiment_name}:'))
        if found.problems:
            raise ProblemsFound(f'The dry run found {found.list_problems()}')


def _num_classes(model: nn.Module) -> tuple[str, int | None]:
    """The option that sets the number of classes of the model, and its value."""
    head = getattr(model, 'cls_head', None)
    if hasattr(head, 'num_classes'):
        return 'model.cls_head.num_classes', head.num_classes
    return 'model.num_classes', getattr(model, 'num_classes', None)
