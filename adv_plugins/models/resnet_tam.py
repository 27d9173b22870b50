"""TAM: weighted sums of neighbouring frames at the input of every residual branch of a ResNet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.checks import is_integer
from .video_resnet import VideoResNet


class TemporalAggregation(nn.Conv1d):
    """Replaces each frame by the ReLU of a weighted sum of itself and its neighbours.

    ``y_t = ReLU(sum_j w_j * x_{t + j})`` for j from ``-(r // 2)`` to ``r // 2``, where each ``w_j``
    has one weight per channel and x is zero beyond the ends of a clip.

    This is a depth-wise convolution over time. It is a ``Conv1d`` because optimizer constructors,
    such as MMAction2's ``TSMOptimWrapperConstructor``, sort parameters by the type of their module.
    Its ``weight``, (channels, 1, r), is drawn with mean zero; it does not start as the identity.

    Args:
        channels (int): Number of channels, C.
        num_segments (int): Frames of a clip, T.
        kernel_size (int): Number of frames in a sum, r, an odd number. Defaults to 3.

    Raises:
        ValueError: ``kernel_size`` is not odd.

    Source: Fan et al., More Is Less: Learning Efficient Video Representations by Big-Little
    Network and Depthwise Temporal Aggregation, NeurIPS 2019.
    """

    def __init__(self, channels: int, num_segments: int, kernel_size: int = 3) -> None:
        if not is_integer(kernel_size) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f'kernel_size={kernel_size!r} must be a positive odd number: a frame and as many '
                'before it as after it; write 3 for the previous, this and the next'
            )
        super().__init__(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
        )
        self.num_segments = num_segments

    def reset_parameters(self) -> None:
        """Kaiming's normal distribution by fan-out, for r kernels of size 1 with C outputs each."""
        nn.init.normal_(self.weight, std=(2 / self.out_channels) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B * num_segments, C, H, W) to frames of the same shape.

        A sum of shifted products is at least twice as fast on a CPU as PyTorch's depth-wise 3-D
        convolution, forward and backward.
        """
        frames = x.unflatten(0, (-1, self.num_segments))
        # Under autocast, float32 weights would turn the products into float32.
        weight = self.weight.to(x.dtype).permute(2, 0, 1)[..., None]
        middle = self.kernel_size[0] // 2
        total = frames * weight[middle]
        for shift in range(1, middle + 1):
            total[:, shift:].addcmul_(frames[:, :-shift], weight[middle - shift])
            total[:, :-shift].addcmul_(frames[:, shift:], weight[middle + shift])
        return F.relu_(total).flatten(0, 1)


def aggregate_residual(block: nn.Module, num_segments: int, kernel_size: int = 3) -> None:
    """Put a :class:`TemporalAggregation` at the input of a block's residual branch.

    The identity or downsample path takes the frames unchanged. The wrapped convolution is called
    ``net``, as in MMAction2's TSM.

    Args:
        block (nn.Module): A ``BasicBlock`` or ``Bottleneck`` of MMAction2, changed in place.
        num_segments (int): Frames of a clip.
        kernel_size (int): Number of frames in a sum, an odd number. Defaults to 3.
    """
    unit = block.conv1
    tam = TemporalAggregation(unit.in_channels, num_segments, kernel_size)
    unit.conv = nn.Sequential(OrderedDict(tam=tam, net=unit.conv))


@MODELS.register_module()
class ResNetTAM(VideoResNet):
    """ResNet with temporal aggregation modules, for ``Recognizer2D`` and ``TSMHead``.

    A :class:`TemporalAggregation` precedes the residual branch of every block. It is not the
    temporal adaptive module of MMAction2's ``TANet``, which is also abbreviated TAM.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        num_segments (int): Frames of a clip. Defaults to 8.
        tam_kernel_size (int): Number of frames in a sum, an odd number. Defaults to 3.
        pretrained (str, optional): An image ResNet of the same depth with torchvision's parameter
            names, which timm uses too: ``'torchvision://resnet50'``, a URL or a path. The
            aggregation modules keep their initialisation. With ``torchvision_pretrain=False``, a
            checkpoint of this backbone. Defaults to None.
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
        ...         type='ResNetTAM', depth=50, num_segments=8,
        ...         pretrained='torchvision://resnet50'),
        ...     cls_head=dict(
        ...         type='TSMHead', num_classes=174, in_channels=2048, num_segments=8,
        ...         dropout_ratio=0.5, average_clips='prob'))

    Source: Fan et al., More Is Less: Learning Efficient Video Representations by Big-Little
    Network and Depthwise Temporal Aggregation, NeurIPS 2019.
    """

    def __init__(
        self,
        depth: int,
        num_segments: int = 8,
        tam_kernel_size: int = 3,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(depth, num_segments, pretrained, **kwargs)
        for block in self.residual_blocks():
            aggregate_residual(block, num_segments, tam_kernel_size)

    def image_filters(self, conv: nn.Module) -> nn.Parameter:
        """The filters of the convolution, which may be wrapped together with an aggregation."""
        return getattr(conv, 'net', conv).weight
