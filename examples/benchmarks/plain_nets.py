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

    def __init__(self, num_classes: int, frames: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        self.layer1 = _stage(3, 64, 64, 1, frames)
        self.layer2 = _stage(4, 256, 128, 2, frames)
        self.layer3 = _stage(6, 512, 256, 2, frames)
        self.layer4 = _stage(3, 1024, 512, 2, frames)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(clips.flatten(0, 1)), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3))).unflatten(0, clips.shape[:2]).mean(dim=1)


def _stage(depth: int, width: int, planes: int, stride: int, frames: int) -> nn.Sequential:
    first = _Bottleneck(width, planes, stride, frames)
    others = (_Bottleneck(4 * planes, planes, 1, frames) for _ in range(depth - 1))
    return nn.Sequential(first, *others)


class _Bottleneck(nn.Module):
    def __init__(self, width: int, planes: int, stride: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
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

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(_shift(x, self.frames))), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x), inplace=True)


def _shift(x: Tensor, frames: int) -> Tensor:
    clips = x.unflatten(0, (-1, frames))
    fold = x.shape[1] // 8
    before, after, here = clips.split([fold, fold, x.shape[1] - 2 * fold], dim=2)
    before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)
    after = torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], dim=1)
    return torch.cat([before, after, here], dim=2).flatten(0, 1)
