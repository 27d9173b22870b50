"""The base of the backbones that add temporal layers to MMAction2's ResNet.

The frames of a clip pass through the image network together, as in MMAction2's TSM. The weights of
an image network load completely or not at all, whereas MMAction2's loader skips what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmaction.models.backbones.resnet import ResNet
from mmcv.cnn import ConvModule
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn

from ..core.checks import check_choice, is_integer


def check_num_segments(num_segments: int, multiple_of: int = 1) -> None:
    """Raise a ValueError unless ``num_segments`` is a positive multiple of ``multiple_of``."""
    if not is_integer(num_segments) or num_segments < 1 or num_segments % multiple_of:
        kind = 'whole' if multiple_of == 1 else 'even'
        raise ValueError(
            f'num_segments={num_segments!r} must be a positive {kind} number: the frames of a '
            'clip; write that of the pipeline, e.g. num_segments=8'
        )


def check_frames(x: Tensor, num_segments: int) -> None:
    """Raise a ValueError unless ``x`` holds the images of whole clips, (B * T, C, H, W)."""
    if x.ndim != 4 or len(x) % num_segments:
        raise ValueError(
            f'inputs {tuple(x.shape)} are not clips of num_segments={num_segments} frames; '
            f'give (batch * {num_segments}, C, H, W): write num_clips={num_segments}, clip_len=1 '
            "in the pipeline's SampleFrames and input_format='NCHW' in its FormatShape, or "
            'another num_segments'
        )


class VideoResNet(ResNet):
    """MMAction2's ResNet over the frames of clips; subclasses add layers across frames.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        num_segments (int): Frames of a clip.
        pretrained (str, optional): The weights of an image ResNet, see the subclasses.
        **kwargs: Further arguments of MMAction2's ``ResNet``.
    """

    def __init__(
        self, depth: int, num_segments: int, pretrained: str | None = None, **kwargs: Any
    ) -> None:
        check_choice('depth', depth, tuple(self.arch_settings))
        check_num_segments(num_segments)
        super().__init__(depth, pretrained=pretrained, **kwargs)
        self.num_segments = num_segments

    def residual_blocks(self) -> Iterator[nn.Module]:
        """The residual blocks, starting at the input."""
        for name in self.res_layers:
            yield from getattr(self, name)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the features of each frame.

        Args:
            x (Tensor): (B * num_segments, C, H, W), the frames of each clip in order.

        Returns:
            Tensor | tuple[Tensor, ...]: (B * num_segments, C', h, w), for each of ``out_indices``.

        Raises:
            ValueError: The frames are not whole clips.
        """
        check_frames(x, self.num_segments)
        return super().forward(x)

    def image_filters(self, conv: nn.Module) -> nn.Parameter:
        """The parameter of a convolution that receives the filters of an image network.

        A smaller parameter receives the first filters and their first channels.
        """
        return conv.weight

    def _load_torchvision_checkpoint(self, logger: MMLogger | None = None) -> None:
        given = self._image_weights()
        slots = self._image_slots()
        wrong = {
            'missing': slots.keys() - given.keys(),
            'unknown': given.keys() - slots.keys(),
            'of another shape': [
                f'{name} {tuple(given[name].shape)}, not {shape}'
                for name, (_, shape) in slots.items()
                if name in given and given[name].shape != shape
            ],
        }
        if any(wrong.values()):
            mismatches = '; '.join(
                f'{len(names)} {what}: {", ".join(sorted(names)[:4])}{", ..." * (len(names) > 4)}'
                for what, names in wrong.items()
                if names
            )
            raise ValueError(
                f'pretrained={self.pretrained!r} is not a ResNet-{self.depth} in the format of '
                f'torchvision and timm ({mismatches}); write '
                f"pretrained='torchvision://resnet{self.depth}', or None"
            )
        with torch.no_grad():
            for name, (target, _) in slots.items():
                target.copy_(given[name][tuple(slice(size) for size in target.shape)])
        if logger is not None:
            logger.info(
                f'{type(self).__name__} loaded all {len(slots)} tensors of {self.pretrained}; '
                'layers that an image network lacks keep their initialisation'
            )

    def _image_weights(self) -> dict[str, Tensor]:
        """The checkpoint under torchvision's names, without entries that this network lacks."""
        checkpoint = _load_checkpoint(self.pretrained, map_location='cpu')
        for wrapper in ('state_dict', 'model'):
            checkpoint = checkpoint.get(wrapper, checkpoint)
        unused = ('fc.', *(f'layer{stage}.' for stage in range(self.num_stages + 1, 5)))
        weights = {name.removeprefix('module.'): value for name, value in checkpoint.items()}
        return {
            name: value
            for name, value in weights.items()
            # Old checkpoints lack the counters, which batch norms with a momentum do not need.
            if not name.startswith(unused) and not name.endswith('num_batches_tracked')
        }

    def _image_slots(self) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
        """The tensors that receive the weights and torchvision's shapes, by torchvision's names."""
        slots = {}
        for name, unit in self.named_modules():
            if not isinstance(unit, ConvModule):
                continue
            conv, norm = name, name.replace('conv', 'bn')
            if name.endswith('downsample'):
                conv, norm = f'{name}.0', f'{name}.1'
            # A ConvModule remembers the sizes of its convolution even after that was replaced.
            shape = (unit.out_channels, unit.in_channels, *unit.kernel_size)
            slots[f'{conv}.weight'] = (self.image_filters(unit.conv), shape)
            for key, value in unit.norm.state_dict().items():
                if key != 'num_batches_tracked':
                    slots[f'{norm}.{key}'] = (value, tuple(value.shape))
        return slots
