"""The weights that are evaluated: loaded only if they all fit, and told apart by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..datasets.files import preview


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load a checkpoint that fits the model in full, or say what does not fit.

    Args:
        model (nn.Module): The recognizer.
        checkpoint (str): A file that training wrote, or a URL.

    Raises:
        ValueError: Weights are missing, left over, or of another shape.
    """
    file = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    file = file.get('state_dict', file)
    # The classifier that TPNHead adds in a test is no weight of the model (mmaction2#831).
    state = {n.removeprefix('module.'): v for n, v in file.items() if '.new_cls.' not in n}
    own = model.state_dict()
    problems = [*unfit_weights(state, own).values()]
    problems += [f'{name} (not in the model)' for name in state if name not in own]
    if problems:
        raise ValueError(
            f'{checkpoint} does not fit the config: {len(problems)} weights differ: '
            f'{preview(problems)}; is it a checkpoint of this config?'
        )
    model.load_state_dict(state)


def unfit_weights(file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, str]:
    """The weights of a model for which a file has no value, each with the reason.

    Args:
        file (Mapping[str, Tensor]): The state dict of a checkpoint.
        model (Mapping[str, Tensor]): The state dict of the model.

    Returns:
        dict[str, str]: Messages by the names of the weights.
    """
    unfit = {}
    for name, value in model.items():
        if name not in file:
            unfit[name] = f'{name} (not in the file)'
        elif file[name].shape != value.shape:
            got, wanted = tuple(file[name].shape), tuple(value.shape)
            unfit[name] = f'{name} ({got} in the file, {wanted} wanted)'
    return unfit


def weights_digest(model: nn.Module) -> str:
    """A digest of all names and values in a model's state dict: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
