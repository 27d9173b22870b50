"""Inputs of one tensor and of several, with masks."""

import pytest
import torch

from adv_plugins.core import batch
from adv_plugins.core.attention import AttentionMap


def features():
    return {
        'rgb': torch.randn(3, 4, 2),
        'rgb_mask': torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] + [False] * 3]),
        'audio': torch.randn(3, 5, 1),
        'names': ['a', 'b', 'c'],
    }


def test_lone_tensor():
    x = torch.randn(3, 2)
    assert batch.modalities(x) == {'': x} and batch.batch_size(x) == 3
    assert batch.replace(x, {'': x + 1}) is not x and batch.valid_entries(x, '') is None
    assert torch.equal(batch.take(x, torch.tensor([2, 0])), x[[2, 0]])


def test_named_tensors_and_masks():
    inputs = features()
    assert list(batch.modalities(inputs)) == ['rgb', 'audio'] and batch.batch_size(inputs) == 3
    assert batch.valid_entries(inputs, 'rgb').shape == (3, 4, 1)
    assert batch.valid_entries(inputs, 'audio') is None
    other = batch.replace(inputs, {'audio': inputs['audio'] + 1})
    assert other['rgb'] is inputs['rgb'] and other['names'] == ['a', 'b', 'c']
    taken = batch.take(inputs, torch.tensor([1]))
    assert taken['rgb'].shape == (1, 4, 2) and taken['rgb_mask'].tolist() == [
        [True] * 2 + [False] * 2
    ]


def test_a_part_of_the_batch_is_one_of_what_is_by_sample():
    """What all samples share stays; lists of the batch's length are by sample as well."""
    inputs = {
        **features(),
        'scale': torch.tensor(2),
        'positions': torch.arange(4),
        'size': (7, 8, 9),
    }
    taken = batch.take(inputs, torch.tensor([2, 0]))
    assert taken['names'] == ['c', 'a'] and taken['scale'] == 2 and taken['size'] == (7, 8, 9)
    assert torch.equal(taken['positions'], torch.arange(4))
    assert torch.equal(taken['audio'], inputs['audio'][[2, 0]])


@pytest.mark.parametrize('bad', [torch.arange(3), {'rgb': torch.zeros(2, 3).byte()}, ['x'], None])
def test_nothing_to_perturb_is_an_error(bad):
    with pytest.raises(TypeError, match='floating-point'):
        batch.modalities(bad)


@pytest.mark.parametrize('mask', [torch.ones(3, 4), torch.ones(3, 5).bool()])
def test_mask_that_does_not_fit_is_an_error(mask):
    with pytest.raises(ValueError, match='rgb_mask must be boolean'):
        batch.valid_entries({**features(), 'rgb_mask': mask}, 'rgb')


def test_blocks_of_a_sample():
    values = torch.arange(12).view(6, 2)
    assert torch.equal(batch.per_sample(values, 3)[1], values[2:4])


def test_attention_of_a_sample_and_its_valid_frames():
    weights, valid = torch.rand(6, 4, 4), torch.rand(6, 4) > 0.5
    blocks, mask = AttentionMap('', weights, valid).per_sample(3)
    assert torch.equal(blocks[1], weights[2:4]) and torch.equal(mask[1], valid[2:4])
    cross = AttentionMap('', weights[:, :2], valid)
    assert cross.per_sample(3)[0].shape == (3, 2, 2, 4) and cross.per_sample(3)[1] is None
