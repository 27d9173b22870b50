"""Models sharded by FSDP2 on two gloo processes train as unsharded ones with averaged gradients.

Many cases run one after another in a pair of processes, because starting a pair takes longest.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import two_ranks
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from adv_plugins import (
    adversarial_state_dict,
    load_adversarial_state_dict,
    make_adversarial,
    remove_adversarial,
)
from adv_plugins.adapters.classifier import ClassifierAdapter
from adv_plugins.core import adversary
from adv_plugins.core import step as core_step
from adv_plugins.core.adapter import register_adapter
from adv_plugins.core.autograd import gradients, inject_gradients
from adv_plugins.core.batch import Batch
from adv_plugins.core.conversion import AdversarialModule
from adv_plugins.core.record import Record

pytest.importorskip('torch', minversion='2.13', reason='the step under FSDP2 needs it')
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import (  # noqa: E402
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor  # noqa: E402

STEPS = 4
WHOLE = StateDictOptions(full_state_dict=True)


class Block(nn.Module):
    """A residual block, the unit that is sharded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.conv(x)).relu()


class TokenBlock(nn.Module):
    """A Transformer's block, with a map of attention and dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.mlp(x)


class Net(nn.Module):
    """A classifier of clips (B, 3, 4, 6, 6). Its width is odd, so the shards are uneven."""

    def __init__(
        self,
        tokens: bool = False,
        checkpointing: bool = False,
        zeros: str = '',
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.tokens, self.checkpointing = tokens, checkpointing
        self.stem = nn.Conv3d(3, 7, (1, 2, 2), (1, 2, 2), bias=tokens)
        self.norm = nn.Identity() if tokens else nn.BatchNorm3d(7)
        self.blocks = nn.ModuleList(TokenBlock(7) if tokens else Block(7) for _ in range(3))
        self.fc = nn.Linear(7, 6)
        if zeros:
            nn.init.zeros_(self.get_submodule(zeros).weight)
        self.blocks.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        if self.tokens:
            x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            again = self.checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return self.fc(x.mean(dim=1) if self.tokens else x.mean(dim=(2, 3, 4)))


class Inside(Net):
    """A net whose forward takes the step, once it is converted, as a recognizer's does."""


class Step(AdversarialModule):
    def forward(self, x: Tensor, labels: Any = None) -> Any:
        return super().forward(x) if labels is None else self.adversarial_loss(x, labels)


@register_adapter
class InsideAdapter(ClassifierAdapter):
    mixin = Step
    calls_model = False

    @classmethod
    def handles(cls, model: nn.Module) -> bool:
        return isinstance(model, Inside)

    def forward(self, batch: Batch, target: Any) -> Record:
        logits = super(Step, self.model).forward(batch.inputs)
        loss = F.cross_entropy(logits, target)
        return Record({'loss': loss}, loss, logits, target, batch.size)


class Tempered(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits * self.temperature, labels)


@dataclass
class Case:
    """What is trained, and how.

    Args:
        recipe (str): Its name.
        options (dict): Its options.
        net (dict): Those of :class:`Net`.
        shard (dict): Those of ``fully_shard``.
        evaluate (bool): Whether a forward in eval mode and an attack come before each step.
        micro (int): Number of micro-batches of a step.
        stay (bool): Whether the parameters stay gathered between micro-batches.
        own_loss (str): ``'plain'`` or ``'sharded'`` if the loss has a parameter of its own.
        inside (bool): Whether the model's own forward takes the step.
        freeze (bool): Whether the first block is frozen from the third step on.
        differs (float): By how much the trainings may differ.
    """

    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    net: dict[str, Any] = field(default_factory=dict)
    shard: dict[str, Any] = field(default_factory=dict)
    evaluate: bool = False
    micro: int = 1
    stay: bool = False
    own_loss: str = ''
    inside: bool = False
    freeze: bool = False
    differs: float = 0.0


TOKENS = dict(tokens=True)
LAST = dict(cam_layer='blocks.2', cam_layout='b (t h w) c; t=4 h=3')
CASES = {
    'AdvProp': Case('advprop', dict(steps=1)),
    'AdvProp, K=3': Case('advprop', dict(steps=3)),
    'AdvProp, tokens': Case('advprop', dict(steps=2), TOKENS),
    'AdvProp, dual LayerNorm': Case('advprop', dict(steps=1, dual_ln=True), TOKENS),
    'AdvProp, clean_weight=0': Case('advprop', dict(steps=2, clean_weight=0.0)),
    'AdvProp, adv_weight=0': Case('advprop', dict(steps=1, adv_weight=0.0)),
    'AdvProp, interval': Case('advprop', dict(steps=1, interval=2)),
    'AdvProp, fraction': Case('advprop', dict(steps=1, fraction=0.5)),
    'AdvProp, random start': Case('advprop', dict(steps=2, random_start=True)),
    'AdvProp, attack in bf16': Case('advprop', dict(steps=2, attack_dtype='bfloat16')),
    'CEAugmentation': Case('ceaugmentation'),
    'ART': Case('art', net=TOKENS),
    'AART': Case('aart', dict(beta=0.5), TOKENS),
    'AART, recompute': Case('aart', dict(beta=0.5, recompute=True), TOKENS),
    'AART, recompute, TAF': Case(
        'taf', dict(LAST, regularizers=['AttentionFrobenius'], recompute=True), TOKENS
    ),
    'AART, interval': Case('aart', dict(beta=0.5, interval=2), TOKENS),
    'PGDTraining': Case('pgdtraining', dict(steps=2)),
    'FastTraining': Case('fasttraining', dict(check_interval=2)),
    'TRADES': Case('trades', dict(steps=1)),
    'MART, recompute': Case('mart', dict(steps=1, recompute=True)),
    'TAF': Case('taf'),
    'TAF, K=3': Case('taf', dict(steps=3)),
    'TAF, first block': Case('taf', dict(cam_layer='blocks.0')),
    'TAF, stem': Case('taf', dict(cam_layer='stem')),
    'TAF, tokens': Case('taf', LAST, TOKENS),
    'TAF, tokens, layer found': Case('taf', {}, TOKENS),
    'TAF, head of zeros': Case('taf', {}, dict(zeros='fc')),
    'TAF, block of zeros': Case('taf', {}, dict(zeros='blocks.1.conv')),
    'TAF, first order': Case('taf', dict(second_order=False, cam_layer='blocks.1')),
    'TAF, of the score': Case('taf', dict(cam_of='score')),
    'TAF, begins later': Case('taf', dict(begin=2)),
    'AART, begins later': Case('aart', dict(begin=2), TOKENS),
}
for raf in (True, False):
    for name in ('AdvProp, K=3', 'TAF, first block', 'TAF, begins later', 'AART'):
        CASES[f'{name}, reshard={raf}'] = replace(
            CASES[name], shard=dict(reshard_after_forward=raf)
        )
for units in ('one unit', 'norms', 'norms and blocks', 'none'):
    for name in ('AdvProp, dual LayerNorm', 'TAF, first block', 'AART'):
        CASES[f'{name}, {units}'] = replace(CASES[name], shard=dict(units=units))
for name in ('AdvProp, K=3', 'AART, recompute', 'TAF, first block', 'TAF, first order'):
    CASES[f'{name}, inside'] = replace(CASES[name], inside=True)
for name in ('TAF, begins later', 'TAF, block of zeros', 'AART, begins later'):
    for raf in (None, True, False):
        shard = dict(reshard_after_forward=raf)
        inside = replace(CASES[name], inside=True, shard=shard)
        CASES[f'{name}, inside, reshard={raf}'] = inside
        CASES[f'{name}, inside, evaluation, reshard={raf}'] = replace(inside, evaluate=True)
for name in ('AdvProp, K=3', 'TAF, first block', 'TAF, tokens', 'AART', 'TAF, begins later'):
    case = CASES[name]
    CASES[f'{name}, checkpointing'] = replace(case, net=dict(case.net, checkpointing=True))
    CASES[f'{name}, evaluation'] = replace(case, evaluate=True)
CASES |= {
    'TAF, evaluation, reshard=False': Case(
        'taf', shard=dict(reshard_after_forward=False), evaluate=True
    ),
    'AdvProp, accumulation': Case('advprop', dict(steps=2), micro=2),
    'AdvProp, accumulation, stays gathered': Case('advprop', dict(steps=2), micro=2, stay=True),
    'TAF, accumulation': Case('taf', dict(interval=2), micro=3),
    # The micro-batches' gradients of two graphs are added up in another order.
    'AART, accumulation': Case('aart', dict(beta=0.5), TOKENS, micro=2, differs=1e-6),
    'AdvProp, own loss': Case('advprop', dict(steps=1), own_loss='plain'),
    'AdvProp, own sharded loss': Case('advprop', dict(steps=1), own_loss='sharded'),
    'TAF, replicated shards': Case('taf', shard=dict(mesh=(2, 1))),
    'AdvProp, frozen from the start': Case('advprop', dict(steps=1), dict(frozen=True)),
    'TAF, frozen from the start': Case('taf', {}, dict(frozen=True)),
    'AdvProp, frozen later': Case('advprop', dict(steps=1), freeze=True),
}


def sharded(net: nn.Module, units: str = 'blocks', mesh: Any = (2,), **options: Any) -> nn.Module:
    """A net as users shard it: parts first, then all of it."""
    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm3d, nn.LayerNorm))]
    parts: dict[str, list[Any]] = {
        'blocks': list(net.blocks),
        'one unit': [list(net.blocks)],
        'norms': norms,
        'norms and blocks': [*norms, *net.blocks],
        'none': [],
    }
    for part in (*parts[units], net):
        fully_shard(part, mesh=mesh_of(mesh), **options)
    return net


@functools.cache
def mesh_of(shape: tuple[int, ...]) -> Any:
    """The mesh of both ranks; with two axes each rank has all, and gradients are all-reduced."""
    names = ('replicate', 'shard')[-len(shape) :]
    return dist.device_mesh.init_device_mesh('cpu', shape, mesh_dim_names=names)


def batch_of(number: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * number + rank)
    labels = torch.randint(6, (4,), generator=generator)
    return torch.randn(4, 3, 4, 6, 6, generator=generator), labels


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-2)


def average(parameters: Any) -> None:
    """Average the gradients over the two ranks."""
    for value in parameters:
        if value.grad is not None:
            dist.all_reduce(value.grad)
            value.grad /= 2


class Run:
    """One of the two trainings that are compared."""

    def __init__(self, case: Case, model: nn.Module) -> None:
        self.case = case
        self.loss_fn = Tempered() if case.own_loss else None
        self.model = make_adversarial(model, case.recipe, loss_fn=self.loss_fn, **case.options)
        self.is_sharded = False
        self.optimizer: Any = None
        self.seen: list[Tensor] = []

    def shard(self) -> Run:
        sharded(self.model, **self.case.shard)
        if self.case.own_loss == 'sharded':
            fully_shard(self.loss_fn, mesh=mesh_of((2,)))
        self.is_sharded = True
        return self

    def train(self, rank: int, first: int = 0, last: int = STEPS) -> None:
        own = list(self.loss_fn.parameters()) if self.loss_fn else []
        self.optimizer = self.optimizer or sgd([*self.model.parameters(), *own])
        for step in range(first, last):
            self.step(rank, step)
            if not self.is_sharded:
                average([*self.model.parameters(), *own])
            elif self.case.own_loss == 'plain':
                average(own)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def step(self, rank: int, step: int) -> None:
        model, case = self.model, self.case
        if case.freeze and step == 2:
            model.blocks[0].requires_grad_(False)
        for micro in range(case.micro):
            clips, labels = batch_of(case.micro * step + micro, rank)
            torch.manual_seed(100 * step + micro)
            if case.evaluate:
                model.eval()
                with torch.no_grad():
                    self.seen.append(model(clips))
                self.seen.append(model.perturb(clips, labels))
                with torch.no_grad():
                    self.seen += model.adversarial_loss(clips, labels).values()
                model.train()
                self.seen.append(model.perturb(clips, labels))
            if self.is_sharded:
                ends = micro == case.micro - 1
                model.set_requires_gradient_sync(ends)
                model.set_reshard_after_backward(ends or not case.stay)
            losses = (model if case.inside else model.adversarial_loss)(clips, labels)
            losses['loss'].backward()
            self.seen += [value.detach() for value in losses.values()]

    def ends(self) -> dict[str, Tensor]:
        """All that training has changed, the parameters of other ranks included."""
        own = list(self.loss_fn.named_parameters()) if self.loss_fn else []
        values = dict([*self.model.named_parameters(), *self.model.named_buffers(), *own])
        return {n: getattr(v, 'full_tensor', lambda v=v: v)().detach() for n, v in values.items()}


def unequal(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """By how much values of the same names differ, where they do."""
    assert one.keys() == other.keys()
    return {
        name: float((value - other[name]).abs().max())
        for name, value in one.items()
        if not torch.equal(value, other[name])
    }


def settings(model: nn.Module) -> list[tuple[bool, ...]]:
    """How FSDP2 was told to treat each of its modules."""
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    groups = [part._get_fsdp_state()._fsdp_param_group for part in parts]
    return [
        (group.reduce_grads, group.all_reduce_grads, group.reshard_after_backward)
        for group in groups
    ]


def as_unsharded(rank: int, case: Case) -> None:
    """Train unsharded and sharded, and compare all that the trainings saw and where they ended."""
    torch.manual_seed(0)
    net = (Inside if case.inside else Net)(**case.net)
    one, other = Run(case, copy.deepcopy(net)), Run(case, net).shard()
    start, before = copy.deepcopy(one.ends()), settings(other.model)
    for run in (one, other):
        run.train(rank)
    assert before == settings(other.model), 'settings of FSDP2 were left changed'
    assert len(unequal(one.ends(), start)) > 10
    differ = unequal(dict(enumerate(one.seen)), dict(enumerate(other.seen)))
    differ |= unequal(one.ends(), other.ends())
    assert all(value <= case.differs for value in differ.values()), differ


class Low(Net):
    """A net that computes in bfloat16, whatever its inputs are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.bfloat16())


def in_bfloat16(rank: int, recipe: str, options: dict[str, Any]) -> None:
    """As a master copy in float32, of which one in bfloat16 is made for each step."""
    torch.manual_seed(0)
    net = Net(tokens=True)
    low = Low(tokens=True)
    low.load_state_dict(net.state_dict())
    low = make_adversarial(low.bfloat16(), recipe, **options)
    model = make_adversarial(net, recipe, **options)
    masters = [value.detach().clone() for value in model.parameters()]
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    sharded(model, mp_policy=policy)
    optimizers = [sgd(masters), sgd(model.parameters())]
    for step in range(STEPS):
        clips, labels = batch_of(step, rank)
        with torch.no_grad():
            for value, master in zip(low.parameters(), masters, strict=True):
                value.copy_(master)
        losses = []
        for each in (low, model):
            torch.manual_seed(step)
            losses.append(each.adversarial_loss(clips, labels)['loss'])
            losses[-1].backward()
        assert torch.equal(*losses)
        for value, master in zip(low.parameters(), masters, strict=True):
            master.grad = value.grad.float()
        low.zero_grad()
        average(masters)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for (name, value), master in zip(model.named_parameters(), masters, strict=True):
        assert torch.equal(value.full_tensor(), master), name


def in_float16(rank: int) -> None:
    """On one rank alone the scaled gradient of the attack overflows."""
    torch.manual_seed(0)
    model = make_adversarial(Net(tokens=True), 'advprop', objective=dict(type='CrossEntropy'))
    with torch.no_grad():
        model.fc.weight *= 1e-4
    sharded(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float16))
    clips, labels = batch_of(0, rank)
    if rank:
        clips[0] *= 1e6
    losses = model.adversarial_loss(clips, labels)
    losses['loss'].backward()
    assert (losses['adv_nonfinite'] > 0) == bool(rank)


def checkpoints(rank: int) -> None:
    """They are the unsharded run's, and a run goes on from them, sharded or not."""
    case = Case('taf', dict(cam_layer='blocks.1', random_start=True))
    torch.manual_seed(0)
    net = Net()
    one, other = Run(case, copy.deepcopy(net)), Run(case, net).shard()
    for run in (one, other):
        run.train(rank, 0, 2)
    other.model.eval()
    with torch.no_grad():
        # A forward alone leaves the model's own parameters gathered.
        other.model(batch_of(0, rank)[0])
    other.model.train()
    states = [copy.deepcopy(adversarial_state_dict(run.model)) for run in (one, other)]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert type(states[1][name]) is type(value), name
        assert torch.equal(states[1][name], value), name
    weights = copy.deepcopy(get_model_state_dict(other.model, options=WHOLE))
    momenta = get_optimizer_state_dict(other.model, other.optimizer, options=WHOLE)
    momenta = copy.deepcopy(momenta)
    assert list(weights) == list(Net().state_dict())
    for run in (one, other):
        run.train(rank, 2, STEPS)
    for again in (Run(case, Net()), Run(case, Net()).shard()):
        again.optimizer = sgd(again.model.parameters())
        set_model_state_dict(again.model, copy.deepcopy(weights), options=WHOLE)
        load_adversarial_state_dict(again.model, states[1])
        # An unsharded optimizer takes the tensors as its own.
        loaded = copy.deepcopy(momenta)
        set_optimizer_state_dict(again.model, again.optimizer, loaded, options=WHOLE)
        again.train(rank, 2, STEPS)
        assert not unequal(one.ends(), again.ends())


def weights_after_sharding(rank: int) -> None:
    """A model that was built without memory gets its weights last."""
    torch.manual_seed(0)
    net = Net()
    with torch.device('meta'):
        empty = Net()
    one = make_adversarial(copy.deepcopy(net), 'advprop')
    other = sharded(make_adversarial(empty, 'advprop')).to_empty(device='cpu')
    for value in other.buffers():
        value.fill_(9)
    set_model_state_dict(other, net.state_dict(), options=WHOLE)
    clips, labels = batch_of(0, rank)
    losses = [model.adversarial_loss(clips, labels) for model in (one, other)]
    for name, value in losses[0].items():
        assert torch.equal(losses[1][name], value), name


def refusals(rank: int) -> None:
    """What cannot work is one clear error."""
    clips, labels = batch_of(0, rank)
    mesh = mesh_of((2,))

    late = fully_shard(Net(), mesh=mesh)
    with pytest.raises(TypeError, match=r'shard with FSDP2: make_adversarial\(model\); fully_'):
        make_adversarial(late, 'advprop')

    parts = make_adversarial(Net(), 'advprop')
    fully_shard(parts.blocks[0], mesh=mesh)
    for call in (parts.adversarial_loss, parts.perturb):
        with pytest.raises(TypeError, match=r'shard it last: fully_shard\(model\)'):
            call(clips, labels)

    class Wrapper(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net.adversarial_loss(x, y)['loss']

    wrapper = fully_shard(Wrapper(make_adversarial(Net(), 'advprop')), mesh=mesh)
    with pytest.raises(TypeError, match='only as a part of a module around it'):
        wrapper(clips, labels)

    reentrant = make_adversarial(Net(), 'advprop')
    forward = reentrant.blocks[1].forward
    reentrant.blocks[1].forward = lambda x: checkpoint(forward, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match='reentrant activation checkpointing'):
        sharded(reentrant).adversarial_loss(clips, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, '__version__', type(torch.__version__)('2.9.1'))
        with pytest.raises(TypeError, match=r'needs torch 2\.13 or newer, this is 2\.9\.1'):
            sharded(make_adversarial(Net(), 'advprop')).perturb(clips, labels)

    apart = sharded(make_adversarial(Net(), 'advprop', steps=1))
    state = copy.deepcopy(adversarial_state_dict(apart))
    apart.adversarial_loss(clips, labels)['loss'].backward()
    state['adversary.iteration'] += 7 * (rank == 0)
    load_adversarial_state_dict(apart, state)
    with pytest.raises(RuntimeError, match=r'iterations, from 0 to 7, .* on every process'):
        apart.adversarial_loss(clips, labels)

    afterwards = make_adversarial(Net(), 'advprop')
    afterwards.perturb(clips, labels)
    fully_shard(afterwards.blocks[0], mesh=mesh)
    with pytest.raises(TypeError, match='shard it last'):
        afterwards.perturb(clips, labels)

    nested = Wrapper(sharded(make_adversarial(Net(), 'advprop')))
    nested.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match='a module around .* is sharded too'):
        fully_shard(nested, mesh=mesh)(clips, labels)

    outside = sharded(make_adversarial(Inside(), 'advprop'))
    with pytest.raises(TypeError, match='call the model itself'):
        outside.adversarial_loss(clips, labels)
    with pytest.raises(TypeError, match='FSDP2 keeps the auxiliary parameters'):
        remove_adversarial(outside)
    assert isinstance(outside, FSDPModule)
    outside(clips, labels)['loss'].backward()


class Collectives(TorchDispatchMode):
    """Notes the collectives that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith('c10d::'):
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def reductions(rank: int) -> None:
    """One a group and step, as in clean training, and an attack has none."""
    clips, labels = batch_of(0, rank)
    for recipe, gathers in dict(clean=7, art=14, taf=17, advprop=19).items():
        model = Net()
        if recipe != 'clean':
            model = make_adversarial(model, recipe, steps=1)
        sharded(model)
        for _ in range(2):
            with Collectives() as called:
                if recipe == 'clean':
                    loss = F.cross_entropy(model(clips), labels)
                else:
                    loss = model.adversarial_loss(clips, labels)['loss']
                loss.backward()
        assert sum('allgather' in name for name in called.names) == gathers, recipe
        assert sum('reduce_scatter' in n for n in called.names) == len(settings(model))
        # Whether one process has to look for the CAM layer.
        assert sum('allreduce' in n for n in called.names) == (2 if recipe == 'taf' else 0)
        assert all(isinstance(value.grad, DTensor) for value in model.parameters())
    with Collectives() as called:
        model.perturb(clips, labels)
    assert called.names and not any('reduce_scatter' in name for name in called.names)


def memory(rank: int) -> None:
    """While a step runs, the clean gradient of each clean parameter is held, whole."""
    held: list[int] = []

    def spy(value: Tensor, known: Any) -> Tensor:
        held.append(sum(grad.nbytes for grad in known.values() if grad is not None))
        return inject_gradients(value, known)

    for dtype in (torch.float32, torch.bfloat16):
        model = make_adversarial(Net(tokens=True), 'advprop', steps=1, dual_ln=True)
        clean = sum(v.numel() for name, v in model.named_parameters() if 'adv_' not in name)
        sharded(model, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core_step, 'inject_gradients', spy)
            model.adversarial_loss(*batch_of(0, rank))
        assert held.pop() == clean * dtype.itemsize


def attacks(rank: int) -> None:
    """The first call is one, which finds the CAM layer for a moment without weights of zero.

    After it no parameter is left gathered, which would miss the optimizer's next step.
    """
    clips, labels = batch_of(0, rank)
    for kind, reshard in itertools.product((Net, Inside), (True, False)):
        torch.manual_seed(0)
        net = kind(zeros='blocks.1.conv')
        one, other = (make_adversarial(copy.deepcopy(net), 'taf') for _ in range(2))
        sharded(other, reshard_after_forward=reshard)
        assert torch.equal(other.perturb(clips, labels), one.perturb(clips, labels))
        assert all(isinstance(value, DTensor) for value in other.parameters())
        train = other if kind is Inside else other.adversarial_loss
        train(clips, labels)['loss'].backward()


def unequal_batches(rank: int) -> None:
    """Whichever process has to look at the model, all do, and with as many forwards."""
    for recipe, tokens in (('taf', False), ('taf', True), ('aart', True)):
        one, other = (sharded(make_adversarial(Net(tokens), recipe)) for _ in range(2))
        clips, labels = batch_of(0, rank)
        for model, sizes in ((one, (4, 3)), (other, (4, 1)), (one, (1, 4))):
            size = sizes[rank]
            model.adversarial_loss(clips[:size], labels[:size])['loss'].backward()
        # Frames of another size, in one process only.
        wide = clips if rank else torch.cat([clips, clips], dim=-1)
        one.adversarial_loss(wide, labels)['loss'].backward()


def in_the_middle(rank: int) -> None:
    """Calls inside the model's forward, and between a backward and the optimizer's step."""

    clips, labels = batch_of(0, rank)
    torch.manual_seed(0)
    net = Net()
    one, other = (make_adversarial(copy.deepcopy(net), 'advprop', steps=1) for _ in range(2))
    sharded(other)
    optimizers = [sgd(model.parameters()) for model in (one, other)]
    with torch.inference_mode():
        seen = [model.adversarial_loss(clips, labels)['loss'] for model in (one, other)]
    assert torch.equal(*seen)
    for model, optimizer in zip((one, other), optimizers, strict=True):
        for _ in range(2):
            optimizer.zero_grad()
            model.adversarial_loss(clips, labels)['loss'].backward()
            if model is one:
                average(model.parameters())
            with torch.no_grad():
                model.adversarial_loss(clips, labels)
            optimizer.step()
    whole = {name: value.full_tensor().detach() for name, value in other.named_parameters()}
    assert not unequal({n: v.detach() for n, v in one.named_parameters()}, whole)

    inside = sharded(make_adversarial(Inside(), 'advprop', steps=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, 'forward', several_steps)
        inside(clips, labels).backward()
    assert all(value.grad is not None for value in inside.parameters())


def several_steps(self: Any, x: Tensor, labels: Any = None) -> Any:
    if labels is None:
        return super(Step, self).forward(x)
    moved = self.perturb(x, labels)
    return sum(self.adversarial_loss(clips, labels)['loss'] for clips in (x, moved))


def an_optimizer_without_the_twins(rank: int) -> None:
    model = sharded(make_adversarial(Net(), 'advprop'))
    clean = [value for name, value in model.named_parameters() if 'adv_' not in name]
    optimizer = sgd(clean)
    with pytest.warns(UserWarning, match='none trains their auxiliary twins'):
        for step in range(3):
            model.adversarial_loss(*batch_of(step, rank))['loss'].backward()
            optimizer.step()
            optimizer.zero_grad()


def rehearsal(rank: int) -> None:
    """It takes the gradient of every parameter, so that memory that is short shows at once."""
    taken: list[Any] = []

    def spy(*args: Any, **options: Any) -> Any:
        taken.append(gradients(*args, **options))
        return taken[-1]

    model = sharded(make_adversarial(Net(), 'taf', begin=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversary, 'gradients', spy)
        model.adversarial_loss(*batch_of(0, rank))
    (gradient,) = taken
    assert len(gradient) == len(list(model.parameters()))
    assert all(value is not None for value in gradient)


AROUND = {
    'checkpoints': checkpoints,
    'weights after sharding': weights_after_sharding,
    'refusals': refusals,
    'reductions': reductions,
    'memory': memory,
    'attacks': attacks,
    'an optimizer without the twins': an_optimizer_without_the_twins,
    'rehearsal': rehearsal,
    'unequal batches': unequal_batches,
    'in the middle': in_the_middle,
}
CHECKS: dict[str, Callable[[int], None]] = {
    **AROUND,
    **{name: functools.partial(as_unsharded, case=case) for name, case in CASES.items()},
    'AdvProp in bfloat16': functools.partial(
        in_bfloat16, recipe='advprop', options=dict(steps=2, dual_ln=True)
    ),
    'TAF in bfloat16': functools.partial(in_bfloat16, recipe='taf', options=LAST),
    'AART in bfloat16': functools.partial(in_bfloat16, recipe='aart', options={}),
    'overflow in float16 on one rank': in_float16,
}


# One of each kind; the rest of the matrix waits for -m exhaustive.
USUAL = {
    'recipes': [
        'AdvProp, K=3',
        'AdvProp, clean_weight=0',
        'AdvProp, dual LayerNorm',
        'AdvProp, fraction',
        'AART, interval',
        'AART, recompute',
        'PGDTraining',
        'TAF, first block',
        'TAF, tokens, layer found',
        'TAF, begins later',
    ],
    'ways to shard and to train': [
        'TAF, evaluation, reshard=False',
        'AART, one unit',
        'AART, recompute, inside',
        'AdvProp, dual LayerNorm, norms',
        'TAF, replicated shards',
        'AdvProp, K=3, checkpointing',
        'TAF, accumulation',
        'AART, accumulation',
        'AdvProp, own loss',
        'AdvProp, frozen later',
        'TAF in bfloat16',
        'overflow in float16 on one rank',
    ],
    'what is around the step': [
        'TAF, head of zeros',
        'TAF, block of zeros, inside, evaluation, reshard=False',
        'TAF, begins later, inside, reshard=None',
        'AdvProp, K=3, inside',
        *AROUND,
    ],
}
REST = CHECKS.keys() - {name for names in USUAL.values() for name in names}


def run_all(rank: int, names: Sequence[str]) -> None:
    for name in names:
        try:
            CHECKS[name](rank)
        except Exception as error:
            raise AssertionError(f'{name}: {error}') from error


@pytest.mark.parametrize('names', USUAL.values(), ids=USUAL)
def test_on_two_ranks(names):
    two_ranks(run_all, names)


@pytest.mark.exhaustive
def test_the_rest_on_two_ranks():
    two_ranks(run_all, sorted(REST))
