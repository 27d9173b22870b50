"""A plain PyTorch loop: mixed precision, accumulation, compilation, memory format."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel

from adv_plugins import TAF, AdvProp, CEAugmentation, adversarial_state_dict, make_adversarial
from adv_plugins.core.conversion import get_adversary

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/trainers'))

import plain_amp  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:.*has no batch normalisation')

RECIPES = {'TAF': TAF(), 'CE': CEAugmentation(), 'AdvProp': AdvProp(steps=2)}


@pytest.fixture(params=RECIPES, ids=list(RECIPES))
def recipe(request):
    return RECIPES[request.param]


def micro_batches(count: int, size: int = 4, dtype: Any = None) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    clips, labels = plain_amp.clips_and_labels(count * size, generator)
    return list(zip(clips.to(dtype).split(size), labels.split(size), strict=True))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_loop_learns(recipe, dtype):
    model = make_adversarial(plain_amp.VideoNet(), recipe, mean=0.5, std=0.25)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**12)
    batches = micro_batches(2, size=2)
    losses = [
        plain_amp.train_step(model.train(), batches, optimizer, scaler, dtype) for _ in range(15)
    ]
    assert losses[-1] < 0.8 * losses[0]
    assert scaler.get_scale() == 2.0**12, 'a step was skipped'
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_scale_reaches_every_gradient(recipe, dtype):
    """Those taken ahead of the trainer's backward too; a power of two changes no bit of bf16."""
    grads = []
    for scale in (1.0, 2.0**8):
        torch.manual_seed(0)
        model = make_adversarial(plain_amp.VideoNet(), recipe)
        # The auxiliary norms are separate parameters, so no gradient is there twice.
        scaler = torch.amp.GradScaler('cpu', init_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        with torch.autocast('cpu', dtype=dtype):
            loss = model.adversarial_loss(*micro_batches(1)[0])['loss']
        scaler.scale(loss).backward()
        scaled = [value.grad.clone() for value in model.parameters()]
        scaler.unscale_(optimizer)
        grads.append((scaled, [value.grad for value in model.parameters()]))
    (_, plain), (scaled, unscaled) = grads
    # In fp16 an unscaled gradient may underflow, which is what the scale is for.
    exact = dict(rtol=0, atol=0) if dtype is torch.bfloat16 else dict(rtol=2e-2, atol=2e-4)
    for before, large, after in zip(plain, scaled, unscaled, strict=True):
        assert torch.equal(large, after * 2.0**8)
        torch.testing.assert_close(before, after, **exact)


def test_overflow_skips_the_step_of_both_paths():
    model = make_adversarial(plain_amp.VideoNet(), CEAugmentation())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**40)
    before = [value.detach().clone() for value in model.parameters()]
    plain_amp.train_step(model, micro_batches(1), optimizer, scaler, torch.float16)
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    scaler.update(2.0**8)
    plain_amp.train_step(model, micro_batches(1), optimizer, scaler, torch.float16)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    names = [name for name, _ in model.named_parameters()]
    # A convolution's bias ahead of a batch norm has no gradient but rounding.
    assert all(m for m, name in zip(moved, names, strict=True) if name != 'stem.bias'), names


class NormFree(plain_amp.VideoNet):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.Identity()


def eval_norms(model: nn.Module) -> nn.Module:
    """What norm_eval does: batch norms that normalise by their running statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.eval()
    return model


@pytest.mark.parametrize('options', [{}, dict(norm='l2', clamp=False)], ids=['linf', 'l2'])
@pytest.mark.parametrize(
    'build', [NormFree, plain_amp.VideoNet], ids=['no norm', 'norms in eval mode']
)
def test_accumulated_micro_batches_are_the_larger_batch(build, options):
    """Without batch norms, or with batch norms in eval mode. With batch statistics a micro-batch
    is normalised by its own, in the plain model as here.

    In double precision, where a sign depends on rounding nowhere.
    """
    start = eval_norms(build().double().train())
    recipe = CEAugmentation(steps=2, **options)
    ends = []
    for count in (1, 2, 4):
        model = make_adversarial(copy.deepcopy(start), recipe, mean=0.5, std=0.25)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for _ in range(3):
            optimizer.zero_grad()
            for batch in micro_batches(count, size=8 // count, dtype=torch.float64):
                (model.adversarial_loss(*batch)['loss'] / count).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        ends.append(model)
    assert (start.fc.weight - ends[0].fc.weight).abs().max() > 1e-3
    for other in ends[1:]:
        for (name, value), same in zip(ends[0].named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, same, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', ['TAF', 'CE'])
def test_low_precision_attack_agrees_in_sign(name, dtype):
    """On a small network halfway through its training."""
    model = NormFree()
    clips, labels = plain_amp.clips_and_labels(16, torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()
    assert 0.1 < F.cross_entropy(model(clips), labels) < 1.2
    make_adversarial(model, RECIPES[name])
    full = (model.perturb(clips, labels) - clips).sign()
    with torch.autocast('cpu', dtype=dtype):
        low = (model.perturb(clips, labels) - clips).sign()
    assert (full != 0).all()
    assert 0.99 < (full == low).float().mean() < 1


@pytest.mark.parametrize(
    ('name', 'backend'),
    [('TAF', 'eager'), ('CE', 'eager'), ('CE', 'aot_eager'), ('AdvProp', 'aot_eager')],
)
def test_compiled_forwards_give_the_same_step(name, backend):
    """model.compile() after the conversion: both paths and all attack forwards run compiled."""
    recipe = RECIPES[name]
    torch._dynamo.reset()
    start = Conv3dNet()
    clips, labels = torch.randn(4, 3, 4, 6, 6), torch.tensor([0, 1, 2, 3])
    models, compiled = [], []

    def counting(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    for on in (False, True):
        model = make_adversarial(copy.deepcopy(start), recipe)
        if on:
            model.compile(backend=counting)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model.adversarial_loss(clips, labels)['loss'].backward()
            optimizer.step()
        models.append(model)
    assert compiled
    for (name, value), other in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)
    for (name, value), other in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=name)
    first, second = (adversarial_state_dict(model) for model in models)
    assert first['bn1.adv_num_batches_tracked'] == second['bn1.adv_num_batches_tracked'] == 2


@pytest.mark.parametrize('second_order', [True, False])
def test_a_model_compiled_as_a_whole_is_attacked_as_it_is(second_order):
    """Its CAM layer is read at a break of the graph."""
    torch._dynamo.reset()
    batch = torch.randn(4, 3, 4, 6, 6), torch.tensor([0, 1, 2, 3])
    plain = make_adversarial(Conv3dNet(), 'taf', second_order=second_order).eval()
    compiled = copy.deepcopy(plain)
    compiled.compile(backend='aot_eager')
    if second_order and tuple(map(int, torch.__version__.split('.')[:2])) < (2, 14):
        # torch 2.6 also compiles what follows the break, which then has one derivative.
        with pytest.raises(RuntimeError, match='write second_order=False.*leave out compile'):
            compiled.perturb(*batch)
        return
    torch.testing.assert_close(compiled.perturb(*batch), plain.perturb(*batch))
    losses = [net.train().adversarial_loss(*batch)['loss'] for net in (compiled, plain)]
    torch.testing.assert_close(*losses)


def test_compiled_wrapper_trains():
    """torch.compile(model) wraps: its inference is compiled, its step is the model's."""
    torch._dynamo.reset()
    model = make_adversarial(plain_amp.VideoNet(), CEAugmentation())
    wrapper = torch.compile(model, backend='aot_eager')
    clips, labels = micro_batches(1)[0]
    wrapper.adversarial_loss(clips, labels)['loss'].backward()
    assert model.fc.weight.grad.abs().sum() > 0
    assert get_adversary(model).schedule.iteration == 1
    model.eval()
    torch.testing.assert_close(wrapper(clips), model(clips))


class ImageNet2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.bn(self.conv1(x)).relu()).mean(dim=(2, 3)))


class ImageNet3d(plain_amp.VideoNet):
    pass


@pytest.mark.parametrize(
    'options',
    [
        dict(steps=2),
        dict(steps=1, norm='l2'),
        dict(steps=1, random_start=True),
        dict(steps=2, attack_path='clean'),
        dict(steps=1, fraction=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ('build', 'memory_format', 'shape'),
    [
        (ImageNet2d, torch.channels_last, (4, 3, 8, 8)),
        (ImageNet3d, torch.channels_last_3d, (4, 3, 4, 8, 8)),
    ],
    ids=['2-D', '3-D'],
)
@pytest.mark.parametrize('autocast', [False, True], ids=['fp32', 'bf16'])
def test_channels_last_is_kept(build, memory_format, shape, options, autocast):
    model = make_adversarial(build(), AdvProp(**options), mean=[0.5] * 3, std=[0.25] * 3)
    model.to(memory_format=memory_format)
    inputs = torch.randn(shape).contiguous(memory_format=memory_format)
    labels = torch.arange(4)
    kept: list[bool] = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            module.register_forward_pre_hook(
                lambda _m, args: kept.append(args[0].is_contiguous(memory_format=memory_format))
            )
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        model(inputs)
        # Not every CPU keeps the format in a 3-D convolution of bfloat16.
        plain = tuple(kept)
        moved = model.perturb(inputs, labels)
        model.adversarial_loss(inputs, labels)['loss'].backward()
    assert moved.is_contiguous(memory_format=memory_format)
    assert not moved.is_contiguous()
    assert plain[0]
    assert len(kept) >= 8
    assert tuple(kept) == plain * (len(kept) // len(plain))


def test_example(capsys):
    clean, attacked = plain_amp.main(['--steps', '60'])
    assert clean > 0.5
    assert attacked <= clean
    assert 'accuracy' in capsys.readouterr().out


@pytest.fixture
def one_process(tmp_path):
    """A process group of its own, as FSDP wants one."""
    dist.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Loss(nn.Module):
    """What DistributedDataParallel wraps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: Tensor, labels: Tensor) -> Tensor:
        return self.net.adversarial_loss(clips, labels)['loss']


def test_ddp_over_clean_iterations_is_the_loop_without(one_process):
    """With find_unused_parameters=True nothing moves the adversarial norms at clean ones."""
    net = make_adversarial(Conv3dNet(), AdvProp(steps=1, interval=2))
    copied = copy.deepcopy(net)
    wrapped = nn.parallel.DistributedDataParallel(Loss(copied), find_unused_parameters=True)
    for model in (Loss(net), wrapped):
        optimizer = torch.optim.AdamW(model.parameters(), 0.05)
        for _ in range(2):
            for clips, labels in micro_batches(2):
                optimizer.zero_grad()
                model(clips, labels).backward()
                optimizer.step()
    for value, other in zip(net.parameters(), copied.parameters(), strict=True):
        assert torch.equal(value, other)


@pytest.mark.filterwarnings('ignore:.*(FSDP|world size|NO_SHARD)')
def test_fsdp1_is_one_clear_error(one_process, recipe):
    clips, labels = micro_batches(1)[0]
    model = make_adversarial(plain_amp.VideoNet(), recipe)
    wrapped = FullyShardedDataParallel(model, device_id=torch.device('cpu'))
    for call in (model.adversarial_loss, model.perturb):
        with pytest.raises(TypeError, match=r'FSDP1 .* shard it with FSDP2, after make_advers'):
            call(clips, labels)
    late = FullyShardedDataParallel(plain_amp.VideoNet(), device_id=torch.device('cpu'))
    with pytest.raises(TypeError, match='convert first, then wrap in DistributedDataParallel'):
        make_adversarial(late, recipe)
    assert wrapped is not None
