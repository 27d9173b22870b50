"""A plain PyTorch loop: autocast, GradScaler, accumulated micro-batches, clipped gradients.

    python examples/trainers/plain_amp.py [--dtype float16] [--accumulate 2]

Trains a small 3-D network with TAF on noise clips with one pattern per class, and prints its
accuracy on clean and on attacked clips. Takes a few seconds on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adv_plugins import make_adversarial

CLASSES = 4


class VideoNet(nn.Module):
    """A small classifier of clips (B, C, T, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm3d(16)
        self.layer4 = nn.Conv3d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        features = F.gelu(self.layer4(F.gelu(self.bn(self.stem(clips)))))
        return self.fc(features.mean(dim=(2, 3, 4)))


def clips_and_labels(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise with the pattern of its class, normalised with mean 0.5 and std 0.25."""
    patterns = torch.rand(CLASSES, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.rand(count, 3, 4, 8, 8, generator=generator)
    return ((patterns[labels] + noise) / 2 - 0.5) / 0.25, labels


def train_step(
    model: nn.Module,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    dtype: torch.dtype,
    max_norm: float = 1.0,
) -> float:
    """Take one optimizer step over micro-batches of the same size.

    Args:
        model (nn.Module): The adversarial model.
        micro_batches (Sequence): Clips and labels.
        optimizer (Optimizer): Its optimizer.
        scaler (GradScaler): Scales the loss where gradients would underflow (fp16).
        dtype (torch.dtype): The dtype of autocast.
        max_norm (float): Gradients are clipped to this norm. Defaults to 1.0.

    Returns:
        float: The mean of the totals.
    """
    optimizer.zero_grad()
    mean = 0.0
    for clips, labels in micro_batches:
        with torch.autocast(clips.device.type, dtype=dtype):
            loss = model.adversarial_loss(clips, labels)['loss'] / len(micro_batches)
        scaler.scale(loss).backward()
        mean += loss.item()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return mean


def accuracy(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    """The share of clips that the deployed (clean) path classifies correctly."""
    with torch.no_grad():
        return (model.eval()(clips).argmax(dim=1) == labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> tuple[float, float]:
    """Train, and return the accuracy on clean and on attacked clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dtype', choices=('bfloat16', 'float16'), default='bfloat16')
    parser.add_argument('--accumulate', type=int, default=2)
    parser.add_argument('--steps', type=int, default=80)
    options = parser.parse_args(arguments)
    # Two threads on so small a network wait for each other, which a busy machine makes long.
    torch.set_num_threads(1)
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)

    # Convert first, so that the optimizer gets the parameters of the auxiliary norms too.
    model = make_adversarial(VideoNet(), 'taf', eps=8 / 255, step_size=8 / 255, mean=0.5, std=0.25)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
    # bfloat16 has the range of float32 and needs no loss scale.
    scaler = torch.amp.GradScaler('cpu', enabled=dtype is torch.float16)
    for step in range(options.steps):
        batches = [clips_and_labels(8, generator) for _ in range(options.accumulate)]
        loss = train_step(model.train(), batches, optimizer, scaler, dtype)
        if step % 20 == 19:
            print(f'step {step + 1}: loss {loss:.3f}')

    clips, labels = clips_and_labels(64, generator)
    attacked = model.eval().perturb(clips, labels)
    found = accuracy(model, clips, labels), accuracy(model, attacked, labels)
    print(f'accuracy: {found[0]:.0%} on clean, {found[1]:.0%} on attacked clips')
    return found


if __name__ == '__main__':
    main()
