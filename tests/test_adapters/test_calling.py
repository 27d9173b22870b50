"""How plain modules are called: keywords, containers, several positional arguments."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adv_plugins import make_adversarial

INPUTS = dict(x=torch.randn(5, 3, 4), lengths=torch.tensor([3, 3, 2, 1, 3]))
LABELS = torch.arange(5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x, lengths, scale=1.0):
        return self.fc(x.sum(1) / lengths[:, None]) * scale


class KeywordOnly(Pair):
    def forward(self, *, x, lengths):
        return super().forward(x, lengths)


class Keywords(Pair):
    def forward(self, **inputs):
        return super().forward(**inputs)


class SomeKeywords(Pair):
    def forward(self, x, **others):
        return super().forward(x, **others)


class Whole(Pair):
    def forward(self, batch):
        assert type(batch) is dict
        return super().forward(**batch)


class WholeAndOptions(Pair):
    def forward(self, batch, scale=1.0, **others):
        assert not others
        return super().forward(**batch, scale=scale)


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, *args, **kwargs):
        return self.net(*args, **kwargs)


class Decorated(Pair):
    @functools.wraps(Pair.forward)
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize(
    'build',
    [Pair, KeywordOnly, Keywords, SomeKeywords, Whole, WholeAndOptions, Decorated]
    + [lambda kind=kind: Wrapper(kind()) for kind in (Pair, Keywords, Whole)]
    + [lambda: Wrapper(Wrapper(Whole()))],
)
def test_a_dict_goes_where_forward_wants_it(build):
    torch.manual_seed(0)
    net = make_adversarial(build(), eps=0.1, dual_bn=False)
    torch.manual_seed(0)
    wanted = F.cross_entropy(Pair()(**INPUTS), LABELS)
    losses = net.adversarial_loss(INPUTS, LABELS)
    torch.testing.assert_close(losses['clean_loss'], wanted)
    moved = net.perturb(INPUTS, LABELS)
    assert torch.equal(moved['lengths'], INPUTS['lengths'])
    assert not torch.equal(moved['x'], INPUTS['x'])


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(x=INPUTS['x']), r'forward\(x, lengths, scale=1.0\) of .*Pair.*lengths'),
        ({**INPUTS, 'ids': LABELS}, "unexpected keyword argument 'ids'"),
    ],
)
def test_arguments_that_forward_does_not_have(wrong, message):
    with pytest.raises(TypeError, match=message):
        make_adversarial(Pair(), dual_bn=False).adversarial_loss(wrong, LABELS)


def test_a_tuple_of_several_required_arguments_is_passed_by_position():
    net = make_adversarial(Pair(), eps=0.1, dual_bn=False)
    by_name, by_place = (net.perturb(inputs, LABELS) for inputs in (INPUTS, tuple(INPUTS.values())))
    assert type(by_place) is tuple and torch.equal(by_place[0], by_name['x'])


def test_a_list_of_samples_is_told_to_be_one_tensor():
    with pytest.raises(TypeError, match=r'Linear got the list as its one.*torch.stack\(inputs\)'):
        make_adversarial(nn.Linear(4, 6), dual_bn=False).adversarial_loss(
            [torch.rand(4), torch.rand(4)], LABELS
        )


class Pathways(nn.Module):
    """SlowFast's way: one argument, a list of clips at two frame rates."""

    def __init__(self):
        super().__init__()
        self.slow, self.fast = (nn.Conv3d(3, 4, 3, padding=1) for _ in range(2))
        self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 6)

    def forward(self, pathways, boxes=None):
        slow, fast = pathways
        parts = (self.slow(slow).mean((2, 3, 4)), self.fast(fast).mean((2, 3, 4)))
        return self.fc(self.norm(torch.cat(parts, 1)))


class Spread(Pathways):
    def forward(self, *pathways):
        return super().forward(pathways)


@pytest.mark.parametrize('build', [Pathways, Spread, lambda: Wrapper(Pathways())])
@pytest.mark.parametrize('kind', [list, tuple])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(recipe='art'),
        dict(fraction=0.5),
        dict(norm='l2', joint=True, eps=0.5, step_size=0.5),
        dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], random_start=True),
    ],
)
def test_pathways_are_one_batch(build, kind, options):
    inputs = kind([torch.rand(4, 3, 2, 6, 6), torch.rand(4, 3, 8, 6, 6)])
    labels = torch.arange(4)
    net = make_adversarial(build(), **options)
    losses = net.adversarial_loss(inputs, labels)
    losses['loss'].backward()
    assert losses['adv_unmoved'] == 0 and {'adv_ratio_0', 'adv_ratio_1'} <= losses.keys()
    moved = net.perturb(inputs, labels)
    assert type(moved) is kind
    for before, after in zip(inputs, moved, strict=True):
        assert before.shape == after.shape and not torch.equal(before, after)
    if options.get('joint'):
        size = torch.cat([(a - b).flatten(1) for a, b in zip(inputs, moved, strict=True)], 1)
        torch.testing.assert_close(size.norm(dim=1), torch.full((4,), 0.5))


def test_a_float_mask_reaches_the_model_as_it_is():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 6)

        def forward(self, x, x_mask):
            assert x_mask.is_floating_point()
            return self.fc((x * x_mask[..., None]).sum(1))

    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]])
    inputs = dict(x=torch.randn(5, 3, 4), x_mask=mask)
    net = make_adversarial(Masked(), eps=0.1, random_start=True, dual_bn=False)
    moved = net.perturb(inputs, LABELS)
    assert moved['x_mask'] is not mask and torch.equal(moved['x_mask'], mask)
    assert torch.equal((moved['x'] != inputs['x']).any(2), mask.bool())
