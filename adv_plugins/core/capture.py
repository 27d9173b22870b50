"""Capturing feature maps in a forward pass; leaves the model unchanged.

Hooks exist only inside the ``with`` block. Captured tensors keep their graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

from einops import EinopsError, rearrange
from torch import Tensor, nn

from .checks import near_names

FRAMES = 'b t c h w'
LAYOUTS = {4: '(b t) c h w', 5: 'b c t h w'}
_AXIS = re.compile(r'(?:(\d+)\+)?(\([^)]*\)|[^\s()]+)')


class FeatureLayer(Protocol):
    """Where an objective reads its features."""

    @property
    def name(self) -> str:
        """Dotted name of the layer."""

    @property
    def layout(self) -> str | None:
        """The axes of the features, see :func:`to_frames`."""

    @property
    def fused(self) -> frozenset[str]:
        """What follows in fused kernels: ``'attention'``, ``'recurrent'`` layers."""

    def pick(self, output: Any) -> Any:
        """The features in the output of the layer."""


@contextmanager
def capture_output(
    module: nn.Module | None, behind: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[list[Any]]:
    """Collect the outputs of a module's forwards.

    Args:
        module (nn.Module, optional): The module to listen to; None collects nothing.
        behind (Callable): Makes a context that what runs after the module's first forward runs
            in. Defaults to none.

    Yields:
        list: One entry per forward, filled while the block runs.
    """
    outputs: list[Any] = []
    if module is None:
        yield outputs
        return
    with ExitStack() as stack:

        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            if not outputs:
                stack.enter_context(behind())
            outputs.append(output)

        stack.callback(module.register_forward_hook(note).remove)
        yield outputs


def last_output(outputs: list[Any], layer: str) -> Any:
    """The last output of the captured layer.

    Raises:
        ValueError: The layer was not called.
    """
    if not outputs:
        raise ValueError(f'{layer!r} takes no part in the forward pass; name a layer that does')
    return outputs[-1]


def tensors_of(output: Any) -> list[Tensor]:
    """The floating-point tensors in the output of a module, in their order."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if not isinstance(output, (list, tuple)):
        return []
    return [tensor for entry in output for tensor in tensors_of(entry)]


def find_module(model: nn.Module, name: str, option: str) -> nn.Module:
    """A submodule by its dotted name.

    Raises:
        ValueError: There is no such module; the message names the option and similar names.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if name in modules and name:
        return modules[name]
    near = near_names(name, filter(None, modules))
    hint = ' or '.join(f'{option}={match!r}' for match in near) or 'a name of named_modules()'
    raise ValueError(f'{option}={name!r} is no module of {type(model).__name__}; write {hint}')


def to_frames(features: Any, batch_size: int, layer: str, layout: str | None = None) -> Tensor:
    """Feature maps as (B, T, C, H, W).

    Args:
        features (Any): The layer's output.
        batch_size (int): Number of clips in the batch.
        layer (str): The layer's name, for messages.
        layout (str, optional): The axes of the feature map as an einops pattern over
            ``b t c h w``. Sizes that cannot be inferred follow a semicolon:
            ``'b (t h w) c; t=8 h=14'``. ``1+`` before an axis drops its first entry, a class
            token: ``'b 1+(t h w) c; t=8 h=14'``. Defaults to None: ``'(b t) c h w'`` for four
            axes, ``'b c t h w'`` for five.

    Returns:
        Tensor: The maps, shape (B, T, C, H, W).

    Raises:
        ValueError: The output is not a single tensor, the layout does not fit, or there is no time
            axis.
    """
    advice = f'name another layer with cam_layer, or the axes of {layer!r} with cam_layout'
    if not isinstance(features, Tensor):
        kind = type(features).__name__
        raise ValueError(f'cam_layer={layer!r} returns a {kind}, not one tensor; {advice}')
    shape = tuple(features.shape)
    if layout is None:
        if features.ndim not in LAYOUTS:
            raise ValueError(
                f'cam_layer={layer!r} returns the shape {shape}, whose axes are unknown; {advice}, '
                "e.g. cam_layout='b (t h w) c; t=8 h=14'"
            )
        layout = LAYOUTS[features.ndim]
    pattern, _, given = layout.partition(';')
    try:
        sizes = {key: int(value) for key, value in (item.split('=') for item in given.split())}
        sizes.setdefault('b', batch_size)
        axes = _AXIS.findall(pattern)
        for axis, (extra, _) in enumerate(axes):
            if extra:
                features = features.narrow(axis, int(extra), shape[axis] - int(extra))
        pattern = ' '.join(name for _, name in axes)
        frames: Tensor = rearrange(features, f'{pattern} -> {FRAMES}', **sizes)
    except (EinopsError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f'cam_layout={layout!r} does not fit the shape {shape} of cam_layer={layer!r} for a '
            f'batch of {batch_size}: {error}'
        ) from error
    if frames.shape[1] < 2:
        raise ValueError(
            f'cam_layer={layer!r} returns the shape {shape}: a map without a time axis (T=1), so '
            f'there is no attention to move between frames; {advice}'
        )
    return frames
