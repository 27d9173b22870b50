"""What ``transformers.Trainer`` and a converted model write into a checkpoint folder."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.conversion import (
    adversarial_state_dict,
    is_adversarial,
    load_adversarial_state_dict,
)
from ..core.sharding import is_sharded
from ..core.subclass import swapped_from

STATE_FILE = 'adversarial.pt'
"""The file in a checkpoint folder that holds the state of the adversarial path."""


def save_state(state: Mapping[str, Tensor], folder: str | os.PathLike[str]) -> None:
    """Save a state from ``adversarial_state_dict`` in a checkpoint folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.save({name: value.cpu() for name, value in state.items()}, Path(folder, STATE_FILE))


@functools.cache
def teach_trainer() -> None:
    """Let Trainer load the adversarial state with the weights, and save that of a sharded model.

    Neither the model nor the callbacks learn the folder of the weights that are loaded, and all
    processes take part in gathering a state, of which only the main one calls ``save_pretrained``.
    So the methods of Trainer that know the one and run in all of the others are extended.
    """
    if find_spec('accelerate') is None:
        # Trainer needs accelerate.
        return
    from transformers import Trainer

    resume, load_best = Trainer._load_from_checkpoint, Trainer._load_best_model
    save = Trainer.save_model

    def load_rest(trainer: Any, folder: str) -> None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if is_adversarial(model) and Path(folder).is_dir():
            if not is_sharded(model):
                _load_renamed_weights(model, Path(folder))
            _load_state(model, Path(folder) / STATE_FILE)

    @functools.wraps(resume)
    def resume_all(self: Any, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        resume(self, resume_from_checkpoint, *args, **kwargs)
        load_rest(self, resume_from_checkpoint)

    @functools.wraps(load_best)
    def load_all_of_best(self: Any) -> None:
        load_best(self)
        load_rest(self, self.state.best_model_checkpoint)

    @functools.wraps(save)
    def save_all(self: Any, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if is_adversarial(model) and is_sharded(model):
            # First, because Trainer may push the folder to the Hub.
            state = adversarial_state_dict(model)
            if self.args.should_save:
                save_state(state, output_dir or self.args.output_dir)
        save(self, output_dir, *args, **kwargs)

    Trainer._load_from_checkpoint = resume_all
    Trainer._load_best_model = load_all_of_best
    Trainer.save_model = save_all


def _load_renamed_weights(model: Any, folder: Path) -> None:
    """Load weights that are saved under other names (VideoMAE's biases, ViT's blocks).

    Trainer skips them when it resumes (transformers#43701); ``from_pretrained`` knows the names.
    """
    from safetensors import safe_open

    saved: set[str] = set()
    for file in folder.glob('model*.safetensors'):
        with safe_open(file, framework='pt') as weights:
            saved.update(weights.keys())
    if not saved <= model.state_dict().keys():
        plain = swapped_from(type(model)).from_pretrained(folder, dtype=model.dtype)
        model.load_state_dict(plain.state_dict())


def _load_state(model: nn.Module, file: Path) -> None:
    if file.is_file():
        state = torch.load(file, map_location='cpu', weights_only=True)
        load_adversarial_state_dict(model, state)
    else:
        warnings.warn(
            f'{file.parent} has no {STATE_FILE}: it is from a plain run, and the schedule of the '
            'recipe starts from the beginning',
            stacklevel=2,
        )
