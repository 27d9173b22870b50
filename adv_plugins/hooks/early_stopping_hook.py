"""Early stopping that gives the same result for interrupted and resumed runs."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EarlyStoppingHook
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

ENTRY = 'early_stopping'
"""The checkpoint's top-level entry for the state of early stopping."""


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's ``EarlyStoppingHook``, extended to support ``--resume`` and ``mim test``.

    The best score and the number of validations without improvement are saved in the checkpoint. A
    checkpoint is written before the validation of its own iteration, which a resumed run would
    skip. This hook runs that validation first, so that learning-rate schedulers that watch a metric
    see it too. In ``mim test`` mmengine's hook would build the training loop, and so need the
    training data.

    Args:
        monitor (str): The metric, e.g. ``'GAP'``.
        rule (str, optional): ``'greater'`` or ``'less'``. Defaults to None: inferred from the
            metric's name.
        min_delta (float): Minimum improvement. Defaults to 0.0 (mmengine's default is 0.1).
        patience (int): Number of validations without improvement before stopping. Defaults to 5.
        **kwargs: Further arguments of ``EarlyStoppingHook``.

    Example:
        >>> default_hooks = dict(
        ...     early_stopping=dict(
        ...         type='ResumableEarlyStoppingHook', monitor='GAP', rule='greater', patience=5))
    """

    def __init__(
        self,
        monitor: str,
        rule: str | None = None,
        min_delta: float = 0.0,
        patience: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(monitor, rule=rule, min_delta=min_delta, patience=patience, **kwargs)
        self.validated_at = 0

    def before_run(self, runner: Runner) -> None:
        """Check the training loop; only in training.

        Args:
            runner (Runner): The runner.
        """
        if isinstance(runner.optim_wrapper, BaseOptimWrapper):
            super().before_run(runner)

    def before_train(self, runner: Runner) -> None:
        """Run the validation that the interrupted run missed.

        Args:
            runner (Runner): The runner.
        """
        loop = runner.train_loop
        progress = runner.epoch if isinstance(loop, EpochBasedTrainLoop) else runner.iter
        due = progress >= max(loop.val_begin, 1) and progress % loop.val_interval == 0
        if runner.val_loop is not None and due and self.validated_at != runner.iter:
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Decide whether to stop.

        Args:
            runner (Runner): The runner.
            metrics (dict): The metrics of the validation.
        """
        self.validated_at = runner.iter
        super().after_val_epoch(runner, metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the state of early stopping.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The checkpoint to be saved.
        """
        checkpoint[ENTRY] = dict(
            best_score=float(self.best_score),
            wait_count=self.wait_count,
            validated_at=self.validated_at,
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the state of early stopping on resume.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        if runner._resume and ENTRY in checkpoint:
            vars(self).update(checkpoint[ENTRY])
