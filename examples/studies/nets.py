"""Small video nets made of MMAction2's and this package's parts: TSM, TAM, GST, TPN."""

from __future__ import annotations

from mmaction.models.backbones.resnet import BasicBlock
from mmaction.models.backbones.resnet_tsm import TemporalShift
from mmaction.models.necks.tpn import TPN
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from adv_plugins.models.resnet_gst import GroupedSpatiotemporalConv
from adv_plugins.models.resnet_tam import aggregate_residual

MODELS = ('tsm', 'tam', 'gst', 'tpn')
MEAN, STD = 0.45, 0.25
CAM_LAYER, CAM_LAYOUT = 'stages.2', '(b t) c h w'


class SmallVideoNet(nn.Module):
    """Three stages of one residual block, with a temporal operation in each.

    Args:
        kind (str): ``'tsm'``: residual shift of an eighth of the channels; ``'tam'``: temporal
            aggregation; ``'gst'``: grouped spatial-temporal convolutions.
        num_classes (int): Number of classes.
        num_frames (int): Frames of a clip.
        width (int): Channels of the first stage. Defaults to 12.
    """

    def __init__(self, kind: str, num_classes: int, num_frames: int, width: int = 12) -> None:
        super().__init__()
        norm = dict(type='BN')
        self.num_frames = num_frames
        # The control arm captures the clip here, see arms.RandomSigns.
        self.input = nn.Identity()
        self.stem = ConvModule(3, width, 3, stride=2, padding=1, bias=False, norm_cfg=norm)
        stages, channels = [], width
        for stage in range(3):
            planes, stride = width * 2**stage, 1 if stage == 0 else 2
            shortcut = None
            if stride > 1:
                shortcut = ConvModule(
                    channels, planes, 1, stride=stride, bias=False, norm_cfg=norm, act_cfg=None
                )
            block = BasicBlock(channels, planes, stride, downsample=shortcut, norm_cfg=norm)
            _add_time(block, kind, num_frames)
            stages.append(block)
            channels = planes
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (B, T, 3, H, W) in [0, 1] to class scores, the mean over the frames'."""
        pooled = self.stages(self.stem(self.frames(x))).mean(dim=(2, 3))
        scores: Tensor = self.fc(self.dropout(pooled))
        return scores.unflatten(0, (-1, self.num_frames)).mean(dim=1)

    def frames(self, x: Tensor) -> Tensor:
        """The normalised frames of all clips, (B * T, 3, H, W)."""
        frames: Tensor = (self.input(x).flatten(0, 1) - MEAN) / STD
        return frames


class SmallTPN(SmallVideoNet):
    """A temporal pyramid (MMAction2's ``TPN``) over the last two stages of a TSM.

    Args:
        num_classes (int): Number of classes.
        num_frames (int): Frames of a clip.
    """

    def __init__(self, num_classes: int, num_frames: int) -> None:
        # The neck's grouped convolutions need multiples of 32 channels.
        super().__init__('tsm', num_classes, num_frames, width=16)
        self.neck = TPN(
            in_channels=(32, 64),
            out_channels=32,
            spatial_modulation_cfg=dict(in_channels=(32, 64), out_channels=64),
            temporal_modulation_cfg=dict(downsample_scales=(num_frames, num_frames)),
            upsample_cfg=dict(scale_factor=(1, 1, 1)),
            downsample_cfg=dict(downsample_scale=(1, 1, 1)),
            level_fusion_cfg=dict(in_channels=(32, 32), mid_channels=(32, 32), out_channels=64),
        )
        self.fc = nn.Linear(2048, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (B, T, 3, H, W) in [0, 1] to class scores."""
        low = self.stages[1](self.stages[0](self.stem(self.frames(x))))
        levels = (low, self.stages[2](low))
        clips = [
            level.unflatten(0, (-1, self.num_frames)).transpose(1, 2).contiguous()
            for level in levels
        ]
        fused, _ = self.neck(clips)
        scores: Tensor = self.fc(self.dropout(fused.mean(dim=(2, 3, 4))))
        return scores


def build_net(model: str, num_classes: int, num_frames: int) -> SmallVideoNet:
    """A net with random weights.

    Args:
        model (str): One of ``MODELS``.
        num_classes (int): Number of classes.
        num_frames (int): Frames of a clip.
    """
    if model == 'tpn':
        return SmallTPN(num_classes, num_frames)
    return SmallVideoNet(model, num_classes, num_frames)


def _add_time(block: BasicBlock, kind: str, num_frames: int) -> None:
    """Put the temporal operation of a kind of net into a residual block."""
    if kind == 'tsm':
        block.conv1.conv = TemporalShift(block.conv1.conv, num_frames, shift_div=8)
    elif kind == 'tam':
        aggregate_residual(block, num_frames)
    else:
        block.conv2.conv = GroupedSpatiotemporalConv(block.conv2.conv, num_frames, alpha=4, beta=2)
