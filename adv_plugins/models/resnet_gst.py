"""GST: a ResNet whose 3x3 convolutions are split into a spatial and a spatio-temporal one."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import kaiming_init
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..core.checks import check_choice
from .video_resnet import VideoResNet

# The divisors of 64, which divides every width of a ResNet.
ALPHAS = (2, 4, 8, 16, 32, 64)


class GroupedSpatiotemporalConv(nn.Module):
    """A spatial and a spatio-temporal convolution in parallel, in place of a spatial one.

    Args:
        conv (nn.Conv2d): The convolution to replace, with C input and output channels.
        num_segments (int): Frames of a clip.
        alpha (int): The spatio-temporal part computes the last C / alpha output channels.
        beta (int): With 2, the spatial part takes the first half of the input channels and the
            spatio-temporal part the second half; with 1, both take all of them.

    Source: Luo and Yuille, Grouped Spatial-Temporal Aggregation for Efficient Action Recognition,
    ICCV 2019.
    """

    def __init__(self, conv: nn.Conv2d, num_segments: int, alpha: int, beta: int) -> None:
        super().__init__()
        self.num_segments = num_segments
        inputs, moving = conv.in_channels // beta, conv.out_channels // alpha
        self.spatial = nn.Conv2d(
            inputs,
            conv.out_channels - moving,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            bias=False,
        )
        self.spatiotemporal = nn.Conv3d(
            inputs,
            moving,
            (3, *conv.kernel_size),
            stride=(1, *conv.stride),
            padding=(1, *conv.padding),
            dilation=(1, *conv.dilation),
            bias=False,
        )
        kaiming_init(self.spatial)
        kaiming_init(self.spatiotemporal)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B * num_segments, C, H, W) to frames with the same number of channels."""
        inputs = self.spatial.in_channels
        clips = x[:, -inputs:].unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        moving = self.spatiotemporal(clips).transpose(1, 2).flatten(0, 1)
        return torch.cat([self.spatial(x[:, :inputs]), moving], dim=1)


@MODELS.register_module()
class ResNetGST(VideoResNet):
    """ResNet with grouped spatial-temporal aggregation, for ``Recognizer2D`` and ``TSMHead``.

    In every block a :class:`GroupedSpatiotemporalConv` replaces the 3x3 convolution, without a
    stride over time. All other layers act on single frames, so MMAction2's options for them keep
    their meaning.

    The authors do not use ResNet-18 and ResNet-34. In those, this project replaces the second 3x3
    convolution of each block.

    Args:
        depth (int): 50, 101 or 152 as in the paper, or 18 or 34.
        alpha (int): 1 / alpha of the channels come from the spatio-temporal convolution: 2, 4, 8,
            16, 32 or 64. Defaults to 4, as in all published models.
        beta (int): 2 for GST, whose two convolutions divide the input channels between them; 1 for
            GST-Large, where both take all of them. Defaults to 2.
        num_segments (int): Frames of a clip. Defaults to 8.
        pretrained (str, optional): An image ResNet of the same depth with torchvision's parameter
            names, which timm uses too: ``'torchvision://resnet50'``, a URL or a path. The spatial
            convolutions take its first filters and their first channels, the spatio-temporal ones
            stay random, and all other layers take its weights unchanged. With
            ``torchvision_pretrain=False``, a checkpoint of this backbone. Defaults to None.
        **kwargs: Further arguments of MMAction2's ``ResNet``, such as ``strides``,
            ``out_indices``, ``frozen_stages``, ``norm_cfg``, ``norm_eval``, ``partial_bn`` or
            ``with_cp``.

    Raises:
        ValueError: An option is unknown, the weights are not those of such a ResNet, or the inputs
            are not whole clips.

    Example:
        >>> model = dict(
        ...     type='Recognizer2D',
        ...     backbone=dict(
        ...         type='ResNetGST', depth=50, num_segments=8,
        ...         pretrained='torchvision://resnet50'),
        ...     cls_head=dict(
        ...         type='TSMHead', num_classes=174, in_channels=2048, num_segments=8,
        ...         dropout_ratio=0.3, init_std=0.001, average_clips='prob'))

    Source: Luo and Yuille, Grouped Spatial-Temporal Aggregation for Efficient Action Recognition,
    ICCV 2019.
    """

    def __init__(
        self,
        depth: int,
        alpha: int = 4,
        beta: int = 2,
        num_segments: int = 8,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice('alpha', alpha, ALPHAS)
        check_choice('beta', beta, (1, 2))
        super().__init__(depth, num_segments, pretrained, **kwargs)
        for block in self.residual_blocks():
            unit = block.conv2
            unit.conv = GroupedSpatiotemporalConv(unit.conv, num_segments, alpha, beta)

    def image_filters(self, conv: nn.Module) -> nn.Parameter:
        """The filters of the convolution; of its spatial part if it has been replaced."""
        return getattr(conv, 'spatial', conv).weight
