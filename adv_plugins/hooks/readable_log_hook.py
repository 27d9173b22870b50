"""A hook that makes the lines of mmengine's log readable."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..evaluation.readable_log import make_log_readable


@HOOKS.register_module()
class ReadableLogHook(Hook):
    """Write small numbers as ``2.3e-05`` and many metrics as a table, in any run.

    Runs with an :class:`AdversarialHook` or a test loop of this package have such a log without
    this hook. Only the text changes: ``scalars.json`` and the visualizers get the same values, and
    a subclass of mmengine's ``LogProcessor`` keeps its own text.

    Example:
        >>> custom_hooks = [dict(type='ReadableLogHook')]
    """

    def before_run(self, runner: Runner) -> None:
        """Change how the runner's log processor writes.

        Args:
            runner (Runner): The runner.
        """
        make_log_readable(runner)
