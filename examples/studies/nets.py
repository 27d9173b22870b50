"""Small video nets made of MMAction2's and this package's parts: TSM, TAM, GST."""

from __future__ import annotations

from mmaction.models.backbones.resnet import BasicBlock
from mmaction.models.backbones.resnet_tsm import TemporalShift
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from adv_plugins.models.resnet_gst import GroupedSpatiotemporalConv
from adv_plugins.models.resnet_tam import aggregate_residual

MODELS = ('tsm', 'tam', 'gst')
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
        frames = (self.input(x).flatten(0, 1) - MEAN) / STD
        pooled = self.stages(self.stem(frames)).mean(dim=(2, 3))
        scores: Tensor = self.fc(self.dropout(pooled))
        return scores.unflatten(0, (-1, self.num_frames)).mean(dim=1)


def _add_time(block: BasicBlock, kind: str, num_frames: int) -> None:
    """Put the temporal operation of a kind of net into a residual block."""
    if kind == 'tsm':
        block.conv1.conv = TemporalShift(block.conv1.conv, num_frames, shift_div=8)
    elif kind == 'tam':
        aggregate_residual(block, num_frames)
    else:
        block.conv2.conv = GroupedSpatiotemporalConv(block.conv2.conv, num_frames, alpha=4, beta=2)
