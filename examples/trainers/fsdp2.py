"""A plain loop on a model that is sharded over the processes: FSDP2, with checkpoints.

    torchrun --nproc_per_node 2 examples/trainers/fsdp2.py [--out FILE] [--resume FILE]

Trains a small 3-D network with AdvProp on noise clips with one pattern per class, saves one plain
file, and prints the accuracy on clean and on attacked clips. A run resumes from such a file on any
number of processes. Takes a few seconds on a CPU.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from adv_plugins import adversarial_state_dict, load_adversarial_state_dict, make_adversarial

CLASSES = 4


class Block(nn.Module):
    """A residual block, the unit that is sharded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(self.bn(self.conv(x)))


class VideoNet(nn.Module):
    """A small classifier of clips (B, C, T, H, W)."""

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(clips)).mean(dim=(2, 3, 4)))


def sharded(mesh: DeviceMesh) -> nn.Module:
    """The adversarial model, of which every process of the mesh holds a part."""
    # Convert first, so that the parameters of the auxiliary norms are sharded like the others.
    model = make_adversarial(VideoNet(), 'advprop', steps=1, mean=0.5, std=0.25)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    # The converted model itself comes last.
    return fully_shard(model, mesh=mesh)


def save(file: str, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Save whole tensors in one file; all processes have to call this."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, state = get_state_dict(model, optimizer, options=whole)
    adversarial = adversarial_state_dict(model)
    if dist.get_rank() == 0:
        entries = dict(weights=weights, optimizer=state, adversarial=adversarial, step=step)
        torch.save(entries, file)


def load(file: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load such a file into the parts that this process holds; returns the number of steps."""
    entries = torch.load(file, map_location='cpu', weights_only=True)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=entries['weights'],
        optim_state_dict=entries['optimizer'],
        options=StateDictOptions(full_state_dict=True),
    )
    load_adversarial_state_dict(model, entries['adversarial'])
    return entries['step']


def clips_and_labels(count: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Noise with the pattern of its class, normalised with mean 0.5 and std 0.25."""
    patterns = torch.rand(CLASSES, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.rand(count, 3, 4, 8, 8, generator=generator)
    clips = ((patterns[labels] + noise) / 2 - 0.5) / 0.25
    return clips.to(device), labels.to(device)


def accuracy(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    """The share of clips that the deployed (clean) path classifies correctly."""
    with torch.no_grad():
        return (model.eval()(clips).argmax(dim=1) == labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the beginning or from a file, save, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--out', metavar='FILE', help='save the checkpoint here')
    parser.add_argument('--resume', metavar='FILE', help='continue from a checkpoint')
    options = parser.parse_args(arguments)
    # More threads on so small a network wait for each other.
    torch.set_num_threads(1)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    world = int(os.environ['WORLD_SIZE'])
    mesh = init_device_mesh(device, (world,))
    rank = mesh.get_rank()

    # Each process draws its shards of the same weights, and the attacks of all have one seed.
    torch.manual_seed(0)
    model = sharded(mesh)
    # Last, so that it trains the shards, those of the auxiliary norms among them.
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    first = load(options.resume, model, optimizer) if options.resume else 0
    for step in range(first, options.steps):
        clips, labels = clips_and_labels(8, 1 + step * world + rank, device)
        optimizer.zero_grad()
        loss = model.train().adversarial_loss(clips, labels)['loss']
        loss.backward()
        optimizer.step()
        if rank == 0 and step % 20 == 19:
            print(f'step {step + 1}: loss {loss.item():.3f}')
    if options.out:
        save(options.out, model, optimizer, options.steps)

    # All processes take part in each forward, so they all measure the same clips.
    clips, labels = clips_and_labels(64, 0, device)
    attacked = model.eval().perturb(clips, labels)
    found = accuracy(model, clips, labels), accuracy(model, attacked, labels)
    if rank == 0:
        print(f'accuracy: {found[0]:.0%} on clean, {found[1]:.0%} on attacked clips')


if __name__ == '__main__':
    main()
    dist.destroy_process_group()
