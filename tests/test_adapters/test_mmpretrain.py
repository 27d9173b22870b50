"""Image classifiers of mmpretrain are called as recognizers are."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import MEAN, NUM_CLASSES, STD
from torch import nn

from adv_plugins import AdvProp, make_adversarial
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import get_adversary

pytest.importorskip('mmpretrain', reason='needs adv_plugins[test]')


def classifier_config(**augments) -> dict:
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=512),
        data_preprocessor=dict(mean=MEAN, std=STD, num_classes=NUM_CLASSES),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]) if augments else None,
    )


def classifier(**augments) -> nn.Module:
    import mmpretrain.models  # noqa: F401
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    return MODELS.build(classifier_config(**augments)).train()


def batch(model: nn.Module):
    from mmpretrain.structures import DataSample

    images = torch.randint(256, (4, 3, 32, 32)).float()
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, 5)]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    return data['inputs'], data['data_samples']


@pytest.mark.parametrize('recipe', ['advprop', 'ceaugmentation'])
def test_losses_units_and_labels(recipe):
    plain = classifier()
    model = make_adversarial(copy.deepcopy(plain), recipe, eps=8 / 255)
    inputs, samples = batch(plain)
    losses, expected = model(inputs, samples, mode='loss'), plain(inputs, samples, mode='loss')
    weight = get_adversary(model).recipe.clean_weight
    assert losses['loss'].item() == pytest.approx(weight * expected['loss'].item(), rel=1e-5)
    assert losses['adv_loss'] > 0
    delta = (model.perturb(inputs, samples) - inputs).abs() * torch.tensor(STD).view(3, 1, 1)
    assert 0 < delta.max() <= 8 * (1 + 1e-4)
    record = get_adversary(model).adapter.forward(Batch(inputs), samples)
    assert record.hard_labels('the test').tolist() == [0, 1, 2, 5]
    plain.load_state_dict(model.state_dict(), strict=True)


def test_mixup_trains_with_the_loss_and_is_no_hard_label():
    model = make_adversarial(classifier(mixup=True), AdvProp(steps=1))
    inputs, samples = batch(model)
    assert 'gt_score' in samples[0]
    losses = model(inputs, samples, mode='loss')
    assert losses['loss'].isfinite() and losses['adv_loss'].isfinite()
    record = get_adversary(model).adapter.forward(Batch(inputs), samples)
    with pytest.raises(ValueError, match='one hard label'):
        record.hard_labels('the test')


def test_pixels_without_normalisation_are_0_to_255():
    model = classifier()
    inputs, samples = torch.full((4, 3, 32, 32), 128.0), batch(model)[1]
    model.data_preprocessor.mean = None
    make_adversarial(model, AdvProp(steps=1, step_size=8 / 255, eps=8 / 255))
    assert (model.perturb(inputs, samples) - inputs).abs().max() == pytest.approx(8, rel=1e-5)


def test_images_have_no_frames():
    model = make_adversarial(classifier(), 'taf')
    with pytest.raises(ValueError, match='without a time axis'):
        model(*batch(model), mode='loss')


class Images(torch.utils.data.Dataset):
    metainfo: dict = {}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        from mmpretrain.structures import DataSample

        image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % NUM_CLASSES))


def test_hook_trains_a_classifier_in_the_runner(train, tmp_path):
    from mmengine.registry import DATASETS

    DATASETS.register_module(module=Images, force=True)
    loader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(type='Images', _scope_='mmengine'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    model = dict(classifier_config(), _scope_='mmpretrain')
    hook = dict(type='AdvPropHook', steps=1, step_size=4 / 255)
    runner = train(
        default_scope='mmpretrain',
        model=model,
        train_dataloader=loader,
        custom_hooks=[hook],
        max_epochs=1,
    )
    assert runner.message_hub.get_scalar('train/adv_loss').current() > 0
    checkpoint = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=True)
    classifier().load_state_dict(checkpoint['state_dict'], strict=True)
    assert 'backbone.bn1.adv_weight' in checkpoint['adversarial']
