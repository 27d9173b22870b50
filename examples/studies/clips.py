"""The clips of the studies as tensors: training and validation sets, augmentation, corruptions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adv_plugins.datasets import ArrowOfTime, OrderedDigits
from adv_plugins.datasets.corruptions import corrupt

SIZE, FRAMES = 32, 8
DATA = ('ordered-digits', 'ordered-digits-few', 'arrow-of-time')


@dataclass(frozen=True)
class Clips:
    """Clips in memory.

    Args:
        frames (Tensor): (N, T, 3, H, W), uint8 RGB.
        labels (Tensor): (N,), int64.
    """

    frames: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self) -> Tensor:
        """The frames as the net takes them, float32 in [0, 1]."""
        return self.frames.float() / 255

    def about(self, count: int) -> Clips:
        """About so many clips, from all classes alike; all of them if there are fewer."""
        step = max(1, len(self) // count)
        return Clips(self.frames[::step], self.labels[::step])

    def corrupted(self, name: str, severity: int) -> Clips:
        """The same clips, corrupted; the random numbers are those of the clip's position."""
        images = self.frames.permute(0, 1, 3, 4, 2).numpy()
        damaged = [corrupt(clip, name, severity, seed) for seed, clip in enumerate(images)]
        frames = torch.from_numpy(np.stack(damaged)).permute(0, 1, 4, 2, 3).contiguous()
        return Clips(frames, self.labels)


def load_clips(data: str, seed: int) -> tuple[Clips, Clips]:
    """Training and validation clips of a study.

    Args:
        data (str): ``'ordered-digits'``: 120 and 1,200 rendered clips, others for every seed;
            ``'ordered-digits-few'``: 60 of the 120, each twice, so that an epoch has as many steps;
            ``'arrow-of-time'``: windows of real footage, the same for every seed.
        seed (int): The seed of the study.
    """
    if data == 'arrow-of-time':
        return _arrow_of_time('train'), _arrow_of_time('val')
    counts = {'train': 5 if data == 'ordered-digits-few' else 10, 'val': 100}
    train, val = (
        _stack([(clips.render(i['label'], i['draw']), i['label']) for i in clips])
        for clips in (OrderedDigits(s, n, FRAMES, SIZE, seed=seed) for s, n in counts.items())
    )
    if data == 'ordered-digits-few':
        train = Clips(train.frames.repeat(2, 1, 1, 1, 1), train.labels.repeat(2))
    return train, val


def _arrow_of_time(split: str) -> Clips:
    """Windows of real footage, centre-cropped to a square and made small."""
    import decord

    windows = ArrowOfTime(split, FRAMES, frame_interval=4, stride=4 if split == 'train' else 2)
    videos: dict[str, np.ndarray] = {}
    clips = []
    for item in windows.load_data_list():
        file = item['filename']
        if file not in videos:
            reader = decord.VideoReader(file, num_threads=1)
            frames = reader.get_batch(range(len(reader))).asnumpy()
            side = min(frames.shape[1:3])
            top, left = ((length - side) // 2 for length in frames.shape[1:3])
            square = frames[:, top : top + side, left : left + side]
            videos[file] = np.stack(
                [cv2.resize(f, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in square]
            )
        clips.append((videos[file][item['frame_inds']], item['label']))
    return _stack(clips)


def _stack(clips: list[tuple[np.ndarray, int]]) -> Clips:
    frames = np.stack([frames for frames, _ in clips])
    labels = torch.tensor([label for _, label in clips])
    return Clips(torch.from_numpy(frames).permute(0, 1, 4, 2, 3).contiguous(), labels)


def augment(
    x: Tensor, labels: Tensor, flipped_labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror half of the clips, with their labels, and crop each at random.

    The crop has 70 to 100 % of the area and a ratio of 0.85 to 1.18, one for all frames of a clip;
    it is resized to the whole size.

    Args:
        x (Tensor): (B, T, 3, H, W).
        labels (Tensor): (B,).
        flipped_labels (Tensor): (num_classes,): the label of each class's mirror image.
        generator (torch.Generator): Where the random numbers come from.
    """
    count = len(x)
    area, ratio, left, top = torch.rand(4, count, generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    area, ratio = 0.7 + 0.3 * area, torch.exp((2 * ratio - 1) * np.log(1.18))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = width * torch.where(flip, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * left - 1), (1 - height) * (2 * top - 1)
    grid = F.affine_grid(theta, [count, 1, *x.shape[-2:]], align_corners=False)
    seen = F.grid_sample(x.flatten(1, 2), grid, padding_mode='border', align_corners=False)
    return seen.view_as(x), torch.where(flip, flipped_labels[labels], labels)


def flipped_labels(data: str) -> Tensor:
    """The label of each class's mirror image."""
    if data == 'arrow-of-time':
        return torch.arange(3)
    mirrored = OrderedDigits.METAINFO['flip_label_map']
    return torch.tensor([mirrored.get(label, label) for label in range(12)])
