"""Nets in plain PyTorch, for benchmarks and checks that need no other package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TemporalShiftNet(nn.Module):
    """TSM-R50 over clips (B, T, 3, H, W): a ResNet-50 whose blocks see the neighbouring frames.

    An eighth of the channels in front of each block's first convolution comes from the frame
    before, and an eighth from the frame after.
    """

    def __init__(self, num_classes: int, depths: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        width, stages = 64, []
        for stage, depth in enumerate(depths):
            planes = 64 * 2**stage
            blocks = []
            for block in range(depth):
                blocks.append(_Bottleneck(width, planes, 2 if stage and not block else 1))
                width = 4 * planes
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(width, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        batch, frames = clips.shape[:2]
        x = F.max_pool2d(self.stem(clips.flatten(0, 1)), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x, frames)
        return self.fc(x.mean(dim=(2, 3))).view(batch, frames, -1).mean(dim=1)


class _Bottleneck(nn.Module):
    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.shortcut = nn.Identity()
        if stride > 1 or width != 4 * planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: Tensor, frames: int) -> Tensor:
        y = F.relu(self.bn1(self.conv1(_shift(x, frames))), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x), inplace=True)


def _shift(x: Tensor, frames: int) -> Tensor:
    clips = x.unflatten(0, (-1, frames))
    fold = x.shape[1] // 8
    before, after, here = clips.split([fold, fold, x.shape[1] - 2 * fold], dim=2)
    before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)
    after = torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], dim=1)
    return torch.cat([before, after, here], dim=2).flatten(0, 1)
