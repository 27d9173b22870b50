"""Lightning: a LightningModule trained with AdvProp by the callback.

    python examples/trainers/lightning_callback.py [--recipe advprop] [--out work_dirs/lightning]

Trains a small network on noise images with one pattern per class, stops, resumes from Lightning's
checkpoint and validates it in a plain module without the callback. Takes a few seconds on a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from adv_plugins.integrations.lightning import AdversarialCallback

CLASSES = 4


class Classifier(pl.LightningModule):
    """A user's module; only one of its lines is adversarial."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, CLASSES),
        )

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The losses of the step; the callback logs all but the total."""
        return self.net.adversarial_loss(*batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy of the deployed (clean) path."""
        images, labels = batch
        scores = self.net(images)
        self.log('val_loss', F.cross_entropy(scores, labels))
        self.log('val_accuracy', (scores.argmax(dim=1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Called after the conversion."""
        return torch.optim.AdamW(self.parameters(), 1e-2)


def loader(count: int, seed: int) -> DataLoader:
    """Noise with the pattern of its class, normalised with mean 0.5 and std 0.25."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(CLASSES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % CLASSES
    noise = torch.rand(count, 3, 16, 16, generator=generator)
    images = ((patterns[labels] + noise) / 2 - 0.5) / 0.25
    return DataLoader(TensorDataset(images, labels), batch_size=8)


def trainer(epochs: int, recipe: str, out: Path) -> pl.Trainer:
    """A trainer with mixed precision and two accumulated batches per step."""
    callback = AdversarialCallback(recipe, attribute='net', mean=0.5, std=0.25)
    return pl.Trainer(
        callbacks=[callback], max_epochs=epochs, precision='bf16-mixed', accelerator='cpu',
        accumulate_grad_batches=2, default_root_dir=out, logger=False, log_every_n_steps=4,
        enable_model_summary=False, enable_progress_bar=False, enable_checkpointing=False,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, resume, validate without the callback, and return the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--recipe', default='advprop')
    parser.add_argument('--out', type=Path, default=None)
    options = parser.parse_args(arguments)
    # Two threads on so small a network wait for each other, which a busy machine makes long.
    torch.set_num_threads(1)
    out = Path(tempfile.mkdtemp()) if options.out is None else options.out
    pl.seed_everything(0, verbose=False)

    first = trainer(2, options.recipe, out)
    first.fit(Classifier(), loader(64, seed=1), loader(32, seed=2))
    first.save_checkpoint(out / 'half.ckpt')
    whole = trainer(4, options.recipe, out)
    whole.fit(Classifier(), loader(64, seed=1), loader(32, seed=2), ckpt_path=out / 'half.ckpt')
    print({name: round(float(value), 3) for name, value in whole.callback_metrics.items()})
    whole.save_checkpoint(out / 'last.ckpt')

    plain = pl.Trainer(
        accelerator='cpu', logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    found = plain.validate(Classifier(), loader(32, seed=2), ckpt_path=out / 'last.ckpt')
    return found[0]['val_accuracy']


if __name__ == '__main__':
    main()
