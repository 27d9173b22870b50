"""Perturbations with structure, and a norm for each kind of input, on models of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import STD, build_recognizer, data_samples, slowonly_config, tsm_config
from torch import Tensor, nn

from adv_plugins import make_adversarial
from adv_plugins.core.conversion import get_adversary
from adv_plugins.evaluation.deployed import Deployed

LABELS = torch.tensor([0, 3])


def tsm() -> tuple[nn.Module, Any, Any]:
    return build_recognizer(tsm_config()), torch.randn(2, 4, 3, 32, 32), data_samples(LABELS)


def slowonly() -> tuple[nn.Module, Any, Any]:
    clips = torch.randn(2, 1, 3, 4, 32, 32)
    return build_recognizer(slowonly_config()), clips, data_samples(LABELS)


def videomae() -> tuple[nn.Module, Any, Any]:
    transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=5,
    )  # fmt: skip
    model = transformers.VideoMAEForVideoClassification(config).train()
    return model, torch.randn(2, 4, 3, 32, 32), LABELS


FAMILIES = {'tsm': (tsm, 1, 2), 'slowonly': (slowonly, 3, 2), 'videomae': (videomae, 1, 2)}
"""A model with its inputs, and their axes of time and channels."""


@pytest.mark.parametrize('family', FAMILIES)
def test_a_flash_of_two_frames(family: str) -> None:
    build, time, channels = FAMILIES[family]
    model, clips, target = build()
    options = dict(mean=MEAN_01, std=STD_01) if family == 'videomae' else {}
    recipe = dict(
        type='CEAugmentation', shared='h w', frames=2, eps=8 / 255, step_size=None, clamp=False
    )
    make_adversarial(model, recipe, **options)
    delta = (model.perturb(clips, target) - clips).double()
    scale = (1 / torch.tensor(STD_01 if options else [value / 255 for value in STD])).double()
    levels = 255 * delta.movedim(channels, -1) / scale
    assert levels.abs().max() == pytest.approx(8, rel=1e-4)
    time -= time > channels
    frames = levels.movedim(time, 1).flatten(2, -2)  # B, T, places, C
    assert (frames.amax(dim=2) - frames.amin(dim=2)).max() < 1e-3
    assert ((frames != 0).flatten(2).any(dim=2).sum(dim=1) == 2).all()
    losses = step(model, clips, target)
    assert float(losses['adv_eps']) == pytest.approx(8 / 255)


MEAN_01, STD_01 = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def step(model: nn.Module, inputs: Any, target: Any) -> dict[str, Tensor]:
    """A training step of a converted model; the losses must reach its parameters."""
    losses: dict[str, Tensor] = model.adversarial_loss(inputs, target)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert any(value.grad is not None and value.grad.any() for value in model.parameters())
    return losses


@pytest.mark.parametrize('norm', ['l1', 'l21'])
def test_norms_of_features_with_masks(norm: str) -> None:
    from mmengine.registry import MODELS

    pytest.importorskip('mmaction', reason='needs adv_plugins[mmaction]')
    model = MODELS.build(
        dict(
            type='FeatureTransformer',
            modalities=dict(rgb=12, audio=6),
            num_classes=5,
            width=8,
            num_heads=2,
        )  # fmt: skip
    )
    features = {name: torch.randn(2, 6, width) for name, width in model.modalities.items()}
    masks = {f'{name}_mask': torch.arange(6).expand(2, 6) < 4 for name in features}
    target = data_samples(LABELS)
    make_adversarial(model, 'art', norm=norm, eps=2.0, steps=3, frames=2)
    moved = model.perturb({**features, **masks}, target)
    for name, clean in features.items():
        delta = moved[name] - clean
        size = delta.abs().sum(dim=(1, 2)) if norm == 'l1' else delta.norm(dim=2).sum(dim=1)
        assert (size <= 2 * (1 + 1e-4)).all() and (size > 1).all()
        touched = (delta != 0).any(dim=2)
        assert (touched.sum(dim=1) <= 2).all() and not touched[:, 4:].any()
    step(model.train(), {**features, **masks}, target)


def test_an_image_classifier_has_no_frames() -> None:
    transformers = pytest.importorskip('transformers', reason='needs adv_plugins[trainers]')
    config = transformers.ViTConfig(
        image_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).train()
    images = torch.rand(2, 3, 32, 32)
    make_adversarial(model, 'advprop', region=(8, 8, 16, 16), value_range=(0, 1))
    delta = model.perturb(images, LABELS) - images
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:24, 8:24] = False
    assert not delta[..., outside].any() and delta[..., ~outside].any()
    get_adversary(model)
    make_adversarial(images_only(), 'advprop', shared='h w', value_range=(0, 1)).perturb(
        images, LABELS
    )
    with pytest.raises(ValueError, match="frames=2 needs the axis 't'"):
        make_adversarial(images_only(), 'advprop', frames=2, value_range=(0, 1)).perturb(
            images, LABELS
        )


def images_only() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_three_frames_are_no_channels() -> None:
    """The shape does not tell time from colours, the recognizer does."""
    model = build_recognizer(tsm_config(num_segments=3))
    clips, target = torch.randn(2, 3, 3, 32, 32), data_samples(LABELS)
    make_adversarial(model, 'ceaugmentation', frames=1)
    delta = model.perturb(clips, target) - clips
    assert (delta != 0).flatten(2).any(dim=2).sum(dim=1).tolist() == [1, 1]
    with pytest.raises(ValueError, match="frames=1 needs the axis 't'"):
        make_adversarial(
            nn.Sequential(nn.Flatten(), nn.Linear(9216, 5)), 'advprop', frames=1
        ).perturb(clips, LABELS)


@pytest.mark.parametrize('family', ['tsm', 'slowonly'])
def test_evaluation_finds_the_same_axes(family: str) -> None:
    build, time, channels = FAMILIES[family]
    model, clips, _ = build()
    axes = Deployed(model.eval()).space(clips).axes
    assert axes is not None
    assert (axes['t'], axes['c'], axes['h'], axes['w']) == (
        time, channels, clips.ndim - 2, clips.ndim - 1,
    )  # fmt: skip
