"""Hugging Face: VideoMAE fine-tuned with TAF by the unmodified transformers.Trainer.

    python examples/trainers/huggingface_videomae.py [--recipe taf] [--out work_dirs/videomae]

Trains a small VideoMAE on noise with one pattern per class, stops, resumes, and loads the
checkpoint into the plain class. Nothing is downloaded; for a real run use
``VideoMAEForVideoClassification.from_pretrained(...)`` and your data. Takes a few seconds on a
CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Trainer,
    TrainingArguments,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    set_seed,
)

from adv_plugins import make_adversarial

CLASSES = 4
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Clips(torch.utils.data.Dataset):
    """Noise with the pattern of its class, normalised as by a video processor."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        patterns = torch.rand(CLASSES, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(count) % CLASSES
        noise = torch.rand(count, 4, 3, 32, 32, generator=generator)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        self.clips = ((patterns[self.labels] + noise) / 2 - mean) / std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(pixel_values=self.clips[index], labels=self.labels[index])


def small_videomae() -> VideoMAEForVideoClassification:
    """Four frames of 32x32 pixels; two blocks."""
    return VideoMAEForVideoClassification(
        VideoMAEConfig(
            image_size=32, patch_size=8, num_frames=4, tubelet_size=2, num_labels=CLASSES,
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        )
    )  # fmt: skip


def train(recipe: str, out: Path, epochs: int, resume: bool = False) -> Trainer:
    """Train up to an epoch.

    Args:
        recipe (str): Name of the recipe.
        out (Path): Folder for the checkpoints.
        epochs (int): The epoch to stop at.
        resume (bool): Whether to resume from the last checkpoint. Defaults to False.

    Returns:
        Trainer: The trainer after training.
    """
    set_seed(0)
    model = make_adversarial(small_videomae(), recipe, mean=MEAN, std=STD)
    arguments = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=4, gradient_accumulation_steps=2,
        num_train_epochs=epochs, learning_rate=2e-3, lr_scheduler_type='constant',
        eval_strategy='epoch', save_strategy='epoch', logging_steps=4, bf16=True, use_cpu=True,
        report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Clips(64, seed=1),
        eval_dataset=Clips(32, seed=2),
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def accuracy(prediction: Any) -> dict[str, float]:
    """The accuracy of the deployed (clean) path."""
    return {'accuracy': float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, resume, load the checkpoint into the plain class, and return its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--recipe', default='taf')
    parser.add_argument('--out', type=Path, default=None)
    options = parser.parse_args(arguments)
    # Two threads on so small a network wait for each other, which a busy machine makes long.
    torch.set_num_threads(1)
    out = Path(tempfile.mkdtemp()) if options.out is None else options.out

    train(options.recipe, out, epochs=2)
    trainer = train(options.recipe, out, epochs=4, resume=True)
    trainer.save_model(str(out / 'final'))

    plain = VideoMAEForVideoClassification.from_pretrained(out / 'final').eval()
    test = Clips(32, seed=2)
    with torch.no_grad():
        right = (plain(test.clips).logits.argmax(dim=1) == test.labels).float().mean().item()
    print(f'{type(plain).__name__} from {out / "final"}: accuracy {right:.0%}')
    return right


if __name__ == '__main__':
    main()
