"""Whether a checkpoint fits the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..datasets.files import preview
from ..evaluation.weights import unfit_weights
from .findings import Findings


def compare_weights(
    found: Findings,
    filename: str,
    checkpoint: Mapping[str, Any],
    model: Mapping[str, Any],
    resumed: bool,
) -> None:
    """Note the weights that only the model has, and those that only the checkpoint has.

    Args:
        found (Findings): Where they are noted.
        filename (str): The checkpoint.
        checkpoint (Mapping[str, Any]): What it has.
        model (Mapping[str, Any]): The state dict of the model.
        resumed (bool): Whether the run is resumed, and not fine-tuned for other classes.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    unfit = unfit_weights(weights, model)
    # Fine-tuning for other classes replaces the head on purpose; a resumed run does not.
    head = [] if resumed else [name for name in unfit if 'head' in name]
    if head:
        found.warnings.append(
            f'{filename}: {len(head)} weights of the head start untrained, which is right only '
            f'if you train for other classes: {preview(unfit.pop(name) for name in head)}'
        )
    if unfit:
        found.problems.append(
            f'{len(unfit)} weights of the model do not come from {filename}: '
            f'{preview(unfit.values())}'
        )
    unused = [name for name in weights if name not in model]
    if unused:
        found.warnings.append(
            f'{len(unused)} weights of {filename} are not in the model: {preview(unused)}'
        )
    found.facts.append(f'weights: {filename}')
