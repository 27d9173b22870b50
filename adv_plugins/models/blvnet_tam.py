"""bLVNet-TAM: of each two frames, one goes to a wide, coarse branch, one to a narrow, fine one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmaction.models.backbones.resnet import Bottleneck
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.checks import check_choice, is_integer
from .resnet_tam import TemporalAggregation, aggregate_residual
from .video_resnet import check_frames, check_num_segments

# Number of bottlenecks of each stage by depth; in the first three, big branch plus fusion.
LAYERS = {50: (3, 4, 6, 3), 101: (4, 8, 18, 3), 152: (5, 12, 30, 3)}
# The divisors of 64, the narrowest width in the network.
ALPHAS = (1, 2, 4, 8, 16, 32, 64)


class BigLittle(nn.Module):
    """A big branch for one frame of each pair, a little branch for the other, and their fusion.

    Args:
        tam (nn.Module): Takes all frames, before they are divided between the branches.
        big (nn.Module): Takes the second frame of each pair; may reduce its size.
        little (nn.Module): Takes the first frame of each pair.
        fusion (nn.Module): Takes the ReLU of the sum of both branches.
    """

    def __init__(
        self, tam: nn.Module, big: nn.Module, little: nn.Module, fusion: nn.Module
    ) -> None:
        super().__init__()
        self.tam = tam
        self.big = big
        self.little = little
        self.fusion = fusion

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (N, C, H, W), ordered by pairs, to one map per pair, (N / 2, ...)."""
        x = self.tam(x)
        little = self.little(x[::2])
        big = F.interpolate(self.big(x[1::2]), little.shape[-2:], mode='nearest')
        return self.fusion(F.relu(big + little))


@MODELS.register_module()
class BLVNetTAM(BaseModule):
    """Big-little video network with temporal aggregation, for ``Recognizer2D`` and ``TSMHead``.

    The frames of a clip are taken in pairs. In the stem and the first three stages, the second
    frame of a pair passes through a big branch, at half the resolution, and the first through a
    little branch with fewer channels and layers; both frames continue with the sum of the branches.
    The last stage takes one frame of each pair, so the output has half as many frames as the input:
    write ``TSMHead(num_segments=T // 2)``.

    Args:
        depth (int): 50, 101 or 152.
        alpha (int): A little branch has 1 / alpha of the channels: 1, 2, 4, 8, 16, 32 or 64.
            Defaults to 2.
        beta (int): A little branch has about 1 / beta of the bottlenecks. Defaults to 4.
        num_segments (int): Frames per clip, T, an even number. Defaults to 8.
        tam_kernel_size (int): Number of frames summed by an aggregation, an odd number.
            Defaults to 3.
        pretrained (str, optional): A checkpoint of this backbone, under its own names: a URL or a
            path. The authors' weights of an image network (bLResNet) are not distributed with
            this project. Defaults to None.
        norm_cfg (Mapping): Config of the norm layers. Defaults to ``dict(type='BN2d')``.
        norm_eval (bool): Whether batch norms keep their statistics in training. Defaults to
            False.
        with_cp (bool): Whether bottlenecks are computed twice to save memory. Defaults to False.
        init_cfg (Mapping | list, optional): mmengine's initialisation. Defaults to None: Kaiming's
            for convolutions, and zero for the last batch norm of each bottleneck.

    Raises:
        ValueError: An option is unknown, or the inputs are not whole clips.

    Example:
        >>> model = dict(
        ...     type='Recognizer2D',
        ...     backbone=dict(type='BLVNetTAM', depth=50, num_segments=16),
        ...     cls_head=dict(
        ...         type='TSMHead', num_classes=174, in_channels=2048, num_segments=8,
        ...         dropout_ratio=0.5, average_clips='prob'))

    Source: Fan et al., More Is Less: Learning Efficient Video Representations by Big-Little
    Network and Depthwise Temporal Aggregation, NeurIPS 2019.
    """

    def __init__(
        self,
        depth: int,
        alpha: int = 2,
        beta: int = 4,
        num_segments: int = 8,
        tam_kernel_size: int = 3,
        pretrained: str | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Any = None,
    ) -> None:
        if pretrained is not None:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg)
        check_choice('depth', depth, tuple(LAYERS))
        check_choice('alpha', alpha, ALPHAS)
        check_num_segments(num_segments, multiple_of=2)
        if not is_integer(beta) or beta < 1:
            raise ValueError(f'beta={beta!r} must be a whole number of 1 or more; write beta=4')
        self.num_segments = num_segments
        self.norm_eval = norm_eval
        norm_cfg = dict(norm_cfg or dict(type='BN2d'))
        self._conv = partial(ConvModule, bias=False, norm_cfg=norm_cfg)
        self._bottleneck = partial(Bottleneck, norm_cfg=norm_cfg, with_cp=with_cp)
        self._tam_kernel_size = tam_kernel_size

        self.conv1 = self._conv(3, 64, 7, stride=2, padding=3)
        self.stem = self._stem(64, 64 // alpha)
        self.res_layers = []
        inplanes = 64
        for stage, blocks in enumerate(LAYERS[depth][:3], start=1):
            width = 128 * 2**stage
            little = max(1, blocks // beta - 1)
            layer = self._stage(
                inplanes, width, width // alpha, blocks - 1, little, stride=2 if stage < 3 else 1
            )
            self.add_module(f'layer{stage}', layer)
            self.res_layers.append(f'layer{stage}')
            inplanes = width
        self.layer4 = self._last_stage(inplanes, 2048, LAYERS[depth][3])
        self.res_layers.append('layer4')

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of each pair of frames.

        Args:
            x (Tensor): (B * num_segments, 3, H, W), the frames of each clip in order.

        Returns:
            Tensor: (B * num_segments / 2, 2048, h, w).

        Raises:
            ValueError: The frames are not whole clips.
        """
        check_frames(x, self.num_segments)
        x = self.stem(self.conv1(x))
        for name in self.res_layers[:-1]:
            x = getattr(self, name)(x.repeat_interleave(2, dim=0))
        return self.layer4(x)

    def train(self, mode: bool = True) -> BLVNetTAM:
        """Set the mode; with ``norm_eval``, batch norms stay in evaluation mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _tam(self, channels: int, num_segments: int | None = None) -> TemporalAggregation:
        return TemporalAggregation(
            channels, num_segments or self.num_segments, self._tam_kernel_size
        )

    def _stem(self, width: int, little_width: int) -> BigLittle:
        conv = self._conv
        little = nn.Sequential(
            conv(width, little_width, 3, padding=1),
            conv(little_width, little_width, 3, stride=2, padding=1),
            conv(little_width, width, 1, act_cfg=None),
        )
        big = conv(width, width, 3, stride=2, padding=1, act_cfg=None)
        return BigLittle(self._tam(width), big, little, conv(width, width, 1))

    def _stage(
        self, inplanes: int, width: int, little_width: int, big: int, little: int, stride: int
    ) -> BigLittle:
        big_branch = self._bottlenecks(inplanes, width, big, stride=2)
        # BigLittle applies the ReLU after the sum of the branches instead.
        big_branch[-1].relu = nn.Identity()
        little_branch = nn.Sequential(
            *self._bottlenecks(inplanes, little_width, little),
            self._conv(little_width, width, 1, act_cfg=None),
        )
        fusion = self._bottlenecks(width, width, 1, stride)
        return BigLittle(self._tam(inplanes), big_branch, little_branch, fusion)

    def _last_stage(self, inplanes: int, width: int, blocks: int) -> nn.Sequential:
        pairs = self.num_segments // 2
        first, *others = self._bottlenecks(inplanes, width, blocks, stride=2)
        for block in others:
            aggregate_residual(block, pairs, self._tam_kernel_size)
        # Unlike in the other blocks, the aggregation also feeds the downsample path.
        return nn.Sequential(self._tam(inplanes, pairs), first, *others)

    def _bottlenecks(self, inplanes: int, width: int, count: int, stride: int = 1) -> nn.Sequential:
        blocks = []
        for _ in range(count):
            downsample = self._downsample(inplanes, width, stride)
            block = self._bottleneck(
                inplanes, width // Bottleneck.expansion, stride, downsample=downsample
            )
            nn.init.zeros_(block.conv3.norm.weight)
            blocks.append(block)
            inplanes, stride = width, 1
        return nn.Sequential(*blocks)

    def _downsample(self, inplanes: int, width: int, stride: int) -> nn.Sequential | None:
        layers = []
        if stride > 1:
            layers.append(nn.AvgPool2d(3, stride, padding=1))
        if inplanes != width:
            layers.append(self._conv(inplanes, width, 1, act_cfg=None))
        return nn.Sequential(*layers) if layers else None
