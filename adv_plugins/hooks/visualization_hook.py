"""A hook that draws the CAM of clean and attacked clips during training."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.nn.parallel import DistributedDataParallel

from ..core.recipe import Recipe, build_recipe
from ..evaluation.class_names import class_names
from ..evaluation.selection import evenly_spread
from ..visualization.clip_pictures import contact_sheet
from ..visualization.clips import look, recipe_attack
from ..visualization.figures import to_rgb
from .adversarial_hook import inner_model


@HOOKS.register_module()
class AdversarialVisualizationHook(Hook):
    """Draw a few clips with their CAM, clean and under attack, and send them to the visualizer.

    After a validation and after a test, each clip is drawn as one page, see
    :func:`adv_plugins.visualization.contact_sheet`. The page is named ``adversarial_val_<index in
    the dataset>`` (``adversarial_test_...``), and its step is the run's epoch (or iteration). The
    clips are spread evenly over the dataset and are always the same. A picture that cannot be drawn
    causes a warning, not an error. The hook leaves the model and the random streams unchanged.

    Note:
        Its priority is higher than that of :class:`mmengine.hooks.EMAHook`, which restores the
        trained weights after a validation. The hook therefore shows the model that was validated.

    Args:
        interval (int): Draw at every ``interval``-th validation. Tests are always drawn. Defaults
            to 1.
        num_videos (int): Number of clips. Defaults to 2.
        recipe (dict | str | Recipe, optional): The attack, see
            :func:`adv_plugins.visualization.recipe_attack`; None draws only the clean clips.
            Defaults to ``'TAF'``.
        cam_layer (str, optional): Dotted name of the layer whose maps are shown. Defaults to
            None: the last stage of the backbone, if the adapter finds it.

    Raises:
        ValueError: An option is not as described.

    Example:
        >>> custom_hooks = [
        ...     dict(
        ...         type='AdversarialVisualizationHook',
        ...         interval=5,
        ...         recipe=dict(type='TAF', eps=8 / 255, step_size=2 / 255, steps=4))]
        >>> vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
        >>> visualizer = dict(type='ActionVisualizer', vis_backends=vis_backends)
    """

    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        interval: int = 1,
        num_videos: int = 2,
        recipe: Mapping[str, Any] | str | Recipe | None = 'TAF',
        cam_layer: str | None = None,
    ) -> None:
        for name, value in (('interval', interval), ('num_videos', num_videos)):
            if value < 1:
                raise ValueError(f'{name}={value} must be 1 or more')
        self.interval = interval
        self.num_videos = num_videos
        self.recipe = None if recipe is None else build_recipe(recipe)
        self.cam_layer = cam_layer
        self.validations = 0

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw clips of the validation set.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): The metrics. Defaults to None.
        """
        self.validations += 1
        if self.validations % self.interval == 0:
            self._try_to_draw(runner, 'val')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw clips of the test set.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): The metrics. Defaults to None.
        """
        self._try_to_draw(runner, 'test')

    def _try_to_draw(self, runner: Runner, stage: str) -> None:
        if not is_main_process():
            return
        try:
            with _random_streams_kept():
                self._draw(runner, stage)
        except Exception as error:
            # A failed picture must never stop the training.
            message = f'{type(self).__name__} drew nothing: {type(error).__name__}: {error}'
            print_log(message, 'current', logging.WARNING)

    def _draw(self, runner: Runner, stage: str) -> None:
        if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
            raise TypeError(
                f'{type(runner.model).__name__} shards the model, so one process cannot run it'
            )
        model = inner_model(runner.model)
        loop = runner.val_loop if stage == 'val' else runner.test_loop
        loader = loop.dataloader
        attack = None if self.recipe is None else recipe_attack(model, self.recipe)
        num_classes = model.cls_head.num_classes
        classes = class_names(loader.dataset, num_classes, runner.cfg.get('label_map'))
        by_epoch = isinstance(runner._train_loop, EpochBasedTrainLoop)
        step = runner.epoch if by_epoch else runner.iter
        for index in evenly_spread(len(loader.dataset), self.num_videos):
            data = model.data_preprocessor(loader.collate_fn([loader.dataset[index]]), False)
            (seen,) = look(
                model, data['inputs'], data['data_samples'], attack, cam_layer=self.cam_layer
            )
            page = to_rgb(contact_sheet(seen, classes))
            runner.visualizer.add_image(f'adversarial_{stage}_{index}', page, step)


@contextmanager
def _random_streams_kept() -> Iterator[None]:
    """Restore the global random state, which transforms of a test pipeline may change."""
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
