"""Clips as a recognizer takes them."""

import torch
from helpers import data_samples

LABELS = [1, 4]


def clips_of(model, shape):
    """Pixels, and the same as they leave the model's own data preprocessor."""
    pixels = torch.randint(256, shape, dtype=torch.uint8)
    data = dict(inputs=list(pixels), data_samples=data_samples(LABELS[: shape[0]]))
    data = model.data_preprocessor(data, False)
    return pixels, data['inputs'], data['data_samples']
