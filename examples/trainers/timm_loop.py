"""timm's training loop, with its own model, optimizer, scheduler, scaler, EMA and checkpoints.

    python examples/trainers/timm_loop.py [--model resnet18] [--out work_dirs/timm_loop]

Trains an image classifier with AdvProp on small noise images with one pattern per class, prints the
accuracy of the averaged weights and loads the checkpoint into an unmodified timm model. Takes a few
seconds on a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import timm
import timm.models
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, NativeScaler, accuracy
from torch import Tensor, nn

from adv_plugins import adversarial_state_dict, make_adversarial

CLASSES = 5
Batch = tuple[Tensor, Tensor]


def batches(count: int, seed: int, size: int = 8) -> list[Batch]:
    """Noise with the pattern of its class, normalised with mean 0.5 and std 0.5."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(CLASSES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (count, size), generator=generator)
    noise = torch.rand(count, size, 3, 32, 32, generator=generator)
    return list(zip((patterns[labels] + noise - 1).unbind(), labels.unbind(), strict=True))


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: Callable[..., None],
    ema: ModelEmaV3,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """Train an epoch as timm's train.py does; only one line is adversarial.

    Args:
        model (nn.Module): The adversarial model.
        loader (Iterable): Images and labels. With timm's Mixup use a loss for soft labels:
            ``make_adversarial(model, loss_fn=SoftTargetCrossEntropy())``.
        optimizer (Optimizer): An optimizer built after the conversion.
        scaler (Callable): timm's NativeScaler.
        ema (ModelEmaV3): The averaged model.
        dtype (torch.dtype): The dtype of autocast. Defaults to bfloat16.

    Returns:
        float: The mean of the totals.
    """
    model.train()
    losses = AverageMeter()
    for images, labels in loader:
        with torch.autocast(images.device.type, dtype=dtype):
            loss = model.adversarial_loss(images, labels)['loss']
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        ema.update(model)
        losses.update(loss.item(), len(images))
    return losses.avg


@torch.no_grad()
def validate(model: nn.Module, loader: Iterable[Batch]) -> float:
    """Top-1 accuracy of the deployed (clean) path, in percent."""
    model.eval()
    top1 = AverageMeter()
    for images, labels in loader:
        top1.update(accuracy(model(images), labels)[0].item(), len(images))
    return top1.avg


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, save, load into a plain model, and return its accuracy in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='resnet18')
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--out', type=Path, default=None)
    options = parser.parse_args(arguments)
    # Two threads on so small a network wait for each other, which a busy machine makes long.
    torch.set_num_threads(1)
    out = Path(tempfile.mkdtemp()) if options.out is None else options.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    model = timm.create_model(options.model, num_classes=CLASSES)
    # Convert first, so that the optimizer and the EMA include the auxiliary norms too.
    make_adversarial(model, 'advprop', steps=1, mean=0.5, std=0.5)
    optimizer = create_optimizer_v2(model, 'adamw', lr=2e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, 'cosine', options.epochs)
    ema, scaler = ModelEmaV3(model, decay=0.7), NativeScaler(device='cpu')
    saver = CheckpointSaver(
        model, optimizer, model_ema=ema, amp_scaler=scaler, checkpoint_dir=str(out)
    )
    train, test = batches(8, seed=1), batches(4, seed=2)
    for epoch in range(epochs):
        loss = train_one_epoch(model, train, optimizer, scaler, ema)
        top1 = validate(ema.module, test)
        saver.save_checkpoint(epoch, metric=top1)
        # The checkpoint is a plain one; an exact resume also needs this adversarial state.
        torch.save(adversarial_state_dict(model), out / 'adversarial.pt')
        scheduler.step(epoch + 1)
        print(f'epoch {epoch}: loss {loss:.3f}, accuracy of the averaged weights {top1:.1f} %')

    plain = timm.create_model(options.model, num_classes=CLASSES)
    timm.models.load_checkpoint(plain, str(out / 'last.pth.tar'), use_ema=True, strict=True)
    top1 = validate(plain, test)
    print(f'the checkpoint in an untouched {options.model}: {top1:.1f} %')
    return top1


if __name__ == '__main__':
    main()
