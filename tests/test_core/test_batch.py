"""Inputs of one tensor and of several, with masks."""

from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest
import torch

from adv_plugins.attention import AttentionMap
from adv_plugins.core.batch import Batch, fresh, per_sample


def features():
    return {
        'rgb': torch.randn(3, 4, 2),
        'rgb_mask': torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] + [False] * 3]),
        'audio': torch.randn(3, 5, 1),
        'names': ['a', 'b', 'c'],
    }


def test_lone_tensor():
    x = torch.randn(3, 2)
    batch = Batch(x)
    assert batch.values == {'': x} and batch.size == 3 and batch.inputs is x
    assert batch.valid('') is None and torch.equal(batch.replace({'': x + 1}).inputs, x + 1)
    assert torch.equal(batch.take(torch.tensor([2, 0])).inputs, x[[2, 0]])


def test_named_tensors_and_masks():
    inputs = features()
    batch = Batch(inputs)
    assert list(batch.values) == ['rgb', 'audio'] and batch.size == 3
    assert batch.valid('rgb').shape == (3, 4, 1) and batch.valid('audio') is None
    other = batch.replace({**batch.values, 'audio': inputs['audio'] + 1}).inputs
    assert torch.equal(other['rgb'], inputs['rgb']) and other['names'] == ['a', 'b', 'c']
    assert list(other) == list(inputs)
    taken = batch.take(torch.tensor([1])).inputs
    assert taken['rgb'].shape == (1, 4, 2) and taken['rgb_mask'].tolist() == [
        [True] * 2 + [False] * 2
    ]


def test_a_scalar_is_no_modality():
    batch = Batch(dict(temperature=torch.tensor(0.5), rgb=torch.rand(3, 2)))
    assert list(batch.values) == ['rgb'] and batch.size == 3
    assert batch.leaves().inputs['temperature'] == 0.5


def test_a_model_gets_a_mapping_of_its_own():
    inputs = features()
    batch = Batch(inputs)
    given = batch.inputs
    given.clear()
    assert list(batch.inputs) == list(inputs) == list(features())


def test_leaves_share_the_values_and_leave_the_given_ones_alone():
    inputs = features()
    leaves = Batch(inputs).leaves()
    assert all(value.requires_grad and value.is_leaf for value in leaves.values.values())
    assert leaves.values['rgb'].data_ptr() == inputs['rgb'].data_ptr()
    assert not inputs['rgb'].requires_grad
    assert leaves.clone().values['rgb'].data_ptr() != inputs['rgb'].data_ptr()


def test_relative_sizes_leave_out_the_padding():
    inputs = features()
    moved = {**inputs, 'rgb': inputs['rgb'] + 3.0, 'audio': inputs['audio'] * 1.5}
    sizes = Batch(inputs).relative_sizes(Batch(moved))
    lengths = inputs['rgb_mask'].sum(dim=1)
    for index, length in enumerate(lengths):
        valid = inputs['rgb'][index, :length]
        wanted = 3.0 * (2 * length) ** 0.5 / valid.norm()
        torch.testing.assert_close(sizes['rgb'][index], wanted)
    torch.testing.assert_close(sizes['audio'], torch.full((3,), 0.5))


def test_a_part_of_the_batch_is_one_of_what_is_by_sample():
    """What all samples share stays; lists of the batch's length are by sample as well."""
    inputs = {
        **features(),
        'scale': torch.tensor(2),
        'positions': torch.arange(4),
        'size': (7, 8, 9),
    }
    taken = Batch(inputs).take(torch.tensor([2, 0])).inputs
    assert taken['names'] == ['c', 'a'] and taken['scale'] == 2 and taken['size'] == (7, 8, 9)
    assert torch.equal(taken['positions'], torch.arange(4))
    assert torch.equal(taken['audio'], inputs['audio'][[2, 0]])


@pytest.mark.parametrize(
    'bad',
    [
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        torch.nested.nested_tensor([torch.rand(2), torch.rand(3)], layout=torch.jagged),
    ],
    ids=['sparse', 'csr', 'nested'],
)
def test_tensors_that_are_not_dense_are_an_error(bad):
    for inputs in (bad, dict(rgb=torch.rand(3, 2), other=bad)):
        with pytest.raises(TypeError, match='dense'):
            Batch(inputs)


@pytest.mark.parametrize('bad', [torch.arange(3), {'rgb': torch.zeros(2, 3).byte()}, ['x'], None])
def test_nothing_to_perturb_is_an_error(bad):
    with pytest.raises(TypeError, match='floating-point'):
        Batch(bad)


def test_mask_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match='rgb_mask must be True where valid'):
        Batch({**features(), 'rgb_mask': torch.ones(3, 5).bool()})


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.int64])
def test_a_mask_of_zeros_and_ones_is_read_as_a_boolean_one(dtype):
    inputs = features()
    number = {**inputs, 'rgb_mask': inputs['rgb_mask'].to(dtype)}
    batch = Batch(number)
    assert list(batch.values) == ['rgb', 'audio']
    assert torch.equal(batch.valid('rgb'), Batch(inputs).valid('rgb'))
    assert batch.leaves().inputs['rgb_mask'].dtype is dtype


@pytest.mark.parametrize(
    'mask', [torch.full((3, 4), 0.5), torch.zeros(3, 4).log(), torch.ones(3, 1, 4, 4)]
)
def test_other_numbers_say_nothing_of_padding(mask):
    batch = Batch({**features(), 'rgb_mask': mask})
    assert list(batch.values) == ['rgb', 'audio'] and batch.valid('rgb') is None


def test_a_float_mask_is_perturbed_only_where_it_is_all_there_is():
    masks = {name: torch.rand(3, 4) for name in ('mask', 'attention_mask')}
    assert list(Batch({'rgb': torch.rand(3, 2), **masks}).values) == ['rgb']
    assert list(Batch(masks).values) == list(masks)


Pathways = namedtuple('Pathways', ['slow', 'slow_mask', 'fast'])


@pytest.mark.parametrize('kind', [list, tuple, Pathways._make])
def test_a_sequence_of_tensors_is_one_batch(kind):
    slow, fast = torch.rand(3, 2, 5), torch.rand(3, 8, 5)
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    given = kind([slow, mask, fast])
    batch = Batch(given)
    names = ['slow', 'fast'] if kind == Pathways._make else ['0', '2']
    assert list(batch.values) == names and batch.size == 3
    moved = batch.replace({name: value + 1 for name, value in batch.values.items()})
    for other, step in ((batch.leaves(), 0), (moved, 1), (batch.clone(), 0)):
        assert type(other.inputs) is type(given)
        first, middle, last = other.inputs
        assert torch.equal(first, slow + step) and torch.equal(last, fast + step)
        assert torch.equal(middle, mask)
    taken = moved.take(torch.tensor([2, 0]))
    assert type(taken.inputs) is type(given) and taken.size == 2
    assert torch.equal(taken.inputs[1], mask[[2, 0]])
    assert torch.equal(taken.inputs[2], fast[[2, 0]] + 1)
    assert (batch.valid(names[0]) is None) == (kind != Pathways._make)


def test_a_mapping_keeps_its_type_where_a_part_is_taken():
    taken = Batch(OrderedDict(rgb=torch.rand(3, 2))).take(torch.tensor([1])).inputs
    assert type(taken) is OrderedDict


@pytest.mark.parametrize(
    'inputs',
    [[torch.rand(3, 8, 2), torch.rand(4, 8, 2)], dict(x=torch.rand(3, 2), graph=torch.eye(17))],
)
def test_tensors_of_different_numbers_of_samples_are_an_error(inputs):
    with pytest.raises(ValueError, match=r'3.*torch.stack\(inputs\).*buffer'):
        Batch(inputs)


def test_blocks_of_a_sample():
    values = torch.arange(12).view(6, 2)
    assert torch.equal(per_sample(values, 3)[1], values[2:4])


def test_attention_of_a_sample_and_its_valid_frames():
    weights, valid = torch.rand(6, 4, 4), torch.rand(6, 4) > 0.5
    blocks, mask = AttentionMap('', weights, valid).per_sample(3)
    assert torch.equal(blocks[1], weights[2:4]) and torch.equal(mask[1], valid[2:4])
    cross = AttentionMap('', weights[:, :2], valid)
    assert cross.per_sample(3)[0].shape == (3, 2, 2, 4) and cross.per_sample(3)[1] is None


def test_copies_reach_tensors_in_containers_and_samples():
    class Sample:
        def __init__(self, label):
            self.label, self.fields, self.meta = label, {'label'}, {'boxes': torch.zeros(2)}

    Pair = namedtuple('Pair', 'a b')
    given = {
        'samples': [Sample(torch.tensor([3])), Sample(torch.tensor([4]))],
        'pair': Pair(torch.ones(2), 'text'),
        'array': np.zeros(3),
        'none': None,
    }
    twin = fresh(given)
    twin['samples'][0].label.add_(1)
    twin['samples'][0].fields.clear()
    twin['samples'][0].meta['boxes'].add_(1)
    twin['samples'].pop()
    twin['pair'].a.zero_()
    twin['array'] += 1
    twin.pop('none')
    first = given['samples'][0]
    assert len(given['samples']) == 2 and first.label == 3 and first.fields == {'label'}
    assert first.meta['boxes'].sum() == 0 and given['pair'].a.sum() == 2
    assert given['array'].sum() == 0 and 'none' in given and type(twin['pair']) is Pair


class Named(dict):
    """A dict of which models read the entries as attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            # What copy.copy expects on Python 3.10.
            raise AttributeError(name) from None


@pytest.mark.parametrize('kind', [Named, UserDict, OrderedDict])
def test_a_mapping_keeps_its_type_and_is_a_copy(kind):
    given = kind(rgb=torch.rand(2, 3), meta=kind(size=torch.ones(1)))
    inputs = Batch(given).leaves().inputs
    assert type(inputs) is type(inputs['meta']) is kind
    inputs['meta']['size'].zero_()
    inputs['more'] = inputs.pop('rgb')
    assert 'more' not in given and given['meta']['size'] == 1
