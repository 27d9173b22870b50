"""The dual norm, for every kind of norm a model may hold."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from adv_plugins import make_adversarial
from adv_plugins.core.norm import (
    ADVERSARIAL,
    CLEAN,
    NormPath,
    convert_norms,
    copy_clean_to_auxiliary,
    dual_norms,
    mirror_requires_grad,
    revert_norms,
)


class ReassigningNorm(nn.BatchNorm1d):
    """Replaces its counter instead of updating it in place."""

    def forward(self, x):
        out = super().forward(x)
        if self.training:
            self.num_batches_tracked = self.num_batches_tracked + 1
        return out


def mmengine_norm():
    model = pytest.importorskip('mmengine.model', reason='needs adv_plugins[mmaction]')
    return model.revert_sync_batchnorm(nn.SyncBatchNorm(3))


def timm_norm():
    layers = pytest.importorskip('timm.layers', reason='needs adv_plugins[mmaction]')
    return layers.BatchNormAct2d(3)


KINDS = {
    'BatchNorm1d': (lambda: nn.BatchNorm1d(3), (4, 3)),
    'BatchNorm2d': (lambda: nn.BatchNorm2d(3), (4, 3, 2, 2)),
    'BatchNorm3d': (lambda: nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
    'eval-only SyncBatchNorm': (lambda: nn.SyncBatchNorm(3).eval(), (4, 3, 2, 2)),
    'reverted SyncBatchNorm': (mmengine_norm, (4, 3, 2, 2)),
    'BatchNormAct2d': (timm_norm, (4, 3, 2, 2)),
    'affine=False': (lambda: nn.BatchNorm2d(3, affine=False), (4, 3, 2, 2)),
    'no running stats': (lambda: nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 2)),
    'momentum=None': (lambda: nn.BatchNorm2d(3, momentum=None), (4, 3, 2, 2)),
    'InstanceNorm': (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (4, 3, 2, 2),
    ),
    'eval': (lambda: nn.BatchNorm2d(3).eval(), (4, 3, 2, 2)),
    'reassigning': (lambda: ReassigningNorm(3), (4, 3)),
}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def pair(request):
    """A plain norm, its converted copy, the path and a batch."""
    make, shape = KINDS[request.param]
    plain = make()
    for value in [*plain.parameters(), *plain.buffers()]:
        if value.is_floating_point():
            value.data.uniform_(0.5, 1.5)
    path = NormPath()
    dual = copy.deepcopy(plain)
    convert_norms(dual, path, dual_bn=True)
    return plain, dual, path, torch.randn(shape)


def buffers(module, prefix=''):
    names = ('running_mean', 'running_var', 'num_batches_tracked')
    found = [getattr(module, prefix + name, None) for name in names]
    return [None if value is None else value.clone() for value in found]


def equal(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_clean_path_is_the_plain_norm(pair):
    plain, dual, _, x = pair
    assert isinstance(dual, type(plain)) and dual.training == plain.training
    for _ in range(3):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, expected = dual(a), plain(b)
        assert torch.equal(out, expected)
        if expected.requires_grad:
            out.square().sum().backward()
            expected.square().sum().backward()
            assert torch.equal(a.grad, b.grad)
    assert list(dual.state_dict()) == list(plain.state_dict())
    assert equal(dual.state_dict().values(), plain.state_dict().values())


def test_adversarial_path_is_a_plain_norm_of_its_own(pair):
    plain, dual, path, x = pair
    clean = buffers(dual)
    with path.use(ADVERSARIAL):
        for _ in range(3):
            assert torch.equal(dual(x), plain(x))
    assert equal(buffers(dual), clean), 'clean statistics saw an adversarial sample'
    assert equal(buffers(dual, 'adv_'), buffers(plain))


def test_adversarial_gradients_go_to_the_adversarial_parameters(pair):
    _, dual, path, x = pair
    if getattr(dual, 'weight', None) is None:
        return
    with path.use(ADVERSARIAL):
        dual(x).square().sum().backward()
    assert dual.weight.grad is None and dual.adv_weight.grad.abs().sum() > 0


@pytest.mark.parametrize('branch', [CLEAN, ADVERSARIAL])
def test_frozen_statistics_stand_still_and_change_no_output(pair, branch):
    plain, dual, path, x = pair
    before = buffers(dual) + buffers(dual, 'adv_')
    with path.use(branch, tracking=False):
        assert torch.equal(dual(x), plain(x))
        with path.use(branch, tracking=True):
            dual(x)
    assert equal(buffers(dual) + buffers(dual, 'adv_'), before)


def test_round_trip_leaves_the_plain_norm(pair):
    plain, dual, _, x = pair
    revert_norms(dual)
    assert type(dual) is type(plain) and list(vars(dual)) == list(vars(plain))
    assert [n for n, _ in dual.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [n for n, _ in dual.named_buffers()] == [n for n, _ in plain.named_buffers()]


def test_exception_inside_the_norm_restores_it():
    norm = nn.BatchNorm2d(3)
    path = NormPath()
    convert_norms(norm, path, dual_bn=True)
    weight, entries = norm.weight, list(norm._buffers.values())
    with pytest.raises(ValueError, match='4D'), path.use(ADVERSARIAL, tracking=False):
        norm(torch.randn(2, 3))
    assert norm.weight is weight and path.now() == (CLEAN, True)
    assert all(a is b for a, b in zip(norm._buffers.values(), entries, strict=True))


def test_auxiliary_entries_belong_to_the_norm_itself():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    modules = list(model.modules())
    convert_norms(model, NormPath(), dual_bn=True)
    assert list(model.modules()) == modules
    assert {name for name, _ in model[1].named_parameters()} == {
        'weight',
        'bias',
        'adv_weight',
        'adv_bias',
    }


def test_shared_norm_is_converted_once():
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, norm)
    assert len(convert_norms(model, NormPath(), dual_bn=True)) == 1
    assert model[0] is model[1] and model[0] is norm
    assert convert_norms(model, NormPath(), dual_bn=True)[0]._norm_path is norm._norm_path


def test_shared_path_has_no_auxiliary_entries_but_freezes():
    norm = nn.BatchNorm2d(3)
    path = NormPath()
    convert_norms(norm, path, dual_bn=False)
    x, before = torch.randn(4, 3, 2, 2), buffers(norm)
    with path.use(ADVERSARIAL, tracking=False):
        norm(x)
    assert equal(buffers(norm), before) and len(list(norm.parameters())) == 2
    with path.use(ADVERSARIAL):
        norm(x)
    assert not equal(buffers(norm), before)


def test_layers_without_running_statistics_are_left_alone():
    model = nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3))
    assert convert_norms(model, NormPath(), dual_bn=True) == []


@pytest.mark.parametrize('affine', [True, False])
def test_dual_layer_norm_is_two_plain_ones(affine):
    plain = nn.LayerNorm(3, elementwise_affine=affine)
    dual, path, x = copy.deepcopy(plain), NormPath(), torch.randn(4, 3)
    assert convert_norms(dual, path, dual_bn=True, dual_ln=True) == [dual]
    assert list(dual.state_dict()) == list(plain.state_dict())
    with path.use(ADVERSARIAL):
        assert torch.equal(dual(x), plain(x))
    if affine:
        dual.adv_weight.data.fill_(2)
        with path.use(ADVERSARIAL):
            out = dual(x)
        assert torch.equal(out, 2 * plain(x)) and torch.equal(dual(x), plain(x))
        out.square().sum().backward()
        assert dual.weight.grad is None and dual.adv_weight.grad.abs().sum() > 0
    revert_norms(dual)
    assert type(dual) is nn.LayerNorm and list(vars(dual)) == list(vars(plain))


def test_dual_layer_norms_beside_shared_batch_norms():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3))
    batch_norm, layer_norm = convert_norms(model, NormPath(), dual_bn=False, dual_ln=True)
    assert batch_norm._auxiliary == () and layer_norm._auxiliary == ('weight', 'bias')


def test_frozen_auxiliary_parameters_follow_the_clean_ones():
    norm = nn.BatchNorm2d(3).requires_grad_(False)
    convert_norms(norm, NormPath(), dual_bn=True)
    assert not norm.adv_weight.requires_grad
    norm.weight.requires_grad_(True)
    mirror_requires_grad(norm)
    assert norm.adv_weight.requires_grad and not norm.adv_bias.requires_grad


def test_copy_starts_the_adversarial_norm_from_the_clean_one():
    norm = nn.BatchNorm2d(3)
    convert_norms(norm, NormPath(), dual_bn=True)
    norm(5 + torch.randn(4, 3, 2, 2))
    norm.weight.data.fill_(3)
    copy_clean_to_auxiliary(norm)
    assert equal(buffers(norm), buffers(norm, 'adv_')) and torch.equal(norm.weight, norm.adv_weight)
    norm(torch.randn(4, 3, 2, 2))
    assert not equal(buffers(norm), buffers(norm, 'adv_'))


def test_layers_are_found_by_the_names_of_their_direct_bases():
    """As mmengine's init_cfg looks for them: layer='_BatchNorm'."""
    norm = nn.BatchNorm2d(3)
    convert_norms(norm, NormPath(), dual_bn=True)
    assert {'BatchNorm2d', '_BatchNorm'} <= {base.__name__ for base in type(norm).__bases__}


def test_deepcopy_has_a_path_of_its_own():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    path = NormPath()
    convert_norms(model, path, dual_bn=True)
    clone = copy.deepcopy(model)
    assert clone[0]._norm_path is clone[1]._norm_path is not path
    with path.use(ADVERSARIAL):
        clone(torch.randn(4, 3, 2, 2))
    assert clone[0].adv_num_batches_tracked == 0 and len(dual_norms(clone)) == 2


def test_strict_loading_neither_needs_nor_takes_auxiliary_entries():
    norm, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    convert_norms(norm, NormPath(), dual_bn=True)
    plain(torch.randn(4, 3, 2, 2))
    norm.load_state_dict(plain.state_dict())
    assert norm.adv_num_batches_tracked == 0 and plain.num_batches_tracked == 1
    assert equal(norm.state_dict().values(), plain.state_dict().values())
    with pytest.raises(RuntimeError, match='running_var'):
        norm.load_state_dict({k: v for k, v in plain.state_dict().items() if k != 'running_var'})


class ScaledOutside(nn.Module):
    """Norms without affine parameters, beside which these lie, as in MMAction2's SubBatchNorm3D."""

    def __init__(self, channels=3):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, affine=False)
        self.gain = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return self.bn(x) * self.gain + self.shift


def sub_batch_norm():
    models = pytest.importorskip('mmaction.models.common', reason='needs adv_plugins[mmaction]')
    return models.SubBatchNorm3D(3, num_splits=2)


@pytest.mark.parametrize(
    ('make', 'shape'), [(ScaledOutside, (4, 3)), (sub_batch_norm, (4, 3, 2, 2, 2))]
)
def test_affine_parameters_beside_the_norm_are_doubled_too(make, shape):
    model, path, x = nn.Sequential(make()), NormPath(), torch.randn(shape)
    parameters = [name for name, _ in model.named_parameters()]
    convert_norms(model, path, dual_bn=True)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if '.adv_' in name:
                value.mul_(2)
    clean = model(x)
    with path.use(ADVERSARIAL):
        assert torch.equal(model(x), 2 * clean)
    revert_norms(model)
    assert [name for name, _ in model.named_parameters()] == parameters


def test_parameters_that_are_no_part_of_a_norm_are_not_doubled():
    model = ScaledOutside()
    model.tokens = nn.Parameter(torch.zeros(1, 3))
    convert_norms(model, NormPath(), dual_bn=True)
    assert [name for name, _ in model.named_parameters()] == ['gain', 'shift', 'tokens']


class Squared(nn.Module):
    def forward(self, weight):
        return weight.square()


def weight_normed(norm):
    with pytest.warns(FutureWarning, match='deprecated'):
        nn.utils.weight_norm(norm, dim=None)


COMPUTED = {
    'parametrization': lambda norm: parametrize.register_parametrization(
        norm, 'weight', Squared(), unsafe=True
    ),
    'weight norm': weight_normed,
    'pruning': lambda norm: prune.l1_unstructured(norm, 'weight', 0.5),
}


@pytest.mark.parametrize('kind', COMPUTED)
def test_norms_whose_weight_is_computed_are_refused(kind):
    """Their adversarial path would silently use the clean weight."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    batch = torch.rand(4, 3, 5, 5), torch.tensor([0, 1, 1, 0])
    model(batch[0])
    late = make_adversarial(copy.deepcopy(model), value_range=(0, 1))
    late.adversarial_loss(*batch)
    COMPUTED[kind](model[1])
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match='the weight of .*Norm2d is computed'):
        make_adversarial(model, value_range=(0, 1))
    assert list(model.state_dict()) == keys and not dual_norms(model)
    make_adversarial(model, value_range=(0, 1), dual_bn=False).adversarial_loss(*batch)
    COMPUTED[kind](late[1])
    with pytest.raises(ValueError, match='the weight of .*Norm2d is computed'):
        late.adversarial_loss(*batch)


def test_values_that_are_assigned_reach_norms_from_the_meta_device():
    values = nn.BatchNorm2d(3).state_dict()
    with torch.device('meta'):
        norm = nn.BatchNorm2d(3)
    convert_norms(norm, NormPath(), dual_bn=True)
    norm.bias.requires_grad_(False)
    mirror_requires_grad(norm)
    norm.load_state_dict(values, assign=True)
    for name, clean, twin in norm.auxiliary_pairs():
        assert torch.equal(clean, twin) and type(clean) is type(twin), name
        assert clean is not twin and clean.requires_grad == twin.requires_grad
